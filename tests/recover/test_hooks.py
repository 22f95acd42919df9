"""Hooks of the training loop: masks that tighten, weights that grow back and weights that shrink; killed and
resumed."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from interrupting import Stop
from torch import Tensor, nn

from neuroprune.base.errors import UserError
from neuroprune.pruning.masks import Masks
from neuroprune.pruning.schedules import Schedule
from neuroprune.recover.fit import FitConfig, fit
from neuroprune.recover.hooks import GradualMasks, HeldMasks, Hook, MovementMasks, Regrowth, Shrinkage
from neuroprune.recover.on_grid import OnGrid, weights_on_grid
from neuroprune.tasks.make import make_task
from neuroprune.tasks.task import Task

EPOCHS = 4


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))


def task() -> Task:
    x = torch.randn(32, 6, generator=torch.Generator().manual_seed(0))
    y = (x @ torch.arange(18.0).view(6, 3).sin()).argmax(1)
    return make_task(train=(x, y), val=(x, y), batch_size=8)


def magnitudes(masks: Masks) -> dict[str, Tensor]:
    return {name: p.detach().abs() for name, p in masks.parameters().items()}


def gradual(model: nn.Module) -> Hook:
    masks = Masks.for_weights(model)
    return GradualMasks(masks, Schedule("cubic", target=0.75), lambda: magnitudes(masks), every=2)


def moving(model: nn.Module) -> Hook:
    return MovementMasks(
        Masks.for_weights(model), Schedule("cubic", target=0.75, begin=0.1), spread="erk", every=2
    )


def growing(model: nn.Module) -> Hook:
    masks = Masks.for_weights(model)
    masks.switch_weights(magnitudes(masks), 0.5, spread="layer")
    return Regrowth(masks, every=2, share=0.5)


def shrinking(model: nn.Module) -> Hook:
    return Shrinkage(model, 0.1)


def held(model: nn.Module) -> Hook:
    masks = Masks.for_weights(model)
    masks.switch_weights(magnitudes(masks), 0.5)
    return HeldMasks(masks)


HOOKS: list[Callable[[nn.Module], Hook]] = [gradual, moving, growing, shrinking, held]


@pytest.mark.parametrize("make", HOOKS)
@pytest.mark.parametrize("after", [2, 7, 13])
def test_an_interrupted_training_ends_with_the_same_bits(
    make: Callable[[nn.Module], Hook], after: int, tmp_path: Path
) -> None:
    config = FitConfig(EPOCHS, lr=0.1)
    whole = net()
    fit(whole, task(), config, hook=make(whole))
    model = net()
    with pytest.raises(KeyboardInterrupt):
        fit(model, task(), config, hook=make(model), checkpoint=tmp_path, progress=Stop(after))
    again = net()
    fit(again, task(), config, hook=make(again), checkpoint=tmp_path)
    for name, value in whole.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name


def test_a_checkpoint_of_another_hook_is_refused(tmp_path: Path) -> None:
    model = net()
    fit(model, task(), FitConfig(1), hook=gradual(model), checkpoint=tmp_path)
    with pytest.raises(UserError, match="hook"):
        fit(model, task(), FitConfig(1), hook=shrinking(model), checkpoint=tmp_path)


class Watched(GradualMasks):
    """Remembers the sparsity after every step, and what is off."""

    def after_step(self, optimizer: torch.optim.Optimizer, step: int, steps: int) -> None:
        super().after_step(optimizer, step, steps)
        self.seen = [*getattr(self, "seen", []), self.masks.sparsity()]
        for name, p in self.masks.parameters().items():
            assert not p.detach()[self.masks.masks[name] == 0].any()


@pytest.mark.parametrize("name", ["one-shot", "iterative", "cubic", "cosine"])
def test_gradual_masks_follow_the_schedule_and_never_loosen(name: str) -> None:
    model = net()
    masks = Masks.for_weights(model)
    schedule = Schedule(name, target=0.75, begin=0.25, end=0.75)
    hook = Watched(masks, schedule, lambda: magnitudes(masks), every=1)
    fit(model, task(), FitConfig(EPOCHS, lr=0.1), hook=hook)
    assert hook.seen == sorted(hook.seen)
    expected = [int(72 * schedule.at(step / 16) + 1e-9) / 72 for step in range(1, 17)]
    assert hook.seen == pytest.approx(expected, abs=1e-6)


def test_masks_are_chosen_every_so_many_steps_and_at_the_end_of_the_span() -> None:
    model = net()
    masks = Masks.for_weights(model)
    hook = Watched(masks, Schedule("iterative", target=0.5, end=0.7), lambda: magnitudes(masks), every=5)
    fit(model, task(), FitConfig(EPOCHS), hook=hook)
    assert [round(s, 2) for s in hook.seen] == [0] * 4 + [0.22] * 5 + [0.44] * 2 + [0.5] * 5


def test_regrowth_drops_the_smallest_and_grows_by_the_gradient() -> None:
    layer = nn.Linear(4, 2, bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[1.0, 2, 3, 4], [5, 6, 7, 8]]))
    masks = Masks.for_weights(layer)
    masks.switch_weights({"weight": torch.tensor([[8.0, 7, 6, 5], [4, 3, 2, 1]])}, 0.5)  # the first row stays
    layer.weight.grad = torch.tensor([[0.0, 0, 0, 0], [1, -9, 2, 3]])
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.0, momentum=0.9)
    optimizer.state[layer.weight]["momentum_buffer"] = torch.ones(2, 4)
    # share / 2 * (1 + cos(pi * 1/2)) of four are two: 1 and 2 go, the gradients 9 and 3 come back
    Regrowth(masks, share=1.0, every=1, until=1.0).after_step(optimizer, 1, 2)
    assert masks.masks["weight"].tolist() == [[0, 0, 1, 1], [0, 1, 0, 1]]
    assert layer.weight.tolist() == [[0, 0, 3, 4], [0, 0, 0, 0]]
    assert optimizer.state[layer.weight]["momentum_buffer"].tolist() == [[1, 1, 1, 1], [1, 0, 1, 0]]


@pytest.mark.parametrize("grow", ["gradient", "random"])
def test_regrowth_keeps_every_layers_sparsity_and_ends_in_time(grow: Any) -> None:
    model = net()
    masks = Masks.for_weights(model)
    masks.switch_weights(magnitudes(masks), 0.5, spread="layer")
    before = {name: int(mask.sum()) for name, mask in masks.masks.items()}
    hook = Regrowth(masks, grow=grow, every=1, until=0.5)
    fit(model, task(), FitConfig(EPOCHS, lr=0.1), hook=hook)
    assert {name: int(mask.sum()) for name, mask in masks.masks.items()} == before
    for name, p in masks.parameters().items():
        assert not p.detach()[masks.masks[name] == 0].any()
    kept = masks.state()
    hook.after_step(torch.optim.SGD(model.parameters()), 9, 16)
    assert all(torch.equal(mask, kept[name]) for name, mask in masks.masks.items())


def stepped(on: Any, kind: Any, model: nn.Module, strength: float = 1.0, rate: float = 0.5) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=rate)
    Shrinkage(model, strength, on, kind).after_step(optimizer, 1, 1)


def test_shrinkage_by_hand() -> None:
    layer = nn.Linear(2, 2, bias=False)
    start = torch.tensor([[3.0, -0.2], [0.3, 0.4]])
    for on, kind, expected in (
        ("weights", "proximal", [[2.5, 0.0], [0.0, 0.0]]),
        ("weights", "plain", [[2.5, 0.3], [-0.2, -0.1]]),
        # rows of norm sqrt(9.04) and 0.5, each pressed by 0.5 * sqrt(2)
        ("filters", "proximal", [[3 * (1 - 0.5 * math.sqrt(2 / 9.04)), -0.2 * (1 - 0.5 * math.sqrt(2 / 9.04))],
                                 [0.0, 0.0]]),
    ):  # fmt: skip
        with torch.no_grad():
            layer.weight.copy_(start)
        stepped(on, kind, layer)
        assert torch.allclose(layer.weight.detach(), torch.tensor(expected)), (on, kind)


def test_the_proximal_step_minimises_what_it_says() -> None:
    """argmin over x of |x - w|^2 / 2 + rate * strength * |x|, by brute force."""
    layer = nn.Linear(3, 3, bias=False)
    start = layer.weight.detach().clone()
    stepped("weights", "proximal", layer, strength=0.3, rate=0.5)
    grid = torch.linspace(-1, 1, 20001)
    for old, new in zip(start.flatten(), layer.weight.detach().flatten(), strict=True):
        objective = (grid - old).square() / 2 + 0.15 * grid.abs()
        assert float(grid[objective.argmin()]) == pytest.approx(float(new), abs=2e-4)


def test_scales_alone_shrink_and_biases_stay() -> None:
    model = net()
    before = copy.deepcopy(model)
    stepped("scales", "proximal", model, strength=0.2)
    assert torch.allclose(model[1].weight.detach(), torch.full((8,), 0.9))
    assert all(torch.equal(getattr(model[i], key), getattr(before[i], key))
               for i in (0, 3) for key in ("weight", "bias"))  # fmt: skip


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda model: Shrinkage(model, -1.0), "must not be negative"),
        (lambda model: Shrinkage(model, 1.0, "units"), "unknown kind of shrinkage"),
        (lambda model: Shrinkage(nn.Linear(2, 2), 1.0, "scales"), "nothing to shrink"),
        (lambda model: Regrowth(Masks.for_weights(model), share=0.0), "exchanges a share"),
        (lambda model: Regrowth(Masks.for_weights(model), grow="wish"), "grow back"),
        (lambda model: GradualMasks(Masks.for_weights(model), Schedule(), dict, every=0), "every so many steps"),
    ],
)
def test_bad_options(make: Callable[[nn.Module], Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        make(net())


def test_on_the_grid_of_three_bits_by_hand() -> None:
    weight = torch.tensor([[3.0, 1.4, -0.6, 0.4], [0.0, 0.0, 0.0, 0.0]])  # steps of 3 / 3 in the first row
    assert torch.equal(OnGrid(3, 0)(weight), torch.tensor([[3.0, 1, -1, 0], [0, 0, 0, 0]]))


def test_weights_compute_on_the_grid_and_stay_there() -> None:
    model = net()
    with weights_on_grid(model, 4):
        fit(model, task(), FitConfig(2))
        seen = model[0].weight.detach().clone()
    assert torch.equal(model[0].weight.detach(), seen)
    assert sorted(name for name, _ in model.named_parameters()) == sorted(
        name for name, _ in net().named_parameters()
    )
    for row in model[0].weight.detach():
        steps = row / row.abs().max() * 7
        assert torch.allclose(steps, steps.round(), atol=1e-4)
    with pytest.raises(UserError, match="2 to 8 bits"), weights_on_grid(model, 9):
        pass
