"""Every criterion passes the contract; scores of units against sums written out by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from graph.nets import Residual
from pruning.chain import Chain
from torch import Tensor, nn

from neuroprune.base.errors import UserError
from neuroprune.graph import trace
from neuroprune.pruning import CRITERIA, gather, prune, score
from neuroprune.pruning.criteria import GroupView, WeightView, average, criterion, unit_criterion
from neuroprune.pruning.statistics import track_activations
from neuroprune.testing import CriterionContract

for _name in CRITERIA.names():
    globals()[f"Test_{_name}"] = type(f"Test_{_name}", (CriterionContract,), {"name": _name})


@criterion("third_party_cube", summary="cubed magnitude", source="a plug-in")
def cube(view: WeightView) -> Tensor:
    return view.weight.abs() ** 3


class TestThirdParty(CriterionContract):
    name = "third_party_cube"


@unit_criterion(
    "third_party_peak", summary="largest weight of the filter", source="a plug-in", needs=("gradients",)
)
def peak(view: GroupView) -> Tensor:
    return average(part.weights.abs().amax(1) for part in view.rows)


class TestThirdPartyOfUnits(CriterionContract):
    name = "third_party_peak"


def test_unit_scores_average_producer_and_consumer_at_mean_one() -> None:
    model = Chain()
    scores = score(model, trace(model, torch.randn(1, 2)), "l1")["a"]
    producer, consumer = np.array([2, 4, 3]) / 3, np.array([2, 1, 3]) / 2
    np.testing.assert_allclose(scores, (producer + consumer) / 2)


def test_activation_scores_are_weight_times_mean_input() -> None:
    model, x = Chain(), torch.tensor([[1.0, -1], [3, 1]])
    magnitude = track_activations(model, lambda m, b: m(b), [x[:1], x[1:]])
    assert torch.allclose(magnitude["a.weight"], torch.tensor([2.0, 1]))
    hidden = model.a(x).abs().mean(0)
    assert torch.allclose(magnitude["b.weight"], hidden)
    stats = gather(model, "activation", [x], lambda m, b: m(b))
    scores = score(model, trace(model, x), "activation", stats)["a"]
    first = (model.a.weight.abs() * torch.tensor([2.0, 1])).sum(1).detach().numpy()
    second = (model.b.weight.abs() * hidden)[0].detach().numpy()
    np.testing.assert_allclose(scores, (first / first.mean() + second / second.mean()) / 2, rtol=1e-6)


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.Conv2d(4, 6, 3, groups=2), (2, 4, 5, 5)),
        (nn.Conv1d(4, 8, 1, groups=4), (2, 4, 5)),
        (nn.ConvTranspose2d(4, 6, 3, groups=2), (2, 4, 5, 5)),
        (nn.Conv3d(2, 3, 1), (2, 2, 3, 3, 3)),
    ],
)
def test_input_magnitude_lines_up_with_the_weight(layer: nn.Module, shape: tuple[int, ...]) -> None:
    """Brute force: silence one input channel at a time and see which weights lose their input."""
    x = torch.rand(shape) + 0.5
    for channel in range(shape[1]):
        silent = x.clone()
        silent[:, channel] = 0
        magnitude = track_activations(layer, lambda m, b: m(b), [silent])["weight"].expand_as(layer.weight)
        probe = torch.zeros_like(silent)
        probe[:, channel] = 1
        layer.zero_grad()
        layer(probe).square().sum().backward()
        uses_channel = (layer.weight.grad != 0).flatten(2).any(-1) if layer.weight.dim() > 2 else None
        assert torch.equal(uses_channel, (magnitude == 0).flatten(2).any(-1))


def test_taylor_is_the_squared_loss_change_and_leaves_grads_alone() -> None:
    model, x = Chain(), torch.tensor([[1.0, 2]])
    stats = gather(model, "taylor", [x], lambda m, b: m(b), lambda b, y: y.sum())
    assert torch.allclose(stats.gradient["b.weight"], model.a(x))
    assert model.a.weight.grad is None


def test_taylor_of_frozen_weights_is_that_of_free_ones() -> None:
    x = torch.tensor([[1.0, 2]])
    for layers in (("a",), ("a", "b")):
        model = Chain()
        expected = gather(model, "taylor", [x], lambda m, b: m(b), lambda b, y: y.sum()).gradient
        for name in layers:
            model.get_submodule(name).requires_grad_(False)
        found = gather(model, "taylor", [x], lambda m, b: m(b), lambda b, y: y.sum()).gradient
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[name], expected[name]) for name in found)
        assert not any(p.requires_grad for name in layers for p in model.get_submodule(name).parameters())


class Vectors(nn.Module):
    """The units of ``scale`` own two vectors and no matrix: most criteria have nothing to look at."""

    def __init__(self) -> None:
        super().__init__()
        self.scale, self.shift = nn.Parameter(torch.rand(8)), nn.Parameter(torch.rand(8))
        self.a, self.out = nn.Linear(3, 6), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        gate = (x.sum(1, keepdim=True) * self.scale + self.shift).sum(1, keepdim=True)
        return self.out(self.a(x).relu()) * gate


def test_random_scores_units_without_a_matrix_and_the_others_say_what_to_keep() -> None:
    model, x = Vectors(), torch.randn(4, 3)
    found = trace(model, x)
    one, again, other = (score(model, found, "random", seed=seed)["scale"] for seed in (0, 0, 1))
    np.testing.assert_array_equal(one, again)
    np.testing.assert_allclose(one.mean(), 1)
    assert len(set(one)) == 8
    assert not np.array_equal(one, other)
    assert prune(model, x, criterion="random").model.scale.shape == (4,)
    with pytest.raises(UserError, match=r"nothing to score(.|\n)*where: scale(.|\n)*keep=\['out\*', 'scale'\]"):
        prune(model, x, keep=["out*"])
    with pytest.raises(UserError, match=r"keep=\['scale'\]"):
        prune(model, x)
    result = prune(model, x, keep=["scale"])
    assert result.model.scale.shape == (8,)
    assert result.model.a.weight.shape == (3, 3)


def test_missing_statistics_and_unscorable_groups_are_named() -> None:
    model = Chain()
    with pytest.raises(UserError, match="needs a loss"):
        gather(model, "taylor", [torch.randn(1, 2)], lambda m, b: m(b))
    with pytest.raises(UserError, match="finds nothing to score"):
        score(model, trace(model, torch.randn(1, 2)), "bn_scale")
    broken = Residual()
    with torch.no_grad():
        broken.a.weight[0, 0, 0, 0] = float("nan")
    with pytest.raises(UserError, match="not finite"):
        score(broken, trace(broken, torch.randn(1, 3, 8, 8)), "l2")
