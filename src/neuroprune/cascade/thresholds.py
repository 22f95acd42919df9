"""Which level answers what, and from which confidence on: every path and threshold, judged on validation data."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from neuroprune.cascade.runner import NEVER, OperatingPoint

#: confidences closer than this are one: runtimes and batch sizes round differently
CLOSE = 1e-6
#: thresholds that are tried per path, at most: quantiles of the confidences seen
MOST = 1024
#: points of the frontier that a curve shows
CURVE = 12

Path = tuple[int, ...]


@dataclass(frozen=True)
class Evidence:
    """What the levels say of the validation examples: ``right`` bool and ``confidence`` [levels, n]; what one call
    of each takes: ``ms`` and ``uj`` [levels]; ``gate_ms``: what deciding takes, once per level but the last."""

    right: np.ndarray
    confidence: np.ndarray
    ms: np.ndarray
    uj: np.ndarray
    gate_ms: float = 0.0

    @property
    def examples(self) -> int:
        return int(self.right.shape[1])


def paths(levels: int) -> Iterator[Path]:
    """Every choice of levels, in order: alone, and one after the other."""
    for size in range(1, levels + 1):
        yield from combinations(range(levels), size)


def candidates(confidences: np.ndarray) -> np.ndarray:
    """Thresholds that tell confidences [any shape] apart, ascending: one below all, one between each two
    neighbours (half way, so that rounding decides nothing), and `NEVER`. NaN is no confidence."""
    seen = np.unique(confidences[np.isfinite(confidences)].astype(np.float64))
    between = ((seen[1:] + seen[:-1]) / 2)[np.diff(seen) > CLOSE]
    if len(between) > MOST:
        between = between[np.linspace(0, len(between) - 1, MOST).round().astype(int)]
    return np.concatenate([[0.0], between, [NEVER]])


def answering(confidence: np.ndarray, path: Path, threshold: float) -> np.ndarray:
    """[n]: which level answers each example. ``confidence`` [levels, n]."""
    sure = confidence[list(path)] >= threshold
    sure[-1] = True
    found: np.ndarray = np.array(path)[sure.argmax(axis=0)]
    return found


def point(evidence: Evidence, path: Path, threshold: float) -> OperatingPoint:
    """The figures of one path and threshold."""
    level = answering(evidence.confidence, path, threshold)
    spent = np.zeros(len(evidence.ms))
    gates = np.minimum(np.arange(len(path)) + 1, len(path) - 1)
    spent[list(path)] = np.cumsum(evidence.ms[list(path)]) + evidence.gate_ms * gates
    energy = np.zeros(len(evidence.uj))
    energy[list(path)] = np.cumsum(evidence.uj[list(path)])
    right = evidence.right[level, np.arange(evidence.examples)]
    return OperatingPoint(
        path=path,
        threshold=float(threshold),
        accuracy=100.0 * int(right.sum()) / evidence.examples,
        mean_ms=float(spent[level].mean()),
        p90_ms=float(np.quantile(spent[level], 0.9, method="inverted_cdf")),
        worst_ms=float(spent[path[-1]]),
        mean_uj=float(energy[level].mean()),
        shares=tuple(float((level == one).mean()) for one in range(len(evidence.ms))),
    )


def points(evidence: Evidence, path: Path) -> list[OperatingPoint]:
    """One per candidate threshold; a single level has no threshold."""
    if len(path) == 1:
        return [point(evidence, path, 0.0)]
    return [point(evidence, path, float(t)) for t in candidates(evidence.confidence[list(path[:-1])])]


def every_point(evidence: Evidence) -> list[OperatingPoint]:
    return [one for path in paths(len(evidence.ms)) for one in points(evidence, path)]


def cheapest(found: Sequence[OperatingPoint], accuracy: float) -> OperatingPoint | None:
    """The least mean latency at an accuracy of at least ``accuracy`` (percent); None where nothing reaches it.

    Of equals the more accurate one, then the shorter path, then the higher threshold.
    """
    enough = [one for one in found if one.accuracy >= accuracy - 1e-9]
    return min(enough, key=lambda p: (p.mean_ms, -p.accuracy, len(p.path), -p.threshold), default=None)


def frontier(found: Sequence[OperatingPoint]) -> list[OperatingPoint]:
    """Points that no other one beats in mean latency and accuracy, the cheapest first."""
    best: list[OperatingPoint] = []
    for one in sorted(found, key=lambda p: (p.mean_ms, -p.accuracy, len(p.path), -p.threshold)):
        if not best or one.accuracy > best[-1].accuracy:
            best.append(one)
    return best


def thinned(found: Sequence[OperatingPoint], most: int = CURVE) -> list[OperatingPoint]:
    """At most ``most`` of them, spread over their places; the first and the last are among them."""
    places = np.unique(np.linspace(0, len(found) - 1, min(most, len(found))).round().astype(int))
    return [found[place] for place in places]


def _losing_none(evidence: Evidence, found: Sequence[OperatingPoint]) -> OperatingPoint:
    """The last level alone loses none."""
    last = len(evidence.ms) - 1

    def loses(one: OperatingPoint) -> bool:
        level = answering(evidence.confidence, one.path, one.threshold)
        right = evidence.right[level, np.arange(evidence.examples)]
        return bool((evidence.right[last] & ~right).any())

    return next(one for one in sorted(found, key=lambda p: (p.mean_ms, -p.accuracy)) if not loses(one))


def operating_points(evidence: Evidence, dense: float, lose: Sequence[float]) -> Mapping[str, OperatingPoint]:
    """By name, each chosen on the validation data alone.

    ``lose-X``: the cheapest point that loses at most X points of the dense network's accuracy ``dense`` (percent);
    absent where nothing reaches that. ``lose-none``: the cheapest at which no single example is lost that the last
    level gets right, gains not counted: a few hundred examples tell that better than a difference of accuracies.
    ``level-K``: one level alone. ``path-A-B``: along these levels, the cheapest
    threshold at which nothing is lost against the last of them.
    """
    found = every_point(evidence)
    named: dict[str, OperatingPoint] = {}
    for lost in lose:
        chosen = cheapest(found, dense - lost)
        if chosen is not None:
            named[f"lose-{lost:g}"] = chosen
    named["lose-none"] = _losing_none(evidence, found)
    for path in paths(len(evidence.ms)):
        own = [one for one in found if one.path == path]
        last = point(evidence, path[-1:], 0.0).accuracy
        name = f"level-{path[0]}" if len(path) == 1 else "path-" + "-".join(map(str, path))
        chosen = cheapest(own, last)  # NEVER reaches it
        assert chosen is not None
        named[name] = chosen
    return named
