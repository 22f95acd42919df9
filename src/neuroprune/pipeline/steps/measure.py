"""Measure dense and compressed side by side on the device, and choose which file is shipped."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import Field

from neuroprune.compression.runtime import kernels_of
from neuroprune.devices import DEVICES
from neuroprune.graph.cost import cost
from neuroprune.pipeline.context import Context
from neuroprune.pipeline.measuring import latencies, one_call
from neuroprune.pipeline.step import Outcome, StepConfig, step
from neuroprune.pipeline.steps.export import DENSE, INT8, MODEL, STORED
from neuroprune.pipeline.verdict import Figures, best, binding, misses
from neuroprune.report.wording import change, quantity, speed

#: name of the variant -> its file, and the key of `validate` that holds its metric
VARIANTS = {
    "dense fp32": (DENSE, "dense"),
    "compressed fp32": (MODEL, "fp32 file"),
    "compressed int8": (INT8, "int8 file"),
    "compressed, stored small": (STORED, "stored file"),
}

#: smaller differences between interleaved times are luck
SEEN = 0.03


class MeasureConfig(StepConfig):
    """``seconds``: how long all files are timed together, interleaved; ``threads`` of the runtime."""

    seconds: float = Field(3.0, gt=0)
    threads: int = Field(1, ge=1)
    memory: bool = True


@step(
    "measure",
    MeasureConfig,
    summary="latency, size and memory of dense, fp32 and int8, interleaved on the device; choose the best",
    source="S2, step 8; S3's monitoring table",
    needs=("onnx", "validation"),
    gives=("variants",),
)
def measure(context: Context, config: MeasureConfig) -> Outcome:
    files = {name: context.files[file] for name, (file, _) in VARIANTS.items() if file in context.files}
    times = latencies(context, f"{context.name}/latency", files, threads=config.threads, seconds=config.seconds)
    variants = [_variant(context, config, name, path, times[name]) for name, path in files.items()]
    dense, *others = [Figures.of_variant(variant) for variant in variants]
    budget, max_drop = context.recipe.budget, context.recipe.header.max_drop
    rows = [(figures, misses(figures, dense, budget, max_drop)) for figures in others]
    index = best(rows)
    chosen = variants[1 + index]
    chosen["chosen"], chosen["role"] = True, "final"
    missed = rows[index][1]
    notes = _slower(context, {variant["name"]: variant["latency"]["cpu_p50_ms"] for variant in variants})
    latency, unit = chosen["latency"]["cpu_p50_ms"], context.task.metric_unit
    return Outcome(
        f"{chosen['name']} is best: {speed(dense.latency, latency)}, "
        f"{change(variants[0]['size_bytes'], chosen['size_bytes'], 'smaller', 'larger')} file, "
        f"{context.task.metric} {quantity(dense.metric, unit)} -> {quantity(chosen['metric'], unit)} on val"
        + (f"; misses {binding(missed)}" if missed else ""),
        facts={
            "variants": variants,
            "chosen": chosen["name"],
            "chosen_latency_ms": latency,
            "missed": missed,
        },
        pieces={"notes": notes},
    )


def _slower(context: Context, times: dict[str, float]) -> list[str]:
    """Which smaller files are slower than fp32 here, by how much, and why."""
    fp32 = times.get("compressed fp32")
    notes = []
    for variant, words in (("compressed int8", "Int8"), ("compressed, stored small", "The small stored file")):
        time, file = times.get(variant), VARIANTS[variant][0]
        if fp32 is not None and time is not None and time > fp32 * (1 + SEEN):
            notes.append(
                f"{words} is slower than fp32 on this device: {quantity(time, 'ms')} against "
                f"{quantity(fp32, 'ms')} per call. In it, {kernels_of(context.files[file]).why_slow()}."
            )
    return notes


def _variant(
    context: Context, config: MeasureConfig, name: str, path: Path, latency: dict[str, Any]
) -> dict[str, Any]:
    """An entry of ``variants`` in results.json."""
    network = context.dense if path.name == DENSE else context.model
    counted = cost(network, context.task.example_inputs)
    memory = _memory(context, config, name, path) if config.memory else None
    return {
        "name": name,
        "role": "control" if path.name == DENSE else "candidate",
        "chosen": False,
        "size_bytes": path.stat().st_size,
        "latency": latency,
        "peak_memory_bytes": memory["peak"] if memory else None,
        "baseline_memory_bytes": memory["baseline"] if memory else None,
        "metric": context.facts["validation"][VARIANTS[name][1]],
        "params": counted.params,
        "macs": counted.macs,
        "weight_bytes": counted.weight_bytes,
    }


def _memory(context: Context, config: MeasureConfig, name: str, path: Path) -> dict[str, Any]:
    device = DEVICES.get(context.recipe.header.device)

    def take() -> dict[str, Any]:
        return dict(vars(device.memory(path, one_call(context, path), threads=config.threads)))

    found: dict[str, Any] = context.journal.measure(f"{context.name}/memory/{name}", take)
    return found
