"""What a network loses when one group alone is cut, against the share that goes: curves as data, with JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from neuroprune.base.errors import UserError
from neuroprune.base.files import read_json, write_json
from neuroprune.graph.units import Group

SCHEMA = 1
#: error of a network whose outputs are not finite any more: more than that of outputs all wrong
BROKEN = 1e6


@dataclass(frozen=True)
class Point:
    """One group without ``removed`` of its units, for which ``ratio`` of them was asked.

    ``divergence``: |outputs - dense outputs|^2 over |dense outputs|^2, None where they are not finite.
    ``agreement``: share of predictions that are the dense network's, in percent; None where there are no class
    scores. ``metric``: accuracy in percent, or what ``evaluate`` gives; None without labels.
    """

    ratio: float
    removed: int
    divergence: float | None
    agreement: float | None = None
    metric: float | None = None


@dataclass(frozen=True)
class Curve:
    """One group of ``units`` units. ``refitted``: its consumers were fitted again by least squares each time."""

    group: str
    units: int
    kind: str
    refitted: bool = False
    points: tuple[Point, ...] = ()

    def errors(self) -> np.ndarray:
        """[units + 1]: divergence after i units are gone; between points and beyond the last along straight lines,
        and never falling, so that noise is no reason to remove more."""
        known = {0: 0.0} | {p.removed: BROKEN if p.divergence is None else p.divergence for p in self.points}
        x, y = np.array(sorted(known)), np.array([known[n] for n in sorted(known)])
        counts = np.arange(self.units + 1)
        found = np.interp(counts, x, y)
        if len(x) > 1:
            slope = max((y[-1] - y[-2]) / (x[-1] - x[-2]), 0.0)
            found = np.where(counts > x[-1], y[-1] + slope * (counts - x[-1]), found)
        return np.maximum.accumulate(found)


@dataclass(frozen=True)
class Sensitivity:
    """A curve per group, in the order of the network. All figures are measured, on ``examples`` examples.

    ``metric``, ``unit``: what ``metric`` of a point is (accuracy, %), empty without labels; ``dense``: the dense
    network's. ``options``: how it was measured; ``identity``: hashes of the model's weights and the data.
    """

    curves: tuple[Curve, ...]
    examples: int
    metric: str = ""
    unit: str = ""
    dense: float | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    identity: Mapping[str, str] = field(default_factory=dict)

    @property
    def complete(self) -> bool:
        """Every group has a point for every ratio."""
        return all(len(curve.points) == len(self.options["ratios"]) for curve in self.curves)

    def curve(self, group: str) -> Curve:
        """Raises KeyError."""
        return {curve.group: curve for curve in self.curves}[group]

    def with_point(self, group: str, point: Point) -> Sensitivity:
        curves = (replace(c, points=(*c.points, point)) if c.group == group else c for c in self.curves)
        return replace(self, curves=tuple(curves))

    def ranked(self) -> list[Curve]:
        """Most sensitive first, by `damage`."""
        return sorted(self.curves, key=lambda curve: -self.damage(curve))

    def damage(self, curve: Curve) -> float:
        """Mean over the ratios: what the metric loses, in its unit; without a metric the divergence."""
        if self.dense is not None:
            lost = [self.dense - p.metric for p in curve.points if p.metric is not None]
        else:
            lost = [BROKEN if p.divergence is None else p.divergence for p in curve.points]
        return float(np.mean(lost)) if lost else 0.0

    def errors(self, groups: Sequence[Group]) -> list[np.ndarray]:
        """Per group [units + 1], for allocation. Raises UserError where a curve is absent or not finished."""
        found = {curve.group: curve for curve in self.curves}
        if not self.complete:
            raise UserError(
                "the sensitivity curves are not finished",
                mend="go on with resume=True, or on the command line --resume",
            )
        for group in groups:
            curve = found.get(group.name)
            if group.size > 1 and (curve is None or curve.units != group.size):
                raise UserError(
                    f"there is no sensitivity curve for the group {group.name} of {group.size} units",
                    value=f"curves: {', '.join(found) or 'none'}",
                    mend="measure this very network, with the same keep=",
                )
        return [found[g.name].errors() if g.name in found else np.zeros(g.size + 1) for g in groups]

    def to_json(self) -> dict[str, Any]:
        return {"schema": SCHEMA, "kind": "measured", **asdict(self), "curves": [asdict(c) for c in self.curves]}

    @classmethod
    def from_json(cls, data: Any, *, where: str = "sensitivity") -> Sensitivity:
        """Raises UserError when the document is none, is damaged, or comes from a newer version."""
        if not isinstance(data, dict) or "curves" not in data or data.get("schema") != SCHEMA:
            raise UserError(
                f"these are no sensitivity curves of schema {SCHEMA}",
                where=where,
                mend="name the sensitivity.json that neuroprune sensitivity wrote",
            )
        try:
            curves = tuple(
                Curve(**{**c, "points": tuple(Point(**point) for point in c["points"])}) for c in data["curves"]
            )
            plain = {k: v for k, v in data.items() if k not in ("schema", "kind", "curves")}
            return cls(curves, **plain)
        except (KeyError, TypeError) as error:
            raise UserError(
                f"the sensitivity curves are damaged: {error!r}", where=where, mend="measure them again"
            ) from error

    def save(self, path: Path | str) -> None:
        write_json(Path(path), self.to_json())

    @classmethod
    def load(cls, path: Path | str) -> Sensitivity:
        return cls.from_json(read_json(Path(path)), where=str(path))
