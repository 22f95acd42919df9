"""What every kind of budget must pass; third parties subclass it for their own."""

from __future__ import annotations

import functools
import itertools
from typing import Any, Literal

import torch
from torch import Tensor, nn

from neuroprune.budget.exported import Variant
from neuroprune.budget.kinds import KINDS, Setting
from neuroprune.budget.problem import LayerCost, layers_of
from neuroprune.budget.target import Target
from neuroprune.graph.trace import trace

_STEPS = (1.0, 0.75, 0.5, 0.25, 0.1)


class _Net(nn.Module):
    """Every kind of layer: plain, depthwise, grouped, transposed, linear on vectors and on tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16)
        self.depthwise, self.point = nn.Conv2d(16, 16, 3, padding=1, groups=16), nn.Conv2d(16, 24, 1)
        self.grouped = nn.Conv2d(24, 24, 3, stride=2, padding=1, groups=4)
        self.up = nn.ConvTranspose2d(24, 12, 2, stride=2)
        self.tokens, self.out = nn.Linear(12, 20), nn.Linear(20, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.stem(x)))
        x = torch.relu(self.point(torch.relu(self.depthwise(x))))
        x = torch.relu(self.up(torch.relu(self.grouped(x))))
        y: Tensor = self.out(torch.relu(self.tokens(x.flatten(2).transpose(1, 2))).mean(1))
        return y


@functools.lru_cache(maxsize=4)
def _setting(target: Target) -> Setting:
    """One for all tests of a target: its files are written once."""
    torch.manual_seed(0)
    x = torch.randn(2, 3, 8, 8)
    return Setting(_Net().eval(), (x,), lambda model, batch: model(batch), [x], target)


class BudgetKindContract:
    """Subclass, set ``name`` to a registered kind of budget, and let pytest collect it. ``target``: where measured
    kinds measure."""

    name: str
    target = Target(seconds=0.05)
    #: smallest cost of a layer that is compared, as a share of the network's: below it measurements are noise
    slack = 1e-9

    @property
    def setting(self) -> Setting:
        return _setting(self.target)

    def costs(self) -> tuple[float, list[LayerCost]]:
        """The dense network's figure in the target's precision, and its layers' parts."""
        layers = layers_of(self.setting.dense, trace(self.setting.dense, self.setting.example).groups)
        return self.figures()["whole"], list(KINDS.get(self.name).layers(layers, self.setting))

    def figures(self, **models: nn.Module) -> dict[str, float]:
        whole = Variant(self.setting.dense, self.target.precision)
        ours = {name: Variant(model, self.target.precision) for name, model in models.items()}
        return KINDS.get(self.name).figures({"whole": whole, **ours}, self.setting)

    def test_it_says_how_its_figures_come_about(self) -> None:
        labels: tuple[Literal["measured", "modelled"], ...] = ("measured", "modelled")
        assert KINDS.get(self.name).label in labels
        assert 0 <= KINDS.get(self.name).noise < 0.5

    def test_figures_are_finite_and_positive_and_a_smaller_network_costs_less(self) -> None:
        torch.manual_seed(0)
        smaller: Any = _Net().eval()
        smaller.tokens, smaller.out = nn.Linear(12, 3), nn.Linear(3, 5)
        found = self.figures(smaller=smaller)
        assert list(found) == ["whole", "smaller"]
        assert 0 < found["smaller"] < found["whole"] < float("inf")

    def test_layers_have_parts_that_are_not_negative_and_rise_with_the_widths(self) -> None:
        whole, parts = self.costs()
        assert len(parts) > 4
        for part in parts:
            assert part(0.0, 0.0) >= 0
            for a, b in itertools.pairwise(_STEPS):
                for other in _STEPS:
                    assert part(a, other) + self.slack * whole >= part(b, other) >= 0
                    assert part(other, a) + self.slack * whole >= part(other, b) >= 0

    def test_the_layers_together_are_no_more_than_the_network(self) -> None:
        whole, parts = self.costs()
        assert 0 < sum(part(1.0, 1.0) for part in parts) <= whole * (1 + 1e-9)

    def test_without_layers_there_is_nothing_to_say(self) -> None:
        assert list(KINDS.get(self.name).layers((), self.setting)) == []
