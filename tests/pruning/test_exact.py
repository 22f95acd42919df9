"""Cuts are exact: against the oracle, at several ratios, and the oracle itself catches wrong plans."""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from graph.nets import CASES, Depthwise, PadShortcut, Residual, Tied
from torch import Tensor, nn

from neuroprune.base.errors import CutRefused, UserError
from neuroprune.graph import cost, trace
from neuroprune.pruning import Plan, apply, provable, prune, restore, verify
from neuroprune.testing import assert_exact


@pytest.mark.parametrize("ratio", [0.3, 0.5, 0.8])
@pytest.mark.parametrize("name", CASES)
def test_cut_equals_masked_dense(name: str, ratio: float) -> None:
    make, shape, _ = CASES[name]
    model, inputs = make(), torch.randn(shape)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    result = prune(model, inputs, ratio=ratio, criterion="random")
    assert type(result.model) is type(model)
    assert_exact(model, result.model, result.plan, inputs)
    assert cost(result.model, inputs).params < cost(model, inputs).params
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    assert result.verification.values > 0


@pytest.mark.parametrize("name", CASES)
def test_shifting_one_index_of_any_tensor_is_caught(name: str) -> None:
    """The oracle must be able to fail: each tensor of each plan, wrong by one index, is noticed.

    Inputs are large: where a relu is shut for every one of them, what is behind it makes no difference.
    """
    make, shape, _ = CASES[name]
    torch.manual_seed(0)
    model, inputs = make(), 10 * torch.randn(16, *shape[1:])
    plan = prune(model, inputs, ratio=0.4, criterion="random").plan
    caught = tried = 0
    for tensor, dims in plan.removed.items():
        if "running" in tensor:
            continue
        size = dict(model.named_parameters())[tensor].shape
        for dim, indices in dims.items():
            free = [i for i in range(size[dim]) if i not in indices]
            wrong = tuple(sorted({*indices[1:], free[0]}))
            removed = {**plan.removed, tensor: {**dims, dim: wrong}}
            tried += 1
            caught += not verify(model, dataclasses.replace(plan, removed=removed), inputs).exact
    assert tried > 1
    assert caught == tried


def test_the_cut_model_trains_copies_and_keeps_tied_weights_tied() -> None:
    model = Tied()
    small = prune(model, torch.zeros(2, 5, dtype=torch.long), ratio=0.5).model
    assert small.out.weight is small.embed.weight
    assert small.embed.embedding_dim == 4
    optimizer = torch.optim.SGD(small.parameters(), lr=0.1)
    small.train()
    small(torch.randint(0, 11, (2, 5))).square().mean().backward()
    optimizer.step()
    assert copy.deepcopy(small)(torch.zeros(1, 3, dtype=torch.long)).shape == (1, 3, 11)


def test_layers_know_their_new_sizes() -> None:
    small = prune(Depthwise(), torch.randn(1, 3, 4, 4), ratio=0.5).model
    assert (small.depth.in_channels, small.depth.out_channels, small.depth.groups) == (4, 8, 4)
    assert small.bn.num_features == 8
    assert small.out.in_channels == 8


def test_apply_needs_only_the_plan_file(tmp_path) -> None:
    model, inputs = Residual(), torch.randn(2, 3, 8, 8)
    result = prune(model, inputs, ratio=0.5)
    result.plan.save(tmp_path / "plan.json")
    plan = Plan.load(tmp_path / "plan.json")
    assert plan == result.plan
    fresh = apply(plan, Residual())
    fresh.load_state_dict(result.model.state_dict())
    assert torch.equal(fresh.eval()(inputs), result.model.eval()(inputs))


def test_a_plan_for_another_model_is_refused_before_anything_changes() -> None:
    plan = prune(Residual(8), torch.randn(1, 3, 8, 8)).plan
    other = Residual(4)
    shapes = {k: v.shape for k, v in other.state_dict().items()}
    with pytest.raises(UserError, match=r"made for another model: 'a\.bias' has shape \(4,\)"):
        apply(plan, other)
    assert shapes == {k: v.shape for k, v in other.state_dict().items()}


