"""Blocks are found by what they compute; what is left after a bypass is the network written without the block."""

from __future__ import annotations

import copy
import io
from pathlib import Path

import pytest
import torch
from pruning.depth_nets import Around, Layer, PostBlock, PreBlock, Residual, TinyResNet, TinyViT, TorchEncoder
from torch import Tensor, nn

from neuroprune.base.errors import UserError
from neuroprune.pruning import Bypass, Plan, apply, find_blocks, fingerprint, verify

IMAGE = torch.randn(2, 3, 5, 5)


def names(model: nn.Module, inputs: object) -> list[str]:
    return [block.module for block in find_blocks(model, inputs)[0]]


def test_blocks_of_a_residual_network_are_found_and_projections_are_not() -> None:
    model = TinyResNet()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    blocks, refused = find_blocks(model, torch.randn(2, 3, 8, 8))
    assert [b.module for b in blocks] == ["layer1", *(f"layer1.{i}" for i in range(3)), "layer2.1", "layer2.2"]
    assert refused == ()
    assert all(b.returns == "args[0]" and b.calls == 1 for b in blocks)
    assert blocks[1].parameters == sum(p.numel() for p in model.layer1[0].parameters())
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    assert model.training
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


@pytest.mark.parametrize(
    ("make", "inputs", "expected"),
    [
        (TinyViT, torch.randn(2, 5, 4), ["blocks", *(f"blocks.{i}" for i in range(4))]),
        (TorchEncoder, torch.randn(2, 5, 8), ["encoder", *(f"encoder.layers.{i}" for i in range(3))]),
        (lambda: TorchEncoder(norm_first=False), torch.randn(2, 5, 8), []),
        (lambda: nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Dropout(), nn.PReLU()), torch.randn(2, 4), []),
    ],
)
def test_transformer_layers_and_plain_layers(make, inputs: Tensor, expected: list[str]) -> None:
    found = names(make(), inputs)
    assert [name for name in found if name != "encoder"] == [name for name in expected if name != "encoder"]


@pytest.mark.parametrize(
    ("kind", "how", "calls", "returns"),
    [
        ("plain", "plain", 1, "args[0]"),
        ("plain", "twice", 2, "args[0]"),
        ("tuple", "first", 1, "(args[0], None)"),
        ("tuple", "keyword", 1, "(kwargs['x'], None)"),
        ("nested", "extra", 1, "((args[0], (None, [])), kwargs['extra'])"),
        ("inplace", "plain", 1, "args[0]"),
    ],
)
def test_what_a_block_returns_is_found_from_its_arguments(kind: str, how: str, calls: int, returns: str) -> None:
    model = Around(PreBlock(kind=kind), how)
    blocks, _ = find_blocks(model, IMAGE)
    assert [(b.module, b.calls, b.returns) for b in blocks] == [("block", calls, returns)]
    plan = Plan(fingerprint(model), bypassed={"block": returns})
    assert verify(model, plan, IMAGE).exact
    assert verify(model, plan, IMAGE).values > 0


@pytest.mark.parametrize(
    ("kind", "how", "reason"),
    [
        ("scaled", "plain", "something other than its input (largest difference"),
        ("post-relu", "plain", "something other than its input"),
        ("relu-inplace", "plain", "something other than its input"),
        ("statistics", "plain", "something other than its input"),
        ("number", "first", "neither a tensor nor a tuple of them: int"),
        ("cache", "cache", "it writes into its arguments"),
        ("plain", "mixed", "pass its input in different ways"),
    ],
)
def test_what_is_no_block_is_refused_with_its_reason(kind: str, how: str, reason: str) -> None:
    block = PreBlock(kind=kind)
    block.add_module("second", nn.Linear(2, 2))  # with a single matrix it would not look like a block
    blocks, (refusal,) = find_blocks(Around(block, how), IMAGE)
    assert blocks == ()
    assert reason in refusal.reason
    assert (refusal.parameter, refusal.module, refusal.operator) == ("block.norm.weight", "block", "block")
    file, _, line = refusal.where.rpartition(":")
    assert "def forward(self, x: Tensor, extra" in Path(file).read_text().splitlines()[int(line) - 1]


class Cross(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, memory: Tensor, x: Tensor) -> Tensor:
        return x + self.b(self.a(x) * memory)


def test_of_two_equal_arguments_the_right_one_comes_out() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cross = Cross()

        def forward(self, x: Tensor) -> Tensor:
            return self.cross(x, x)

    assert [b.returns for b in find_blocks(Twice(), torch.randn(2, 4))[0]] == ["args[1]"]


