"""Masks: what is off stays zero, can be undone bit for bit, and a cut of unit masks changes nothing."""

from __future__ import annotations

import pytest
import torch
from graph.nets import Residual

from neuroprune.base.errors import UserError
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
