"""Masks: what is off stays zero, can be undone bit for bit, and a cut of unit masks changes nothing."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
import torch
from graph.nets import Residual
from onnx import numpy_helper

from neuroprune.base.errors import UserError
from neuroprune.export import EXPORTS
from neuroprune.graph import trace
from neuroprune.pruning import Masks, allocate, apply, score

INPUT = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))


def step(model: Residual, masks: Masks) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-2)
    for _ in range(3):
        optimizer.zero_grad()
        model(INPUT).square().mean().backward()
        optimizer.step()
        masks.apply()


def half(model: torch.nn.Module) -> Masks:
    masks = Masks.for_weights(model)
    masks.switch_weights({n: p.detach().abs() for n, p in model.named_parameters()}, 0.5)
    return masks


def off(masks: Masks) -> dict[str, torch.Tensor]:
    return {name: mask == 0 for name, mask in masks.masks.items()}


def assert_zero(model: torch.nn.Module, masks: Masks) -> None:
    """Exactly, not minus zero; and the others did move."""
    for name, where in off(masks).items():
        values = dict(model.named_parameters())[name].detach()
        assert not values[where].any()
        assert not torch.signbit(values[where]).any()
        assert bool((values[~where] != masks.original[name][~where]).any())


def test_held_masks_survive_gradients_that_are_accumulated() -> None:
    model = Residual().train()
    masks = half(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    with masks.hold(optimizer):
        for number in range(6):
            model(INPUT + number).square().mean().backward()
            if number % 3 == 2:
                optimizer.step()
                optimizer.zero_grad()
                assert_zero(model, masks)


def test_held_masks_survive_mixed_precision_and_steps_that_the_scaler_skips() -> None:
    model = Residual().train()
    masks = half(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    with masks.hold(optimizer):
        for number in range(3):
            optimizer.zero_grad()
            with torch.autocast("cpu", dtype=torch.bfloat16):
                loss = model(INPUT).float().square().mean()
            scaler.scale(loss * (float("inf") if number == 1 else 1.0)).backward()
            scaler.step(optimizer)
            scaler.update()
            assert_zero(model, masks)


def test_held_masks_survive_loading_and_end_with_the_hold() -> None:
    model = Residual().train()
    masks = half(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    dense = {name: torch.randn_like(value) if value.is_floating_point() else value
             for name, value in model.state_dict().items()}  # fmt: skip
    with masks.hold(optimizer):
        model.load_state_dict(dense)
        assert_zero(model, masks)
        model.load_state_dict(dense, assign=True)
        assert_zero(model, masks)
    model.load_state_dict(dense)
    assert all(torch.equal(dict(model.named_parameters())[name], dense[name]) for name in masks.masks)
    model(INPUT).square().mean().backward()
    optimizer.step()


class OnTheGrid(torch.nn.Module):
    """Quantisation-aware training's weights: rounded to 8 bits, gradients passed through."""

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        scale = weight.detach().abs().max() / 127
        return torch.fake_quantize_per_tensor_affine(
            weight, scale.reshape(1), torch.zeros(1, dtype=torch.int32), -127, 127
        )


def test_held_masks_survive_training_on_the_quantised_grid() -> None:
    model = Residual().train()
    masks = half(model)
    for module in model.modules():
        if isinstance(module, torch.nn.Conv2d):
            torch.nn.utils.parametrize.register_parametrization(module, "weight", OnTheGrid())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    with masks.hold(optimizer):
        for _ in range(3):
            optimizer.zero_grad()
            model(INPUT).square().mean().backward()
            optimizer.step()
    for name, where in off(masks).items():
        module, _, key = name.rpartition(".")
        seen = getattr(model.get_submodule(module), key).detach()
        assert not seen[where].any()
        assert bool((seen[~where] != masks.original[name][~where]).any())


def test_what_is_off_is_zero_in_the_exported_file(tmp_path: Path) -> None:
    model = Residual().train()
    masks = half(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    with masks.hold(optimizer):
        model(INPUT).square().mean().backward()
        optimizer.step()
    path = tmp_path / "model.onnx"
    EXPORTS.get("onnx").write(model.eval(), (INPUT,), path)
    stored = [numpy_helper.to_array(one) for one in onnx.load(path).graph.initializer]
    for name, where in off(masks).items():
        same = [value for value in stored if value.shape == tuple(where.shape)]
        assert any(((value == 0) == where.numpy()).all() for value in same), name


def test_weights_that_are_no_longer_finite_are_zero_where_they_are_off() -> None:
    model = torch.nn.Linear(2, 2, bias=False)
    masks = half(model)
    with torch.no_grad():
        model.weight.fill_(float("nan"))
    masks.apply()
    assert int((model.weight == 0).sum()) == 2


def test_unit_masks_survive_training_and_the_cut_computes_the_same() -> None:
    model = Residual()
    found = trace(model, INPUT)
    masks = Masks.for_units(model, found)
    plan = allocate(model, found, score(model, found, "l1"), 0.5)
    masks.switch_units(found, {d.group: d.removed for d in plan.decisions})
    model.train()
    step(model, masks)
    model.eval()
    expected = model(INPUT)
    assert masks.find_off(found) == {d.group: d.removed for d in plan.decisions}
    assert torch.allclose(apply(plan, model)(INPUT), expected, atol=1e-5)


def test_undo_is_bit_identical_also_after_training() -> None:
    model = Residual()
    before = {k: v.detach().clone() for k, v in model.named_parameters()}
    masks = Masks.for_weights(model)
    masks.switch_weights({n: p.detach().abs() for n, p in model.named_parameters()}, 0.7)
    step(model, masks)
    masks.undo()
    assert masks.sparsity() == 0
    assert all(torch.equal(before[n], dict(model.named_parameters())[n]) for n in masks.masks)


def test_the_threshold_is_normalised_per_layer_and_spares_no_layer_entirely() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(2, 2, bias=False), torch.nn.Linear(2, 2, bias=False))
    masks = Masks.for_weights(model)
    saliency = {"0.weight": torch.tensor([[1.0, 3], [5, 7]]), "1.weight": torch.tensor([[100.0, 300], [500, 700]])}
    masks.switch_weights(saliency, 0.5)  # normalised, both layers are [.25, .75, 1.25, 1.75]
    expected = torch.tensor([[0.0, 0], [1, 1]])
    assert torch.equal(masks.masks["0.weight"], expected)
    assert torch.equal(masks.masks["1.weight"], expected)
    assert masks.sparsity() == 0.5
    masks.switch_weights({"0.weight": torch.ones(2, 2), "1.weight": torch.ones(2, 2)}, 0.9)
    assert all(bool(mask.any()) for mask in masks.masks.values())


def test_state_round_trip_and_masks_of_another_model() -> None:
    model, other = Residual(), Residual()
    masks, copy = Masks.for_weights(model), Masks.for_weights(other)
    masks.switch_weights({n: p.detach().abs() for n, p in model.named_parameters()}, 0.5)
    copy.load_state(masks.state())
    assert copy.sparsity() == masks.sparsity()
    assert bool((other.stem.weight[masks.masks["stem.weight"] == 0] == 0).all())
    with pytest.raises(UserError, match="belong to another model"):
        Masks.for_weights(Residual(4)).load_state(masks.state())


@pytest.mark.parametrize("fraction", [-0.1, 1.0])
def test_fraction_out_of_range(fraction: float) -> None:
    with pytest.raises(UserError, match="at least 0 and below 1"):
        Masks.for_weights(Residual()).switch_weights({}, fraction)
