"""Try a ratio for real: cut a copy, export it, measure it beside the dense network."""

from __future__ import annotations

import copy
import hashlib
import json
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from torch import nn

from neuroprune.compression.quantize import quantize_onnx
from neuroprune.export import EXPORTS
from neuroprune.export.compare import capture_inputs
from neuroprune.graph.cost import cost
from neuroprune.pipeline.context import Context
from neuroprune.pipeline.measuring import latencies
from neuroprune.pipeline.verdict import Figures, misses
from neuroprune.pruning.allocate import Scope, allocate
from neuroprune.pruning.cut import prove
from neuroprune.pruning.plan import Plan
from neuroprune.pruning.surgery import apply
from neuroprune.recover.statistics import reestimate_batch_norm


@dataclass(frozen=True)
class Allocation:
    """How a ratio becomes a plan."""

    scope: Scope
    round_to: int
    minimum: int
    keep: tuple[str, ...]

    def plan(self, context: Context, ratio: float, constraint: str) -> Plan:
        """The plan, proven; what a ratio spoils (counts that must agree, say) stays whole in it."""
        assert context.scores is not None
        plan = allocate(
            context.model,
            context.trace,
            context.scores,
            ratio,
            scope=self.scope,
            round_to=self.round_to,
            minimum=self.minimum,
            keep=self.keep,
            criterion=context.facts["criterion"],
            constraint=constraint,
        )
        return prove(context.model, context.trace, plan, context.task.example_inputs)[0]


@dataclass(frozen=True)
class Trial:
    """How candidates are tried. ``margin``: the share by which a latency must stay under its limit, because
    measuring again gives another number."""

    allocation: Allocation
    variant: str  # fp32 or int8
    margin: float
    seconds: float
    threads: int
    calibration: int
    batches: int

    def figures(self, context: Context, ratio: float) -> tuple[Figures, Figures]:
        """Of the dense network and of the candidate; from the journal where it was tried before."""
        plan = self.allocation.plan(context, ratio, "")
        key = f"{context.name}/{self.variant}/{_digest(plan)}"  # two ratios may round to the same plan
        found = context.journal.measure(key, lambda: self._take(context, plan, key))
        return Figures(**found["dense"]), Figures(**found["candidate"])

    def broken(self, context: Context, ratio: float) -> dict[str, float]:
        """The limits that the candidate breaks, by how much; accuracy is not judged before fine-tuning."""
        dense, mine = self.figures(context, ratio)
        slow = None if mine.latency is None else mine.latency * (1 + self.margin)
        careful = Figures(mine.params, mine.macs, mine.size, slow, mine.metric)
        return misses(careful, dense, context.recipe.budget, None)

    def _take(self, context: Context, plan: Plan, key: str) -> dict[str, dict[str, float | None]]:
        network = apply(plan, copy.deepcopy(context.model))
        batches = islice(context.task.train.epoch(None), self.batches)
        reestimate_batch_norm(network, batches, context.task.forward)
        metric = context.task.evaluate(network, context.task.val)
        dense_metric = float(context.facts["dense_metric"])
        sizes: dict[str, float | None] = {"dense": None, "candidate": None}
        times: dict[str, float | None] = {"dense": None, "candidate": None}
        if {limit.kind for limit in context.recipe.budget.limits} & {"latency", "size"}:
            files = self._files(context, network)
            sizes = {name: float(path.stat().st_size) for name, path in files.items()}
            found = latencies(context, f"{key}/latency", files, threads=self.threads, seconds=self.seconds)
            times = {name: float(latency["cpu_p50_ms"]) for name, latency in found.items()}
        out = {}
        for name, model, value in (("dense", context.dense, dense_metric), ("candidate", network, metric)):
            counted = cost(model, context.task.example_inputs)
            figures = Figures(counted.params, counted.macs, sizes[name], times[name], value)
            out[name] = dict(vars(figures))
        return out

    def _files(self, context: Context, network: nn.Module) -> dict[str, Path]:
        """Dense control (written once per step) and candidate."""
        onnx, inputs = EXPORTS.get("onnx"), context.task.example_inputs
        context.work.mkdir(parents=True, exist_ok=True)
        dense, plain = context.work / "dense.onnx", context.work / "candidate.onnx"
        if not dense.exists():
            onnx.write(context.dense, inputs, dense)
        onnx.write(network, inputs, plain)
        if self.variant == "fp32":
            return {"dense": dense, "candidate": plain}
        target = context.work / "candidate.int8.onnx"
        quantize_onnx(
            plain, target, capture_inputs(network, context.task, context.task.train.epoch(None), self.calibration)
        )
        return {"dense": dense, "candidate": target}


def _digest(plan: Plan) -> str:
    removed = {name: {str(dim): indices for dim, indices in dims.items()} for name, dims in plan.removed.items()}
    return hashlib.sha256(json.dumps(removed, sort_keys=True).encode()).hexdigest()[:16]


def row(trial: Trial, ratio: float, figures: Figures, chosen: bool) -> dict[str, Any]:
    """An entry of ``candidates`` in results.json."""
    return {
        "label": f"{ratio:.0%} of the units removed, {trial.variant}",
        "ratio": ratio,
        "params": figures.params,
        "macs": figures.macs,
        "size_bytes": figures.size,
        "latency_ms": figures.latency,
        "metric": figures.metric,
        "chosen": chosen,
        "stage": "before fine-tuning",
    }
