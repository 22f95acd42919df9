"""Networks as the files that would ship: what measured kinds of budgets take their figures from."""

from __future__ import annotations

import inspect
import itertools
import shutil
import tempfile
import weakref
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from neuroprune.base.errors import UserError
from neuroprune.compression.quantize import quantize_onnx
from neuroprune.devices.single_layer import Precision
from neuroprune.export import EXPORTS
from neuroprune.export.compare import capture_inputs
from neuroprune.graph.calls import as_call, map_tensors, tensors_in
from neuroprune.recover.replay import Forward


@dataclass(frozen=True, eq=False)
class Variant:
    """A network in the precision in which it ships."""

    model: nn.Module
    precision: Precision = "fp32"


class ExportedFiles:
    """Writes every network once, into a folder that goes with this object."""

    def __init__(
        self, example: Any, forward: Forward, batches: Sequence[Any], *, batch: int = 1, calibration: int = 64
    ) -> None:
        self.example, self.forward, self.batches = example, forward, batches
        self.batch, self.calibration = batch, calibration
        self.folder = Path(tempfile.mkdtemp(prefix="neuroprune-"))
        weakref.finalize(self, shutil.rmtree, self.folder, ignore_errors=True)
        self._written: weakref.WeakKeyDictionary[nn.Module, dict[Precision, tuple[int, Path]]]
        self._written = weakref.WeakKeyDictionary()
        self._numbers = itertools.count()

    def path(self, variant: Variant) -> Path:
        """The file of a network as it is now. Raises UserError where it cannot be exported or quantised."""
        known = self._written.setdefault(variant.model, {})
        state = _checksum(variant.model)
        if variant.precision not in known or known[variant.precision][0] != state:
            path = self._quantized(variant.model) if variant.precision == "int8" else self._exported(variant.model)
            weakref.finalize(variant.model, path.unlink, missing_ok=True)
            known[variant.precision] = state, path
        return known[variant.precision][1]

    def arguments(self, model: nn.Module) -> tuple[Any, ...]:
        """The model's positional arguments for one call of ``batch`` examples."""

        def resized(x: Tensor) -> Tensor:
            return x[torch.arange(self.batch) % len(x)] if x.dim() else x

        args, kwargs = map_tensors(resized, as_call(self.example))
        bound = inspect.signature(model.forward).bind(*args, **kwargs)
        bound.apply_defaults()
        if bound.kwargs:
            raise UserError(
                "an exported file takes positional arguments only",
                where=f"forward of {type(model).__name__}",
                value=", ".join(bound.kwargs),
                mend="wrap the model so that forward takes them by position, or use budgets that are counted",
            )
        return tuple(bound.args)

    def inputs(self, model: nn.Module) -> list[np.ndarray]:
        """As arrays, in the order of the file's inputs."""
        return [x.detach().cpu().numpy() for x in tensors_in(self.arguments(model))]

    def _new(self) -> Path:
        return self.folder / f"{next(self._numbers)}.onnx"

    def _exported(self, model: nn.Module) -> Path:
        path = self._new()
        EXPORTS.get("onnx").write(model, self.arguments(model), path)
        return path

    def _quantized(self, model: nn.Module) -> Path:
        path = self._new()
        inputs = capture_inputs(model, self, self.batches, self.calibration)
        quantize_onnx(self.path(Variant(model)), path, inputs)
        return path


def _checksum(model: nn.Module) -> int:
    """Of all parameters and buffers: a network that was trained on is another network."""
    total = 0
    for tensor in model.state_dict().values():
        if isinstance(tensor, Tensor):
            flat = tensor.detach().cpu().contiguous().reshape(-1)
            total = zlib.crc32(flat.view(torch.uint8).numpy().data, total)
    return total
