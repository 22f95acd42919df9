"""A budget without training: met as counted, proven, nearer to the dense network with every rung."""

from __future__ import annotations

import copy
import gc
import weakref
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from neuroprune import Budget, ToBudgetResult, prune_to_budget
from neuroprune.base.errors import UserError
from neuroprune.budget.calibration import doubts
from neuroprune.graph import cost
from neuroprune.pruning.plan import Plan
from neuroprune.recover.distill import DistillConfig, distill
from neuroprune.recover.reconstruct import ReconstructConfig


class Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x + self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x))))))


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.blocks = nn.Conv2d(3, 8, 3, padding=1), nn.Sequential(Block(8), Block(8))
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor, scale: float = 1.0) -> Tensor:
        return self.head(self.blocks(self.stem(x)).mean((2, 3))) * scale


def made(seed: int = 0) -> nn.Module:
    """Batch norms that are not the identity, so that there is something to get wrong."""
    torch.manual_seed(seed)
    model = Net()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.3)
    model.train()(torch.randn(64, 3, 8, 8))
    return model.eval()


def batches(count: int = 4, seed: int = 1) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(32, 3, 8, 8, generator=generator) for _ in range(count)]


def missed(dense: nn.Module, result: ToBudgetResult) -> float:
    """Relative squared error of the outputs on inputs that were not calibrated on."""
    x = torch.cat(batches(seed=2))
    with torch.no_grad():
        wanted, given = dense(x), result.model(x)
    return float((wanted - given).square().sum() / (wanted - wanted.mean(0)).square().sum())


@pytest.mark.parametrize("kind", ["macs", "params"])
def test_the_budget_holds_as_counted_and_the_model_is_left_alone(kind: str) -> None:
    model = made()
    before = copy.deepcopy(model.state_dict())
    result = prune_to_budget(model, batches(), Budget(**{kind: 0.6}))
    dense, now, limit = result.costs[kind]
    assert now <= limit == pytest.approx(0.6 * dense)
    assert now > 0.4 * dense
    counted = cost(result.model, torch.zeros(1, 3, 8, 8))
    assert now == {"macs": counted.macs, "params": counted.params}[kind]
    assert result.verification.exact
    assert type(result.model) is type(model)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_every_rung_comes_nearer_to_the_dense_network() -> None:
    model, errors = made(), []
    for rung in ("none", "closed-form", "reconstruct", "distill"):
        result = prune_to_budget(
            model, batches(8), Budget(macs=0.6), recover=rung,  # type: ignore[arg-type]
            reconstruction=ReconstructConfig(steps=60, batch=32), distillation=DistillConfig(epochs=6, lr=1e-3),
        )  # fmt: skip
        errors.append(missed(model, result))
    assert errors[1] < 0.5 * errors[0]
    assert errors[2] < errors[1]
    assert errors[3] < errors[2]


def test_several_budgets_hold_at_once() -> None:
    result = prune_to_budget(made(), batches(), Budget(macs=0.7, params=0.5))
    assert all(now <= limit for _, now, limit in result.costs.values())


def test_the_same_seed_gives_the_same_network() -> None:
    first, second = (prune_to_budget(made(), batches(), Budget(macs=0.6), seed=3) for _ in range(2))
    assert first.plan == second.plan
    assert all(torch.equal(a, b) for a, b in zip(first.model.state_dict().values(),
                                                 second.model.state_dict().values(), strict=True))  # fmt: skip


def test_kept_groups_stay_whole_and_counts_are_multiples() -> None:
    result = prune_to_budget(made(), batches(), Budget(macs=0.8), keep=["blocks.0.*"], round_to=4)
    assert result.model.blocks[0].conv1.out_channels == 8
    assert result.model.blocks[1].conv1.out_channels == 4


