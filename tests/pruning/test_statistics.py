"""One streaming pass: the same sums however the data is cut into batches, and nothing of it is kept."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator

import pytest
import torch
from graph.nets import Residual
from torch import Tensor, nn

from neuroprune.graph import trace
from neuroprune.pruning import statistics as module
from neuroprune.pruning.statistics import Statistics, collect

EVERYTHING = ("activations", "gradients", "hessian", "paths", "loss")


def small() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Conv2d(4, 3, 2),
        nn.Flatten(),
        nn.Linear(27, 2),
    ).double()


def gathered(model: nn.Module, batches: Iterator[Tensor], shape: tuple[int, ...]) -> Statistics:
    found = trace(model, torch.zeros(shape, dtype=next(model.parameters()).dtype))
    return collect(model, EVERYTHING, batches, lambda m, b: m(b), lambda b, y: y.square().sum(), found)


def test_batches_of_any_size_give_the_same_sums(monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = small(), torch.randn(12, 2, 4, 4, dtype=torch.float64)
    whole = gathered(model, iter([x]), (1, 2, 4, 4))
    monkeypatch.setattr(module, "_PORTION", 1)  # one example's columns at a time
    for sizes in ([1] * 12, [5, 5, 2]):
        parts = gathered(model, iter(x.split(sizes)), (1, 2, 4, 4))
        for kind, values in vars(whole).items():
            assert values, kind
            assert vars(parts)[kind].keys() == values.keys()
            for name, value in values.items():
                # a mean over the batches of a sum; a sum over the outputs of the first batch
                scale = len(sizes) if kind == "loss_change" else len(x) / sizes[0] if "path" in kind else 1
                torch.testing.assert_close(vars(parts)[kind][name] * scale, value)


def test_nothing_grows_with_the_number_of_samples() -> None:
    """At no time are tensors alive that belong to more than two batches, and what stays has the same size."""
    seen: list[weakref.ref[Tensor]] = []
    most, sizes = [0], []

    class Watching(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = small()

        def forward(self, x: Tensor) -> Tensor:
            out = self.net(x)
            seen.extend((weakref.ref(x), weakref.ref(out)))
            gc.collect()
            most[0] = max(most[0], sum(tensor() is not None for tensor in seen))
            return out

    for count in (3, 12):
        model = Watching()
        batches = (torch.randn(2, 2, 4, 4, dtype=torch.float64) for _ in range(count))
        kept = collect(model, ("activations", "gradients", "hessian"), batches, lambda m, b: m(b), _loss)
        sizes.append(sum(t.untyped_storage().nbytes() for values in vars(kept).values() for t in values.values()))
        assert most[0] <= 4
    assert sizes[0] == sizes[1]


def _loss(batch: Tensor, output: Tensor) -> Tensor:
    return output.square().sum()


def test_layers_with_one_weight_share_its_sums_and_wider_inputs_are_rows() -> None:
    model = nn.Sequential(nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False)).double()
    model[1].weight = model[0].weight
    x = torch.randn(2, 4, 3, dtype=torch.float64)
    found = collect(model, ("activations", "hessian"), [x], lambda m, b: m(b))
    rows = torch.cat([x, model[0](x)]).flatten(0, 1).detach()
    torch.testing.assert_close(found.hessian["0.weight"][0], rows.T @ rows)
    torch.testing.assert_close(found.input_magnitude["0.weight"], rows.abs().mean(0).float())
    torch.testing.assert_close(found.input_norm["0.weight"], rows.norm(dim=0).float())
    assert list(found.hessian) == ["0.weight"]


def test_one_pass_serves_an_iterator_that_can_be_read_once() -> None:
    model = Residual()
    found = gathered(model, (torch.randn(2, 3, 8, 8) for _ in range(2)), (1, 3, 8, 8))
    assert found.input_magnitude.keys() == found.hessian.keys()
    assert set(found.gradient) == {name for name, _ in model.named_parameters()}
