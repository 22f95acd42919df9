"""Every technique passes the contract; what each does for itself, against what was written out."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from neuroprune.base.errors import UserError
from neuroprune.pruning.masks import Masks
from neuroprune.pruning.patterns import matrix_of
from neuroprune.pruning.schedules import Schedule
from neuroprune.recover.fit import FitConfig
from neuroprune.recover.hooks import MovementMasks
from neuroprune.techniques import TECHNIQUES, Setting, Thinned, run_technique
from neuroprune.testing.technique_contract import TechniqueContract, _setting

#: of the contract's network the neurons hold a twentieth, and each of the three blocks a third
DENSITY = {"neuron": 0.97, "layer": 0.75}

for _name in TECHNIQUES.names():
    _facts = {"name": _name, "density": DENSITY.get(_name, 0.5), "untrained": _name != "movement"}
    _class = type(f"Test_{_name}", (TechniqueContract,), _facts)
    globals()[_class.__name__] = _class


@TECHNIQUES.register("third_party_first_rows", summary="switches the first rows off", source="a plug-in")
def first_rows(setting: Setting) -> Thinned:
    from neuroprune.techniques._masking import sparse

    return sparse(setting, criterion="l1", shape="row", keep=("head", "hidden", "stem"))


def ran(name: str, density: float = 0.5, epochs: int = 1, **options: Any) -> Thinned:
    return run_technique(name, replace(_setting(), density=density, fit=FitConfig(epochs, lr=0.02)), **options)


def off(thin: Thinned) -> dict[str, torch.Tensor]:
    assert thin.masks is not None
    return {name: mask == 0 for name, mask in thin.masks.masks.items()}


def test_a_third_partys_technique_has_the_same_interface() -> None:
    for name, zero in off(ran("third_party_first_rows")).items():
        rows = zero.flatten(1)
        assert bool((rows.all(1) | ~rows.any(1)).all()), name


def test_blocks_of_four_outputs_go_together() -> None:
    for name, zero in off(ran("group", density=0.4)).items():
        for rows in matrix_of(zero.float()).split(4, 0):
            assert bool(((rows.mean(0) == 0) | (rows.mean(0) == 1)).all()), name


def test_two_of_four_in_every_run_and_no_other_density() -> None:
    total = sum(p.numel() for p in _setting().model.parameters())
    masked = sum(p.numel() for p in _setting().model.parameters() if p.dim() >= 2)
    density = 1 - masked / 2 / total
    zero = off(ran("group", density=density, shape="2:4"))["blocks.0.conv.weight"]
    runs = matrix_of(zero.float()).transpose(1, 2).reshape(-1, 4)
    assert bool((runs.sum(1) == 2).all())
    with pytest.raises(UserError, match="neither more nor less"):
        ran("group", density=0.2, shape="2:4")


def test_filters_leave_the_residual_stream_and_neurons_whole() -> None:
    cut = ran("filter").model
    assert cut.stem.out_channels == 8
    assert cut.hidden.out_features == 16
    assert {block.conv.out_channels < 8 for block in cut.blocks} == {True}


def test_structured_may_take_the_residual_stream_too() -> None:
    assert ran("structured", density=0.1).model.stem.out_channels < 8


def test_neurons_are_outputs_of_linear_layers() -> None:
    cut = ran("neuron", density=0.97).model
    assert cut.hidden.out_features < 16
    assert cut.stem.out_channels == 8


def test_whole_blocks_go_and_the_others_stay_as_wide() -> None:
    thin = ran("layer", density=0.75)
    assert len(thin.facts["blocks gone"]) == 1
    assert all(block.conv.out_channels == 8 for block in thin.model.blocks if hasattr(block, "conv"))


def test_two_level_cuts_and_then_masks() -> None:
    thin = ran("two-level", density=0.25, epochs=3)
    assert thin.plan is not None
    assert thin.masks is not None
    assert thin.masks.sparsity() > 0.3
    assert sum(p.numel() for p in thin.model.parameters()) < 0.52 * sum(
        p.numel() for p in _setting().model.parameters()
    )


def test_quantisation_aware_weights_lie_on_the_grid_and_in_clusters() -> None:
    thin = ran("quantization-aware", bits=4)
    for name, parameter in thin.model.named_parameters():
        if parameter.dim() >= 2:
            for row in parameter.detach().flatten(1):
                steps = row / row.abs().max().clamp_min(1e-12) * 7
                assert torch.allclose(steps, steps.round(), atol=1e-3), name
    few = ran("quantization-aware", clusters=4)
    for name, zero in off(few).items():
        values = dict(few.model.named_parameters())[name].detach()
        assert len(values.unique()) <= 4
        assert not values[zero].any()


def test_dynamic_exchanges_weights_and_keeps_every_layers_sparsity() -> None:
    still = off(ran("dynamic", density=0.3, epochs=2, exchanges=0, share=1e-6))
    moved = off(ran("dynamic", density=0.3, epochs=2, exchanges=4))
    assert {n: int(z.sum()) for n, z in still.items()} == {n: int(z.sum()) for n, z in moved.items()}
    assert any(bool((still[name] != moved[name]).any()) for name in still)


def test_movement_by_hand() -> None:
    layer = nn.Linear(4, 1, bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[1.0, 2.0, -3.0, 4.0]]))
    masks = Masks.for_weights(layer)
    hook = MovementMasks(masks, Schedule("one-shot", target=0.5, begin=0.5, end=1.0), spread="layer", every=1)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.0)
    hook.start(2)
    for step, gradient in ((1, [[1.0, -1, -1, 0.5]]), (2, [[1.0, -1, -1, 0.5]])):
        layer.weight.grad = torch.tensor(gradient)
        hook.after_step(optimizer, step, 2)
        if step == 1:  # -gradient * weight = -1, 2, -3, -2: the first and third smallest go at half of the time
            assert hook.moved["weight"].tolist() == [[-1, 2, -3, -2]]
            assert masks.masks["weight"].tolist() == [[1, 1, 0, 0]]
    assert hook.moved["weight"].tolist() == [[-2, 4, -3, -2]]  # what is off moves no more
    assert masks.masks["weight"].tolist() == [[1, 1, 0, 0]]


def test_before_training_starts_from_the_initial_weights() -> None:
    thin = ran("before-training", epochs=0)
    initial = _setting().initial
    assert initial is not None
    for name, zero in off(thin).items():
        assert torch.equal(dict(thin.model.named_parameters())[name].detach(), initial[name] * ~zero)
    with pytest.raises(UserError, match="before training"):
        run_technique("before-training", replace(_setting(), initial=None))


def test_synflow_in_steps_leaves_a_path() -> None:
    thin = ran("before-training", density=0.1, epochs=0, criterion="synflow")
    x = _setting().task.example_inputs[0]
    assert thin.notes == ()
    assert bool((thin.model(x) - thin.model(x * 2)).abs().max() > 0)


def test_neuroprune_tells_the_reward_of_every_round() -> None:
    rounds = ran("neuroprune", density=0.2, epochs=4, rounds=4, lambda_weight=10.0).facts["rounds"]
    assert [one["round"] for one in rounds] == [1, 2, 3, 4]
    assert all(one["reward"] == pytest.approx(one["metric"] + 10 * one["sparsity"]) for one in rounds)
    sparsities = [one["sparsity"] for one in rounds]
    assert sparsities == sorted(sparsities)


@pytest.mark.parametrize(
    ("name", "density", "options", "said"),
    [
        ("filter", 0.01, {}, "do not make the network that small"),
        ("layer", 0.05, {}, "every block"),
        ("weight", 0.01, {}, "no mask covers"),
        ("weight", 0.5, {"criterion": "apoz"}, "scores whole units"),
        ("quantization-aware", 0.5, {"criterion": "snip"}, "needs data"),
        ("quantization-aware", 0.5, {"bits": 1}, "2 to 8 bits"),
        ("movement", 0.5, {"spread": "normalised"}, "no mean to be normalised by"),
        ("l1", 0.5, {"strength": -1.0}, "must not be negative"),
        ("dynamic", 0.5, {"share": 2.0}, "exchanges a share"),
        ("weight", 0.5, {"spread": "even"}, "option 'spread'"),
        ("group", 0.5, {"shape": "bricks"}, "unknown pattern"),
        ("weights", 0.5, {}, "did you mean 'weight'"),
    ],
)
def test_bad_options(name: str, density: float, options: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        ran(name, density, **options)


def test_a_network_without_inner_units() -> None:
    setting = replace(_setting(), model=nn.Sequential(nn.Flatten(), nn.Linear(36, 3)))
    with pytest.raises(UserError, match="no filters that can be removed"):
        run_technique("filter", setting)


@pytest.mark.parametrize("density", [0.0, 1.0, -1.0])
def test_densities_out_of_range(density: float) -> None:
    with pytest.raises(UserError, match="density"):
        replace(_setting(), density=density)
