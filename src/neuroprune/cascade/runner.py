"""Runs a cascade where it is used. It imports numpy and onnxruntime only, so that one copied file runs on devices.

    python runner.py FOLDER --inputs x.npz [--point NAME | --budget-ms 0.8 | --energy-uj 40]

prints one line of JSON: class, answering level and confidence of every example. A copy of this file lies in every
cascade's folder.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

try:
    from neuroprune.base.errors import UserError
except ImportError:  # this file was copied to a device alone

    class UserError(Exception):  # type: ignore[no-redef]
        def __init__(self, what: str, **more: object) -> None:
            lines = [f"  {key}: {value}" for key, value in more.items() if value is not None]
            super().__init__("\n".join([what, *lines]))


SCHEMA, DOCUMENT = 1, "cascade.json"
#: no confidence is above 1: with this threshold the last network of a path answers everything
NEVER = 2.0


def confidence(scores: np.ndarray, temperature: float) -> np.ndarray:
    """[n]: largest softmax probability of ``scores`` [n, classes] over ``temperature`` (Guo et al. 2017).

    NaN, which is no confidence, where a score is NaN or infinite.
    """
    with np.errstate(invalid="ignore", over="ignore"):
        scaled = scores.astype(np.float32) / np.float32(temperature)
        scaled = scaled - scaled.max(axis=1, keepdims=True)
        found: np.ndarray = 1 / np.exp(scaled).sum(axis=1)
    return np.where(np.isfinite(scores).all(axis=1), found, np.float32(np.nan))


@dataclass(frozen=True)
class OperatingPoint:
    """``path``: numbers of the levels that are asked, in order; one answers where its confidence is at least
    ``threshold``, and the last one answers what is left. ``accuracy``: on the validation data, in percent.

    ``mean_ms``, ``p90_ms``, ``mean_uj``: over the validation data, shares of the levels times what each takes;
    ``worst_ms``: where every level of the path is asked.
    """

    path: tuple[int, ...]
    threshold: float
    accuracy: float
    mean_ms: float
    p90_ms: float
    worst_ms: float
    mean_uj: float
    shares: tuple[float, ...] = ()

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> OperatingPoint:
        fields: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in data.items()}
        return cls(**fields)


@dataclass(frozen=True)
class Answer:
    """``outputs`` [n, classes] of the level that answered each example, ``level`` [n], ``confidence`` [n] (NaN
    where scores were not finite), ``point``: the operating point's name."""

    outputs: np.ndarray = field(repr=False)
    level: np.ndarray
    confidence: np.ndarray
    point: str


