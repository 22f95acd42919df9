"""Trained values of code books against a network whose parameters are those values; resumed, masked, attacked."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from interrupting import Stop
from torch import Tensor, nn
from torch.nn import functional

from neuroprune.base.errors import UserError
from neuroprune.compression.cluster import ClusterReport, cluster_weights
from neuroprune.pruning.masks import Masks
from neuroprune.recover.fit import FitConfig, fit
from neuroprune.recover.held_clusters import HeldClusters, Shared
from neuroprune.tasks.make import make_task
from neuroprune.tasks.task import Task


def net() -> nn.Sequential:
    torch.manual_seed(3)
    model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 3)).double()
    with torch.no_grad():
        model[0].weight[model[0].weight.abs() < 0.15] = 0  # pruned
    return model


def clustered(scope: Any = "tensor", k: int = 4) -> tuple[nn.Sequential, ClusterReport]:
    model = net()
    return model, cluster_weights(model, k=k, scope=scope)


def hook_of(model: nn.Module, report: ClusterReport, gradient: Shared = "sum") -> HeldClusters:
    return HeldClusters(model, [book.tensors for book in report.books], gradient)


def task() -> Task:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(24, 6, generator=generator, dtype=torch.float64)
    data = (x, (x @ torch.arange(18.0, dtype=torch.float64).view(6, 3).sin()).argmax(1))
    return make_task(train=data, val=data, batch_size=8)


class OfValues(nn.Module):
    """The truth: the same network, whose parameters are the values of the books; columns, so that they decay."""

    def __init__(self, model: nn.Sequential, books: list[list[str]]) -> None:
        super().__init__()
        self.values, self.book_of, self.fixed = nn.ParameterList(), dict[str, tuple[int, Tensor]](), list[Tensor]()
        tensors = dict(model.named_parameters())
        for number, names in enumerate(books):
            values = torch.cat([tensors[name].detach().flatten() for name in names]).unique()
            self.values.append(nn.Parameter(values.view(-1, 1).clone()))
            self.fixed.append((values != 0).double())
            for name in names:
                codes = torch.searchsorted(values, tensors[name].detach().contiguous())
                self.book_of[name] = (number, codes)
        self.biases = nn.ParameterList(nn.Parameter(model[i].bias.detach().clone()) for i in (0, 2, 4))

    def weight(self, name: str) -> Tensor:
        number, codes = self.book_of[name]
        return (self.values[number].flatten() * self.fixed[number])[codes]

    def forward(self, x: Tensor) -> Tensor:
        for place, layer in enumerate(("0", "2", "4")):
            x = functional.linear(x, self.weight(f"{layer}.weight"), self.biases[place])
            x = x.tanh() if layer != "4" else x
        return x


def use_means(truth: OfValues) -> None:
    for number, values in enumerate(truth.values):
        codes = torch.cat([c.flatten() for n, c in truth.book_of.values() if n == number])
        members = torch.bincount(codes).view(-1, 1)
        values.register_hook(lambda gradient, members=members: gradient / members)


@pytest.mark.parametrize("gradient", ["sum", "mean"])
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("scope", ["tensor", "network"])
def test_as_if_the_values_were_the_parameters(scope: Any, optimizer: Any, gradient: Shared) -> None:
    """Momentum, weight decay, Adam's moments, and a clipping that is at work in every step."""
    config = FitConfig(4, lr=0.02, optimizer=optimizer, weight_decay=0.05, momentum=0.9, clip_norm=0.3)
    model, report = clustered(scope)
    start = copy.deepcopy(model)
    truth = OfValues(model, [list(book.tensors) for book in report.books])
    if gradient == "mean":
        use_means(truth)
    fit(truth, task(), config)
    fit(model, task(), config, hook=hook_of(model, report, gradient))
    for name in ("0.weight", "2.weight", "4.weight"):
        found, before = model.get_parameter(name).detach(), start.get_parameter(name).detach()
        assert torch.allclose(found, truth.weight(name), rtol=1e-9, atol=1e-12), name
        assert len(found.unique()) <= 4
        assert (found - before).abs().max() > 1e-3
    assert torch.equal(model[0].weight == 0, start[0].weight == 0)
    assert torch.allclose(model[4].bias, truth.biases[2], rtol=1e-9, atol=1e-12)


def test_by_hand_sum_and_mean() -> None:
    """y = w x, loss = y: the gradient of each weight is its input."""
    for gradient, expected in (("sum", [[-9.0, -9.0, 0.0, 3.0]]), ("mean", [[-4.0, -4.0, 0.0, 3.0]])):
        layer = nn.Linear(4, 1, bias=False)
        with torch.no_grad():
            layer.weight.copy_(torch.tensor([[1.0, 1.0, 0.0, 7.0]]))
        optimizer = torch.optim.SGD(layer.parameters(), lr=1.0)
        with HeldClusters(layer, [["weight"]], gradient).hold(optimizer):  # type: ignore[arg-type]
            layer(torch.tensor([[3.0, 7.0, 5.0, 4.0]])).sum().backward()
            optimizer.step()
        assert layer.weight.tolist() == expected


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("batches", [0, 3, 4, 7, 8])
def test_interrupted_it_ends_in_the_same_bits(tmp_path: Path, optimizer: Any, batches: int) -> None:
    config = FitConfig(3, lr=0.05, optimizer=optimizer)
    whole, report = clustered("network")
    fit(whole, task(), config, hook=hook_of(whole, report))
    stopped, report = clustered("network")
    with pytest.raises(KeyboardInterrupt):
        fit(stopped, task(), config, hook=hook_of(stopped, report), checkpoint=tmp_path, progress=Stop(batches))
    again, report = clustered("network")
    fit(again, task(), config, hook=hook_of(again, report), checkpoint=tmp_path)
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), again.parameters(), strict=True))


