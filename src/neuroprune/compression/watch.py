"""Run an ONNX graph on calibration data, a few examples at a time, and see its inner tensors."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

if TYPE_CHECKING:
    from onnx import ModelProto, ValueInfoProto

Batch = tuple[np.ndarray, ...]

#: examples at a time: all inner tensors of so many are in memory together, however many examples there are
CHUNK = 16


def inputs_of(proto: ModelProto) -> list[ValueInfoProto]:
    """The graph's inputs, without constants that old files list there too."""
    constants = {tensor.name for tensor in proto.graph.initializer}
    return [value for value in proto.graph.input if value.name not in constants]


def in_batches_of(size: int, batches: Iterable[Batch], *, whole: bool) -> Iterator[Batch]:
    """The same examples, ``size`` at a time; ``whole`` leaves out what is left over.

    Arrays of another length than the first belong to all examples.
    """
    for batch in batches:
        length = len(batch[0]) if batch[0].ndim else 0
        if batch[0].ndim and not length:
            continue
        last = length - size + 1 if whole else max(length, 1)
        for start in range(0, last, size):
            yield tuple(a[start : start + size] if a.ndim and len(a) == length else a for a in batch)


def takes_any_batch(proto: ModelProto) -> bool:
    """Whether dimension 0 of every input is free."""
    dims = [value.type.tensor_type.shape.dim for value in inputs_of(proto)]
    return all(len(d) > 0 and not d[0].HasField("dim_value") for d in dims)


class Watched:
    """``proto`` with the tensors called ``names`` as its outputs (its own outputs for none).

    Names that are inputs of the graph are handed back as they came.
    """

    def __init__(self, proto: ModelProto, names: Sequence[str] | None = None) -> None:
        import onnxruntime

        own = [value.name for value in proto.graph.output]
        self.inputs = [value.name for value in inputs_of(proto)]
        wanted = own if names is None else list(dict.fromkeys(names))
        self.given = [name for name in wanted if name in self.inputs]
        self.inner = [name for name in wanted if name not in self.inputs]
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = torch.get_num_threads(), 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = 4
        changed = type(proto)()
        changed.CopyFrom(proto)
        for name in self.inner:
            if name not in own:
                changed.graph.output.add(name=name)
        self.session = onnxruntime.InferenceSession(
            changed.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        self.chunk = CHUNK if takes_any_batch(proto) else None

    def run(self, batches: Iterable[Batch]) -> Iterator[dict[str, np.ndarray]]:
        """The tensors by name, chunk after chunk."""
        chunks = batches if self.chunk is None else in_batches_of(self.chunk, batches, whole=False)
        for batch in chunks:
            feed = dict(zip(self.inputs, batch, strict=True))
            found = self.session.run(self.inner, feed) if self.inner else []
            yield dict(zip(self.inner, found, strict=True)) | {name: feed[name] for name in self.given}