class Streams(nn.Module):
    """Two streams in a list, as in HRNet; one of them goes through unchanged."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, xs: list[Tensor], gains: dict[str, Tensor]) -> list[Tensor]:
        return [xs[1] + self.a(xs[0]), xs[0] + self.b(xs[1]) * gains["b"]]


def test_several_streams_are_routed_each_to_its_own() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.mix = nn.Linear(4, 4), Streams()

        def forward(self, x: Tensor) -> Tensor:
            a, b = self.mix([x, self.first(x)], gains={"b": torch.ones(4, dtype=x.dtype)})
            return a * 2 + b

    model, x = Net(), torch.randn(2, 4)
    (block,) = find_blocks(model, x)[0]
    assert block.returns == "[args[0][1], args[0][0]]"
    small = apply(Plan(fingerprint(model), bypassed={"mix": block.returns}), copy.deepcopy(model))
    assert torch.equal(small(x), model.first(x) * 2 + x)


def test_a_positive_image_does_not_make_a_block_removable() -> None:
    """relu(x + f(x)) equals x on an image of values in [0, 1], and not on any other input."""

    class First(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.block, self.head = PostBlock(3, 3), nn.Linear(3, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.block(x).mean((2, 3)))

    assert names(First(), torch.rand(2, 3, 4, 4)) == []


def test_a_weight_that_the_rest_of_the_network_needs_stays() -> None:
    """A block is silenced without what it shares, and is none if it then still computes something."""

    class Shared(nn.Module):
        def __init__(self, *, whole: bool) -> None:
            super().__init__()
            self.first, self.block = nn.Linear(4, 4), Residual(nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4)))
            self.block.inner[0].weight = self.first.weight
            if whole:
                self.block.inner[1].weight, self.block.inner[1].bias = self.first.weight, self.first.bias

        def forward(self, x: Tensor) -> Tensor:
            return self.block(self.first(x))

    x = torch.randn(2, 4)
    (block,) = find_blocks(Shared(whole=False), x)[0]
    assert block.parameters == 4 + 16 + 4
    assert names(Shared(whole=True), x) == []


def test_a_block_with_two_names_goes_under_both() -> None:
    class Aliased(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.block = Residual(nn.Linear(4, 4))
            self.again = self.block

        def forward(self, x: Tensor) -> Tensor:
            return self.again(self.block(x) * 2)

    model, x = Aliased(), torch.randn(2, 4)
    (block,) = find_blocks(model, x)[0]
    assert (block.module, block.calls) == ("block", 2)
    small = apply(Plan(fingerprint(model), bypassed={"block": block.returns}), copy.deepcopy(model))
    assert torch.equal(small(x), x * 2)
    assert list(small.parameters()) == []


def test_a_fixed_batch_size_and_integer_inputs_are_no_obstacle() -> None:
    class Fixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.block = nn.Embedding(9, 8), Layer()

        def forward(self, tokens: Tensor) -> Tensor:
            assert tokens.shape[0] == 2
            return self.block(self.embed(tokens))

    assert names(Fixed(), {"tokens": torch.randint(0, 9, (2, 3))}) == ["block"]


def test_inputs_that_do_not_fit_are_an_error_of_the_user() -> None:
    with pytest.raises(UserError, match="the model fails on the example inputs"):
        find_blocks(TinyResNet(), torch.randn(2, 4, 8, 8))


@pytest.mark.parametrize(
    "returns", ["", "args", "x", "args[0]()", "__import__('os')", "(args[0], 1)", "args[0:1]", "args[0].T"]
)
def test_a_bypass_evaluates_nothing(returns: str) -> None:
    with pytest.raises(UserError, match="does not say what a removed block returns"):
        Bypass(returns)


def test_a_bypass_is_a_plain_module_that_keeps_what_callers_read() -> None:
    layer = nn.TransformerEncoderLayer(8, 2, 12, norm_first=True, batch_first=True).eval()
    bypass = Bypass("(kwargs['x'], [None, args[0]])", layer)
    x = torch.randn(2)
    assert bypass(3, x=x) == (x, [None, 3])
    assert (bypass.norm_first, bypass.self_attn.batch_first, bypass.training) == (True, True, False)
    assert list(bypass.state_dict()) == list(bypass.parameters()) == []
    file = io.BytesIO()
    torch.save(bypass, file)
    file.seek(0)
    assert torch.load(file, weights_only=False)(3, x=x)[1] == [None, 3]
    assert copy.deepcopy(bypass)(3, x=x)[1] == [None, 3]


def test_several_example_calls_all_count() -> None:
    """relu(x + f(x)) passes a positive x through; the second call shows that x need not be positive."""

    class Either(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.block = PostBlock(3, 3)

        def forward(self, x: Tensor, positive: bool) -> Tensor:
            return self.block(x.exp() if positive else x)

    x = torch.randn(2, 3, 4, 4)
    assert [(b.module, b.calls) for b in find_blocks(Either(), [(x, True), (x[:1], True)])[0]] == [("block", 2)]
    assert names(Either(), [(x, True), (x, False)]) == []
