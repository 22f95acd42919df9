"""Operating points on the test data: answered by the levels, timed through the file that decides by itself."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from neuroprune.base.errors import UserError
from neuroprune.cascade.evidence import Judged, Split
from neuroprune.cascade.runner import CascadeRunner, OperatingPoint
from neuroprune.cascade.single_file import THRESHOLD, Rung, write_single_file
from neuroprune.cascade.thresholds import CLOSE, answering
from neuroprune.cascade.timing import time_examples
from neuroprune.devices.runner import session

#: examples that are timed, at least and at most; seconds of that for each second of measuring a level
LEAST, MOST, PATIENCE = 16, 512, 30
ROUNDS = 3

Call = Callable[[int], Any]


def rungs_of(runner: CascadeRunner, path: Sequence[int]) -> list[Rung]:
    return [Rung(runner.folder / runner.levels[n]["file"], n, runner.levels[n]["temperature"]) for n in path]


class Trial:
    """``runner``: the cascade; ``test``: its test data, ``seen``: what the levels said of them; ``dense``: the
    control's file; ``seconds``: how patient timing is."""

    def __init__(self, runner: CascadeRunner, test: Split, seen: Judged, dense: Path, seconds: float) -> None:
        self.runner, self.test, self.seen, self.dense, self.seconds = runner, test, seen, dense, seconds
        self.sure = seen.confidence([level["temperature"] for level in runner.levels])

    def figures(self, named: Mapping[str, OperatingPoint], curve: Sequence[OperatingPoint]) -> dict[str, Any]:
        """Per point: accuracy and agreement with the dense network on all test examples; measured mean, median and
        90th percentile of a call, CPU ms, over those that are timed, all points and the dense network in turns.

        ``runner``: the default point through the Python runner instead of one file.
        """
        every = {**named, **{f"curve-{number}": point for number, point in enumerate(curve)}}
        different = {(point.path, point.threshold): point for point in every.values()}
        chosen = self._timed(list(different.values()))
        with tempfile.TemporaryDirectory() as folder:
            ways, calls = self._calls(different, chosen, Path(folder))
            self._check(calls, ways, chosen)
            times = time_examples(calls, len(chosen), rounds=ROUNDS)
        rows = {name: self._row(point, times[ways[point.path, point.threshold]]) for name, point in every.items()}
        return {
            "examples": len(self.test), "timed": len(chosen),
            "dense": {"accuracy": self.seen.dense_accuracy, **_summary(times["dense"])},
            "runner": _summary(times["runner"]),
            "points": {name: rows[name] for name in named},
            "curve": [rows[name] for name in every if name not in named],
        }  # fmt: skip

    def _timed(self, points: Sequence[OperatingPoint]) -> np.ndarray:
        """Places of the examples that are timed: spread over the test data, as many as there is time for."""
        dense = float(self.runner.document["dense"]["ms"])
        round_ms = ROUNDS * (2 * dense + sum(point.mean_ms for point in points))
        count = int(np.clip(1000 * PATIENCE * self.seconds / max(round_ms, 1e-9), LEAST, MOST))
        return np.unique(np.linspace(0, len(self.test) - 1, min(count, len(self.test))).round().astype(int))

    def _calls(
        self, points: Mapping[tuple[tuple[int, ...], float], OperatingPoint], chosen: np.ndarray, folder: Path
    ) -> tuple[dict[tuple[tuple[int, ...], float], str], dict[str, Call]]:
        """Name of each way of answering, and how to call it on the i-th chosen example."""
        names = self.runner.document["inputs"]
        feeds = [
            {value["name"]: array for value, array in zip(names, self.test.example(place), strict=True)}
            for place in chosen
        ]
        loaded: dict[tuple[int, ...], Any] = {}
        calls = {"dense": _call(session(str(self.dense), self.runner.threads), feeds)}
        ways = {}
        for number, (path, threshold) in enumerate(points):
            if path not in loaded:
                loaded[path] = session(str(self._file(path, folder)), self.runner.threads)
            asked = {THRESHOLD: np.array([threshold], dtype=np.float32)} if len(path) > 1 else {}
            ways[path, threshold] = f"way{number}"
            calls[f"way{number}"] = _call(loaded[path], [feed | asked for feed in feeds])
        calls["runner"] = lambda i: self.runner(self.test.example(chosen[i]))
        return ways, calls

    def _file(self, path: tuple[int, ...], folder: Path) -> Path:
        if len(path) == 1:
            return self.runner.folder / str(self.runner.levels[path[0]]["file"])
        target = folder / f"{'-'.join(map(str, path))}.onnx"
        write_single_file(rungs_of(self.runner, path), 0.0, target)
        return target

    def _check(
        self, calls: Mapping[str, Call], ways: Mapping[tuple[tuple[int, ...], float], str], chosen: np.ndarray
    ) -> None:
        """Both ways to run the default point give the same scores of the same level on every timed example.

        Raises UserError where they do not: what was chosen would not be what runs.
        """
        point = self.runner.points[self.runner.point]
        one = calls[ways[point.path, point.threshold]]
        for number, place in enumerate(chosen):
            given, answer = one(number), self.runner(self.test.example(place))
            same = np.array_equal(given[0], answer.outputs, equal_nan=True)
            if len(point.path) > 1:
                same = same and given[1][0] == answer.level[0]
            if not same and not np.abs(self.sure[:, place] - point.threshold).min() <= CLOSE:
                raise UserError(
                    "the file in which the runtime decides does not answer as the levels do",
                    where=f"test example {place}",
                    value=f"{given[0].tolist()} and {answer.outputs.tolist()} of level {answer.level[0]}",
                    mend="report this network, and run the cascade by runner.py until then",
                )

    def _row(self, point: OperatingPoint, times: np.ndarray) -> dict[str, Any]:
        level = answering(self.sure, point.path, point.threshold)
        everyone = np.arange(len(self.test))
        right, said = self.seen.right[level, everyone], self.seen.scores.argmax(axis=2)[level, everyone]
        dense = self.seen.dense == self.seen.wanted
        return {
            "path": list(point.path), "threshold": point.threshold, "accuracy": 100.0 * float(right.mean()),
            "agreement": 100.0 * float((said == self.seen.dense).mean()),
            "lost": int((dense & ~right).sum()), "won": int((right & ~dense).sum()),
            "shares": [float((level == n).mean()) for n in range(len(self.runner.levels))], **_summary(times),
        }  # fmt: skip


def _call(loaded: Any, feeds: Sequence[Mapping[str, np.ndarray]]) -> Call:
    return lambda number: loaded.run(None, feeds[number])


def _summary(times: np.ndarray) -> dict[str, float]:
    mean, (median, p90) = times.mean(), np.quantile(times, [0.5, 0.9])
    return {"mean_ms": float(mean), "p50_ms": float(median), "p90_ms": float(p90)}
