"""Which argument of which torch function is the size of which dimension: the equations of each call."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from neuroprune.graph.expressions import SizeInt
from neuroprune.graph.labels import Vector
from neuroprune.graph.provenance import (
    COMPOSITES,
    HANDLERS,
    Call,
    ProvenanceMode,
    in_one_piece,
    name_of,
    plain,
    sizes_of,
)

__all__ = ["HANDLERS"]

Function = Callable[..., Any]


def _labels(call: Call, tensor: Any, dim: int) -> Vector | None:
    if not isinstance(tensor, Tensor) or not tensor.dim():
        return None
    return call.book.labels.labels_of(tensor).get(dim % tensor.dim())


@sizes_of("view", "reshape", "expand", "broadcast_to", "view_as")
def shapes(call: Call) -> None:
    """Each size given is the size of that dimension of the result; -1 follows from the others."""
    for dim, size in enumerate(call.sizes(1, "size", "shape")):
        if plain(size) != -1:
            if call.name in ("expand", "broadcast_to") and _repeated(call, dim):
                _fresh(call, dim)
            call.book.equals(size, _labels(call, call.result, dim), call.name)


@sizes_of("repeat", "tile")
def repeat(call: Call) -> None:
    """One value repeated can be repeated less often; how often anything longer is repeated must stay."""
    times = call.sizes(1, "repeats", "dims")
    for dim, size in enumerate(times):
        if isinstance(size, SizeInt) and len(times) == call.result.dim() and _repeated(call, dim):
            _fresh(call, dim)
            call.book.equals(size, _labels(call, call.result, dim), call.name)
        else:
            call.book.unchanged(size)


def _repeated(call: Call, dim: int) -> bool:
    """Along this dimension of the result stands one value of the argument, several times."""
    source = dim - call.result.dim() + call.args[0].dim()
    return bool(call.result.shape[dim] > 1) and (source < 0 or bool(call.args[0].shape[source] == 1))


def _fresh(call: Call, dim: int) -> None:
    """Labels of its own for a dimension along which nothing varies."""
    labels = call.book.labels.labels_of(call.result)
    fresh = call.book.labels.records.fresh(call.result.shape[dim])
    call.book.labels.label(call.result, {**labels, dim: fresh})


@sizes_of("as_strided", "as_strided_")
def as_strided(call: Call) -> None:
    """Strides written in the model's code speak of memory: nothing may shrink."""
    for dim, size in enumerate(call.args[0].shape):
        call.book.equals(size, _labels(call, call.args[0], dim), call.name)


@sizes_of("unflatten")
def unflatten(call: Call) -> None:
    dim = plain(call.argument(1, "dim")) % call.args[0].dim()
    for offset, size in enumerate(call.argument(2, "sizes")):
        if plain(size) != -1:
            call.book.equals(size, _labels(call, call.result, dim + offset), call.name)


@sizes_of("split", "split_with_sizes", "unsafe_split", "unsafe_split_with_sizes")
def split(call: Call) -> None:
    """A list gives every piece its size; one number gives it to all but the last."""
    sizes = call.argument(
        1, "split_size", call.kwargs.get("split_size_or_sections", call.kwargs.get("split_sizes"))
    )
    dim = plain(call.argument(2, "dim", 0))
    pieces = call.result
    if isinstance(sizes, int):
        full = [p for p in pieces if p.shape[dim] == plain(sizes)]
        for piece in full:
            call.book.equals(sizes, _labels(call, piece, dim), call.name)
        call.book.unchanged(dim)
        return
    for size, piece in zip(sizes, pieces, strict=True):
        call.book.equals(size, _labels(call, piece, dim), call.name)


@sizes_of("chunk", "unsafe_chunk", "tensor_split")
def chunk(call: Call) -> None:
    """Pieces are as long as the whole divided by their number, rounded up; the last may be shorter."""
    parts, dim = call.argument(1, "chunks", call.kwargs.get("sections")), plain(call.argument(2, "dim", 0))
    whole = _labels(call, call.args[0], dim)
    if whole is None:
        call.book.unchanged(call.args[1:], call.kwargs)
        return
    if call.name == "tensor_split" and isinstance(parts, (tuple, list)):
        for bound in parts:
            call.book.equals(bound, whole[: plain(bound)], call.name)
        return
    length = ("ceil/", call.book.count(whole), call.book.tree(parts))
    for piece in call.result[: -1 if len(call.result) > 1 else None]:
        vector = _labels(call, piece, dim)
        kept = piece.shape[dim] if vector is None else call.book.count(vector)
        call.book.equate(length, kept, call.name, "the pieces must stay equally long")
    _last_piece(call, length, dim)


