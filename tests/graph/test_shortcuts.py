"""The analytic shapes on the meta device against the operators themselves, run on the CPU."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch._ops import OpOverload

from neuroprune.graph.shortcuts import SHORTCUTS

aten = torch.ops.aten

IMAGE, OTHER = torch.randn(2, 4, 5, 6), torch.randn(2, 4, 5, 6)
LAST = IMAGE.to(memory_format=torch.channels_last)
NORM = (torch.ones(4), torch.ones(4), torch.zeros(4), torch.ones(4))
CASES: dict[OpOverload, list[tuple[Any, ...]]] = {
    aten.native_batch_norm.default: [(IMAGE, *NORM, False, 0.1, 1e-5)],
    aten._native_batch_norm_legit_no_training.default: [(IMAGE, *NORM, 0.1, 1e-5)],
    aten.native_layer_norm.default: [(IMAGE, [6], None, None, 1e-5), (IMAGE, [5, 6], None, None, 1e-5)],
    aten.convolution.default: [
        (IMAGE, torch.randn(6, 2, 3, 3), None, [2, 1], [1, 0], [1, 2], False, [0, 0], 2),
        (IMAGE, torch.randn(4, 3, 3, 3), None, [2], [1], [1], True, [1], 1),
        (torch.randn(2, 5, 9), torch.randn(6, 5, 3), torch.randn(6), [1], [0], [1], False, [0], 1),
    ],
    aten.mm.default: [(torch.randn(2, 3), torch.randn(3, 5))],
    aten.addmm.default: [(torch.randn(5), torch.randn(2, 3), torch.randn(3, 5))],
    aten.bmm.default: [(torch.randn(7, 2, 3), torch.randn(7, 3, 5))],
}  # fmt: skip
TWO: list[tuple[Any, ...]] = [
    (IMAGE, OTHER), (IMAGE, OTHER.half()), (IMAGE, 2.0), (IMAGE, torch.randn(6)), (LAST, LAST), (LAST, IMAGE),
    (torch.arange(3.0).expand(2, 3), torch.arange(3.0).expand(2, 3)), (IMAGE, torch.tensor(2)),
]  # fmt: skip


def cases(operator: OpOverload) -> list[tuple[Any, ...]]:
    if operator in CASES:
        return CASES[operator]
    return TWO if operator._schema.arguments[1:] and operator._overloadname == "Tensor" else [(IMAGE,), (LAST,)]


def everything() -> list[Any]:
    return [
        pytest.param(operator, arguments, id=f"{operator}-{number}")
        for operator in SHORTCUTS
        for number, arguments in enumerate(cases(operator))
    ]


def onto_meta(value: Any) -> Any:
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
