"""Where a file's tensors lie in its bytes. All other bytes are its skeleton, so that nothing need be written anew.

A file is its skeleton with the tensors' bytes put in between: rebuilding it takes neither protobuf nor
safetensors, and gives the same bytes whatever wrote them.
"""

from __future__ import annotations

import json
import math
import operator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from neuroprune.base.errors import UserError
from neuroprune.compression.npc._base import MAX_RANK, Kind

if TYPE_CHECKING:
    from onnx import GraphProto, TensorProto

Format = Literal["safetensors", "onnx"]

#: a smaller tensor costs more to describe than its coding saves; it stays in the skeleton
_WORTH_A_SPAN = 192
_AGAIN = "give a file written by neuroprune, torch.onnx.export or safetensors"


@dataclass(frozen=True)
class DType:
    """An element type: its name, the bytes of an element, how bit patterns are ordered."""

    name: str
    itemsize: int
    kind: Kind


#: by the number that stands for it in the file
DTYPES = {
    0: DType("uint8", 1, "unsigned"),
    1: DType("int8", 1, "signed"),
    2: DType("uint16", 2, "unsigned"),
    3: DType("int16", 2, "signed"),
    4: DType("uint32", 4, "unsigned"),
    5: DType("int32", 4, "signed"),
    6: DType("uint64", 8, "unsigned"),
    7: DType("int64", 8, "signed"),
    8: DType("float16", 2, "float"),
    9: DType("bfloat16", 2, "float"),
    10: DType("float32", 4, "float"),
    11: DType("float64", 8, "float"),
    12: DType("bool", 1, "unsigned"),
}
_NUMBERS = {dtype.name: number for number, dtype in DTYPES.items()}
_SAFETENSORS = {
    "U8": "uint8", "I8": "int8", "U16": "uint16", "I16": "int16", "U32": "uint32", "I32": "int32", "U64": "uint64",
    "I64": "int64", "F16": "float16", "BF16": "bfloat16", "F32": "float32", "F64": "float64", "BOOL": "bool",
}  # fmt: skip


@dataclass(frozen=True)
class Span:
    """A tensor's bytes in a file: from ``start``, as many as type and shape say."""

    name: str
    dtype: int
    shape: tuple[int, ...]
    start: int
    hint: tuple[int, ...] | None = None

    @property
    def size(self) -> int:
        return math.prod(self.shape) * DTYPES[self.dtype].itemsize


def spans_of(data: bytes, format: Format) -> list[Span]:
    """Tensors worth coding, in the order of their bytes. Raises UserError for a file that is not of its kind."""
    found = _in_onnx(data) if format == "onnx" else _in_safetensors(data)
    spans: list[Span] = []
    for span in sorted(found, key=lambda span: span.start):
        position = spans[-1].start + spans[-1].size if spans else 0
        apart = span.start >= position and min(span.shape, default=0) >= 0  # else it stays in the skeleton
        if apart and span.size >= _WORTH_A_SPAN and len(span.shape) <= MAX_RANK:
            spans.append(span)
    return spans


def numpy_dtype(number: int) -> np.dtype[Any]:
    """numpy's type of these elements; bfloat16 is ``ml_dtypes``' (which onnx brings along)."""
    name = DTYPES[number].name
    if name != "bfloat16":
        return np.dtype(name)
    import ml_dtypes

    dtype: np.dtype[Any] = np.dtype(ml_dtypes.bfloat16)
    return dtype


def _in_safetensors(data: bytes) -> list[Span]:
    """Eight bytes of length, JSON, then the tensors (https://huggingface.co/docs/safetensors, "Format")."""
    try:
        length = int.from_bytes(data[:8], "little")
        header: dict[str, Any] = json.loads(data[8 : 8 + length])
        spans = [
            Span(name, *_typed(entry, int(end) - int(start)), 8 + length + int(start))
            for name, entry in header.items()
            if name != "__metadata__"
            for start, end in [entry["data_offsets"]]
        ]
    except (ValueError, AttributeError, KeyError, TypeError) as error:
        raise UserError("the bytes are no safetensors file", value=repr(data[:16]), mend=_AGAIN) from error
    if any(span.start + span.size > len(data) for span in spans):
        raise UserError(
            "the safetensors file is cut off", value=f"{len(data):,} bytes", mend="copy it again whole"
        )
    return spans


