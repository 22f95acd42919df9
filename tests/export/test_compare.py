"""Comparing, capturing, and evaluating a file as if it were the network; sessions here are plain functions."""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from neuroprune.base.errors import UserError
from neuroprune.export.compare import OnnxModule, capture_inputs, compare_outputs, difference
from neuroprune.export.structure import count, describe, map_tensors, rebuild
from neuroprune.tasks.task import tensors_in


@dataclass
class FakeSession:
    function: Callable[..., list[np.ndarray]]
    input_names: tuple[str, ...] = ("x",)
    output_names: tuple[str, ...] = ("y",)
    metadata: Mapping[str, str] = field(default_factory=dict)
    batch: int | None = None
    seen: list[tuple[int, ...]] = field(default_factory=list)

    def run(self, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        self.seen.append(inputs[0].shape)
        assert self.batch is None or inputs[0].shape[0] == self.batch
        return self.function(*inputs)


class Double(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * x


def test_difference_of_known_arrays() -> None:
    expected = [np.array([[1.0, 2.0], [4.0, -10.0]]), np.array([3.0])]
    actual = [np.array([[1.5, 2.0], [4.0, -10.0]]), np.array([1.0])]
    found = difference(expected, actual)
    assert (found.absolute, found.relative, found.agreement, found.values) == (2.0, 0.2, 1.0, 5)
    swapped = difference(expected[:1], [np.array([[3.0, 2.0], [4.0, -10.0]])])
    assert swapped.agreement == 0.5


def test_difference_of_zeros_and_of_vectors() -> None:
    assert difference([np.zeros(3)], [np.full(3, 0.25)]).relative == 0.25
    assert difference([np.zeros(3)], [np.zeros(3)]).agreement is None
    assert difference([np.zeros((2, 1))], [np.zeros((2, 1))]).agreement is None


def test_integers_do_not_wrap() -> None:
    assert difference([np.array([250], np.uint8)], [np.array([5], np.uint8)]).absolute == 245


def test_other_shapes_and_nan_are_errors_not_numbers() -> None:
    with pytest.raises(UserError, match="other shapes"):
        difference([np.zeros(3)], [np.zeros((3, 1))])
    with pytest.raises(UserError, match="other shapes"):
        difference([np.zeros(3)], [])
    with pytest.raises(UserError, match="file's outputs are not finite"):
        difference([np.zeros(1)], [np.full(1, np.nan)])
    with pytest.raises(UserError, match="network's outputs are not finite"):
        difference([np.full(1, np.inf)], [np.zeros(1)])


def test_compare_takes_arrays_and_tensors_and_restores_modes() -> None:
    model = nn.Sequential(Double(), nn.Dropout(0.9))
    model[0].eval()
    session = FakeSession(lambda x: [2 * x])
    for x in (torch.ones(3, 2), np.ones((3, 2), np.float32)):
        assert compare_outputs(model, session, (x,)).absolute == 0
    assert [m.training for m in model.modules()] == [True, False, True]


def test_onnx_module_returns_tensors_in_the_stored_structure() -> None:
    one = OnnxModule(FakeSession(lambda x: [x + 1]))
    assert torch.equal(one(torch.zeros(2, 2)), torch.ones(2, 2))
    plain = OnnxModule(FakeSession(lambda x: [x, x + 1], output_names=("a", "b")))
    assert isinstance(plain(torch.zeros(1)), tuple)
    metadata = {
        "outputs": '{"dict": {"logits": "tensor", "loss": {"constant": null}, "aux": {"list": ["tensor"]}}}'
    }
    nested = OnnxModule(FakeSession(lambda x: [x, x + 1], output_names=("a", "b"), metadata=metadata))
    out = nested(torch.zeros(1))
    assert list(out) == ["logits", "loss", "aux"]
    assert out["loss"] is None
    assert torch.equal(out["aux"][0], torch.ones(1))


def test_onnx_module_refuses_metadata_of_another_file() -> None:
    with pytest.raises(UserError, match="1 outputs, its metadata describes 2"):
        OnnxModule(FakeSession(lambda x: [x], metadata={"outputs": '{"tuple": ["tensor", "tensor"]}'}))


def test_keyword_arguments_find_their_inputs() -> None:
    session = FakeSession(lambda x, mask, bias: [x * mask + bias], input_names=("x", "mask", "bias"))
    module = OnnxModule(session)
    out = module(torch.full((1, 2), 3.0), bias=torch.ones(1, 2), mask=torch.zeros(1, 2), unused=None)
    assert torch.equal(out, torch.ones(1, 2))


@pytest.mark.parametrize("size", [1, 3, 4, 9, 0])
def test_a_fixed_batch_is_fed_in_slices(size: int) -> None:
    session = FakeSession(lambda x: [2 * x], batch=4 if size else None)
    x = torch.arange(size * 2, dtype=torch.float32).reshape(size, 2)
    assert torch.equal(OnnxModule(session)(x), 2 * x)
    assert len(session.seen) == max(1, -(-size // 4))


class Masked(nn.Module):
    def forward(self, x: Tensor, *, mask: Tensor | None = None, scale: float = 1.0) -> Tensor:
        return x * scale if mask is None else x * mask


@dataclass(frozen=True)
class FakeTask:
    forward: Callable[[nn.Module, Any], Any]


@dataclass(frozen=True)
class FakeBatches:
    items: list[Any]

    def epoch(self, index: int | None) -> list[Any]:
        assert index is None
        return self.items


def test_capturing_sees_what_forward_feeds_in_signature_order() -> None:
    task = FakeTask(lambda model, batch: model(scale=2.0, mask=batch["m"], x=batch["x"] + 1))
    batch = {"m": torch.zeros(2, 3), "x": torch.zeros(2, 3)}
    (found,) = capture_inputs(Masked(), task, [batch], 10)
    assert [a.tolist() for a in found] == [np.ones((2, 3)).tolist(), np.zeros((2, 3)).tolist()]


@pytest.mark.parametrize(("n", "sizes"), [(1, [1]), (4, [4]), (5, [4, 1]), (8, [4, 4]), (99, [4, 4, 4])])
def test_capturing_stops_at_n_examples(n: int, sizes: list[int]) -> None:
    batches = FakeBatches([(torch.full((4, 2), float(i)), torch.zeros(4)) for i in range(3)])
    task = FakeTask(lambda model, batch: model(batch[0]))
    model = Double()
    found = capture_inputs(model, task, batches, n)
    assert [len(arrays[0]) for arrays in found] == sizes
    assert [float(arrays[0][0, 0]) for arrays in found] == [float(i) for i in range(len(sizes))]
    assert not model._forward_pre_hooks


def test_captured_arrays_are_copies() -> None:
    x = torch.zeros(2, 2)
    found = capture_inputs(Double(), FakeTask(lambda model, batch: model(batch)), [x], 2)
    x.fill_(7)
    assert found[0][0].max() == 0


def test_capturing_nothing_is_an_error() -> None:
    task = FakeTask(lambda model, batch: batch)
    for batches in ([], [torch.zeros(1)]):
        with pytest.raises(UserError, match="no inputs were captured"):
            capture_inputs(Double(), task, batches, 3)


def test_a_forward_that_fails_leaves_no_hook() -> None:
    model = Double()
    with pytest.raises(KeyError):
        capture_inputs(model, FakeTask(lambda model, batch: batch["no"]), [{}], 3)
    assert not model._forward_pre_hooks


Pair = namedtuple("Pair", "a b")


@pytest.mark.parametrize(
    "value",
    [
        torch.ones(2),
        (torch.ones(1), [torch.zeros(2), 3]),
        {"a": torch.ones(1), "b": {"c": None, "d": (torch.zeros(1),)}},
        [],
        (),
    ],
)
def test_describe_and_rebuild_are_inverse(value: Any) -> None:
    structure = describe(value)
    leaves = list(tensors_in(value))
    again = rebuild(structure, iter(leaves))
    assert type(again) is type(value)
    assert [id(t) for t in tensors_in(again)] == [id(t) for t in leaves]
    assert count(structure) == len(leaves)
    assert describe(again) == structure


def test_named_tuples_survive_mapping_and_objects_are_refused() -> None:
    mapped = map_tensors(Pair(torch.zeros(1), 5), lambda t: t + 1)
    assert mapped == Pair(torch.ones(1), 5)
    with pytest.raises(UserError, match="type object"):
        describe({"a": object()})
