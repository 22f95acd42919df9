"""From a trained model to a cascade's folder: levels cut and exported, thresholds chosen, everything measured."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from neuroprune import __version__
from neuroprune.base.errors import UserError
from neuroprune.base.files import atomic_folder, save_tensors, sha256, write_json
from neuroprune.base.modes import evaluation
from neuroprune.base.progress import Progress, SilentProgress
from neuroprune.budget.calibration import example_of
from neuroprune.budget.exported import ExportedFiles, Variant
from neuroprune.budget.kinds import KINDS, Setting
from neuroprune.cascade.evidence import Judged, Split, check_suits, first_examples, judged, split_of
from neuroprune.cascade.levels import Level, LevelOptions, check_shares, nested_levels
from neuroprune.cascade.runner import DOCUMENT, SCHEMA, CascadeRunner, OperatingPoint
from neuroprune.cascade.single_file import Rung, write_single_file
from neuroprune.cascade.thresholds import Evidence, every_point, frontier, operating_points, thinned
from neuroprune.cascade.trial import Trial, rungs_of
from neuroprune.devices import DEVICES
from neuroprune.devices.facts import machine_facts
from neuroprune.devices.single_layer import Precision
from neuroprune.export import EXPORTS
from neuroprune.tasks.check import check_task
from neuroprune.tasks.task import Task

SINGLE_FILE, PYTORCH = "cascade.onnx", "pytorch"
#: examples that quantising looks at
QUANTISED = 512
#: a file may differ from its network by so much of the largest output: another order of summation
CLOSE = 1e-3
KNOWN_BY = {
    "ms": "measured", "p90_ms": "measured", "accuracy": "measured", "uj": "modelled", "test": "measured",
    "operating_points and curve": "modelled: shares of the validation data times the levels' measured latency",
}  # fmt: skip


@dataclass(frozen=True)
class CascadeOptions:
    """``lose``: points of accuracy that operating points may lose against the dense network. ``examples``: of the
    training data that calibrate, without labels. ``seconds``: of measuring the levels' latency."""

    levels: Sequence[float] = (0.15, 0.4, 1.0)
    cutting: LevelOptions = field(default_factory=LevelOptions)
    precision: Precision = "fp32"
    lose: Sequence[float] = (0.0, 1.0)
    examples: int = 2048
    threads: int = 1
    seconds: float = 3.0

    def check(self) -> None:
        """Raises UserError for what cannot be."""
        check_shares(self.levels)
        self.cutting.check()
        if self.precision not in ("fp32", "int8"):
            raise UserError(f"unknown precision {self.precision!r}", mend="use fp32 or int8")
        if not self.lose or not all(0 <= one <= 100 for one in self.lose):
            raise UserError(
                "these are no losses of accuracy", where="lose", value=list(self.lose) or "none",
                mend="write points of accuracy from 0 to 100: 0,1",
            )  # fmt: skip
        for name, least in (("examples", 1), ("threads", 1), ("seconds", 0)):
            if not getattr(self, name) >= least:
                raise UserError(f"{name} is too small", value=getattr(self, name), mend=f"at least {least}")


def build_cascade(
    model: nn.Module,
    task: Task,
    out: Path | str,
    options: CascadeOptions | None = None,
    *,
    more: Sequence[Any] | None = None,
    progress: Progress | None = None,
) -> CascadeRunner:
    """Cut nested levels out of ``model``, choose thresholds on ``task.val``, and write the folder ``out``.

    >>> task = make_task(train=(x, y), val=(vx, vy), test=(tx, ty))                     # doctest: +SKIP
    >>> runner = build_cascade(model, task, "runs/cascade")
    >>> runner(images, budget_ms=0.5).outputs

    The folder holds one ONNX file per level, one file in which the runtime decides (``cascade.onnx``), the
    document (``cascade.json``), ``runner.py`` and the levels' plans and weights for PyTorch. Temperatures and
    thresholds come from ``task.val`` alone; ``task.test`` is only reported on. Without labels the dense network's
    class counts as right. ``more``: batches for distillation, see `nested_levels`.

    Raises UserError for a network without class scores, a task judged otherwise than by accuracy, and levels that
    cannot be cut; ``out`` is then as it was.
    """
    options, progress = options or CascadeOptions(), progress or SilentProgress()
    options.check()
    check_task(task, model)
    check_suits(model, task)
    with atomic_folder(Path(out)) as folder:
        batches = first_examples(task.train, options.examples)
        levels = nested_levels(
            model, batches, options.levels, options.cutting, forward=task.forward, more=more, progress=progress
        )
        write_cascade(folder, levels, model, task, batches, options, progress)
    return CascadeRunner.load(out, threads=options.threads)


