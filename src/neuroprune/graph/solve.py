"""How many units of each group may stay, so that every size written in the model's code can be made right.

Unknowns are the kept counts of the groups and the integers the modules hold; the equations come from the trace.
Everything that a literal forces is found once, when the system is built; a choice of counts is then a search
over the few groups that share equations, nearest to what was wanted.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from neuroprune.graph.attributes import AttributeEdit, Place
from neuroprune.graph.expressions import ATTRIBUTE, COUNT, Tree, leaves, substitute
from neuroprune.graph.labels import FIXED
from neuroprune.graph.records import Equation, Reason, Records
from neuroprune.graph.resolve import Components, row_counts, unique_rows
from neuroprune.graph.search import Problem, Variable
from neuroprune.graph.units import Group, Owner, renamed

GROUP = COUNT  # in a system, the leaf ("count", g) is the kept count of group g
Monomials = dict[tuple[int, ...], int]  # groups -> multiplicity: the kept count of a vector is their sum
#: a head dimension is cut only where heads would miss the wanted share by more than this
PREFER_HEADS = 0.04


@dataclass(frozen=True, eq=False)
class System:
    """Equations over groups and attributes, and what the counts of the groups mean for the tensors."""

    groups: tuple[Group, ...]
    places: Sequence[Place] = ()
    equations: tuple[Equation, ...] = ()
    #: groups -> share of the model's elements that shrink with the product of their counts
    weights: Mapping[tuple[int, ...], float] = field(default_factory=dict)
    _cache: dict[tuple[int, ...], tuple[AttributeEdit, ...] | None] = field(default_factory=dict)

    def choose(
        self,
        wanted: Mapping[str, int],
        admissible: Mapping[str, Sequence[int]] | None = None,
    ) -> dict[str, int]:
        """Kept counts for which the equations can hold, near ``wanted`` (by share of the elements cut).

        ``admissible``: counts a group may take (default: all from 1 on). The dense counts always solve the
        system, so there is always an answer.
        """
        problem = self._problem(wanted, admissible or {})
        found = problem.solve()
        return {group.name: int(found[(GROUP, i)]) for i, group in enumerate(self.groups)}

    def edits(self, kept: Mapping[str, int]) -> tuple[AttributeEdit, ...] | None:
        """The attributes to change for these counts; None where no values make every equation hold."""
        key = tuple(kept.get(group.name, group.size) for group in self.groups)
        if key not in self._cache:
            self._cache[key] = self._solve_attributes(key)
        return self._cache[key]

    def _solve_attributes(self, counts: tuple[int, ...]) -> tuple[AttributeEdit, ...] | None:
        if all(count == group.size for count, group in zip(counts, self.groups, strict=True)):
            return ()
        exact = {group.name: [count] for group, count in zip(self.groups, counts, strict=True)}
        problem = self._problem({name: values[0] for name, values in exact.items()}, exact)
        found = problem.exactly()
        if found is None:
            return None
        changed = [
            AttributeEdit(place.module, place.path, place.value, int(found[(ATTRIBUTE, n)]))
            for n, place in enumerate(self.places)
            if found.get((ATTRIBUTE, n), place.value) != place.value
        ]
        return tuple(changed)

    def _problem(self, wanted: Mapping[str, int], admissible: Mapping[str, Sequence[int]]) -> Problem:
        variables: dict[tuple[str, int], Variable] = {}
        for i, group in enumerate(self.groups):
            target = wanted.get(group.name, group.size)
            domain = admissible.get(group.name)
            if domain is None:  # a group nobody asked to cut stays whole
                domain = range(1, group.size + 1) if group.name in wanted else [group.size]
            values = tuple(domain)
            penalty = PREFER_HEADS if group.kind == "head_dim" else 0.0
            variables[(GROUP, i)] = Variable(group.size, target, values, penalty)
        for n in {leaf[1] for e in self.equations for t in (e.left, e.right) for leaf in leaves(t)
                  if leaf[0] == ATTRIBUTE}:  # fmt: skip
            variables[(ATTRIBUTE, n)] = Variable(self.places[n].value, self.places[n].value, None, 0.0)
        equations = [(e.left, e.right) for e in self.equations]
        return Problem(variables, equations, {tuple((GROUP, g) for g in k): w for k, w in self.weights.items()})


def build_system(
    records: Records,
    components: Components,
    groups: Sequence[Group],
    owners: Sequence[Owner],
    places: Sequence[Place],
) -> tuple[System, dict[int, Reason]]:
    """The system of a trace, and the groups that a literal (or an uneven share) keeps whole, with the reason."""
    counter = _Counter(components, groups)
    equations, uneven = _in_groups(records, counter)
    equations, stuck = _settle(equations, uneven, [group.size for group in groups], places)
    free = renamed([g for i, g in enumerate(groups) if i not in stuck])
    number = {i: n for n, i in enumerate(i for i in range(len(groups)) if i not in stuck)}
    rewritten = tuple(
        Equation(_renumbered(e.left, number), _renumbered(e.right, number), e.reason) for e in equations
    )
    weights = {
        tuple(number[g] for g in key): weight
        for key, weight in _weights(counter, owners, groups).items()
        if all(g in number for g in key)
    }
    return System(free, tuple(places), rewritten, weights), stuck


class _Counter:
    """Kept counts of label vectors as sums of products of the groups' kept counts."""

    def __init__(self, components: Components, groups: Sequence[Group]) -> None:
        self.components, self.groups = components, groups
        self._known: dict[bytes, Monomials | None] = {}
        self.group_of = np.full(components.start.size, -1, dtype=np.int64)
        for number, group in enumerate(groups):
            self.group_of[group.components] = number

    def monomials(self, vector: np.ndarray) -> Monomials | None:
        """None where units of one group are not shared evenly, so that their number alone says too little."""
        key = self.components.of[vector].tobytes() + (vector == FIXED).tobytes()
        if key not in self._known:
            self._known[key] = self._monomials(vector)
        return self._known[key]

    def _monomials(self, vector: np.ndarray) -> Monomials | None:
        position, base = self.components.bases(vector)
        group = self.group_of[base]
        position, base, group = position[group >= 0], base[group >= 0], group[group >= 0]
        out: Monomials = {(): vector.size - np.unique(position).size}
        if not position.size:
            return out
        first = int(group[0])
        once = position.size == self.groups[first].size and bool((position[1:] > position[:-1]).all())
        if once and (group == first).all() and np.unique(base).size == base.size:  # the commonest: a whole group
            return out | {(first,): 1}
        start = np.flatnonzero(np.r_[True, position[1:] != position[:-1]])
        lengths = np.diff(np.r_[start, position.size])
        for length in np.unique(lengths).tolist():
            rows = start[lengths == length][:, None] + np.arange(length)
            order = np.argsort(group[rows], axis=1, kind="stable")
            keys = np.take_along_axis(group[rows], order, axis=1)
            members = np.take_along_axis(base[rows], order, axis=1)
            if not self._add(out, keys, members):
                return None
        return out

    def _add(self, out: Monomials, keys: np.ndarray, members: np.ndarray) -> bool:
        for key in unique_rows(keys):
            counts = row_counts(members[(keys == key).all(axis=1)])
            whole = int(np.prod([self.groups[g].size for g in key]))
            if len(set(key.tolist())) < len(key) or counts.size != whole or (counts != counts[0]).any():
                return False
            out[tuple(key.tolist())] = int(counts[0])
        return True


