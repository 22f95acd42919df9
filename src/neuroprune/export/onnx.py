"""ONNX through ``torch.onnx.export(dynamo=True)``, run by ONNX Runtime on the CPU."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from neuroprune import __version__
from neuroprune.base.errors import UserError
from neuroprune.base.files import beginning, write_bytes
from neuroprune.base.modes import evaluation
from neuroprune.export._base import EXPORTS, Capabilities, Session, Written
from neuroprune.export.slim import slim
from neuroprune.export.structure import describe, map_tensors
from neuroprune.tasks.task import tensors_in

if TYPE_CHECKING:
    from onnx import ModelProto

_PROTOBUF_LIMIT = 2**31 - 1
_NO_KERNEL = (
    "on a CPU, ONNX Runtime computes convolutions and many other operators in float32 only: give model.float() "
    "and data.float(), or replace the operator that it names"
)
_CHATTY = (
    "torch.onnx._internal.exporter._registration",
    "torch.export._trace",
    "torch.fx.experimental.symbolic_shapes",
)
_FIXED = "the exporter refuses a dynamic batch for this network: the file takes batches of {} only ({})"


class OnnxExport:
    """Writes one self-contained ``.onnx`` file; batch norm is folded by the exporter where it follows a layer."""

    name = "onnx"
    suffix = ".onnx"
    capabilities = Capabilities(int8=True, sparse=False)

    def write(
        self,
        model: nn.Module,
        example_inputs: tuple[Any, ...],
        path: Path,
        *,
        metadata: Mapping[str, str] | None = None,
        keep_names: bool = False,
    ) -> Written:
        """See ``Export.write``. Dimension 0 of every tensor input that has the batch size becomes free.

        Metadata: ``metadata`` itself, ``neuroprune`` (version), ``outputs`` (JSON of the output structure),
        ``batch`` ("dynamic" or the fixed size).
        """
        with evaluation(model):
            structure = describe(model(*example_inputs))
            proto, batch, notes = _export(model, example_inputs)
        own = {
            "neuroprune": __version__,
            "outputs": json.dumps(structure),
            "batch": "dynamic" if batch is None else str(batch),
        }
        _name_batch(proto)
        slim(proto, keep_names=keep_names)
        for key, value in {**(metadata or {}), **own}.items():
            proto.metadata_props.add(key=key, value=value)
        size = write_proto(path, proto)
        return Written(bytes=size, dynamic_batch=batch is None, notes=notes)

    def load(self, path: Path, threads: int = 1) -> Session:
        return OrtSession(path, threads)


class OrtSession:
    """A file loaded into ONNX Runtime: CPU, ``threads`` threads, no spinning while it waits."""

    def __init__(self, path: Path, threads: int = 1) -> None:
        import onnxruntime

        if not path.is_file():
            raise UserError(
                f"there is no file {path.name}",
                where=str(path.parent),
                value=str(path),
                mend="check the path; export the network first",
            )
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = 3  # errors only: they are raised anyway
        try:
            self._session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # the runtime's error classes share no public base
            raise UserError(
                f"ONNX Runtime cannot load {path.name}: {_first_line(error)}",
                where=str(path.parent),
                value=beginning(path),
                mend=_NO_KERNEL if "NOT_IMPLEMENTED" in str(error) else "export the network again",
            ) from error
        self.input_names = tuple(value.name for value in self._session.get_inputs())
        self.output_names = tuple(value.name for value in self._session.get_outputs())
        self.metadata: Mapping[str, str] = dict(self._session.get_modelmeta().custom_metadata_map)
        fixed = self.metadata.get("batch", "dynamic")
        self.batch = int(fixed) if fixed.isdigit() else None

    def run(self, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        if len(inputs) != len(self.input_names):
            raise UserError(
                f"the network takes {len(self.input_names)} inputs ({', '.join(self.input_names)})",
                value=f"{len(inputs)} arrays",
                mend="give one array for each input, in this order",
            )
        try:
            outputs = self._session.run(None, dict(zip(self.input_names, inputs, strict=True)))
        except Exception as error:  # as above
            shapes = ", ".join(f"{a.dtype}{list(a.shape)}" for a in inputs)
            raise UserError(
                f"ONNX Runtime refuses the inputs: {_first_line(error)}",
                where=f"inputs {', '.join(self.input_names)}",
                value=shapes,
                mend="give arrays of the type and shape that the network was exported with",
            ) from error
        return [np.asarray(output) for output in outputs]


def write_proto(path: Path, proto: ModelProto) -> int:
    """Write ``proto`` atomically as one file and return its size. Raises UserError beyond 2 GB."""
    if proto.ByteSize() > _PROTOBUF_LIMIT:
        raise UserError(
            f"the network does not fit into one ONNX file ({proto.ByteSize():,} bytes, limit 2 GB)",
            mend="cut more, or convert the network to half precision first",
        )
    data = proto.SerializeToString(deterministic=True)
    write_bytes(path, data)
    return len(data)


def _export(model: nn.Module, example_inputs: tuple[Any, ...]) -> tuple[ModelProto, int | None, tuple[str, ...]]:
    """The exported network, its fixed batch size (None: any), and notes."""
    batch = _batch_size(example_inputs)
    if batch is None:
        return _export_once(model, example_inputs, None), None, ()
    # The exporter takes a size of 1 for a constant, so examples are doubled before it sees them.
    several = _doubled(example_inputs) if batch == 1 else example_inputs
    try:
        return _export_once(model, several, _batch_size(several)), None, ()
    except UserError as refusal:
        proto = _export_once(model, example_inputs, None)
        return proto, batch, (_FIXED.format(batch, refusal.value),)


def _export_once(model: nn.Module, inputs: tuple[Any, ...], batch: int | None) -> ModelProto:
    """Export with dimension 0 free wherever it equals ``batch``. Raises UserError quoting the exporter."""
    dynamic = None if batch is None else tuple(_dynamic(value, batch) for value in inputs)
    try:
        with _quiet():
            program = torch.onnx.export(
                model, inputs, dynamo=True, dynamic_shapes=dynamic, verbose=False, external_data=False
            )
            if program is None:
                raise RuntimeError("torch.onnx.export returned nothing")
            return program.model_proto
    except Exception as error:  # the exporter raises whatever it met
        raise UserError(
            "the network cannot be exported to ONNX",
            value=_reason(error),
            mend="torch.export must be able to trace forward(): avoid branches on the values of tensors",
        ) from error


def _batch_size(inputs: tuple[Any, ...]) -> int | None:
    """Dimension 0 of the first tensor that has one."""
    return next((tensor.shape[0] for tensor in tensors_in(inputs) if tensor.ndim), None)


def _doubled(inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    doubled: tuple[Any, ...] = map_tensors(
        inputs, lambda t: torch.cat([t, t]) if t.ndim and t.shape[0] == 1 else t
    )
    return doubled


def _dynamic(value: Any, batch: int) -> Any:
    """What is free in one input: dimension 0 of its tensors; nothing in numbers and None."""
    if isinstance(value, Mapping | list | tuple | Tensor):
        return map_tensors(
            value, lambda t: {0: torch.export.Dim.DYNAMIC} if t.ndim and t.shape[0] == batch else None
        )
    return None


def _name_batch(proto: ModelProto) -> None:
    """Call the free dimension ``batch`` instead of the exporter's ``s77`` (also inside ``2*s77``)."""
    values = [*proto.graph.input, *proto.graph.output]
    symbols = [d.dim_param for v in values for d in v.type.tensor_type.shape.dim if d.dim_param]
    if not symbols:
        return
    symbol = re.compile(rf"\b{re.escape(symbols[0])}\b")
    for dim in (d for v in values for d in v.type.tensor_type.shape.dim if d.dim_param):
        dim.dim_param = symbol.sub("batch", dim.dim_param)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence what the exporter says about itself; what goes wrong, it raises.

    It logs an absent torchvision and errors that it raises too, it calls its own deprecated functions, and it
    wonders about LSTM and GRU, which keep their weights in a list as well (and are left as they were). When it
    fails on a branch, it prints the traced graph.
    """
    loggers = [logging.getLogger(name) for name in _CHATTY]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
            warnings.filterwarnings("ignore", category=FutureWarning)
            warnings.filterwarnings("ignore", category=DeprecationWarning)
            warnings.filterwarnings("ignore", message=".*were assigned during export", category=UserWarning)
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _reason(error: BaseException) -> str:
    """The first line of the error that began it all, without the exporter's terminal colours."""
    while error.__cause__ is not None:
        error = error.__cause__
    return _first_line(error)


def _first_line(error: BaseException) -> str:
    text = re.sub(r"\x1b\[[0-9;]*m", "", str(error))
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__


EXPORTS.register("onnx", summary="ONNX file, run by ONNX Runtime (fp32 and int8)", source="onnxruntime.ai")(
    OnnxExport()
)
