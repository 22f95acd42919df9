"""Each criterion's formula against numbers written out by hand, or a slow independent truth, on tiny networks."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from pruning.chain import Chain
from torch import Tensor, nn
from torch.nn import functional as F

from neuroprune.base.errors import UserError
from neuroprune.graph import trace
from neuroprune.pruning import CRITERIA, gather, loss_change, prune, prune_depth, saliencies, score
from neuroprune.pruning.criteria import obs
from neuroprune.pruning.path_strength import path_gradients
from neuroprune.pruning.statistics import Statistics

X = torch.tensor([[1.0, 2]])  # Chain: hidden 3, 6, 6; output 6 + 6 + 18


def weights(name: str, model: nn.Module, batches: Sequence[Tensor] = (X,)) -> dict[str, Tensor]:
    statistics = gather(model, name, batches, lambda m, b: m(b), lambda b, y: y.sum())
    return saliencies(model, CRITERIA.get(name), statistics, 0)


def units(name: str, model: nn.Module, batches: Sequence[Tensor] = (X,), labels: bool = True) -> np.ndarray:
    found, loss = trace(model, batches[0]), (lambda b, y: y.sum()) if labels else None
    statistics = gather(model, name, batches, lambda m, b: m(b), loss, trace=found)
    (scores,) = score(model, found, name, statistics).values()
    return scores


def close(found: Tensor | np.ndarray, expected: object, rtol: float = 1e-5) -> None:
    np.testing.assert_allclose(np.asarray(found), np.array(expected), rtol=rtol)


def at_mean_one(values: Sequence[float]) -> np.ndarray:
    return np.array(values) / np.mean(values)


class Middle(nn.Module):
    """A chain with something between its two layers."""

    def __init__(self, middle: nn.Module) -> None:
        super().__init__()
        chain = Chain()
        self.a, self.middle, self.b = chain.a, middle, chain.b

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.middle(self.a(x)))


def norm(**values: Sequence[float]) -> nn.BatchNorm1d:
    """var + eps = 1 unless given."""
    layer = nn.BatchNorm1d(3, eps=1.0).eval()
    layer.running_var.zero_()
    for name, numbers in values.items():
        getattr(layer, name).data.copy_(torch.tensor(numbers))
    return layer


def test_lamp() -> None:
    found = weights("lamp", Chain())  # squares 0 1 1 4 4 9
    close(found["a.weight"], [[1 / 19, 1 / 19], [4 / 17, 4 / 17], [0, 1]])
    close(found["b.weight"], [[4 / 13, 1 / 14, 1]])


def test_lamp_of_a_layer_of_zeros() -> None:
    model = Chain()
    model.a.weight.data.zero_()
    assert torch.equal(weights("lamp", model)["a.weight"], torch.zeros(3, 2))


def test_wanda() -> None:
    found = weights("wanda", Chain(), [torch.tensor([[1.0, -1]]), torch.tensor([[3.0, 1]])])
    close(found["a.weight"], np.array([[1, 1], [2, 2], [0, 3]]) * np.sqrt([10, 2]))
    close(found["b.weight"], [[2 * 4, 1 * 8, 3 * math.sqrt(18)]])  # hidden: 0 0 -3; 4 8 3


def test_snip_and_taylor_per_weight() -> None:
    found, squared = weights("snip", Chain()), weights("taylor", Chain())
    for name, expected in {"a.weight": [[2, 4], [2, 4], [0, 18]], "b.weight": [[6, 6, 18]]}.items():
        close(found[name], expected)
        close(squared[name], np.square(expected))


def test_taylor_of_whole_filters() -> None:
    close(units("taylor_filter", Chain()), at_mean_one([6**2, 6**2, 18**2]))
    model = Chain()
    model.a.weight.data[0] = torch.tensor([2.0, -1])  # the changes of its two weights cancel
    close(units("taylor_filter", model), at_mean_one([0, 6**2, 18**2]))


def test_taylor_of_gates() -> None:
    model = Middle(norm(weight=[1, 2, 3], bias=[1, 0, -1]))  # dL/dgamma = 6 6 18, dL/dbeta = 2 1 3
    close(units("taylor_gate", model), at_mean_one([8**2, 12**2, 51**2]))


def test_magnitude_and_gradient() -> None:
    magnitude, gradient = np.array([2, 4, 3]) / 3, np.array([6, 3, 9]) / 6
    close(units("magnitude_and_gradient", Chain()), at_mean_one(np.maximum(magnitude, gradient)))


def test_fpgm() -> None:
    to_third = math.sqrt(5)  # (1, 1), (2, 2), (0, 3)
    close(units("fpgm", Chain()), at_mean_one([math.sqrt(2) + to_third, math.sqrt(2) + to_third, 2 * to_third]))


def test_apoz() -> None:
    x = torch.tensor([[1.0, -1], [3, 1], [-3, 1]])  # behind the ReLU: 0 0 0; 4 8 3; 0 0 3
    close(units("apoz", Middle(nn.ReLU()), [x[:2], x[2:]]), at_mean_one([1 / 3, 1 / 3, 2 / 3]))


@pytest.mark.parametrize("labels", [True, False])
def test_sensitivity(labels: bool) -> None:
    lost = [6, 6, 18]  # of 30
    expected = [-v for v in lost] if labels else [(v / 30) ** 2 for v in lost]
    close(units("sensitivity", Chain(), labels=labels), expected)
    assert units("sensitivity", Chain(), [X, 2 * X])[0] == -9  # mean over the batches


def test_sensitivity_in_large_groups_takes_units_of_like_size_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loss_change, "MOST", 2)
    model = Chain()
    model.b.weight.data[0, 0] = 0.5  # squared norms 2.25, 9, 18; the first two cost 1.5 and 6
    close(units("sensitivity", model), [-3.75, -3.75, -18])


def test_path_strength() -> None:
    found, squared = weights("synflow", Chain()), weights("connectivity", Chain())
    close(found["a.weight"], [[2, 2], [2, 2], [0, 9]])
    close(found["b.weight"], [[4, 4, 9]])
    close(squared["a.weight"], [[4, 4], [4, 4], [0, 81]])
    close(squared["b.weight"], [[8, 8, 81]])
    model = Chain()
    model.a.weight.data.neg_()
    close(weights("synflow", model)["b.weight"], [[4, 4, 9]])


@pytest.mark.parametrize(
    "middle",
    [nn.ReLU(), nn.ReLU6(), nn.Sigmoid(), nn.Tanh(), nn.GELU(), nn.SiLU(), nn.Hardswish(), nn.Softmax(1),
     nn.PReLU(), nn.LogSoftmax(1), nn.Hardsigmoid(inplace=True), nn.LayerNorm(3), nn.RMSNorm(3),
     nn.GroupNorm(1, 3), norm()],
    ids=lambda module: type(module).__name__,
)  # fmt: skip
def test_activations_and_norms_pass_the_strength_of_paths(middle: nn.Module) -> None:
    (found,) = weights("synflow", Middle(middle))["b.weight"].tolist()
    assert min(abs(found[0] - 4), abs(found[0] - 4 / 3)) < 1e-6  # what is bounded has mean one: hidden 2 4 3
    close(at_mean_one(found), at_mean_one([4, 4, 9]))


def test_batch_norms_scale_paths_and_begin_some() -> None:
    model = Middle(norm(weight=[1, -2, 3], bias=[0, 0, -5], running_mean=[7, 7, 7], running_var=[0, 3, 8]))
    found, squared = weights("synflow", model), weights("connectivity", model)
    close(found["b.weight"], [[2 * 2 * 1, 1 * 4 * 2 / 2, 3 * (3 * 3 / 3 + 5)]])
    close(squared["b.weight"], [[4 * 2, 1 * 8 * 4 / 4, 9 * (9 * 9 / 9 + 25)]])


class Gates(nn.Module):
    """Channels multiplied by gates, over and over."""

    def __init__(self, depth: int = 12) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(3, 3) for _ in range(depth))
        self.gates = nn.ModuleList(nn.Linear(3, 3) for _ in range(depth))
        self.head = nn.Linear(3, 1)

    def forward(self, x: Tensor) -> Tensor:
        for layer, gate in zip(self.layers, self.gates, strict=True):
            x = layer(x)
            x = x * gate(x).sigmoid()
        return self.head(x)


def test_paths_through_gates_stay_finite() -> None:
    model = Gates()
    for parameter in model.parameters():
        parameter.data.mul_(100)
    found = weights("synflow", model, [torch.zeros(1, 3)])
    assert all(bool(value.isfinite().all()) and float(value.max()) > 0 for value in found.values())


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.tokens = nn.Embedding(7, 8)
        self.layer = nn.TransformerEncoderLayer(8, 2, 12, batch_first=True, activation="gelu")
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layer(self.tokens(x))).log_softmax(-1)


@pytest.mark.parametrize("criterion", ["synflow", "connectivity"])
def test_paths_lead_through_a_transformer_and_need_no_data(criterion: str) -> None:
    model, x = Attention(), torch.randint(0, 7, (2, 5))
    found = path_gradients(model, lambda m, b: m(b), x)[0]
    assert float(found["layer.linear1.weight"].min()) > 0
    result = prune(model, x, 0.5, criterion=criterion)
    assert result.verification.exact
    assert result.model.layer.linear1.out_features == 6
    assert result.plan.decisions[0].criterion == criterion
    prune_depth(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1)), X, criterion=criterion)


def test_paths_of_an_exported_graph_are_those_of_the_module() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.SiLU(inplace=True), nn.Conv2d(8, 8, 3, groups=2),
        nn.InstanceNorm2d(8, affine=True), nn.GroupNorm(2, 8), nn.ReLU6(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(8, 6), nn.LayerNorm(6), nn.RMSNorm(6), nn.GELU(), nn.Linear(6, 3), nn.Softmax(1),
    ).eval()  # fmt: skip
    plans = [
        prune(model, torch.randn(2, 3, 9, 9), criterion="connectivity", tier=tier).plan
        for tier in ("module", "exported")
    ]
    for one, other in zip(*(plan.decisions for plan in plans), strict=True):
        close(np.array(other.scores), one.scores, rtol=1e-5)
        assert max(one.scores) > min(one.scores)


def test_a_network_without_paths_is_an_error() -> None:
    with pytest.raises(UserError, match="no path leads"):
        gather(Middle(nn.Threshold(0, 0)).eval(), "synflow", [X], lambda m, b: m(b).detach().requires_grad_())


def test_strength_beyond_float64_is_an_error() -> None:
    deep = nn.Sequential(*[nn.Linear(2, 2) for _ in range(4)])
    for layer in deep:
        layer.weight.data.fill_(1e38)
    deep.append(nn.Sequential(*deep[:4], *deep[:4], *deep[:4]))
    with pytest.raises(UserError, match="strength of the paths is not finite"):
        gather(deep, "synflow", [X], lambda m, b: m(b))


class TwoReaders(nn.Module):
    """Channels of one convolution, read by a grouped one and by a linear layer, through four positions each."""

    def __init__(self) -> None:
        super().__init__()
        self.make = nn.Conv2d(2, 4, 1)
        self.grouped = nn.Conv2d(4, 6, 2, groups=2, padding=1, stride=2)
        self.linear = nn.Linear(16, 3, bias=False)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.make(x).tanh()
        return self.grouped(x), self.linear(x.flatten(1))


def refitted(weight: Tensor, columns: Tensor, gone: list[int]) -> float:
    """Squared error of ``weight @ columns`` by the best weights without some columns, by least squares."""
    target, left = weight @ columns, [c for c in range(columns.shape[0]) if c not in gone]
    best = torch.linalg.lstsq(columns[left].T, target.T).solution
    return float((target.T - columns[left].T @ best).square().sum())


def test_obs_is_the_error_after_a_refit_summed_over_all_consumers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(obs, "DAMPING", 1e-13)
    model, x = TwoReaders().double(), torch.randn(40, 2, 2, 2, dtype=torch.float64)
    found = trace(model, x)
    statistics = gather(model, "obs", x.split(7), lambda m, b: m(b))
    scores = score(model, found, "obs", statistics)
    group = next(g for g in found.groups if g.name == "make")  # a unit: the same channel of both groups
    hidden = model.make(x).tanh().detach()
    patches = F.unfold(hidden, 2, padding=1, stride=2).transpose(0, 1).flatten(1)  # [16, rows]
    grouped, energy, errors = model.grouped.weight.detach().flatten(1), 0.0, np.zeros(group.size)
    ones = torch.ones(1, patches.shape[1], dtype=torch.float64)
    for half in range(2):
        mine, inputs = grouped[3 * half : 3 * half + 3], patches[8 * half : 8 * half + 8]
        energy += float((mine @ inputs).square().sum())
        padded = torch.cat([mine, mine.new_zeros(3, 1)], 1)
        for unit in range(group.size):
            columns = [4 * unit + k for k in range(4)]
            errors[unit] += refitted(padded, torch.cat([inputs, ones]), columns)
    expected = errors / energy
    linear, flat = model.linear.weight.detach(), hidden.flatten(1).T
    for unit in range(group.size):
        columns = [4 * channel + k for channel in (unit, unit + 2) for k in range(4)]
        expected[unit] += refitted(linear, flat, columns) / float((linear @ flat).square().sum())
    close(scores["make"], expected, rtol=1e-6)


def test_obs_of_uncorrelated_inputs_is_their_share_of_the_output() -> None:
    model = Chain()
    model.a.weight.data = torch.tensor([[1.0, 0], [0, 1], [0, 0]])
    x = torch.tensor([[1.0, 1], [1, -1], [2, 0]])  # hidden squares 6, 2, 0; weights 2, 1, 3
    np.testing.assert_allclose(units("obs", model, [x]), [24 / 26, 2 / 26, 0], atol=1e-3)
    model.a.weight.data[2] = torch.tensor([1.0, 0])  # a copy of the first: each can stand in for the other
    assert units("obs", model, [x])[0] < 1e-3


def test_what_a_unit_criterion_lacks_is_said() -> None:
    model = Chain()
    found = trace(model, X)
    with pytest.raises(UserError, match="needs to know the units"):
        gather(model, "sensitivity", [X], lambda m, b: m(b))
    for name in ("obs", "apoz", "taylor_filter", "taylor_gate", "sensitivity"):
        with pytest.raises(UserError, match="finds nothing to score"):
            score(model, found, name, Statistics())
    model.a.weight.data[0] = float("nan")
    with pytest.raises(UserError, match="not finite"):
        score(model, found, "fpgm")
    with pytest.raises(UserError, match="needs data"):
        prune(model, X, criterion="obs")
