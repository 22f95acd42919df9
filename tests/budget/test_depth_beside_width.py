"""Whole blocks beside channels: errors by hand, choices against every choice, the whole way on a deep network."""

from __future__ import annotations

import copy
import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from neuroprune import Budget, Plan, apply, prune_to_budget
from neuroprune.base.errors import UserError
from neuroprune.budget.allocations import ALLOCATIONS
from neuroprune.budget.depth import Removable, choose, errors_without, removable_blocks, weighted
from neuroprune.budget.kinds import Setting
from neuroprune.budget.problem import Costs, Layer, Part, Problem, proportional
from neuroprune.pruning.blocks import Block
from neuroprune.recover.reconstruct import ReconstructConfig
from neuroprune.tasks.task import default_forward


class Residual(nn.Module):
    def __init__(self, width: int, inner: int, gain: float) -> None:
        super().__init__()
        self.inner, self.outer = nn.Linear(width, inner), nn.Linear(inner, width)
        with torch.no_grad():
            self.outer.weight.mul_(gain)
            self.outer.bias.mul_(gain)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.outer(torch.relu(self.inner(x)))


class Deep(nn.Module):
    """The second of four blocks hardly matters."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Linear(6, 8)
        self.blocks = nn.Sequential(*(Residual(8, 12, gain) for gain in (3.0, 0.01, 3.0, 3.0)))
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(self.stem(x)))


def made() -> nn.Module:
    torch.manual_seed(0)
    return Deep().eval()


def batches() -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(64, 6, generator=generator) for _ in range(4)]


def setting(model: nn.Module) -> Setting:
    return Setting(model, batches()[0][:2], default_forward, batches())


def test_the_error_of_a_block_is_what_its_output_lacks_without_it() -> None:
    model = made()
    found = {one.block.module: one.error for one in removable_blocks(setting(model))}
    assert set(found) == {f"blocks.{i}" for i in range(4)}
    for i, block in enumerate(model.blocks):
        lost = spread = 0.0
        with torch.no_grad():
            for x in batches():
                given = model.blocks[:i](model.stem(x)).double()
                gives = given + block.outer(torch.relu(block.inner(given.float()))).double()
                lost += float((gives - given).var(0).sum())
                spread += float(gives.var(0).sum())
        assert found[f"blocks.{i}"] == pytest.approx(lost / spread, rel=1e-4)
    assert found["blocks.1"] < 0.01 * min(found["blocks.0"], found["blocks.2"], found["blocks.3"])


def test_errors_count_by_the_place_of_the_last_layer() -> None:
    block = Removable(Block("b.1", 1, 1, "args[0]"), 2.0)
    weights = {"b.0.x": 9.0, "b.1.x": 0.5, "b.1.y": 0.75, "b.10": 7.0}
    assert weighted([block], weights) == [Removable(block.block, 1.5)]
    assert weighted([block], {}) == [block]


def test_a_constant_that_a_block_adds_is_no_error() -> None:
    model = made()
    with torch.no_grad():
        model.blocks[1].outer.weight.zero_()
        model.blocks[1].outer.bias.fill_(5.0)
    block = Block("blocks.1", 1, 1, "args[0]")
    assert errors_without(setting(model), [block])["blocks.1"] < 1e-12


def test_what_is_kept_stays() -> None:
    found = removable_blocks(setting(made()), keep=["blocks.1", "blocks.3.inner.weight"])
    assert [one.block.module for one in found] == ["blocks.0", "blocks.2"]


def problem(seed: int, share: float) -> tuple[Problem, list[Removable]]:
    """Three blocks of two layers around one group each, and a group outside of them."""
    generator = np.random.default_rng(seed)
    sizes = [3, 4, 2, 3]
    errors = [np.r_[0, np.cumsum(np.sort(generator.exponential(size=n)))] for n in sizes]
    layers = tuple(
        layer
        for g, n in enumerate(sizes)
        for layer in (
            Layer(f"b{g}.first.weight", (Part(g, 1 / n),), ()),
            Layer(f"b{g}.second.weight", (), (Part(g, 1 / n),)),
        )
    )
    costs = Costs(layers, {"macs": [proportional(float(v)) for v in generator.uniform(1, 4, len(layers))]})
    total = costs.total("macs", np.zeros(4, dtype=int))
    blocks = [
        Removable(Block(f"b{g}", 1, 1, "args[0]"), float(errors[g][-1] * generator.uniform(0.7, 1.5)))
        for g in range(3)
    ]
    allowed = [list(range(n)) for n in sizes]
    return Problem((), errors, costs, {"macs": share * total}, allowed, None), blocks  # type: ignore[arg-type]


def best(given: Problem, blocks: list[Removable]) -> float:
    """By trying everything."""
    least = float("inf")
    for off in itertools.product([False, True], repeat=3):
        allowed = [[0] if g < 3 and off[g] else own for g, own in enumerate(given.allowed)]
        for removed in itertools.product(*allowed):
            cost = sum(
                given.costs.layer("macs", n, np.array(removed)) for n in range(8) if n // 2 > 2 or not off[n // 2]
            )
            if cost <= given.limits["macs"] * (1 + 1e-9):
                error = sum(curve[i] for curve, i in zip(given.errors, removed, strict=True))
                least = min(least, float(error) + sum(b.error for b, o in zip(blocks, off, strict=True) if o))
    return least


def test_near_the_best_of_all_choices_and_never_worse_than_without_blocks() -> None:
    regret, better = [], 0
    for seed in range(40):
        given, blocks = problem(seed, 0.25 + 0.5 * (seed % 5) / 4)
        found = choose(given, blocks, ALLOCATIONS.get("stream"))
        least = best(given, blocks)
        assert found.error >= least - 1e-9
        regret.append((found.error - least) / max(least, 1e-9))
        try:
            without = choose(given, [], ALLOCATIONS.get("stream")).error
        except UserError:
            without = float("inf")
        assert found.error <= without + 1e-9
        better += found.error < without - 1e-9
    assert np.mean(regret) < 0.08, np.mean(regret)
    assert better >= 10


def test_a_budget_below_one_channel_each_is_met_by_blocks_or_named() -> None:
    given, blocks = problem(0, 0.15)
    with pytest.raises(UserError, match="macs"):
        choose(given, [], ALLOCATIONS.get("stream"))
    assert choose(given, blocks, ALLOCATIONS.get("stream")).gone
    with pytest.raises(UserError, match="the least is"):
        choose(problem(0, 0.001)[0], blocks, ALLOCATIONS.get("stream"))


def test_the_block_that_hardly_matters_goes_and_the_rest_is_recovered(tmp_path: Path) -> None:
    model = made()
    before = copy.deepcopy(model.state_dict())
    result = prune_to_budget(
        model, batches(), Budget(macs=0.75), recover="reconstruct", reconstruction=ReconstructConfig(steps=20)
    )
    assert dict(result.plan.bypassed) == {"blocks.1": "args[0]"}
    assert result.verification.exact
    assert result.costs["macs"][1] <= result.costs["macs"][2]
    x = torch.cat(batches())
    with torch.no_grad():
        wanted, given = model(x), result.model(x)
    assert float((wanted - given).square().mean() / wanted.var()) < 1e-3
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    decisions = {d.group: d for d in result.plan.decisions if d.group.startswith("block:")}
    assert decisions["block:blocks.1"].removed == (0,)
    assert decisions["block:blocks.0"].kept == (0,)
    result.plan.save(tmp_path / "plan.json")
    again = apply(Plan.load(tmp_path / "plan.json"), made())
    again.load_state_dict(result.model.state_dict())
    assert torch.equal(again(x), result.model(x))


def test_without_depth_no_block_goes() -> None:
    assert not prune_to_budget(made(), batches(), Budget(macs=0.75), depth=False).plan.bypassed


def test_a_block_that_goes_is_made_good_by_the_layers_behind_it() -> None:
    """Its mean arrives at the next sum as drift, which the next block's bias corrects."""
    model = made()
    with torch.no_grad():
        model.blocks[1].outer.bias.fill_(2.0)
    x = torch.cat(batches())
    errors = {}
    for rung in ("none", "closed-form"):
        result = prune_to_budget(model, batches(), Budget(macs=0.75), recover=rung)  # type: ignore[arg-type]
        assert result.plan.bypassed
        with torch.no_grad():
            errors[rung] = float((model(x) - result.model(x)).square().mean())
    assert errors["closed-form"] < 0.01 * errors["none"]