def _in_groups(records: Records, counter: _Counter) -> tuple[list[Equation], dict[int, Reason]]:
    """Equations with group counts as leaves; groups that a vector holds unevenly stay whole."""
    uneven: dict[int, Reason] = {}
    trees: dict[int, Tree] = {}
    unique: dict[tuple[Tree, Tree], Equation] = {}

    def tree_of_vector(number: int, reason: Reason) -> Tree:
        if number not in trees:
            vector = records.vectors[number]
            monomials = counter.monomials(vector)
            if monomials is None:
                for g in np.unique(counter.group_of[counter.components.bases(vector)[1]]).tolist():
                    if g >= 0:
                        uneven.setdefault(g, _because(reason, "is shared unevenly with other channels"))
                trees[number] = vector.size
            else:
                trees[number] = _tree(monomials)
        return trees[number]

    for e in records.equations:
        left, right = (
            substitute(t, lambda leaf: tree_of_vector(leaf[1], e.reason) if leaf[0] == COUNT else leaf)  # noqa: B023
            for t in (e.left, e.right)
        )
        if left != right and (_has_leaves(left) or _has_leaves(right)):
            unique.setdefault((left, right), Equation(left, right, e.reason))
    return list(unique.values()), uneven


def _because(reason: Reason, text: str) -> Reason:
    return Reason(reason.operator, reason.module, reason.where, text)


