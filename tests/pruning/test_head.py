"""A new head on a pruned network: found without hints, plan and masks carried, all refusals name what is there."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from neuroprune import apply, prune, transfer
from neuroprune.base.errors import UserError
from neuroprune.graph.outputs import reaches_output
from neuroprune.graph.trace import trace
from neuroprune.pruning.head import Head, find_head, only_head_learns, set_head
from neuroprune.pruning.masks import Masks
from neuroprune.tasks.nets import digits_resnet, signal_net, tiny_resnet


class Pieces(nn.Module):
    """A body of convolutions; ``last`` and ``end`` make the output."""

    def __init__(self, last: nn.Module, end: Callable[[Pieces, Tensor], Any]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.n, self.b = nn.Conv2d(1, 6, 3, padding=1), nn.BatchNorm2d(6), nn.Conv2d(6, 6, 3, padding=1)
        self.last, self.end = last, end

    def body(self, x: Tensor) -> Tensor:
        return torch.relu(self.b(torch.relu(self.n(self.a(x)))))

    def forward(self, x: Tensor) -> Any:
        return self.end(self, self.body(x))


def pooled(x: Tensor) -> Tensor:
    return x.mean(dim=(2, 3))


FOUND: dict[str, tuple[nn.Module, str, int]] = {
    "linear": (Pieces(nn.Linear(6, 3), lambda m, x: m.last(pooled(x))), "last", 3),
    "flattened": (Pieces(nn.Linear(96, 3, bias=False), lambda m, x: m.last(x.flatten(1))), "last", 3),
    "probabilities": (Pieces(nn.Linear(6, 3), lambda m, x: m.last(pooled(x)).softmax(1)), "last", 3),
    "1x1": (Pieces(nn.Conv2d(6, 3, 1), lambda m, x: pooled(m.last(x))), "last", 3),
    "pixels": (Pieces(nn.Conv2d(6, 3, 1), lambda m, x: nn.functional.interpolate(m.last(x), size=8)), "last", 3),
    "dict": (Pieces(nn.Linear(6, 3), lambda m, x: {"logits": m.last(pooled(x))}), "last", 3),
    "nested": (nn.Sequential(nn.Flatten(), nn.Sequential(nn.Linear(16, 5), nn.ReLU(), nn.Linear(5, 3))), "1.2", 3),
    "resnet": (tiny_resnet(), "head", 10),
}
X = torch.randn(4, 1, 4, 4, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", FOUND)
def test_the_head_is_found_and_replaced(name: str) -> None:
    model, path, outputs = FOUND[name]
    assert find_head(model, X) == Head(path, outputs)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    moved = transfer(model, X, 7)
    assert moved.head == Head(path, 7)
    made, given = moved.model.eval()(X), model.eval()(X)
    made, given = (next(iter(v.values())) if isinstance(v, dict) else v for v in (made, given))
    assert made.shape == (given.shape[0], 7, *given.shape[2:])
    state = moved.model.state_dict()
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())  # a copy was changed
    own = {f"{path}.weight", f"{path}.bias"}
    assert all(torch.equal(before[key], state[key]) for key in before if key not in own)
    assert state[f"{path}.weight"].shape == (7, *before[f"{path}.weight"].shape[1:])


def test_the_root_can_be_the_head() -> None:
    moved = transfer(nn.Linear(16, 3), torch.randn(2, 16), 5)
    assert moved.head == Head("", 5)
    assert moved.model(torch.randn(2, 16)).shape == (2, 5)


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.words, self.head = nn.Embedding(9, 4), nn.Linear(4, 9, bias=False)
        self.head.weight = self.words.weight

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.head(self.words(x).mean(1))
        return y


class Weighted(nn.Module):
    """A head written by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.matrix = nn.Parameter(torch.randn(3, 16))

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1) @ self.matrix.t()


