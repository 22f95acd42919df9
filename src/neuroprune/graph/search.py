"""A small exact search: integers that satisfy equations, as near as possible to wanted shares."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from neuroprune.graph.expressions import ATTRIBUTE, COUNT, OPERATORS, Tree, leaves

Key = tuple[str, int]
Values = dict[Key, int]

#: per independent part of a problem: propagations after which the first assignment that fits is taken, and after
#: which none is sought any more (the part then stays dense)
STEPS, LAST_STEP = 2_000, 20_000


@dataclass(frozen=True)
class Variable:
    """``size``: the dense value; ``values`` it may take (None: any, found from the equations alone)."""

    size: int
    wanted: int
    values: tuple[int, ...] | None
    penalty: float


@dataclass(frozen=True, eq=False)
class _Equation:
    left: Tree
    right: Tree
    unknowns: tuple[Key, ...]


class Problem:
    """Variables, equations over them, and the share of the whole that each product of variables stands for."""

    def __init__(
        self,
        variables: Mapping[Key, Variable],
        equations: Iterable[tuple[Tree, Tree]],
        weights: Mapping[tuple[Key, ...], float],
    ) -> None:
        self.variables = variables
        self.equations = [
            _Equation(left, right, tuple(dict.fromkeys([*leaves(left), *leaves(right)])))
            for left, right in equations
        ]
        self.of: dict[Key, list[_Equation]] = defaultdict(list)
        for e in self.equations:
            for key in e.unknowns:
                self.of[key].append(e)
        self.terms: dict[Key, list[tuple[tuple[Key, ...], float]]] = defaultdict(list)
        for keys, weight in weights.items():
            for key in keys:
                self.terms[key].append((keys, weight))
        self.steps = 0
        self.memo: dict[object, tuple[float, list[int]] | None] = {}

    def solve(self) -> Values:
        """The best assignment found; where the guard strikes, dense values for what is left."""
        domains = {k: list(v.values) for k, v in self.variables.items() if v.values is not None}
        known: Values = {}
        if not self._propagate(list(self.equations), known, domains):
            return {k: v.size for k, v in self.variables.items()}
        for part in self._parts([k for k in self.variables if k not in known], known):
            self.steps = 0
            found = self._best(part, known, domains, math.inf)
            known |= found[1] if found is not None else {k: self.variables[k].size for k in part}
        return known

    def exactly(self) -> Values | None:
        """Any assignment (group values are given one by one); None where there is none."""
        domains = {k: list(v.values) for k, v in self.variables.items() if v.values is not None}
        known: Values = {}
        if not self._propagate(list(self.equations), known, domains):
            return None
        for part in self._parts([k for k in self.variables if k not in known], known):
            found = self._best(part, known, domains, math.inf)
            if found is None:
                return None
            known |= found[1]
        return known

    # -- search ------------------------------------------------------------------------------------------------

    def _best(
        self, part: Sequence[Key], known: Values, domains: dict[Key, list[int]], bound: float
    ) -> tuple[float, Values] | None:
        """The cheapest assignment of ``part`` that costs less than ``bound``; None where there is none."""
        if len(part) > 1:
            return self._remembered(part, known, domains, bound)
        return self._branch(part, known, domains, bound)

    def _remembered(
        self, part: Sequence[Key], known: Values, domains: dict[Key, list[int]], bound: float
    ) -> tuple[float, Values] | None:
        """Equal blocks of a network pose equal problems: solve one of them."""
        order, key = self._canonical(part, known, domains)
        if key not in self.memo:
            found = self._branch(part, known, domains, math.inf)
            self.memo[key] = None if found is None else (found[0], [found[1][k] for k in order])
        stored = self.memo[key]
        if stored is None or stored[0] >= bound:
            return None
        return stored[0], dict(zip(order, stored[1], strict=True))

    def _canonical(
        self, part: Sequence[Key], known: Values, domains: dict[Key, list[int]]
    ) -> tuple[list[Key], object]:
        names: dict[Key, int] = {}

        def tree(t: Tree) -> object:
            if not isinstance(t, tuple):
                return t
            if t[0] in (ATTRIBUTE, COUNT):
                return known[t] if t in known else ("?", names.setdefault(t, len(names)))
            return (t[0], tree(t[1]), tree(t[2]))

        inside = set(part)
        seen = {id(e): e for k in part for e in self.of[k]}
        equations = tuple((tree(e.left), tree(e.right)) for e in self.equations if id(e) in seen)
        order = [*names, *(k for k in part if k not in names)]
        order = [k for k in order if k in inside]
        number = {k: i for i, k in enumerate(order)}
        about = tuple(
            (self.variables[k], tuple(domains.get(k, ())), tuple(
                (tuple(number.get(m, (known.get(m), self.variables[m])) for m in keys), round(w, 9))
                for keys, w in self.terms[k]
            )) for k in order
        )  # fmt: skip
        return order, (equations, about)

    def _branch(
        self, part: Sequence[Key], known: Values, domains: dict[Key, list[int]], bound: float
    ) -> tuple[float, Values] | None:
        pick = self._pick(part, known, domains)
        best: tuple[float, Values] | None = None
        for value in self._ordered(pick, known, domains):
            if self._least(pick, value, known) >= bound:
                break  # the others cost more
            self.steps += 1
            if self.steps > (STEPS if best is not None else LAST_STEP):
                return best
            trial, narrowed = {**known, pick: value}, dict(domains)
            if not self._propagate(self.of[pick], trial, narrowed):
                continue
            total, found = self._finish(part, known, trial, narrowed, bound)
            if total < bound:
                best, bound = (total, found), total
            if bound <= 0:
                break  # nothing costs less
        return best

    def _finish(
        self, part: Sequence[Key], known: Values, trial: Values, domains: dict[Key, list[int]], bound: float
    ) -> tuple[float, Values]:
        """Solve what is left of ``part`` after propagation; (infinity, {}) where that cannot be."""
        total = 0.0
        grown = dict(known)
        for k in part:
            if k in trial:
                total += self._cost(k, trial[k], grown)
                grown[k] = trial[k]
        left = [k for k in part if k not in trial]
        for rest in self._parts(left, grown):
            found = self._best(rest, grown, domains, bound - total)
            if found is None:
                return math.inf, {}
            total += found[0]
            grown |= found[1]
        return total, {k: grown[k] for k in part}

    def _pick(self, part: Sequence[Key], known: Values, domains: dict[Key, list[int]]) -> Key:
        """Groups before attributes; the one in most open equations first."""

        def rank(key: Key) -> tuple[bool, int, int]:
            open_ = sum(1 for e in self.of[key] if sum(u not in known for u in e.unknowns) > 1)
            return key not in domains, -open_, len(domains.get(key, ()))

        return min(part, key=rank)

    def _ordered(self, key: Key, known: Values, domains: dict[Key, list[int]]) -> Iterator[int]:
        """The cheapest first. Where that is what was wanted, and free, nobody may ask for the others."""
        variable = self.variables[key]
        values, wanted = domains.get(key), variable.wanted
        if values is None:
            yield variable.size
            return
        free = wanted in values and self._least(key, wanted, known) == 0
        if free:
            yield wanted
        rest = [v for v in values if not free or v != wanted]
        yield from sorted(rest, key=lambda v: (self._least(key, v, known), abs(v - wanted), -v))

    def _least(self, key: Key, value: int, known: Values) -> float:
        """What this assignment costs at least: shares only shrink when the other factors are chosen."""
        least = self._cost(key, value, known)
        for keys, weight in self.terms[key]:
            if all(k == key or k in known for k in keys):
                continue
            most = 1.0
            for k in keys:
                v = self.variables[k]
                most *= (value if k == key else known.get(k, v.size)) / v.size
            least += weight * max(0.0, self._wanted(keys) - most)
        return least

    def _cost(self, key: Key, value: int, known: Values) -> float:
        """Cost of the terms that this assignment completes: missed share times weight."""
        variable, cost = self.variables[key], 0.0
        for keys, weight in self.terms[key]:
            if any(k != key and k not in known for k in keys):
                continue
            share = 1.0
            for k in keys:
                share *= (value if k == key else known[k]) / self.variables[k].size
            cost += weight * abs(share - self._wanted(keys))
            if variable.penalty and value < variable.size:
                cost += weight * variable.penalty
        return cost

    def _wanted(self, keys: Sequence[Key]) -> float:
        """The share of a product that is to stay: as the finest factor that is to shrink says (rounded least)."""
        shrinking = [v for k in keys if (v := self.variables[k]).wanted < v.size]
        finest = max(shrinking, key=lambda v: (v.size, -v.wanted), default=None)
        return 1.0 if finest is None else finest.wanted / finest.size

    def _parts(self, keys: Sequence[Key], known: Values) -> list[list[Key]]:
        """Unknowns that share an open equation or a product, together."""
        parts: list[list[Key]] = []
        inside, seen = set(keys), set[Key]()
        for key in keys:
            if key in seen:
                continue
            stack, part = [key], []
            seen.add(key)
            while stack:
                at = stack.pop()
                part.append(at)
                near = [u for e in self.of[at] for u in e.unknowns] + [k for ks, _ in self.terms[at] for k in ks]
                for other in near:
                    if other in inside and other not in seen and other not in known:
                        seen.add(other)
                        stack.append(other)
            parts.append(sorted(part))
        return parts

    # -- propagation -------------------------------------------------------------------------------------------

    def _propagate(self, queue: list[_Equation], known: Values, domains: dict[Key, list[int]]) -> bool:
        """Follow every equation with at most one unknown; False where one cannot hold."""
        queue = list(queue)
        while queue:
            e = queue.pop()
            unknown = [k for k in e.unknowns if k not in known]
            if len(unknown) > 1:
                continue
            if not unknown:
                if not _holds(e, known):
                    return False
                continue
            key = unknown[0]
            values = self._solutions(e, key, known, domains)
            if not values:
                return False
            if len(values) == 1:
                known[key] = values[0]
                queue += [other for other in self.of[key] if other is not e]
            else:
                domains[key] = values
        return True

    def _solutions(self, e: _Equation, key: Key, known: Values, domains: dict[Key, list[int]]) -> list[int]:
        """Values of the one unknown for which ``e`` holds, among those it may take."""
        for alone, other in ((e.left, e.right), (e.right, e.left)):
            if alone == key and key not in set(leaves(other)):
                try:
                    value = _value(other, known)
                except ArithmeticError:
                    return []
                may = domains.get(key)
                fits = value == int(value) and (may is None or int(value) in may)
                return [int(value)] if fits else []
        size = self.variables[key].size
        candidates = domains.get(key)
        if candidates is None:
            candidates = sorted(range(max(2 * size, size + 8) + 1), key=lambda v: abs(v - size))
        return [v for v in candidates if _holds(e, {**known, key: v})]


def _holds(e: _Equation, known: Mapping[Key, int]) -> bool:
    try:
        left, right = _value(e.left, known), _value(e.right, known)
    except (ArithmeticError, ValueError):
        return False
    return bool(left == right or (isinstance(left, float) and math.isclose(left, right, rel_tol=1e-12)))


def _value(tree: Tree, known: Mapping[Key, int]) -> int | float:
    if not isinstance(tree, tuple):
        return tree
    if tree[0] in (ATTRIBUTE, COUNT):
        return known[tree]
    result: int | float = OPERATORS[tree[0]](_value(tree[1], known), _value(tree[2], known))
    return result
