"""Plain frozen nouns that every room shares: Limit, Budget, Cost, Measurement."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from typing import Any, Literal

from neuroprune.base.errors import UserError
from neuroprune.base.registry import nearest

Kind = Literal["measured", "modelled", "unavailable"]

#: unit -> factor to the base unit of each budget (milliseconds, bytes, microjoules, plain counts)
_UNITS: dict[str, dict[str, float]] = {
    "latency": {"us": 1e-3, "ms": 1.0, "s": 1e3},
    "size": {"B": 1, "KB": 1e3, "MB": 1e6, "GB": 1e9, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30},
    "memory": {"B": 1, "KB": 1e3, "MB": 1e6, "GB": 1e9, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30},
    "energy": {"uJ": 1.0, "mJ": 1e3, "J": 1e6},
    "macs": {"": 1, "K": 1e3, "M": 1e6, "G": 1e9},
    "params": {"": 1, "K": 1e3, "M": 1e6, "G": 1e9},
}


@dataclass(frozen=True)
class Limit:
    """At most ``value``: a share of the dense network where ``relative``, else ms, bytes, uJ or a count."""

    kind: str
    value: float
    relative: bool

    @classmethod
    def parse(cls, kind: str, text: str | float) -> Limit:
        """``0.5`` is a ratio of dense; ``8ms``, ``500KB``, ``2M`` are absolute. Raises UserError."""
        if kind not in _UNITS:
            guess = nearest(kind, _UNITS)
            raise UserError(
                f"unknown budget {kind!r}",
                mend=(f"did you mean {guess!r}? " if guess else "") + f"valid: {', '.join(_UNITS)}",
            )
        match = re.fullmatch(r"\s*([0-9]*\.?[0-9]+(?:[eE][+-]?[0-9]+)?)\s*([a-zA-Z]*)\s*", str(text))
        units = _UNITS[kind]
        shown = ", ".join(unit for unit in units if unit)
        mend = f"write a ratio of the dense network (0.5) or a number with one of: {shown}"
        if match is None:
            raise UserError(f"cannot read the budget {kind}={text}", value=text, mend=mend)
        number, unit = float(match[1]), match[2]
        if unit:
            lookup = {name.lower(): factor for name, factor in units.items() if name}
            if unit.lower() not in lookup:
                raise UserError(f"unknown unit {unit!r} in {kind}={text}", value=text, mend=mend)
            number *= lookup[unit.lower()]
        elif number > 1 and kind in ("macs", "params"):
            return cls(kind, number, relative=False)
        elif number > 1:
            raise UserError(f"{kind}={text} is a ratio above 1", value=text, mend=mend)
        if number <= 0:
            raise UserError(f"the budget {kind}={text} must be positive", value=text, mend=mend)
        return cls(kind, number, relative=not unit)

    def absolute(self, dense: float) -> float:
        """The limit in ms, bytes, uJ or counts, given the dense network's figure in the same unit."""
        return self.value * dense if self.relative else self.value

    def __str__(self) -> str:
        if self.relative:
            return f"{self.kind}={self.value:g}"
        return f"{self.kind}={self.value:g}{self.unit}"

    @property
    def unit(self) -> str:
        """Of the limit in absolute terms; empty for counts."""
        return next(iter(unit for unit, factor in _UNITS[self.kind].items() if factor == 1))


class Budget:
    """What the network may cost: several limits that must all hold.

    >>> Budget(latency=0.5, size="500KB")
    Budget(latency=0.5, size=500000B)
    """

    def __init__(self, **limits: float | str) -> None:
        self.limits: tuple[Limit, ...] = tuple(Limit.parse(kind, text) for kind, text in limits.items())

    @classmethod
    def parse(cls, texts: list[str]) -> Budget:
        """From the command line: ``["latency=0.5", "size=500KB,macs=0.3"]``. Raises UserError."""
        pairs: dict[str, float | str] = {}
        for part in (p.strip() for text in texts for p in text.split(",")):
            kind, sign, value = part.partition("=")
            if not sign:
                raise UserError(f"cannot read the budget {part!r}", mend="write KIND=VALUE, e.g. latency=0.5")
            if kind in pairs:
                raise UserError(f"the budget {kind!r} is given twice", value=part, mend="keep one of them")
            pairs[kind] = value
        return cls(**pairs)

    def to_json(self) -> dict[str, str]:
        return {limit.kind: str(limit).split("=", 1)[1] for limit in self.limits}

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Budget) and self.limits == other.limits

    def __hash__(self) -> int:
        return hash(self.limits)

    def __repr__(self) -> str:
        return f"Budget({', '.join(map(str, self.limits))})"


@dataclass(frozen=True)
class Cost:
    """Costs that follow from shapes alone: ``params`` (count), ``macs`` per example, ``weight_bytes`` (fp32)."""

    params: int
    macs: int
    weight_bytes: int


@dataclass(frozen=True)
class Measurement:
    """One number with its provenance. ``value`` is None exactly where ``kind`` is ``unavailable``."""

    metric: str
    value: float | None
    unit: str
    kind: Kind
    detail: str = ""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)