LATER = Pieces(nn.Linear(6, 3), lambda m, x: m.norm(m.last(pooled(x))))
LATER.norm = nn.BatchNorm1d(3)
TWO = Pieces(nn.Linear(6, 3), lambda m, x: m.last(pooled(x)) + m.other(pooled(x)))
TWO.other = nn.Linear(6, 3)
REFUSED: dict[str, tuple[nn.Module, Tensor, tuple[str, ...]]] = {
    "no head": (Pieces(nn.Identity(), lambda m, x: m.b(x)), X, ("cannot be told", "b.weight, dimension 0 (6)")),
    "features beside": (
        Pieces(nn.Linear(6, 3), lambda m, x: (m.last(pooled(x)), x)), X,
        ("b.weight", "last.weight", "no features"),
    ),
    "two": (TWO, X, ("last.weight", "other.weight")),
    "normalised": (LATER, X, ("norm.weight, dimension 0 (3)",)),
    "by hand": (Weighted(), X, ("matrix",)),
    "nothing learnt": (nn.Flatten(), X, ("no parameter's rows",)),
    "grouped": (
        Pieces(nn.Conv2d(6, 6, 1, groups=3), lambda m, x: pooled(m.last(x))), X, ("last.weight, dimension 0 (6)",),
    ),
    "tied": (Tied(), torch.randint(9, (2, 5)), ("words.weight",)),
    "literal": (
        Pieces(nn.Linear(6, 3), lambda m, x: m.last(pooled(x)).view(-1, 3)), X,
        ("does not bear another number of classes",),
    ),
    "literal that divides": (
        Pieces(nn.Linear(6, 6), lambda m, x: m.last(pooled(x)).view(-1, 6)), X, ("does not bear", "[(2, 6)]"),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_told_is_refused_and_left_alone(name: str) -> None:
    model, x, parts = REFUSED[name]
    before = {key: (value.shape, value.sum()) for key, value in model.state_dict().items()}
    with pytest.raises(UserError) as caught:
        transfer(model, x, 3 if "divides" in name else 7)
    for part in (*parts, "mend:"):
        assert part in str(caught.value)
    assert before == {key: (value.shape, value.sum()) for key, value in model.state_dict().items()}


@pytest.mark.parametrize("classes", [0, -1, 2.0, True, None])
def test_numbers_that_are_none(classes: Any) -> None:
    with pytest.raises(UserError, match="number of classes must be 1 or more"):
        transfer(tiny_resnet(), X, classes)


@pytest.mark.parametrize("make", [tiny_resnet, lambda: digits_resnet(8), lambda: signal_net(classes=10)])
def test_the_plan_leads_from_the_constructor_with_the_new_head_to_the_pruned_network(make: Any) -> None:
    dense = make()
    x = torch.randn(2, 1, 32) if hasattr(dense, "body") else torch.randn(2, 1, 16, 16)
    result = prune(dense, x, 0.5)
    moved = transfer(result.model, x, 4, dense=dense, plan=result.plan)
    assert moved.plan is not None
    assert moved.plan.removed == result.plan.removed
    fresh = make()
    set_head(fresh, moved.head)
    cut = apply(moved.plan, fresh)
    cut.load_state_dict(moved.model.state_dict())
    assert torch.equal(cut.eval()(x), moved.model.eval()(x))
    with pytest.raises(UserError, match="another model"):
        apply(moved.plan, make())
    with pytest.raises(UserError, match="pass dense="):
        transfer(result.model, x, 4, plan=result.plan)


def test_the_same_network_masked_and_cut_gets_the_same_columns() -> None:
    """Unit masks: a column of the head stays off for every new class, and so masked equals cut again."""
    dense = tiny_resnet()
    found = trace(dense, X)
    masks = Masks.for_units(dense, found)
    masks.switch_units(found, {group.name: (1,) for group in found.groups})
    moved = transfer(dense, X, 6, masks=masks.state())
    assert moved.masks is not None
    new = Masks.for_units(moved.model, trace(moved.model, X))
    new.load_state(moved.masks)
    assert moved.masks["head.weight"].shape == (6, 16)
    assert torch.equal(moved.masks["head.weight"], masks.masks["head.weight"][:1].expand(6, 16))
    assert new.find_off(trace(moved.model, X)) == {group.name: (1,) for group in found.groups}
    columns = moved.model.get_parameter("head.weight")[:, moved.masks["head.weight"][0] == 0]
    assert columns.numel() > 0
    assert not columns.any()


def test_weight_masks_stay_in_the_body_and_open_in_the_head() -> None:
    dense = tiny_resnet()
    masks = Masks.for_weights(dense)
    masks.switch_weights({name: p.detach().abs() for name, p in dense.named_parameters() if p.dim() > 1}, 0.7)
    masks.masks["head.weight"][:, 3] = 0
    moved = transfer(dense, X, 6, masks=masks.state())
    assert moved.masks is not None
    open_columns = (masks.masks["head.weight"] != 0).any(dim=0)
    assert not open_columns[3]
    assert torch.equal(moved.masks["head.weight"], open_columns.float().expand(6, 16))
    assert all(torch.equal(moved.masks[name], masks.masks[name]) for name in moved.masks if name != "head.weight")


def test_a_fresh_head_is_drawn_from_its_seed_alone() -> None:
    state = torch.get_rng_state()
    heads = [transfer(tiny_resnet(), X, 4, seed=seed).model.get_parameter("head.weight") for seed in (1, 1, 2)]
    assert torch.equal(heads[0], heads[1])
    assert not torch.equal(heads[0], heads[2])
    before = torch.get_rng_state()
    transfer(copy.deepcopy(FOUND["linear"][0]), X, 4, seed=5)
    assert torch.equal(before, torch.get_rng_state())
    assert state.shape == before.shape


def test_only_the_head_learns_and_flags_come_back() -> None:
    model = tiny_resnet()
    model.get_parameter("stem.0.weight").requires_grad_(False)
    with only_head_learns(model, Head("head", 10)):
        assert [n for n, p in model.named_parameters() if p.requires_grad] == ["head.weight", "head.bias"]
    assert [n for n, p in model.named_parameters() if not p.requires_grad] == ["stem.0.weight"]


def test_a_layer_that_is_not_there() -> None:
    with pytest.raises(UserError, match="no linear layer or convolution 'classifier'"):
        set_head(tiny_resnet(), Head("classifier", 3))


def test_dimensions_that_reach_the_output() -> None:
    assert reaches_output(tiny_resnet(), X) == (("head.weight", 0), ("head.bias", 0))
    assert reaches_output(nn.Flatten(), X) == ()
