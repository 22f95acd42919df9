"""Labels that pass with their dimension against the same labels moved by the operator itself."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch._ops import OpOverload

from neuroprune.graph.interpret import bind
from neuroprune.graph.labels import Labels
from neuroprune.graph.records import Reason, Records
from neuroprune.graph.rules._base import OpCall
from neuroprune.graph.rules.movement import _run
from neuroprune.graph.rules.passage import PASSAGES, passed

aten = torch.ops.aten
CASES: list[tuple[OpOverload, tuple[int, ...], tuple[Any, ...], bool]] = [
    (aten.permute.default, (2, 3, 4), ([0, -1, 1],), True),
    (aten.transpose.int, (2, 3, 4), (-1, 0), True),
    (aten.t.default, (3, 4), (), True),
    (aten.t.default, (3,), (), True),
    (aten.unsqueeze.default, (3, 4), (1,), True),
    (aten.unsqueeze.default, (3, 4), (-1,), True),
    (aten.expand.default, (3, 1, 4), ([2, 3, 5, -1],), True),
    (aten.view.default, (1, 3, 4, 1), ([3, 1, 4],), True),
    (aten.view.default, (2, 3, 4), ([2, 3, 2, 2],), False),
    (aten.view.default, (2, 3, 4), ([6, 4],), False),
    (aten._unsafe_view.default, (2, 3, 4), ([2, 1, 3, 4],), True),
    (aten.split.Tensor, (2, 3, 4), (2, -1), False),
    (aten.split_with_sizes.default, (1, 3, 4), ([1], 0), True),
    (aten.unbind.int, (1, 3, 4), (0,), True),
    (aten.unbind.int, (2, 3, 4), (1,), False),
    (aten.select.int, (1, 3, 4), (-3, 0), True),
]  # fmt: skip


def called(operator: OpOverload, shape: tuple[int, ...], rest: tuple[Any, ...], same: bool = False) -> OpCall:
    value, records = torch.randn(shape), Records()
    labels = {dim: records.fresh(size) for dim, size in enumerate(shape) if size > 1}
    if same:
        labels = {dim: np.full_like(vector, vector[0]) for dim, vector in labels.items()}
    result = operator(value, *rest)
    outputs = [result] if isinstance(result, Tensor) else list(result)

    def labels_of(tensor: Tensor) -> Labels:
        return labels if tensor is value else {}

    def reason(text: str) -> Reason:
        return Reason(name, "", "", text)

    name = operator.overloadpacket.__name__
    return OpCall(name, operator, bind(operator, (value, *rest), {}), outputs, labels_of, records, reason)


def plain(labels: Labels) -> dict[int, list[int]]:
    return {dim: vector.tolist() for dim, vector in labels.items()}


@pytest.mark.parametrize(("operator", "shape", "rest", "passes"), CASES)
def test_labels_pass_as_the_operator_moves_them(
    operator: OpOverload, shape: tuple[int, ...], rest: tuple[Any, ...], passes: bool
) -> None:
    op = called(operator, shape, rest)
    short = passed(op)
    assert (short is not None) == passes
    if short is not None:
        moved = op.moved("self", lambda full: _run(op, full))
        assert [plain(labels) for labels in moved] == [plain(short)] * len(op.outputs)
        assert not op.records.pins
        assert not op.records.products
        assert op.settled == {(id(op.args["self"]), dim) for dim, size in enumerate(shape) if size > 1}


@pytest.mark.parametrize(("operator", "shape", "rest", "passes"), CASES)
def test_labels_that_are_all_the_same_are_left_to_the_operator(
    operator: OpOverload, shape: tuple[int, ...], rest: tuple[Any, ...], passes: bool
) -> None:
    assert passed(called(operator, shape, rest, same=True)) is None


def test_every_passage_has_a_case() -> None:
    named = {operator.overloadpacket.__name__ for operator, *_ in CASES}
    copies = {"_reshape_alias", "unsafe_split", "unsafe_split_with_sizes"}  # the same functions under other names
    assert named | copies == set(PASSAGES)