def write_cascade(
    folder: Path,
    levels: Sequence[Level],
    dense: nn.Module,
    task: Task,
    batches: Sequence[Any],
    options: CascadeOptions,
    progress: Progress | None = None,
) -> None:
    """Everything after the cutting, into the folder ``folder`` that is there already. ``batches``: calibration."""
    document = _Writer(folder, levels, dense, task, batches, options, progress or SilentProgress()).document()
    shutil.copy(Path(__file__).with_name("runner.py"), folder / "runner.py")
    write_json(folder / DOCUMENT, document)


class _Writer:
    def __init__(
        self,
        folder: Path,
        levels: Sequence[Level],
        dense: nn.Module,
        task: Task,
        batches: Sequence[Any],
        options: CascadeOptions,
        progress: Progress,
    ) -> None:
        self.folder, self.levels, self.task, self.options, self.progress = folder, levels, task, options, progress
        self.dense, self.batches, self.example = dense, batches, example_of(dense, task.forward, batches[0])
        self.files = ExportedFiles(self.example, task.forward, batches, calibration=QUANTISED)
        self.dense_file = self.files.path(Variant(dense))
        self.paths = [folder / f"level{number}.onnx" for number in range(len(levels))]

    def document(self) -> dict[str, Any]:
        """Writes the files as well."""
        self.progress.start("cascade", 4)
        self._export()
        onnx = EXPORTS.get("onnx")
        sessions = [onnx.load(path, self.options.threads) for path in self.paths]
        control = onnx.load(self.dense_file, self.options.threads)
        self.progress.advance("levels exported")
        split = split_of(self.dense, self.task, self.task.val)
        val = judged(sessions, control, split)
        errors = self._errors(val.scores)
        temperatures = val.temperatures()
        self.progress.advance("validation data answered")
        costs = self._costs()
        ms, uj = (np.array([cost[key] for cost in costs]) for key in ("ms", "uj"))
        evidence = Evidence(val.right, val.confidence(temperatures), ms, uj, costs[0]["gate_ms"])
        named = operating_points(evidence, val.dense_accuracy, self.options.lose)
        curve = thinned(frontier(every_point(evidence)))
        self.progress.advance("levels timed, thresholds chosen")
        document = self._facts(split, val, sessions[0].batch) | {
            "levels": self._levels(val, temperatures, costs, errors),
            "operating_points": {name: asdict(point) for name, point in named.items()},
            "curve": [asdict(point) for point in curve],
            "default": default_of(named),
        }
        document["dense"]["ms"], document["gate_ms"] = costs[0]["dense_ms"], costs[0]["gate_ms"]
        runner = CascadeRunner(self.folder, document, self.options.threads)
        document["single_file"] = self._single_file(runner)
        test = split_of(self.dense, self.task, self.task.test)
        trial = Trial(runner, test, judged(sessions, control, test), self.dense_file, self.options.seconds)
        document["test"] = trial.figures(named, curve)
        self.progress.advance("test data answered and timed")
        return document

    def _export(self) -> None:
        (self.folder / PYTORCH).mkdir()
        for number, (level, path) in enumerate(zip(self.levels, self.paths, strict=True)):
            shutil.copy(self.files.path(Variant(level.model, self.options.precision)), path)
            level.plan.save(self.folder / PYTORCH / f"level{number}.plan.json")
            save_tensors(self.folder / PYTORCH / f"level{number}.safetensors", level.model.state_dict())

    def _errors(self, scores: np.ndarray) -> list[float]:
        """How far each file is from its network on the first validation batch, relative to the largest score.

        Raises UserError where an fp32 file says something else than PyTorch.
        """
        batch, found = next(iter(self.task.val.epoch(None))), []
        for level, theirs in zip(self.levels, scores, strict=True):
            with evaluation(level.model):
                ours = self.task.forward(level.model, batch).numpy()
            gap = float(np.abs(ours - theirs[: len(ours)]).max() / max(float(np.abs(ours).max()), 1e-30))
            if self.options.precision == "fp32" and not gap <= CLOSE:
                raise UserError(
                    "the exported file of a level gives other scores than PyTorch", where=f"level {level.share:g}",
                    value=f"{gap:.1e} of the largest score", mend="report this network: the exporter is at fault",
                )  # fmt: skip
            found.append(gap)
        return found

    def _costs(self) -> list[dict[str, float]]:
        """Of every level: latency of a call on one example, beside the dense network's, and energy. What deciding
        takes is what the first level takes longer in one file with another, which is never asked."""
        files = {"dense": self.dense_file} | {str(number): path for number, path in enumerate(self.paths)}
        files["gate"] = self.files.folder / "gate.onnx"
        write_single_file([Rung(self.paths[0], 0, 1.0), Rung(self.paths[-1], 1, 1.0)], 0.0, files["gate"])
        found = DEVICES.get("local").measure(
            files, self.files.inputs(self.dense), threads=self.options.threads, seconds=self.options.seconds
        )
        setting = Setting(self.dense, self.example, self.task.forward, self.batches)
        models = {str(n): Variant(level.model, self.options.precision) for n, level in enumerate(self.levels)}
        energy = KINDS.get("energy").figures(models, setting)
        gate = max(found["gate"].cpu_p50_ms - found["0"].cpu_p50_ms, 0.0)
        return [
            {"gate_ms": gate, "ms": found[n].cpu_p50_ms, "p90_ms": found[n].cpu_p90_ms, "uj": energy[n],
             "dense_ms": found["dense"].cpu_p50_ms}
            for n in models
        ]  # fmt: skip

    def _facts(self, split: Split, val: Judged, batch: int | None) -> dict[str, Any]:
        names = EXPORTS.get("onnx").load(self.paths[0]).input_names
        return {
            "schema": SCHEMA, "kind": "cascade", "neuroprune": __version__, "machine": machine_facts(),
            "precision": self.options.precision, "threads": self.options.threads,
            "budget": self.options.cutting.kind, "recover": self.options.cutting.recover,
            "right_is": "the label" if self.task.has_labels else "the dense network's class",
            "classes": int(val.scores.shape[2]), "batch": batch,
            "inputs": [
                {"name": name, "dtype": str(array.dtype), "shape": ["batch", *array.shape[1:]]}
                for name, array in zip(names, split.inputs, strict=True)
            ],
            "preprocessing": dict(self.task.preprocessing), "validation_examples": len(split),
            "dense": {"accuracy": val.dense_accuracy, "bytes": self.dense_file.stat().st_size},
            "kinds": KNOWN_BY,
        }  # fmt: skip

    def _levels(
        self, val: Judged, temperatures: Sequence[float], costs: Sequence[Any], errors: Sequence[float]
    ) -> list[dict[str, Any]]:
        before, after = val.calibration([1.0] * len(self.levels)), val.calibration(temperatures)
        return [
            {"file": path.name, "sha256": sha256(path), "bytes": path.stat().st_size, "share": level.share,
             "macs": level.cost.macs, "params": level.cost.params, "exact": level.verification.exact,
             "temperature": temperatures[n], "accuracy": 100.0 * float(val.right[n].mean()),
             "calibration_error_before": before[n], "calibration_error": after[n], "error": errors[n],
             "ms": costs[n]["ms"], "p90_ms": costs[n]["p90_ms"], "uj": costs[n]["uj"]}
            for n, (level, path) in enumerate(zip(self.levels, self.paths, strict=True))
        ]  # fmt: skip

    def _single_file(self, runner: CascadeRunner) -> dict[str, Any]:
        point, target = runner.points[runner.point], self.folder / SINGLE_FILE
        size = write_single_file(rungs_of(runner, point.path), point.threshold, target)
        return {"file": SINGLE_FILE, "sha256": sha256(target), "bytes": size, "path": list(point.path),
                "threshold": point.threshold}  # fmt: skip


def default_of(named: Mapping[str, OperatingPoint]) -> str:
    """The first ``lose-X`` that is reached, else the most accurate point."""
    return next(
        (name for name in named if name.startswith("lose-")), max(named, key=lambda name: named[name].accuracy)
    )
