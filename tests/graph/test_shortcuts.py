"""The analytic shapes on the meta device against the operators themselves, run on the CPU."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch._ops import OpOverload

from neuroprune.graph.shortcuts import SHORTCUTS

aten = torch.ops.aten

Cases = list[tuple[Any, ...]]
IMAGE, OTHER = torch.randn(2, 4, 5, 6), torch.randn(2, 4, 5, 6)
LAST = IMAGE.to(memory_format=torch.channels_last)
NORM = (torch.ones(4), torch.ones(4), torch.zeros(4), torch.ones(4))
REDUCED: Cases = [(IMAGE, [2, 3]), (IMAGE, [-1], True), (IMAGE, []), (LAST, [1], True), (LAST, [2, 3])]
NEAREST: Cases = [(IMAGE, [7, 8]), (LAST, [10, 12])]
SMOOTH: Cases = [(IMAGE, [7, 8], False), (LAST, [10, 12], False, 2.0, 2.0)]
CLAMPED: Cases = [(IMAGE, 0.5), (LAST, 1)]
CASES: dict[OpOverload, Cases] = {
    aten.native_batch_norm.default: [(IMAGE, *NORM, False, 0.1, 1e-5)],
    aten._native_batch_norm_legit_no_training.default: [(IMAGE, *NORM, 0.1, 1e-5)],
    aten.native_layer_norm.default: [
        (IMAGE, [6], None, None, 1e-5), (IMAGE, [5, 6], None, None, 1e-5),
        (IMAGE.permute(0, 2, 3, 1), [4], None, None, 1e-5)],
    aten.convolution.default: [
        (IMAGE, torch.randn(6, 2, 3, 3), None, [2, 1], [1, 0], [1, 2], False, [0, 0], 2),
        (IMAGE, torch.randn(4, 3, 3, 3), None, [2], [1], [1], True, [1], 1),
        (torch.randn(2, 5, 9), torch.randn(6, 5, 3), torch.randn(6), [1], [0], [1], False, [0], 1),
    ],
    aten.mm.default: [(torch.randn(2, 3), torch.randn(3, 5))],
    aten.addmm.default: [(torch.randn(5), torch.randn(2, 3), torch.randn(3, 5))],
    aten.bmm.default: [(torch.randn(7, 2, 3), torch.randn(7, 3, 5))],
    aten.native_group_norm.default: [
        (IMAGE, torch.ones(4), torch.zeros(4), 2, 4, 30, 2, 1e-5), (LAST, None, None, 2, 4, 30, 2, 1e-5)],
    aten.cat.default: [
        ([IMAGE, OTHER], 1), ([IMAGE, torch.randn(2, 3, 5, 6)], -3), ([IMAGE, torch.randn(0)], 1),
        ([LAST, LAST], 1), ([IMAGE, OTHER.half()],), ([torch.randn(2, 3, 1, 1), torch.randn(2, 4, 1, 1)], 1)],
    aten.stack.default: [([IMAGE, OTHER],), ([IMAGE, OTHER], -1), ([LAST, LAST], 1)],
    aten.roll.default: [(IMAGE, [1, -2], [2, 3]), (LAST, [1], [2]), (IMAGE, [3])],
    aten.index.Tensor: [
        (IMAGE, [torch.tensor([1, 0, 1])]), (IMAGE, [torch.tensor([[1, 0], [0, 1]])]), (LAST, [torch.tensor([1])]),
        (IMAGE, [None, torch.tensor([1, 3])]), (IMAGE, [torch.tensor([1, 0]), torch.tensor([1, 3])]),
        (IMAGE, [torch.tensor([1, 0, 1], dtype=torch.int32)])],
    aten.max_pool2d_with_indices.default: [
        (IMAGE, [2, 2]), (IMAGE, [3, 2], [2, 1], [1, 1], [1, 2]), (IMAGE, [2, 2], [2, 2], [0, 0], [1, 1], True),
        (IMAGE, [3, 3], [2, 2], [1, 1], [1, 1], True), (IMAGE[0], [2]), (LAST, [2, 2])],
    aten.avg_pool2d.default: [
        (IMAGE, [2, 2]), (IMAGE, [3, 3], [2, 2], [1, 1], True, False), (IMAGE, [2, 2], [3, 3], [0, 0], True),
        (IMAGE[0], [2]), (LAST, [2, 2])],
    **dict.fromkeys((aten.mean.dim, aten.sum.dim_IntList, aten.amax.default, aten.amin.default), REDUCED),
    aten.linalg_vector_norm.default: [
        (IMAGE,), (IMAGE, 2), (IMAGE, 1, [1, -1], True), (IMAGE, 2, [1]), (LAST, 2, [1], True)],
    aten.upsample_nearest1d.default: [(IMAGE[0], [9])],
    aten.upsample_linear1d.default: [(IMAGE[0], [9], False)],
    aten.upsample_nearest3d.default: [(IMAGE[None], [3, 4, 5])],
    aten.upsample_trilinear3d.default: [(IMAGE[None], [3, 4, 5], True)],
    **dict.fromkeys((aten.upsample_nearest2d.default, aten._upsample_nearest_exact2d.default), NEAREST),
    **dict.fromkeys((
        aten.upsample_bilinear2d.default, aten.upsample_bicubic2d.default, aten._upsample_bilinear2d_aa.default,
        aten._upsample_bicubic2d_aa.default), SMOOTH),
    aten.clamp.default: [(IMAGE, 0), (IMAGE, None, 0.5), (LAST, 0.0, 1.0)],
    **dict.fromkeys((
        aten.clamp_min.default, aten.clamp_max.default, aten.clamp_.default, aten.clamp_min_.default), CLAMPED),
    aten.pow.Tensor_Scalar: [(IMAGE, 2), (IMAGE, 0.5), (torch.arange(3), 2), (LAST, 2)],
    aten.addcmul.default: [(IMAGE, OTHER, IMAGE), (torch.randn(4, 1, 1), IMAGE, torch.randn(6))],
    aten.masked_fill.Scalar: [
        (IMAGE, IMAGE > 0, 1.0), (IMAGE, torch.ones(6) > 0, 1), (torch.randn(6), IMAGE > 0, 0),
        (LAST, LAST > 0, 0)],
    aten.where.self: [
        (IMAGE > 0, IMAGE, OTHER), (torch.ones(6) > 0, IMAGE, torch.tensor(1.0)), (LAST > 0, LAST, LAST),
        (IMAGE > 0, IMAGE, OTHER.half())],
}  # fmt: skip
TURNED = IMAGE.permute(3, 0, 2, 1)
TWO: Cases = [
    (IMAGE, OTHER), (IMAGE, OTHER.half()), (IMAGE, 2.0), (IMAGE, torch.randn(6)), (LAST, LAST), (LAST, IMAGE),
    (IMAGE, torch.randn(2, 4, 1, 1)), (TURNED, TURNED), (TURNED, 2), (IMAGE, torch.tensor(2.0)),
    (LAST, torch.randn(6)), (IMAGE, torch.tensor(2)),
    (torch.arange(3.0).expand(2, 3), torch.arange(3.0).expand(2, 3)),
]  # fmt: skip


def cases(operator: OpOverload) -> Cases:
    if operator in CASES:
        return CASES[operator]
    return (
        TWO
        if operator._schema.arguments[1:] and operator._overloadname == "Tensor"
        else [(IMAGE,), (LAST,), (TURNED,)]
    )


def everything() -> list[Any]:
    return [
        pytest.param(operator, arguments, id=f"{operator}-{number}")
        for operator in SHORTCUTS
        for number, arguments in enumerate(cases(operator))
    ]


def onto_meta(value: Any) -> Any:
    if isinstance(value, list):
        return [onto_meta(item) for item in value]
    return value.to("meta") if isinstance(value, Tensor) else value


@pytest.mark.parametrize(("operator", "arguments"), everything())
def test_a_shortcut_has_the_operators_own_shape(operator: OpOverload, arguments: tuple[Any, ...]) -> None:
    writes = operator._schema.name.endswith("_")
    true = operator(*(a.clone() if isinstance(a, Tensor) and writes else a for a in arguments))
    short = SHORTCUTS[operator](*map(onto_meta, arguments))
    first, expected = (value if isinstance(value, Tensor) else value[0] for value in (short, true))
    assert (first.shape, first.dtype, first.device.type) == (expected.shape, expected.dtype, "meta")
    if operator is not aten.convolution.default:  # which memory format it takes is the backend's own affair
        assert first.stride() == expected.stride()


def test_a_shortcut_in_place_is_the_tensor_itself() -> None:
    for operator in SHORTCUTS:
        if operator._schema.name.endswith("_"):
            x = torch.randn(2, 3, device="meta")
            arguments = (x, torch.randn(2, 3, device="meta")) if operator._overloadname == "Tensor" else (x,)
            assert SHORTCUTS[operator](*arguments) is x


@pytest.mark.parametrize(
    ("operator", "arguments"),
    [
        (aten.mm.default, (torch.randn(2, 3), torch.randn(4, 5))),
        (aten.bmm.default, (torch.randn(2, 3, 3), torch.randn(2, 4, 5))),
        (aten.add.Tensor, (torch.randn(2, 3), torch.randn(4))),
        (aten.convolution.default, (IMAGE, torch.randn(6, 3, 3, 3), None, [1], [0], [1], False, [0], 1)),
    ],
    ids=["mm", "bmm", "add", "convolution"],
)
def test_what_does_not_fit_is_the_operators_own_error(operator: OpOverload, arguments: tuple[Any, ...]) -> None:
    with pytest.raises(RuntimeError):
        SHORTCUTS[operator](*map(onto_meta, arguments))