def _has_leaves(tree: Tree) -> bool:
    return next(leaves(tree), None) is not None


def _tree(monomials: Monomials) -> Tree:
    total: Tree = monomials.get((), 0)
    for key, times in sorted((k, t) for k, t in monomials.items() if k):
        product: Tree = (GROUP, key[0])
        for g in key[1:]:
            product = ("*", product, (GROUP, g))
        if times != 1:
            product = ("*", times, product)
        total = product if total == 0 else ("+", total, product)
    return total


def _settle(
    equations: list[Equation], uneven: dict[int, Reason], sizes: Sequence[int], places: Sequence[Place]
) -> tuple[list[Equation], dict[int, Reason]]:
    """Put in what is forced: numbers that must not change, and the groups they hold fast. Until nothing moves."""
    stuck, frozen = dict(uneven), set[int]()

    def value(leaf: tuple[str, int]) -> Tree:
        if leaf[0] == ATTRIBUTE:
            return places[leaf[1]].value if leaf[1] in frozen else leaf
        return sizes[leaf[1]] if leaf[1] in stuck else leaf

    while True:
        before = len(stuck) + len(frozen)
        remaining = []
        for e in equations:
            left, right = _folded(substitute(e.left, value)), _folded(substitute(e.right, value))
            found = set(leaves(left)) | set(leaves(right))
            if not found or left == right:
                continue
            if _forces(left, right) or _forces(right, left):
                for kind, number in found:
                    if kind == ATTRIBUTE:
                        frozen.add(number)
                    else:
                        stuck.setdefault(number, e.reason)
            else:
                remaining.append(Equation(left, right, e.reason))
        equations = remaining
        if len(stuck) + len(frozen) == before:
            return equations, stuck


def _forces(tree: Tree, other: Tree) -> bool:
    """``tree == other`` leaves no choice: a number faces one attribute, or a growing sum of products."""
    if isinstance(other, tuple):
        return False
    found = list(leaves(tree))
    if len(set(found)) == 1 and found[0][0] == ATTRIBUTE:
        return True
    return all(kind == GROUP for kind, _ in found) and _grows(tree)


def _grows(tree: Tree) -> bool:
    """Strictly increasing in every leaf: made of sums and products of counts and positive numbers alone."""
    if not isinstance(tree, tuple):
        return tree >= 0
    return tree[0] == GROUP or (tree[0] in "+*" and _grows(tree[1]) and _grows(tree[2]))


def _folded(tree: Tree) -> Tree:
    """Constant parts computed."""
    from neuroprune.graph.expressions import OPERATORS

    if not isinstance(tree, tuple) or tree[0] in (ATTRIBUTE, COUNT):
        return tree
    left, right = _folded(tree[1]), _folded(tree[2])
    if not isinstance(left, tuple) and not isinstance(right, tuple):
        folded: Tree = OPERATORS[tree[0]](left, right)
        return folded
    return (tree[0], left, right)


def _renumbered(tree: Tree, number: Mapping[int, int]) -> Tree:
    return substitute(tree, lambda leaf: (GROUP, number[leaf[1]]) if leaf[0] == GROUP else leaf)


def _weights(counter: _Counter, owners: Sequence[Owner], groups: Sequence[Group]) -> dict[tuple[int, ...], float]:
    """Groups -> how many tensor indices shrink with the product of their kept counts, as a share of all."""
    weights: dict[tuple[int, ...], float] = defaultdict(float)
    cutting: dict[tuple[str, int], list[tuple[int, np.ndarray]]] = defaultdict(list)
    for number, group in enumerate(groups):
        for part in group.slices:
            cutting[(part.tensor, part.dim)].append((number, part.indices))
    for tensor, dim, first, count in owners:
        parts = cutting.get((tensor, dim), [])
        if len(parts) > 1 and np.bincount(np.concatenate([i.ravel() for _, i in parts])).max() > 1:
            monomials = counter.monomials(np.arange(first, first + count))  # heads and their dimensions overlap
            for key, times in (monomials or {}).items():
                if key:
                    weights[key] += times * float(np.prod([groups[g].size for g in key]))
            continue
        for number, indices in parts:
            weights[(number,)] += indices.size
    total = sum(weights.values()) or 1.0
    return {key: weight / total for key, weight in weights.items()}