def test_restore_gives_the_dense_network_back_bit_for_bit() -> None:
    model, inputs = Residual(), torch.randn(2, 3, 8, 8)
    dense = {k: v.clone() for k, v in model.state_dict().items()}
    result = prune(model, inputs, ratio=0.5)
    with torch.no_grad():
        for parameter in result.model.parameters():
            parameter.add_(1)  # fine-tuning moves what was kept
    restore(result.plan, result.model, dense)
    assert all(torch.equal(dense[k], v) for k, v in result.model.state_dict().items())
    assert result.model.stem.out_channels == 8
    assert torch.equal(result.model.eval()(inputs), model.eval()(inputs))


def test_restore_refuses_weights_of_another_network() -> None:
    result = prune(Residual(), torch.randn(2, 3, 8, 8), ratio=0.5)
    with pytest.raises(UserError, match="is not what this plan made"):
        restore(result.plan, result.model, Residual(4).state_dict())
    assert result.model.stem.out_channels == 4


class HardCoded(nn.Module):
    """One cut is fine; the other breaks on a size written into the forward."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.out = nn.Linear(3, 8), nn.Linear(8, 6), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x).relu()
        return self.out(self.b(x).view(-1, 6))


def test_what_cannot_be_proven_stays_whole_and_the_rest_is_cut() -> None:
    model = HardCoded()
    result = prune(model, torch.randn(4, 3), ratio=0.5)
    assert result.model.a.out_features == 4
    assert result.model.b.out_features == 6
    refusal = next(r for r in result.refused if (r.parameter, r.dim) == ("b.weight", 0))
    assert (refusal.operator, refusal.reason) == ("view", "the size 6 is written in the code")
    file, _, line = refusal.where.rpartition(":")
    assert "self.out(self.b(x).view(-1, 6))" in Path(file).read_text().splitlines()[int(line) - 1]
    assert result.plan.kept_fraction() == {"a": 0.5}
    assert result.verification.exact


class Comparing(nn.Module):
    """The forward counts the bytes of b's bias, which no trace follows: b's cut breaks it, a's does not."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.out = nn.Linear(3, 8), nn.Linear(8, 6), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        if self.b.bias.untyped_storage().nbytes() // self.b.bias.element_size() != 6:
            raise RuntimeError("six are wanted")
        return self.out(self.b(self.a(x).relu()))


def test_what_only_the_proof_finds_stays_whole_and_the_rest_is_cut() -> None:
    model, inputs = Comparing(), torch.randn(4, 3)
    result = prune(model, inputs, ratio=0.5)
    assert (result.model.a.out_features, result.model.b.out_features) == (4, 6)
    refusal = next(r for r in result.refused if r.parameter == "b.weight" and r.operator == "verify")
    assert "the cut model fails: RuntimeError: six are wanted" in refusal.reason
    with pytest.raises(CutRefused, match="the cut model fails"):
        prune(model, inputs, ratio=0.5, on_refuse="raise")
    found = trace(model, inputs)
    assert [g.name for g in found.groups] == ["a", "b"]
    kept = provable(model, found, inputs)
    assert [g.name for g in kept.groups] == ["a"]
    assert kept.refused[-1].where.rpartition(":")[0].endswith("test_exact.py")


def test_padded_channels_of_an_option_a_shortcut_stay() -> None:
    result = prune(PadShortcut(), torch.randn(1, 3, 4, 4), ratio=0.5, criterion="random")
    gone = result.plan.removed["wide.weight"][0]
    assert set(gone) <= {2, 3, 4, 5}
    assert len(gone) == 2


def test_inplace_cuts_the_very_object() -> None:
    model = Residual()
    assert prune(model, torch.randn(1, 3, 8, 8), inplace=True).model is model
    assert model.stem.out_channels == 4