def test_a_checkpoint_of_other_clusters_is_refused(tmp_path: Path) -> None:
    model, report = clustered()
    fit(model, task(), FitConfig(1), hook=hook_of(model, report), checkpoint=tmp_path)
    other, report = clustered(k=5)
    with pytest.raises(UserError, match="another training run"):
        fit(other, task(), FitConfig(1), hook=hook_of(other, report), checkpoint=tmp_path)
    with pytest.raises(UserError, match="other clusters"):
        hook_of(other, report).load_state(hook_of(*clustered()).state())


def test_under_masks_zeros_stay_and_values_move() -> None:
    model = net()
    masks = Masks.for_weights(model)
    for mask in masks.masks.values():
        mask.copy_((torch.arange(mask.numel()).view(mask.shape) % 3 != 0).double())
    masks.apply()
    report = cluster_weights(model, k=4)
    before = copy.deepcopy(model)
    fit(model, task(), FitConfig(3, lr=0.1), hook=hook_of(model, report), after_step=masks.apply)
    for name, mask in masks.masks.items():
        weight = model.get_parameter(name)
        assert torch.equal(weight == 0, before.get_parameter(name) == 0)
        assert not weight[mask == 0].any()
        assert len(weight.unique()) <= 4
        assert not torch.equal(weight, before.get_parameter(name))


def test_early_stopping_goes_back_to_a_clustered_network() -> None:
    model, report = clustered()
    records = fit(model, task(), FitConfig(30, lr=0.6, patience=3), hook=hook_of(model, report))
    assert len(records) < 30  # it stopped
    best = max(records, key=lambda record: record.val_metric)
    assert records[-1].val_metric < best.val_metric
    assert task().evaluate(model, task().val) == best.val_metric
    assert all(len(p.unique()) <= 4 for p in model.parameters() if p.dim() > 1)


class Recurrent(nn.Module):
    """An embedding with sparse gradients, an LSTM whose four matrices share a book, attention, an unused layer."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(11, 8, sparse=True)
        self.lstm = nn.LSTM(8, 8, num_layers=2, batch_first=True)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.unused = nn.Linear(8, 8)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        y, _ = self.lstm(self.words(x))
        y, _ = self.attention(y, y, y)
        found: Tensor = self.head(y.mean(1))
        return found


@pytest.mark.parametrize("scope", ["layer", "network"])
def test_recurrent_attention_and_embedding_layers_keep_their_books(scope: Any) -> None:
    torch.manual_seed(0)
    model = Recurrent()
    report = cluster_weights(model, k=8, scope=scope)
    x = torch.randint(0, 11, (16, 5), generator=torch.Generator().manual_seed(1))
    data = make_task(train=(x, x[:, 0] % 3), val=(x, x[:, 0] % 3), batch_size=8)
    before = copy.deepcopy(model.state_dict())
    fit(model, data, FitConfig(2, lr=0.05), hook=hook_of(model, report))
    parameters = dict(model.named_parameters())
    for book in report.books:
        values = torch.cat([parameters[name].detach().flatten() for name in book.tensors])
        assert len(values.unique()) <= 8
    for name in ("words.weight", "lstm.weight_hh_l1", "attention.in_proj_weight", "head.weight"):
        assert not torch.equal(before[name], parameters[name]), name


def test_channels_last_gradients() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(16, 3))
    report = cluster_weights(model, k=5)
    other = copy.deepcopy(model).to(memory_format=torch.channels_last)
    x = torch.randn(16, 3, 4, 4)
    for one, data in ((model, x), (other, x.to(memory_format=torch.channels_last))):
        made = make_task(train=[(data, torch.arange(16) % 3)], val=[(data, torch.arange(16) % 3)])
        fit(one, made, FitConfig(3, lr=0.1), hook=hook_of(one, report))
    assert torch.allclose(model[0].weight, other[0].weight, atol=1e-5)
    assert len(other[0].weight.unique()) <= 5


def test_what_cannot_be_held_is_said() -> None:
    model, report = clustered("network")
    with pytest.raises(UserError, match="no such parameter"):
        HeldClusters(model, [["3.weight"]])
    with pytest.raises(UserError, match="one book"):
        HeldClusters(model, [["0.weight"], ["0.weight"]])
    with pytest.raises(UserError, match="sum or mean"):
        HeldClusters(model, [], "median")  # type: ignore[arg-type]
    model[2].weight.requires_grad_(False)
    with pytest.raises(UserError, match="together") as caught:
        hook_of(model, report)
    assert caught.value.where == "2.weight"


def test_a_frozen_book_stays_and_an_empty_list_is_fine() -> None:
    model, report = clustered()
    model[2].weight.requires_grad_(False)
    before = model[2].weight.clone()
    fit(model, task(), FitConfig(1, lr=0.1), hook=hook_of(model, report))
    assert torch.equal(model[2].weight, before)
    fit(model, task(), FitConfig(1), hook=HeldClusters(model, [[]]))
