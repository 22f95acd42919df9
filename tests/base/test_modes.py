"""Models that cache in evaluation mode: nothing of ours stays in them, nothing stale in a copy."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from neuroprune.base.modes import copy_of, in_float64, restored, unchanged
from neuroprune.graph import cost, trace
from neuroprune.pruning import prune


class Cached(nn.Module):
    """Like LeViT: a per-head bias is computed once in evaluation mode and dropped by ``train()``."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.first, self.last = nn.Parameter(torch.randn(8)), nn.Linear(3, 8), nn.Linear(8, 2)
        self.cache: dict[str, Tensor] = {}

    def train(self, mode: bool = True) -> Cached:
        if mode:
            self.cache = {}
        return super().train(mode)

    def forward(self, x: Tensor) -> Tensor:
        if not self.training and "bias" not in self.cache:
            self.cache["bias"] = self.table * 2
        bias = self.table * 2 if self.training else self.cache["bias"]
        return self.last(self.first(x) + bias)


def used() -> Cached:
    model = Cached().eval()
    model(torch.randn(1, 3))  # with gradients: what is cached cannot be copied
    return model


def test_a_used_model_is_cut_and_keeps_its_own_cache() -> None:
    model, inputs = used(), torch.randn(4, 3)
    kept, expected = model.cache["bias"], model(inputs)
    result = prune(model, inputs, ratio=0.5)
    assert result.plan.removed["table"]
    assert model.cache["bias"] is kept
    assert torch.equal(model(inputs), expected)
    assert isinstance(result.model, Cached)
    assert not result.model.training
    assert result.model(inputs).shape == (4, 2)
    assert result.model.cache["bias"].shape == (4,)


def test_tracing_and_counting_leave_no_tensors_without_data_behind() -> None:
    model = Cached().eval()
    trace(model, torch.randn(1, 3))
    cost(model, torch.randn(1, 3))
    assert model.cache == {}


def test_what_is_set_meanwhile_is_gone_afterwards() -> None:
    model = Cached()
    held = model.cache
    with restored(model):
        model.cache = {"other": torch.zeros(1)}
        model.register_buffer("late", torch.zeros(1))
    assert model.cache is held
    assert "late" not in dict(model.named_buffers())
    with unchanged(model):
        model.cache["bias"] = torch.zeros(1)
    assert held == {}


def test_a_copy_is_in_the_modes_of_the_original() -> None:
    model = used()
    model.first.train()
    copy = copy_of(model)
    assert [m.training for m in copy.modules()] == [m.training for m in model.modules()] == [False, True, False]
    assert copy.cache == {}


def test_the_default_type_is_put_back_after_an_error() -> None:
    before = torch.get_default_dtype()
    try:
        with in_float64():
            assert torch.zeros(1).dtype == torch.float64
            raise RuntimeError
    except RuntimeError:
        pass
    assert torch.get_default_dtype() is before


def test_in_a_proof_single_precision_means_double() -> None:
    with in_float64():
        x = torch.ones(2, dtype=torch.float32)
        kinds = (
            x.dtype,
            x.half().float().dtype,
            x.to(torch.float32).dtype,
            x.softmax(0, dtype=torch.float32).dtype,
        )
        assert set(kinds) == {torch.float64}
        assert x.to(torch.float16).dtype == torch.float16
    assert torch.ones(2).dtype == torch.float32