def _last_piece(call: Call, length: Any, dim: int) -> None:
    """Where all pieces are equal, the last must stay so."""
    last, first = call.result[-1], call.result[0]
    vector = _labels(call, last, dim)
    if vector is not None and last.shape[dim] == first.shape[dim] and len(call.result) > 1:
        call.book.equate(length, call.book.count(vector), call.name, "the pieces must stay equally long")


@sizes_of("narrow")
def narrow(call: Call) -> None:
    dim = plain(call.argument(1, "dim"))
    start, length = call.argument(2, "start"), call.argument(3, "length")
    whole = _labels(call, call.args[0], dim)
    if whole is None or isinstance(start, Tensor):
        call.book.unchanged(start, length)
        return
    call.book.equals(start, whole[: plain(start)], call.name)
    call.book.equals(length, _labels(call, call.result, dim), call.name)


@sizes_of("__getitem__")
def getitem(call: Call) -> None:
    """Bounds of slices and single indices count the kept labels before them."""
    value, index = call.args[0], call.args[1]
    items = list(index) if isinstance(index, tuple) else [index]
    dim = 0
    consumed = sum(_dims_of(item) for item in items)
    for item in items:
        if item is Ellipsis:
            dim += value.dim() - consumed
            continue
        vector = _labels(call, value, dim) if dim < value.dim() else None
        if isinstance(item, slice):
            _slice(call, item, vector)
        elif isinstance(item, int) and not isinstance(item, bool):
            _bound(call, item, vector)
        else:
            call.book.unchanged(item)
        dim += _dims_of(item)


def _dims_of(item: Any) -> int:
    """How many dimensions one part of an index speaks of."""
    if item is None or item is Ellipsis or isinstance(item, bool):
        return 0
    if isinstance(item, Tensor) and item.dtype in (torch.bool, torch.uint8):
        return item.dim()
    return 1


def _slice(call: Call, item: slice, vector: Vector | None) -> None:
    step = 1 if item.step is None else plain(item.step)
    for bound in (item.start, item.stop):
        # runs of as many entries as a step go together, so a start within the first run stays right
        if bound is not None and (step == 1 or vector is None or plain(bound) >= step):
            _bound(call, bound, vector)
    call.book.unchanged(item.step)


def _bound(call: Call, bound: Any, vector: Vector | None) -> None:
    """A bound at or behind the end cuts nothing off as long as it is a literal or follows the size."""
    if isinstance(bound, Tensor):
        return
    number = plain(bound)
    if vector is None:
        call.book.unchanged(bound)
    elif number < 0:
        # from the end: -1 is the last kept one, whatever the size
        call.book.equals(-bound if isinstance(bound, SizeInt) else -number, vector[number:], call.name)
    elif number < vector.size:
        call.book.equals(bound, vector[:number], call.name)
    elif isinstance(bound, SizeInt) and number == vector.size:
        call.book.equals(bound, vector, call.name)


@sizes_of("slice")
def aten_slice(call: Call) -> None:
    """aten.slice.Tensor(self, dim, start, end, step): an end beyond every size stays the end."""
    dim = plain(call.argument(1, "dim", 0))
    bounds = slice(call.argument(2, "start"), call.argument(3, "end"), call.argument(4, "step"))
    _slice(call, bounds, _labels(call, call.args[0], dim))


@sizes_of("select")
def select(call: Call) -> None:
    _bound(call, call.argument(2, "index"), _labels(call, call.args[0], plain(call.argument(1, "dim"))))


@sizes_of("conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d")
def convolution(call: Call) -> None:
    last = call.book.labels.last
    group = last.counted.get("groups") if last is not None else None
    if group is not None:
        call.book.equals(call.argument(6, "groups", 1), group, call.name)
    else:
        call.book.unchanged(call.argument(6, "groups", 1))
    call.book.unchanged(call.args[3:6], call.args[7:], {k: v for k, v in call.kwargs.items() if k != "groups"})