@pytest.mark.parametrize(
    ("batch", "forward"),
    [
        (lambda x: {"image": x}, lambda model, batch: model(batch["image"])),
        (lambda x: (x, torch.zeros(len(x))), lambda model, batch: model(x=batch[0], scale=2.0)),
    ],
)
def test_batches_of_any_kind_by_the_users_own_forward(batch: Any, forward: Any) -> None:
    result = prune_to_budget(made(), [batch(x) for x in batches()], Budget(macs=0.6), forward=forward)
    assert result.verification.exact
    assert result.costs["macs"][1] <= result.costs["macs"][2]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"budget": Budget(macs=0.001)}, "cannot be met"),
        ({"budget": Budget()}, "the budget is empty"),
        ({"allocation": "strem"}, "did you mean 'stream'"),
        ({"recover": "reconstrct"}, "did you mean 'reconstruct'"),
        ({"batches": []}, "nothing to calibrate on"),
        ({"batches": [torch.full((4, 3, 8, 8), float("nan"))]}, "not finite"),
        ({"keep": ["nosuch.*"]}, "matches nothing"),
    ],
)
def test_what_cannot_be_done_is_said_and_nothing_is_touched(options: dict[str, Any], message: str) -> None:
    model = made()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(UserError, match=message):
        prune_to_budget(model, **{"batches": batches(), "budget": Budget(macs=0.6), **options})
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_data_on_which_the_network_is_blind_is_noted() -> None:
    black = [1e-6 * x for x in batches(2)]
    assert "normalised as in training" in prune_to_budget(made(), black, Budget(macs=0.9)).notes[0]
    sure = torch.eye(4).repeat(8, 1) * 5
    assert doubts(sure) == []
    assert "are they scaled" in doubts(torch.full_like(sure, 0.1))[0]  # no class is likelier than any other
    assert doubts(sure[:8] * 0) == []  # too few examples to say
    assert doubts(torch.zeros(32, 3, 8, 8)) == []  # no scores of classes


def test_fewer_positions_than_columns_are_noted() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 3)).eval()
    few = prune_to_budget(net, [torch.randn(8, 6)], Budget(macs=0.6))
    assert few.notes[-1].startswith("1 of 1 layers see fewer positions")
    assert "(2: 8 of 17)" in few.notes[-1]
    assert not any(
        "positions" in note for note in prune_to_budget(net, [torch.randn(40, 6)], Budget(macs=0.6)).notes
    )
    assert all(bool(p.isfinite().all()) for p in few.model.parameters())


def test_distillation_says_when_it_diverges() -> None:
    model = made()
    nothing, wild = Plan.identity(model), [batches()[0] * 1e30]
    with pytest.raises(UserError, match="diverged"):
        distill(model, copy.deepcopy(made(1)), nothing, lambda net, x: net(x), wild, DistillConfig(epochs=9))


def test_the_network_is_shown_after_each_rung() -> None:
    shown: dict[str, dict[str, Tensor]] = {}

    def after(rung: str, network: nn.Module) -> None:
        assert not network.training
        shown[rung] = {name: value.clone() for name, value in network.state_dict().items()}

    model, few = made(), ReconstructConfig(steps=5)
    options: dict[str, Any] = {"recover": "distill", "reconstruction": few, "after": after}
    result = prune_to_budget(model, batches(), Budget(macs=0.6), **options)
    assert list(shown) == ["closed-form", "reconstruct", "distill"]
    assert all(torch.equal(shown["distill"][k], v) for k, v in result.model.state_dict().items())
    early = prune_to_budget(model, batches(), Budget(macs=0.6), recover="closed-form").model.state_dict()
    assert all(torch.equal(shown["closed-form"][k], v) for k, v in early.items())


def test_distillation_takes_the_batches_that_are_meant_for_it() -> None:
    asked: list[int] = []

    class Made(Sequence[Tensor]):
        def __len__(self) -> int:
            return 3

        def __getitem__(self, index: Any) -> Any:
            asked.append(index)
            return batches(seed=5 + index)[0]

    prune_to_budget(
        made(), batches(), Budget(macs=0.6), recover="distill", more=Made(),
        reconstruction=ReconstructConfig(steps=1), distillation=DistillConfig(epochs=2),
    )  # fmt: skip
    assert sorted(asked) == [0, 0, 0, 1, 1, 2, 2]  # the first once more, to look at the network


class Lazy(Sequence[Tensor]):
    """Makes each batch anew and keeps none."""

    def __init__(self) -> None:
        self.given: list[weakref.ref[Tensor]] = []
        self.most = 0

    def __len__(self) -> int:
        return 12

    def __getitem__(self, index: Any) -> Any:
        self.most = max(self.most, sum(ref() is not None for ref in self.given))
        batch = torch.randn(8, 3, 8, 8, generator=torch.Generator().manual_seed(range(12)[index]))
        self.given.append(weakref.ref(batch))
        return batch


def test_batches_that_are_made_when_asked_for_are_not_kept() -> None:
    """Without Python's search for circles: what is let go of is gone at once."""
    lazy, budget = Lazy(), Budget(macs=0.6)
    gc.collect()
    gc.disable()
    try:
        lazily = prune_to_budget(model := made(), lazy, budget)
    finally:
        gc.enable()
    held = prune_to_budget(model, [Lazy()[index] for index in range(12)], budget)
    assert lazily.plan.removed == held.plan.removed
    for ours, theirs in zip(lazily.model.parameters(), held.model.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    assert len(lazy.given) > 24
    assert lazy.most <= 3
