"""What every operator rule is written with.

A rule receives an :class:`OpCall` and returns, per output tensor, the factors it carries. Every factor of
every input must be **kept** (it lives on in an output) or **consumed** (summed over); what a rule forgets is
pinned and reported, so a sloppy rule loses compression, never correctness.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor
from torch._ops import OpOverload

from neuroprune.graph.labels import Factor, Factors, align, compress
from neuroprune.graph.records import Reason, Records


@dataclass
class OpCall:
    """One executed operator: its arguments by schema name, its output(s), the labels of its inputs."""

    func: OpOverload
    args: dict[str, Any]
    outputs: list[Tensor]
    factors_of: Callable[[Tensor], Factors]
    records: Records
    reason: Callable[[str], Reason]
    settled: set[int] = field(default_factory=set)
    complaint: str = "the rule for this operator does not carry this dimension on"

    def factors(self, name: str) -> Factors:
        """Factors of the tensor argument called ``name`` (none for an absent argument)."""
        value = self.args.get(name)
        return self.factors_of(value) if isinstance(value, Tensor) else ()

    def keep(self, *factors: Factor) -> None:
        self.settled.update(map(id, factors))

    def consume(self, *factors: Factor) -> None:
        self.keep(*factors)
        for factor in factors:
            self.records.consume(factor.labels)

    def tie(self, a: Tensor, b: Tensor, text: str = "meets a dimension that cannot shrink") -> None:
        self.records.tie(a, b, self.reason(text))

    def pin(self, labels: Tensor, text: str) -> None:
        self.records.pin(labels, self.reason(text))

    def only(self, factors: Factors, dim: int) -> Factors:
        """The factors that vary along exactly ``dim``."""
        return tuple(f for f in factors if f.dims == {dim})

    def carried(self, full: Tensor, prefer: int | None = None) -> Factors:
        """A factor from full-size labels; labels that no longer sit on any dimension are pinned.

        Labels that vary along several dimensions (channels viewed as groups x width, say) leave a choice:
        only one dimension may shrink, so labels are tied along the others. The choice: ``prefer``, else the
        largest of them, else the last.
        """
        factor = compress(full)
        if factor is None:
            return ()
        if not factor.dims:
            self.pin(factor.labels, "one index is taken out, so it cannot be removed")
            return ()
        if len(factor.dims) > 1:
            factor = self.straighten(factor, prefer)
        return (factor,)

    def straighten(self, factor: Factor, prefer: int | None) -> Factor:
        """Tie the labels of ``factor`` along all its dimensions but one, and return what varies along that."""
        shape = factor.labels.shape
        chosen = prefer if prefer in factor.dims else max(factor.dims, key=lambda d: (shape[d], d))
        first = factor.labels
        for dim in factor.dims - {chosen}:
            first = first.narrow(dim, 0, 1)
        self.tie(factor.labels, first, "is spread over a dimension that cannot shrink")
        return Factor(first, frozenset({chosen}))

    def meet(self, operands: Sequence[tuple[Factors, Sequence[int]]], ndim: int) -> Factors:
        """Elementwise combination with broadcasting of operands (factors, shape) into ``ndim`` dimensions.

        Two factors on a common dimension are tied; an operand that has size there but no factor pins.
        """
        out: list[Factor] = []
        placed = [(tuple(align(f, ndim) for f in factors), _right(shape, ndim)) for factors, shape in operands]
        for index, (factors, _) in enumerate(placed):
            for factor in factors:
                others = placed[:index] + placed[index + 1 :]
                for other_factors, other_sized in others:
                    self._meet_one(factor, other_factors, other_sized)
                if not any(factor.dims & seen.dims for seen in out):
                    out.append(factor)
                elif not any(factor.dims == seen.dims for seen in out):
                    self.pin(factor.labels, "two differently shaped dimensions meet")
        for factors, _ in operands:
            self.keep(*factors)
        return tuple(out)

    def _meet_one(self, factor: Factor, others: Sequence[Factor], other_sized: frozenset[int]) -> None:
        shared = factor.dims & other_sized
        if not shared:
            return
        matching = [o for o in others if o.dims & factor.dims]
        if any(o.dims >= shared for o in matching):
            for other in matching:
                self.tie(factor.labels, other.labels)
        else:
            self.pin(factor.labels, "meets a tensor whose size there cannot shrink")


def _right(shape: Sequence[int], ndim: int) -> frozenset[int]:
    """Non-broadcast dimensions of an operand, counted in the output's dimensions."""
    extra = ndim - len(shape)
    return frozenset(dim + extra for dim, size in enumerate(shape) if size > 1)


Rule = Callable[[OpCall], list[Factors]]
RULES: dict[str, Rule] = {}


def rule(*names: str) -> Callable[[Rule], Rule]:
    """Decorator: this function is the rule of the ATen operators called ``names`` (without overload)."""

    def add(function: Rule) -> Rule:
        for name in names:
            if name in RULES:
                raise ValueError(f"operator {name!r} has two rules")
            RULES[name] = function
        return function

    return add
