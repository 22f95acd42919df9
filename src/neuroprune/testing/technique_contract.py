"""What every pruning technique must keep to; third parties subclass it for theirs."""

from __future__ import annotations

import copy
import functools
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from neuroprune.base.errors import UserError
from neuroprune.pruning.surgery import apply
from neuroprune.recover.config import FitConfig
from neuroprune.tasks.batches import TensorBatches
from neuroprune.tasks.task import Task
from neuroprune.techniques import Setting, Thinned, run_technique


class _Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)
        self.back = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.back(torch.relu(self.norm(self.conv(x))))  # type: ignore[no-any-return]


class _Net(nn.Module):
    """Filters, a residual stream, blocks that can go, and neurons: [N, 1, 6, 6] -> [N, 3]."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.blocks = nn.Conv2d(1, 8, 3), nn.Sequential(_Block(8), _Block(8), _Block(8))
        self.hidden, self.head = nn.Linear(8, 16), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks(torch.relu(self.stem(x))).mean((2, 3))
        return self.head(torch.relu(self.hidden(x)))  # type: ignore[no-any-return]


@functools.cache
def _setting() -> Setting:
    """Three kinds of stripes under noise, and a network with random weights."""
    torch.manual_seed(0)
    x, y = torch.randn(96, 1, 6, 6), torch.arange(96) % 3
    for row in range(96):
        x[row, 0, int(y[row]) * 2] += 2
    batches = TensorBatches((x, y), 16, shuffle=True, seed=0)
    few = TensorBatches((x, y), 48, shuffle=False, seed=0)
    model = _Net().eval()
    initial = {name: value.clone() for name, value in model.state_dict().items()}
    return Setting(
        model, Task("stripes", batches, few, few, (x[:2],)), 0.5, FitConfig(2, lr=0.02), seed=3, initial=initial
    )


class TechniqueContract:
    """Subclass, set ``name`` to a registered technique (``options`` where it needs some; ``density`` where 0.5 is
    out of its reach), and let pytest collect it."""

    name: str
    density = 0.5
    options: dict[str, Any] = {}  # noqa: RUF012

    def run(self, epochs: int = 2, **options: Any) -> Thinned:
        setting = _setting()
        setting = Setting(
            setting.model, setting.task, self.density, FitConfig(epochs, lr=0.02), seed=3, initial=setting.initial
        )
        return run_technique(self.name, setting, **{**self.options, **options})

    #: whether there is anything to choose by without training
    untrained = True

    @pytest.mark.parametrize("epochs", [0, 2])
    def test_the_density_is_kept_to(self, epochs: int) -> None:
        if epochs == 0 and not self.untrained:
            with pytest.raises(UserError):
                self.run(epochs)
            return
        whole = sum(p.numel() for p in _setting().model.parameters())
        thin = self.run(epochs)
        rounding = 1 if thin.masks is None else len(thin.masks.masks)  # one per tensor at the most
        assert thin.parameters_left() <= self.density * whole + rounding
        assert thin.plan is not None or thin.parameters_left() >= (self.density - 0.05) * whole
        assert sum(len(training.records) for training in thin.trainings) == epochs

    def test_the_dense_network_stays_bit_for_bit_and_the_result_computes(self) -> None:
        before = {name: value.clone() for name, value in _setting().model.state_dict().items()}
        thin = self.run()
        assert all(torch.equal(value, before[name]) for name, value in _setting().model.state_dict().items())
        assert not any(module.training for module in thin.model.modules())
        assert bool(thin.model(_setting().task.example_inputs[0]).isfinite().all())

    def test_what_is_off_is_zero_and_what_is_cut_is_gone(self) -> None:
        thin = self.run()
        assert thin.plan is not None or thin.masks is not None
        if thin.masks is not None:
            values = dict(thin.model.named_parameters())
            for name, mask in thin.masks.masks.items():
                assert not values[name].detach()[mask == 0].any()
                assert bool((mask != 0).any())
        if thin.plan is not None:
            again = apply(thin.plan, copy.deepcopy(_setting().model))
            again.load_state_dict(thin.model.state_dict())  # the plan and the weights are enough
            x = _setting().task.example_inputs[0]
            assert torch.equal(again.eval()(x), thin.model(x))

    def test_the_same_seed_gives_the_same_bits(self) -> None:
        one, two = self.run().model.state_dict(), self.run().model.state_dict()
        assert all(torch.equal(value, two[name]) for name, value in one.items())

    def test_unknown_options_are_refused(self) -> None:
        with pytest.raises(UserError, match="has no option"):
            self.run(nonsense=1)