@sizes_of("convolution")
def any_convolution(call: Call) -> None:
    """aten.convolution(input, weight, bias, stride, padding, dilation, transposed, output_padding, groups)."""
    last = call.book.labels.last
    call.book.equals(call.argument(8, "groups"), last.counted.get("groups") if last else None, call.name)
    call.book.unchanged(call.args[3:8])


@sizes_of("group_norm")
def group_norm(call: Call) -> None:
    last = call.book.labels.last
    group = last.counted.get("num_groups") if last is not None else None
    call.book.equals(call.argument(1, "num_groups"), group, call.name)


@sizes_of("layer_norm", "rms_norm")
def layer_norm(call: Call) -> None:
    value, shape = call.args[0], list(call.argument(1, "normalized_shape"))
    for offset, size in enumerate(reversed(shape), start=1):
        call.book.equals(size, _labels(call, call.result, value.dim() - offset), call.name)


@sizes_of("zeros", "ones", "empty", "full", "new_zeros", "new_ones", "new_empty", "new_full")
def creation(call: Call) -> None:
    """A constant tensor whose size has a past shrinks with it: it gets labels of its own."""
    sizes = call.sizes(1 if call.name.startswith("new_") else 0, "size")
    if call.name in ("full", "new_full"):
        call.book.unchanged(call.argument(2 if call.name == "new_full" else 1, "fill_value"))
    labels = {}
    for dim, size in enumerate(sizes):
        if isinstance(size, SizeInt) and size.book is call.book and plain(size) > 1:
            labels[dim] = call.book.labels.records.fresh(plain(size))
            call.book.equals(size, labels[dim], call.name)
    if labels:
        call.book.labels.label(call.result, labels)


@sizes_of("affine_grid_generator")
def indifferent(call: Call) -> None:
    """Nothing in these calls is a size."""


def _attention(
    book: ProvenanceMode, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    names = ("query", "key", "value", "attn_mask", "dropout_p", "is_causal")
    arguments = {**dict(zip(names, args, strict=False)), **kwargs}
    book.unchanged(arguments)
    run = partial(func, *args, **kwargs)
    q, k, v = (arguments[name] for name in names[:3])
    if book.labels.on_meta and q.shape[-1] == k.shape[-1]:  # PyTorch's own way to the shape is long
        run = partial(q.new_empty, (*q.shape[:-1], v.shape[-1]))
    return in_one_piece(book, "scaled_dot_product_attention", arguments, run)


def _recurrent(
    book: ProvenanceMode, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    name = name_of(func)
    if len(args) != 9 or not isinstance(args[2], (tuple, list)) or kwargs:
        return func(*args, **kwargs)  # packed sequences: left to the operators below
    names = (
        "input",
        "hx",
        "params",
        "has_biases",
        "num_layers",
        "dropout",
        "train",
        "bidirectional",
        "batch_first",
    )
    book.unchanged(args[4:])
    return in_one_piece(book, name, dict(zip(names, args, strict=True)), lambda: func(*args))


def _bilinear(
    book: ProvenanceMode, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    arguments = {**dict(zip(("input1", "input2", "weight", "bias"), args, strict=False)), **kwargs}
    return in_one_piece(book, "bilinear", arguments, partial(func, *args, **kwargs))


def _pad(book: ProvenanceMode, func: Function, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    arguments = {**dict(zip(("input", "pad", "mode", "value"), args, strict=False)), **kwargs}
    book.unchanged(arguments)
    run = partial(func, *args, **kwargs)
    if arguments.get("mode", "constant") == "constant":
        return run()
    return in_one_piece(book, "pad", arguments, run)


def _shuffle(book: ProvenanceMode, func: Function, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Without data it is made of views, with data it is one operator: the same labels for both."""
    arguments = {**dict(zip(("self", "groups"), args, strict=False)), **kwargs}
    book.unchanged(arguments)
    return in_one_piece(book, "native_channel_shuffle", arguments, partial(func, *args, **kwargs))


COMPOSITES["scaled_dot_product_attention"] = _attention
COMPOSITES["bilinear"] = _bilinear
COMPOSITES["pad"] = _pad
COMPOSITES["native_channel_shuffle"] = _shuffle
COMPOSITES.update(dict.fromkeys(("lstm", "gru", "rnn_tanh", "rnn_relu"), _recurrent))
