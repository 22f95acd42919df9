"""Measuring files on the recipe's device, through the journal: a resumed run sees the same times."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from neuroprune.devices import DEVICES
from neuroprune.export import EXPORTS
from neuroprune.export.compare import capture_inputs
from neuroprune.pipeline.context import Context


def one_call(context: Context, file: Path) -> tuple[np.ndarray, ...]:
    """The inputs of one call of ``file``: one validation example, or as many as the file insists on."""
    batch = EXPORTS.get("onnx").load(file).batch or 1
    return capture_inputs(context.dense, context.task, context.task.val.epoch(None), batch)[0]


def latencies(
    context: Context, key: str, files: Mapping[str, Path], *, threads: int, seconds: float
) -> dict[str, dict[str, Any]]:
    """Latency of each file as plain JSON, all measured interleaved in one go; recorded under ``key``."""
    device = DEVICES.get(context.recipe.header.device)

    def take() -> dict[str, dict[str, Any]]:
        inputs = one_call(context, next(iter(files.values())))
        found = device.measure(files, inputs, threads=threads, seconds=seconds)
        return {name: asdict(latency) for name, latency in found.items()}

    result: dict[str, dict[str, Any]] = context.journal.measure(key, take)
    return result
