"""Scores of blocks, computed a second time by hand."""

from __future__ import annotations

import pytest
import torch
from pruning.depth_nets import Layer, PreBlock, Residual, TinyResNet
from torch import Tensor, nn

from neuroprune.base.errors import UserError
from neuroprune.pruning import BLOCK_CRITERIA, block_criterion, block_scores, find_blocks, gather, prune_depth


class Chain(nn.Module):
    """Two residual layers of one shape and one of another."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = Residual(nn.Linear(4, 4, bias=False)), Residual(nn.Linear(4, 4, bias=False))
        self.c = Residual(nn.Sequential(nn.Linear(4, 6, bias=False), nn.Linear(6, 4, bias=False)))

    def forward(self, x: Tensor) -> Tensor:
        return self.c(self.b(self.a(x)))


def test_weight_scores_are_relative_to_blocks_of_the_same_shapes() -> None:
    model, x = Chain(), torch.randn(5, 4)
    blocks, _ = find_blocks(model, x)
    a, b = (m.inner.weight.detach().double().square().mean() for m in (model.a, model.b))
    c = torch.cat([w.weight.detach().flatten() for w in model.c.inner]).double().square().mean()
    expected = {"a": 2 * a / (a + b), "b": 2 * b / (a + b), "c": 3 * c / (a + b + c)}
    scores = block_scores(model, blocks, criterion="l2")
    assert scores == pytest.approx({k: float(v) for k, v in expected.items()})
    assert list(scores) == ["a", "b", "c"]


def test_influence_of_tokens_is_the_formula_of_the_paper() -> None:
    model, x = nn.Sequential(Layer(), Layer()), torch.randn(2, 5, 8)
    with torch.no_grad():
        for layer in model:
            layer.scale.fill_(1)
    blocks, _ = find_blocks(model, x)
    found = block_scores(model, blocks, x, "block_influence")
    for name, layer in model.named_children():
        with torch.no_grad():
            before = x if name == "0" else model[0](x)
            after = layer(before)
        total = 0.0
        for p, q in zip(before.reshape(-1, 8).double(), after.reshape(-1, 8).double(), strict=True):
            total += float(p @ q / (p.norm() * q.norm()))
        assert found[name] == pytest.approx(1 - total / 10, rel=1e-6)


def test_influence_of_images_runs_along_the_channels_and_over_every_call() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.block = PreBlock(kind="inplace")

        def forward(self, x: Tensor) -> Tensor:
            return self.block(self.block(x.clone()) + 1)

    model, x = Twice().eval(), torch.randn(2, 6, 5, 5)
    blocks, _ = find_blocks(model, x)
    found = block_scores(model, blocks, x, "block_influence")["block"]
    with torch.no_grad():
        first = model.block(x.clone())
        second = model.block(first + 1)
    cosines = [
        float(p[n, :, i, j].double() @ q[n, :, i, j].double() / (p[n, :, i, j].norm() * q[n, :, i, j].norm()))
        for p, q in ((x, first), (first + 1, second))
        for n in range(2)
        for i in range(5)
        for j in range(5)
    ]
    assert found == pytest.approx(1 - sum(cosines) / len(cosines), rel=1e-5)


def test_output_change_is_what_the_output_loses_and_the_model_is_whole_again() -> None:
    model, x = Chain(), torch.randn(5, 4)
    blocks, _ = find_blocks(model, x)
    modules = dict(model.named_modules())
    found = block_scores(model, blocks, x, "output_change")
    assert dict(model.named_modules()) == modules
    with torch.no_grad():
        without_b = model.c(model.a(x))
        expected = float((model(x) - without_b).norm() / model(x).norm())
    assert found["b"] == pytest.approx(expected, rel=1e-6)


def test_criteria_with_statistics_and_those_without_anything_to_score() -> None:
    model, x = TinyResNet(), torch.randn(2, 3, 8, 8)
    blocks, _ = find_blocks(model, x)
    statistics = gather(model, "activation", [x], lambda m, b: m(b))
    scores = block_scores(model, blocks, criterion="activation", statistics=statistics)
    assert scores.keys() == {b.module for b in blocks}
    chain = Chain()
    blocks, _ = find_blocks(chain, torch.randn(2, 4))
    with pytest.raises(UserError, match="finds nothing to score"):
        block_scores(chain, blocks, criterion="bn_scale")
    with pytest.raises(UserError, match="needs data"):
        block_scores(chain, blocks, criterion="block_influence")
    with torch.no_grad():
        chain.b.inner.weight[0, 0] = float("nan")
    with pytest.raises(UserError, match="not finite"):
        block_scores(chain, blocks, criterion="l1")


def test_a_newcomer_is_one_decorated_function() -> None:
    @block_criterion("last_first", summary="the position, from the end", source="test")
    def last_first(model: nn.Module, blocks, inputs) -> dict[str, float]:
        return {block.module: -index for index, block in enumerate(blocks)}

    try:
        plan = prune_depth(Chain(), torch.randn(2, 4), ratio=0.4, criterion="last_first").plan
        assert list(plan.bypassed) == ["c"]
    finally:
        BLOCK_CRITERIA.unregister("last_first")
    assert all(entry.summary and entry.source for entry in BLOCK_CRITERIA.entries())