def _typed(entry: dict[str, Any], size: int) -> tuple[int, tuple[int, ...]]:
    """Type and shape of a safetensors entry; bytes where the type has no number here."""
    if entry["dtype"] not in _SAFETENSORS:
        return _NUMBERS["uint8"], (size,)
    return _NUMBERS[_SAFETENSORS[entry["dtype"]]], tuple(operator.index(n) for n in entry["shape"])


def _in_onnx(data: bytes) -> list[Span]:
    """Initializers whose values are kept as bytes. Each is found where its bytes stand, in the file's order."""
    import onnx

    try:
        proto = onnx.ModelProto.FromString(data)
    except Exception as error:  # protobuf's error class has no public home
        raise UserError("the bytes are no ONNX file", value=repr(data[:16]), mend=_AGAIN) from error
    hints = _packed_shapes(proto.graph)
    spans, position = [], 0
    for tensor in proto.graph.initializer:
        _check_inside(tensor)
        start = data.find(tensor.raw_data, position) if len(tensor.raw_data) >= _WORTH_A_SPAN else -1
        if start < 0:
            continue
        number, shape = _described(tensor)
        spans.append(Span(tensor.name, number, shape, start, hints.get(tensor.name)))
        position = start + spans[-1].size
    return spans


def _check_inside(tensor: TensorProto) -> None:
    if tensor.external_data:
        raise UserError(
            "the ONNX file keeps its tensors in other files",
            where=tensor.name,
            value=", ".join(entry.value for entry in tensor.external_data if entry.key == "location"),
            mend="write it as one file: onnx.save(onnx.load(path), path)",
        )


def _described(tensor: TensorProto) -> tuple[int, tuple[int, ...]]:
    """Type and shape; plain bytes for types that numpy lacks (4-bit integers, 8-bit floats)."""
    from onnx import helper

    try:
        number = _NUMBERS[helper.tensor_dtype_to_np_dtype(tensor.data_type).name]
        shape = tuple(tensor.dims)
        if math.prod(shape) * DTYPES[number].itemsize == len(tensor.raw_data):
            return number, shape
    except KeyError:
        pass
    return 0, (len(tensor.raw_data),)


def _packed_shapes(graph: GraphProto) -> dict[str, tuple[int, ...]]:
    """For codes that ``codebook.pack_weights`` put two to a byte: the shape of the weights."""
    from onnx import numpy_helper

    constants = {tensor.name: tensor for tensor in graph.initializer}
    users = {name: node for node in graph.node for name in node.input[:1]}
    shapes = {}
    for node in graph.node:
        if node.op_type != "BitwiseAnd" or node.input[0] not in constants:
            continue
        step: Any = node
        while step is not None and step.op_type in ("BitwiseAnd", "Concat", "Cast", "Slice", "Gather"):
            step = users.get(step.output[0]) or _gathered(graph, step.output[0])
        if step is not None and step.op_type == "Reshape" and step.input[1] in constants:
            shapes[node.input[0]] = tuple(int(n) for n in numpy_helper.to_array(constants[step.input[1]]))
    return shapes


def _gathered(graph: GraphProto, indices: str) -> Any:
    """The Gather that takes these indices, its second input."""
    return next((n for n in graph.node if n.op_type == "Gather" and n.input[1] == indices), None)


def format_of(data: bytes, name: str) -> Format:
    """Told by its beginning: safetensors has JSON after eight bytes, ONNX begins with its version."""
    if data[4:9] == b"\0\0\0\0{":
        return "safetensors"
    if data[:1] == b"\x08":
        return "onnx"
    raise UserError(
        f"{name} is neither an ONNX nor a safetensors file",
        value=f"{len(data):,} bytes, which begin with {data[:16]!r}",
        mend=_AGAIN,
    )
