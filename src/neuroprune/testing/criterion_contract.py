"""What every criterion of weights or units must keep to; third parties subclass the contract for their own."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from neuroprune.base.errors import UserError
from neuroprune.graph.trace import Trace, trace
from neuroprune.pruning.criteria import CRITERIA, Criterion, WeightView
from neuroprune.pruning.score import Scores, gather, saliencies, score


def _image_net(*layers: nn.Module, width: int) -> nn.Module:
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 3))


class _Shared(nn.Module):
    """Two layers with one weight: its rows and columns are the same units."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.again, self.more = nn.Linear(4, 6), nn.Linear(6, 6), nn.Linear(6, 6)
        self.more.weight = self.again.weight
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x).relu()
        x = x + self.again(x).relu()
        out: Tensor = self.head(x + self.more(x).relu())
        return out


def _linear(frozen: bool = False) -> nn.Module:
    net = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3))
    net[0].requires_grad_(not frozen)
    return net


#: name -> (network, shape of one example)
NETS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "linear": (_linear, (4,)),
    "frozen": (lambda: _linear(frozen=True), (4,)),
    "tied": (_Shared, (4,)),
    "conv": (
        lambda: _image_net(
            nn.Conv2d(2, 6, 3, padding=1), nn.ReLU(), nn.Conv2d(6, 5, 3, stride=2), nn.ReLU(), width=5
        ),
        (2, 7, 7),
    ),
    "batch_norm": (
        lambda: _image_net(
            nn.Conv2d(2, 6, 3), nn.BatchNorm2d(6), nn.ReLU(),
            nn.Conv2d(6, 5, 1), nn.BatchNorm2d(5), nn.ReLU(), width=5,
        ),
        (2, 6, 6),
    ),
    "grouped": (
        lambda: _image_net(
            nn.Conv2d(2, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(),
            nn.Conv2d(8, 6, 3, groups=2), nn.BatchNorm2d(6), nn.ReLU(),
            nn.Conv2d(6, 6, 1, groups=6), nn.BatchNorm2d(6), nn.ReLU(), width=6,
        ),
        (2, 6, 6),
    ),
}  # fmt: skip


