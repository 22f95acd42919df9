"""Batch-norm statistics are the plain average over the batches."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from neuroprune.base.errors import UserError
from neuroprune.recover.statistics import reestimate_batch_norm


def _model() -> Any:
    return nn.Sequential(nn.BatchNorm1d(3, momentum=0.1), nn.Dropout(0.9), nn.BatchNorm1d(3), nn.LayerNorm(3))


def test_the_average_over_batches() -> None:
    model = _model()
    model[2].eval()
    weights = {k: v.clone() for k, v in model.named_parameters()}
    batches = [torch.randn(8, 3) * 2 + 5 for _ in range(4)]
    reestimate_batch_norm(model, batches)
    means = np.mean([b.numpy().mean(0) for b in batches], axis=0)
    variances = np.mean([b.numpy().var(0, ddof=1) for b in batches], axis=0)
    np.testing.assert_allclose(model[0].running_mean.numpy(), means, rtol=1e-5)
    np.testing.assert_allclose(model[0].running_var.numpy(), variances, rtol=1e-5)
    # dropout was off: what the second norm saw is the normalised output of the first
    np.testing.assert_allclose(model[2].running_mean.numpy(), np.zeros(3), atol=1e-5)
    np.testing.assert_allclose(model[2].running_var.numpy(), np.full(3, 8 / 7), rtol=1e-3)
    assert [m.training for m in model.modules()] == [True, True, True, False, True]
    assert [model[0].momentum, model[2].momentum] == [0.1, 0.1]
    assert all(torch.equal(v, weights[k]) for k, v in model.named_parameters())


def test_batches_of_pairs_and_a_forward_of_ones_own() -> None:
    one, two, three = _model(), _model(), _model()
    x = torch.randn(16, 3)
    reestimate_batch_norm(one, [x])
    reestimate_batch_norm(two, [(x, torch.zeros(16))])
    reestimate_batch_norm(three, [{"x": x}], forward=lambda model, batch: model(batch["x"]))
    for other in (two, three):
        assert torch.equal(one[0].running_mean, other[0].running_mean)


def test_no_batches_change_nothing() -> None:
    model = _model()
    model(torch.randn(8, 3))
    before = model[0].running_mean.clone()
    with pytest.raises(UserError, match="at least one batch"):
        reestimate_batch_norm(model, [])
    assert torch.equal(model[0].running_mean, before)
    assert model[0].momentum == 0.1


def test_norms_without_statistics_are_left_alone() -> None:
    model: Any = nn.Sequential(nn.BatchNorm1d(3, track_running_stats=False))
    reestimate_batch_norm(model, [torch.randn(8, 3)])
    assert model[0].running_mean is None