def test_zero_initialised_scales_do_not_make_the_proof_empty() -> None:
    model = Residual()
    with torch.no_grad():
        model.head.weight.zero_()
        model.abn.weight.zero_()
    result = prune(model, torch.zeros(2, 3, 8, 8), ratio=0.5, criterion="random")
    tensor, dims = "stem.weight", dict(result.plan.removed["stem.weight"])
    free = [i for i in range(8) if i not in dims[0]]
    wrong = {**result.plan.removed, tensor: {0: tuple(sorted({*dims[0][1:], free[0]}))}}
    assert not verify(model, dataclasses.replace(result.plan, removed=wrong), torch.zeros(2, 3, 8, 8)).exact


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ratio": 1.0}, "at least 0 and below 1"),
        ({"ratio": -0.1}, "at least 0 and below 1"),
        ({"criterion": "l3"}, "did you mean 'l"),
        ({"criterion": "activation"}, "needs data"),
        ({"scope": "galactic"}, "unknown scope"),
        ({"round_to": 0}, "at least 1"),
        ({"keep": ["nothing.*"]}, "matches nothing"),
        ({"on_refuse": "shrug"}, "unknown on_refuse"),
    ],
)
def test_bad_options(options: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        prune(Residual(), torch.randn(1, 3, 8, 8), **options)


def test_damaged_plans_are_refused(tmp_path) -> None:
    for text, message in [("{}", "not a neuroprune plan"), ('{"schema": 9}', "schema 9"), ("{", "not valid JSON")]:
        (tmp_path / "plan.json").write_text(text)
        with pytest.raises(UserError, match=message):
            Plan.load(tmp_path / "plan.json")
    (tmp_path / "plan.json").write_text('{"schema": 1, "removed": []}')
    with pytest.raises(UserError, match="damaged"):
        Plan.load(tmp_path / "plan.json")


def test_an_operator_called_by_pytorch_layers_alone_has_a_module_but_no_line() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.Unflatten(1, (1, 4)), nn.AvgPool1d(2), nn.Flatten(), nn.Linear(2, 2))
    refusal = next(r for r in trace(model, torch.randn(2, 3)).refused if r.parameter == "0.weight" and r.dim == 0)
    assert (refusal.operator, refusal.module, refusal.where) == ("avg_pool2d", "2", "")


class Auxiliary(nn.Module):
    """A second head that only training has, like GoogLeNet's, on channels that the first one sees too."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head, self.extra = nn.Conv2d(3, 8, 3), nn.Linear(8, 4), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        pooled = torch.relu(self.body(x)).mean((2, 3))
        return (self.head(pooled), self.extra(pooled)) if self.training else self.head(pooled)


def test_a_head_that_only_training_has_is_cut_with_the_rest() -> None:
    model, x = Auxiliary(), torch.randn(2, 3, 8, 8)
    result = prune(model, x, ratio=0.5)
    assert result.plan.removed["extra.weight"] == {1: result.plan.removed["body.weight"][0]}
    dense = copy.deepcopy(model)
    for name, tensor in dense.state_dict().items():
        for dim, gone in result.plan.removed.get(name, {}).items():
            tensor.index_fill_(dim, torch.tensor(gone), 0)
    for wanted, got in zip(dense.train()(x), result.model.train()(x), strict=True):
        torch.testing.assert_close(got, wanted)


def test_a_cut_that_only_training_gets_wrong_is_noticed() -> None:
    model, x = Auxiliary(), torch.randn(2, 3, 8, 8)
    plan = prune(model, x, ratio=0.5).plan
    spoilt = {
        **plan.removed,
        "extra.weight": {1: tuple(sorted({(i + 1) % 8 for i in plan.removed["body.weight"][0]}))},
    }
    result = verify(model, dataclasses.replace(plan, removed=spoilt), x, found=trace(model, x))
    assert not result.exact


class Single(nn.Module):
    """Says float32 in its code, like RAFT's grid of coordinates."""

    def __init__(self, foreign: bool) -> None:
        super().__init__()
        self.a, self.b, self.foreign = nn.Linear(3, 8), nn.Linear(8, 2), foreign

    def forward(self, x: Tensor) -> Tensor:
        grid = torch.arange(3).float() + x.to(torch.float32)
        if self.foreign:  # from outside of torch, where nobody can say otherwise
            grid = x @ torch.from_numpy(np.eye(3, dtype=np.float32))
        return self.b(torch.relu(self.a(grid)).softmax(-1, dtype=torch.float32))


def test_a_network_that_says_float32_is_proven_in_float64_all_the_same() -> None:
    model, x = Single(foreign=False), torch.randn(2, 3)
    result = prune(model, x, ratio=0.5)
    assert result.verification.max_relative_error < 1e-12
    assert result.model.a.out_features == 4


def test_a_network_that_does_not_run_in_float64_stays_whole() -> None:
    model, x = Single(foreign=True), torch.randn(2, 3)
    result = prune(model, x, ratio=0.5)
    assert result.plan.removed == {}
    assert any("float64" in r.reason for r in result.refused)
    torch.testing.assert_close(result.model(x), model(x))