class CriterionContract:
    """Subclass, set ``name`` to a registered criterion, and let pytest collect it.

    A criterion per weight is tried on a weight with made-up statistics; every criterion is tried on the networks
    of ``NETS``, with statistics from random data, in float64.
    """

    name: str

    def criterion(self) -> Criterion:
        return CRITERIA.get(self.name)

    def saliency(self, view: WeightView) -> Tensor:
        """Skips the test for criteria that score units as wholes."""
        function = self.criterion().saliency
        return pytest.skip("scores units, not weights") if function is None else function(view)

    def view(self, *, rows: int = 6, seed: int = 0) -> WeightView:
        """A [rows, 5] weight (or a [rows] scale) with every statistic a criterion may ask for."""
        generator = torch.Generator().manual_seed(seed)
        shape = (rows,) if self.criterion().looks == "scales" else (rows, 5)
        return WeightView(
            "layer.weight",
            torch.randn(shape, generator=generator),
            torch.rand(shape[-1], generator=generator) + 0.1,
            torch.randn(shape, generator=generator),
            torch.Generator().manual_seed(seed),
            torch.rand(shape[-1], generator=generator) + 0.1,
            torch.rand(shape[-1], generator=generator),
            torch.rand(shape, generator=generator),
            torch.rand(shape, generator=generator),
        )

    def net(self, kind: str) -> tuple[nn.Module, Trace, list[tuple[Tensor, Tensor]]]:
        """A network with random weights and norms, its trace, and three batches of examples with labels."""
        make, shape = NETS[kind]
        torch.manual_seed(3)
        model, batches = make().double(), []
        for tensor in (*model.parameters(), *(b for b in model.buffers() if b.is_floating_point())):
            tensor.data.uniform_(0.2, 1).mul_(tensor.data.sign() if tensor.dim() > 1 else 1)
        for size in (3, 4, 5):
            batches.append((torch.randn(size, *shape, dtype=torch.float64), torch.randint(0, 3, (size,))))
        with_scales = any(isinstance(m, nn.BatchNorm2d) for m in model.modules())
        if self.criterion().looks == "scales" and not with_scales:
            pytest.skip("looks at batch norms, and there are none")
        return model, trace(model, batches[0][0]), batches

    def scores(self, model: nn.Module, found: Trace, batches: list[tuple[Tensor, Tensor]]) -> Scores:
        statistics = gather(model, self.name, iter(batches), _forward, _loss, trace=found)
        return score(model, found, self.name, statistics, seed=1)

    def test_it_has_a_summary_and_a_source(self) -> None:
        entry = next(e for e in CRITERIA.entries() if e.name == self.name)
        assert entry.summary
        assert entry.source

    def test_it_scores_weights_or_units(self) -> None:
        rule = self.criterion()
        assert (rule.saliency is None) != (rule.units is None)

    def test_saliency_has_the_shape_of_the_weight_and_is_finite_and_not_negative(self) -> None:
        view = self.view()
        saliency = self.saliency(view)
        assert saliency.shape == view.weight.shape
        assert bool(saliency.isfinite().all())
        assert bool((saliency >= 0).all())

    def test_it_is_deterministic_and_leaves_its_input_alone(self) -> None:
        view, again = self.view(), self.view()
        first = self.saliency(view)
        assert torch.equal(first, self.saliency(again))
        for name, value in vars(self.view()).items():
            assert not isinstance(value, Tensor) or torch.equal(value, getattr(view, name)), name

    def test_a_zeroed_row_scores_lowest(self) -> None:
        view = self.view()
        view.weight[2] = 0
        rows = self.saliency(view).reshape(6, -1).sum(1)
        assert not self.criterion().zero_is_lowest or int(rows.argmin()) == 2

    @pytest.mark.parametrize("kind", NETS)
    def test_every_unit_has_a_finite_score_the_same_each_time(self, kind: str) -> None:
        model, found, batches = self.net(kind)
        first, again = (self.scores(model, found, batches) for _ in range(2))
        assert found.groups
        for group in found.groups:
            assert first[group.name].shape == (group.size,)
            assert np.isfinite(first[group.name]).all()
            assert (first[group.name] >= 0).all() or self.criterion().absolute
            np.testing.assert_array_equal(first[group.name], again[group.name])

    @pytest.mark.parametrize("kind", NETS)
    def test_a_unit_keeps_its_score_in_another_place(self, kind: str) -> None:
        if not self.criterion().equivariant:
            pytest.skip("scores places, not values")
        model, found, batches = self.net(kind)
        other, moved = copy.deepcopy(model), {}
        for number, group in enumerate(found.groups):
            moved[group.name] = np.random.default_rng(number).permutation(group.size)
        for name, tensor in _tensors(other).items():
            tensor.data.copy_(_permuted(name, tensor.data, found, moved))
        torch.testing.assert_close(_forward(other.eval(), batches[0]), _forward(model.eval(), batches[0]))
        before, after = self.scores(model, found, batches), self.scores(other, found, batches)
        for name, order in moved.items():
            np.testing.assert_allclose(after[name], before[name][order], rtol=1e-5, atol=1e-7)

    @pytest.mark.parametrize("kind", NETS)
    def test_no_unit_scores_less_than_one_of_zeros(self, kind: str) -> None:
        if not self.criterion().zero_is_lowest:
            pytest.skip("the formula does not say so")
        model, found, batches = self.net(kind)
        tensors = dict(model.named_parameters())
        for group in found.groups:
            for part in group.slices:
                if part.tensor in tensors:
                    tensors[part.tensor].data.index_fill_(part.dim, torch.as_tensor(part.indices[1]), 0)
        for name, values in self.scores(model, found, batches).items():
            assert values[1] == values.min() < values.max(), name

    @pytest.mark.parametrize("kind", NETS)
    def test_the_model_stays_as_it_was(self, kind: str) -> None:
        model, found, batches = self.net(kind)
        for parameter in model.parameters():
            parameter.grad = torch.ones_like(parameter)
        frozen = next(model.children())
        frozen.eval()
        before, state = _facts(model), copy.deepcopy(model.state_dict())
        self.scores(model, found, batches)
        assert _facts(model) == before
        assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
        free = [p for p in model.parameters() if p.requires_grad]
        assert all(p.grad is not None and bool((p.grad == 1).all()) for p in free)

    def test_what_it_needs_must_be_given(self) -> None:
        model, found, _ = self.net("batch_norm")
        if not self.criterion().needs:
            assert gather(model, self.name, None, None) is not None
            return
        with pytest.raises(UserError, match="needs data"):
            score(model, found, self.name)
        with pytest.raises(UserError, match="needs data"):
            gather(model, self.name, None, None)
        with pytest.raises(UserError, match="no batch"):
            gather(model, self.name, [], _forward, _loss, trace=found)

    def test_single_weights_are_scored_or_refused_with_a_reason(self) -> None:
        model, found, batches = self.net("batch_norm")
        rule, statistics = self.criterion(), gather(model, self.name, batches, _forward, _loss, trace=found)
        if rule.saliency is None:
            with pytest.raises(UserError, match="whole units"):
                saliencies(model, rule, statistics, 0)
            return
        named = dict(model.named_parameters())
        for name, saliency in saliencies(model, rule, statistics, 0).items():
            assert saliency.shape == named[name].shape


def _forward(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Any:
    return model(batch[0])


def _loss(batch: tuple[Tensor, Tensor], output: Tensor) -> Tensor:
    return nn.functional.cross_entropy(output, batch[1])


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    return dict(model.named_parameters()) | dict(model.named_buffers())


def _permuted(name: str, tensor: Tensor, found: Trace, moved: dict[str, np.ndarray]) -> Tensor:
    """``tensor`` with unit ``order[i]`` of each group where unit i was."""
    for group in found.groups:
        for part in group.slices:
            if part.tensor == name:
                places = torch.arange(tensor.shape[part.dim])
                new = torch.as_tensor(part.indices[moved[group.name]])
                places[torch.as_tensor(part.indices).flatten()] = new.flatten()
                tensor = tensor.index_select(part.dim, places)
    return tensor


def _facts(model: nn.Module) -> list[Any]:
    modules = [(m.training, len(m._forward_pre_hooks), len(m._forward_hooks)) for m in model.modules()]
    return [*modules, *(p.requires_grad for p in model.parameters()), torch.is_grad_enabled()]