class CascadeRunner:
    """A loaded cascade.

    >>> runner = CascadeRunner.load("runs/cascade")                                     # doctest: +SKIP
    >>> answer = runner(images)                     # [n, ...]: each example takes its own way
    >>> answer = runner(images, budget_ms=0.5)      # the most accurate point whose every call fits
    >>> runner.set_operating_point("level-0")
    """

    def __init__(self, folder: Path, document: Mapping[str, Any], threads: int) -> None:
        self.folder, self.document, self.threads = folder, document, threads
        self.levels: Sequence[Mapping[str, Any]] = document["levels"]
        self.points: dict[str, OperatingPoint] = {
            name: OperatingPoint.from_json(p) for name, p in document["operating_points"].items()
        }
        self.point: str = document["default"]
        self._sessions: dict[int, Any] = {}

    @classmethod
    def load(cls, folder: Path | str, *, threads: int = 1) -> CascadeRunner:
        """Raises UserError when the folder is no cascade of this version, or a network in it was changed."""
        folder = Path(folder)
        document = _document(folder / DOCUMENT)
        for level in document["levels"]:
            _check_file(folder / level["file"], level["sha256"])
        return cls(folder, document, threads)

    def set_operating_point(self, name: str) -> None:
        """From now on calls without a budget use this one. Raises UserError for an unknown name."""
        self._known(name)
        self.point = name

    def __call__(
        self,
        inputs: np.ndarray | Sequence[np.ndarray],
        *,
        point: str | None = None,
        budget_ms: float | None = None,
        energy_uj: float | None = None,
        power_mw: float | None = None,
        per_second: float | None = None,
    ) -> Answer:
        """Answer ``inputs`` [n, ...], one array per input of the network; for budgets see ``choose``.

        Raises UserError for inputs that the networks do not take, and budgets that nothing fits.
        """
        asked = budget_ms, energy_uj, power_mw, per_second
        if point is None and any(one is not None for one in asked):
            name = self.choose(budget_ms=budget_ms, energy_uj=energy_uj, power_mw=power_mw, per_second=per_second)
        else:
            name = self.point if point is None else point
        return self._answer(self._arrays(inputs), self._known(name), name)

    def choose(
        self,
        *,
        budget_ms: float | None = None,
        energy_uj: float | None = None,
        power_mw: float | None = None,
        per_second: float | None = None,
    ) -> str:
        """The most accurate operating point within all limits that are given.

        ``budget_ms``: the most that one call on one example may take, so all levels of the path count.
        ``energy_uj``: modelled energy per example on average; ``power_mw``: the same as power at ``per_second``
        examples a second. Raises UserError where nothing fits.
        """
        limits = _limits(budget_ms, energy_uj, power_mw, per_second)
        fitting = [
            name
            for name, one in self.points.items()
            if all(getattr(one, figure) <= limit for figure, limit in limits.items())
        ]
        if not fitting:
            least = {f: min(getattr(one, f) for one in self.points.values()) for f in limits}
            raise UserError(
                "no operating point fits this budget",
                where=", ".join(f"{figure} <= {limit:g}" for figure, limit in limits.items()),
                value=", ".join(f"the least {figure} is {value:.4g}" for figure, value in least.items()),
                mend="raise the budget, or build the cascade with a smaller first level",
            )
        ranked = sorted(fitting, key=lambda name: (-self.points[name].accuracy, self.points[name].mean_ms))
        return ranked[0]

    def time_levels(self, inputs: np.ndarray | Sequence[np.ndarray], *, runs: int = 50) -> list[float]:
        """Time every level, and its confidence, on the first example of ``inputs``: budgets then count by that.

        Median milliseconds (CPU time) of ``runs`` calls per level, levels in turn. The document is not changed.
        """
        one = [array[:1] for array in self._arrays(inputs)]
        samples = np.empty((runs + 1, len(self.levels)))
        for run in range(runs + 1):
            for level in range(len(self.levels)):
                began = time.process_time_ns()
                confidence(self._scores(level, one), 1.0)
                samples[run, level] = (time.process_time_ns() - began) / 1e6
        each = np.median(samples[1:], axis=0)
        self.points = {name: _retimed(point, each) for name, point in self.points.items()}
        return [float(value) for value in each]

    def _answer(self, inputs: list[np.ndarray], point: OperatingPoint, name: str) -> Answer:
        waiting = np.arange(len(inputs[0]))
        outputs = np.zeros((len(waiting), self.document["classes"]), dtype=np.float32)
        level, sure = np.zeros(len(waiting), dtype=np.int64), np.full(len(waiting), np.nan, dtype=np.float32)
        for number in point.path:
            if not len(waiting):
                break
            whole = len(waiting) == len(outputs)
            scores = self._scores(number, inputs if whole else [array[waiting] for array in inputs])
            found = confidence(scores, self.levels[number]["temperature"])
            outputs[waiting], level[waiting], sure[waiting] = scores, number, found
            waiting = waiting[~(found >= point.threshold)]  # NaN is not at least anything
        return Answer(outputs, level, sure, name)

    def _scores(self, level: int, inputs: list[np.ndarray]) -> np.ndarray:
        """[n, classes] of one level."""
        session = self._session(level)
        names = [value.name for value in session.get_inputs()]
        fixed = self.document.get("batch")
        steps = [slice(None)] if fixed is None else [slice(i, i + fixed) for i in range(0, len(inputs[0]), fixed)]
        try:
            parts = [session.run(None, dict(zip(names, (a[s] for a in inputs))))[0] for s in steps]  # noqa: B905
        except Exception as error:  # the runtime's error classes share no public base
            raise UserError(
                f"the network refuses the inputs: {str(error).splitlines()[0]}",
                where=f"{self.levels[level]['file']}, inputs {', '.join(names)}",
                value=", ".join(f"{array.dtype}{list(array.shape)}" for array in inputs),
                mend="give arrays of the type and shape that cascade.json names under 'inputs'",
            ) from error
        return np.concatenate(parts) if len(parts) > 1 else np.asarray(parts[0])

    def _session(self, level: int) -> Any:
        """Loaded when first asked: a device that stays at one point holds only its networks."""
        if level not in self._sessions:
            import onnxruntime

            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads, options.inter_op_num_threads = self.threads, 1
            options.add_session_config_entry("session.intra_op.allow_spinning", "0")
            options.log_severity_level = 3
            path = str(self.folder / self.levels[level]["file"])
            self._sessions[level] = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        return self._sessions[level]

    def _arrays(self, inputs: np.ndarray | Sequence[np.ndarray]) -> list[np.ndarray]:
        several = isinstance(inputs, (list, tuple))
        arrays = [np.asarray(array) for array in (inputs if several else [inputs])]
        wanted = [value["name"] for value in self.document["inputs"]]
        if len(arrays) != len(wanted) or any(array.ndim == 0 for array in arrays):
            raise UserError(
                f"the cascade takes {len(wanted)} inputs ({', '.join(wanted)}), examples in the first dimension",
                value=f"{len(arrays)} arrays of shapes {[list(array.shape) for array in arrays]}",
                mend="give one array for each input, in this order",
            )
        if len({len(array) for array in arrays}) > 1:
            raise UserError(
                "the inputs hold different numbers of examples",
                value=", ".join(str(len(array)) for array in arrays),
                mend="give the same examples in every array",
            )
        return arrays

    def _known(self, name: str) -> OperatingPoint:
        if name not in self.points:
            raise UserError(
                f"there is no operating point {name!r}", value=name, mend=f"use one of {', '.join(self.points)}"
            )
        return self.points[name]


