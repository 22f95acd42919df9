"""The dense network comes back: from a state dict, from a run's folder, at the cut model's data type."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from graph.nets import Residual
from torch import Tensor, nn

import neuroprune
from neuroprune.base.errors import UserError
from neuroprune.pruning import Plan, apply, fingerprint, load_undo, save_undo


def test_from_the_folder_of_a_run(tmp_path: Path) -> None:
    dense, inputs = Residual().eval(), torch.randn(2, 3, 8, 8)
    result = neuroprune.prune(dense, inputs)
    save_undo(tmp_path, dense, result.plan)
    again = neuroprune.restore(Plan.load(tmp_path / "plan.json"), result.model, load_undo(tmp_path))
    assert again is result.model
    assert torch.equal(again.eval()(inputs), dense(inputs))
    assert {name: id(p) for name, p in again.named_parameters()}.keys() == dict(dense.named_parameters()).keys()


def test_the_dense_weights_given_stay_apart() -> None:
    dense = Residual()
    state = dense.state_dict()
    result = neuroprune.prune(dense, torch.randn(2, 3, 8, 8))
    restored = neuroprune.restore(result.plan, result.model, state)
    with torch.no_grad():
        restored.stem.weight.add_(1)
        restored.head.bias.add_(1)
    assert not torch.equal(dense.stem.weight, restored.stem.weight)
    assert not torch.equal(dense.head.bias, restored.head.bias)


def test_the_data_type_stays_the_cut_models() -> None:
    dense = Residual()
    result = neuroprune.prune(dense, torch.randn(2, 3, 8, 8))
    restored = neuroprune.restore(result.plan, result.model.double(), dense.state_dict())
    assert {p.dtype for p in restored.parameters()} == {torch.float64}
    assert torch.equal(restored.stem.weight.float(), dense.stem.weight)


class Positions(nn.Module):
    """A buffer that is cut with the layer and that a state dict leaves out."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.out = nn.Linear(3, 6), nn.Linear(6, 2)
        self.register_buffer("waves", torch.arange(6.0), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.a(x) * self.waves)


def test_a_buffer_that_is_not_saved_comes_from_a_new_dense_model() -> None:
    dense, inputs = Positions(), torch.randn(2, 3)
    result = neuroprune.prune(dense, inputs)
    assert "waves" in result.plan.removed
    state = dense.state_dict()
    before = {name: id(t) for name, t in result.model.state_dict(keep_vars=True).items()}
    with pytest.raises(UserError, match="lack 'waves'") as caught:
        neuroprune.restore(result.plan, result.model, state)
    assert "named_buffers" in str(caught.value.mend)
    assert result.model.a.out_features == 3
    fresh = Positions()
    neuroprune.restore(result.plan, result.model, {**state, **dict(fresh.named_buffers())})
    assert {name: id(t) for name, t in result.model.state_dict(keep_vars=True).items()} == before
    assert torch.equal(result.model(inputs), dense(inputs))


def test_weights_of_another_network_change_nothing() -> None:
    result = neuroprune.prune(Residual(), torch.randn(2, 3, 8, 8))
    wider = copy.deepcopy(Residual().state_dict())
    del wider["head.bias"]
    shapes = {name: tensor.shape for name, tensor in result.model.state_dict().items()}
    with pytest.raises(UserError, match=r"not of the model"):
        neuroprune.restore(result.plan, result.model, wider)
    assert shapes == {name: tensor.shape for name, tensor in result.model.state_dict().items()}


class Extra(nn.Linear):
    """State that is no tensor."""

    def get_extra_state(self) -> dict[str, int]:
        return {"version": 3}

    def set_extra_state(self, state: dict[str, int]) -> None:
        assert state == {"version": 3}


def test_extra_state_is_no_part_of_the_architecture() -> None:
    model = nn.Sequential(Extra(3, 6), nn.ReLU(), nn.Linear(6, 2))
    plan = neuroprune.prune(model, torch.randn(2, 3)).plan
    assert plan.fingerprint == fingerprint(copy.deepcopy(model))
    assert apply(plan, model)[0].out_features == 3