def _limits(
    budget_ms: float | None, energy_uj: float | None, power_mw: float | None, per_second: float | None
) -> dict[str, float]:
    """Figure of an operating point -> the most it may be."""
    for name, value in (("budget_ms", budget_ms), ("energy_uj", energy_uj), ("power_mw", power_mw),
                        ("per_second", per_second)):  # fmt: skip
        if value is not None and not value > 0:
            raise UserError(f"{name} must be above 0", value=value, mend="give a positive number")
    if (power_mw is None) != (per_second is None):
        raise UserError(
            "a power budget is about so many examples a second",
            value=f"power_mw={power_mw}, per_second={per_second}",
            mend="give both: power_mw=5, per_second=30",
        )
    limits = {}
    if budget_ms is not None:
        limits["worst_ms"] = budget_ms
    energies = [energy_uj] if energy_uj is not None else []
    if power_mw is not None and per_second is not None:
        energies.append(1000 * power_mw / per_second)  # mW = mJ / s
    if energies:
        limits["mean_uj"] = min(energies)
    if not limits:
        raise UserError("no budget is given", mend="give budget_ms=, energy_uj=, or power_mw= with per_second=")
    return limits


def _retimed(point: OperatingPoint, each: np.ndarray) -> OperatingPoint:
    """``each``: milliseconds of every level."""
    spent = np.cumsum(each[list(point.path)])
    shares = np.array([point.shares[level] for level in point.path])
    at_90 = spent[min(int(np.searchsorted(np.cumsum(shares), 0.9 - 1e-9)), len(spent) - 1)]
    figures = {"mean_ms": float(spent @ shares), "p90_ms": float(at_90), "worst_ms": float(spent[-1])}
    return OperatingPoint(**{**vars(point), **figures})


def _document(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(
            f"cannot read {path.name}: {error.strerror or error}",
            where=str(path.parent),
            mend="name a folder that `neuroprune cascade` made",
        ) from error
    except ValueError as error:
        raise UserError(
            f"{path.name} is not valid JSON", where=str(path), mend="copy the folder again, whole"
        ) from error
    if not isinstance(document, dict) or document.get("schema") != SCHEMA or document.get("kind") != "cascade":
        raise UserError(
            "this is no cascade of this version",
            where=str(path),
            value=f"schema {document.get('schema') if isinstance(document, dict) else None}, read here: {SCHEMA}",
            mend="build it again, or use the runner.py in its folder",
        )
    return document


def _check_file(path: Path, wanted: str) -> None:
    found = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "no such file"
    if found != wanted:
        raise UserError(
            f"{path.name} is not the file that the cascade was built with",
            where=str(path.parent),
            value=found,
            mend="copy the folder again, whole",
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder")
    parser.add_argument(
        "--inputs", required=True, help="an .npz file with the input arrays in order, [n, ...] each"
    )
    parser.add_argument("--point", help="name of an operating point")
    parser.add_argument("--budget-ms", type=float)
    parser.add_argument("--energy-uj", type=float)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    with np.load(options.inputs) as arrays:
        inputs = [arrays[name] for name in arrays.files]
    runner = CascadeRunner.load(options.folder, threads=options.threads)
    answer = runner(inputs, point=options.point, budget_ms=options.budget_ms, energy_uj=options.energy_uj)
    found = {
        "classes": answer.outputs.argmax(axis=1).tolist(),
        "levels": answer.level.tolist(),
        "confidence": [None if np.isnan(value) else float(value) for value in answer.confidence],
        "point": answer.point,
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
