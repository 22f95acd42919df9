"""Which weights go next: counts and places written out, and what holds for any of them."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from neuroprune.base.errors import UserError
from neuroprune.pruning.thinning import Pool, kept_after, thinned


@pytest.mark.parametrize(
    ("size", "fraction", "rounds", "kept"),
    [(100, 0.2, 1, 80), (100, 0.2, 2, 64), (100, 0.2, 10, 11), (3, 0.2, 1, 2), (3, 0.2, 30, 1), (7, 0.0, 5, 7)],
)
def test_counts(size: int, fraction: float, rounds: int, kept: int) -> None:
    assert kept_after(size, fraction, rounds) == kept


def test_the_lowest_of_what_is_on_goes_and_what_is_off_stays_off() -> None:
    masks = {"w": torch.tensor([[1.0, 0.0, 1.0], [1.0, 1.0, 1.0]])}
    saliency = {"w": torch.tensor([[5.0, 9.0, 1.0], [3.0, 2.0, 4.0]])}
    assert thinned(masks, saliency, [Pool(("w",), 3)])["w"].tolist() == [[1, 0, 0], [1, 0, 1]]
    assert masks["w"].tolist() == [[1, 0, 1], [1, 1, 1]], "the masks given stay as they are"


def test_one_threshold_for_two_tensors_or_one_for_each() -> None:
    masks = {"a": torch.ones(4), "b": torch.ones(4)}
    saliency = {"a": torch.tensor([1.0, 2.0, 3.0, 4.0]), "b": torch.tensor([10.0, 20.0, 30.0, 40.0])}
    together = thinned(masks, saliency, [Pool(("a", "b"), 4)])
    # the largest of `a` stays, so that `b` loses one
    assert together["a"].tolist() == [0, 0, 0, 1]
    assert together["b"].tolist() == [0, 1, 1, 1]
    apart = thinned(masks, saliency, [Pool(("a",), 2), Pool(("b",), 3)])
    assert apart["a"].tolist() == [0, 0, 1, 1]
    assert apart["b"].tolist() == [0, 1, 1, 1]


def test_equal_saliencies_go_in_their_order() -> None:
    found = thinned({"w": torch.ones(5)}, {"w": torch.zeros(5)}, [Pool(("w",), 2)])
    assert found["w"].tolist() == [1, 0, 0, 0, 1]  # the first is kept as the largest of its tensor


def test_a_statistic_may_be_broadcast_and_a_tensor_lie_in_any_order() -> None:
    mask = torch.ones(2, 2, 2, 2).to(memory_format=torch.channels_last)
    found = thinned({"w": mask}, {"w": torch.arange(2.0).view(1, 2, 1, 1)}, [Pool(("w",), 8)])
    assert torch.equal(found["w"], torch.arange(2.0).view(1, 2, 1, 1).expand(2, 2, 2, 2))


def test_saliencies_that_are_no_numbers_are_refused_where_a_weight_is_on() -> None:
    values = {"w": torch.tensor([1.0, float("nan"), 3.0])}
    with pytest.raises(UserError, match="not finite"):
        thinned({"w": torch.ones(3)}, values, [Pool(("w",), 1)])
    off = thinned({"w": torch.tensor([1.0, 0.0, 1.0])}, values, [Pool(("w",), 1)])
    assert off["w"].tolist() == [0, 0, 1]


@given(
    sizes=st.lists(st.integers(1, 12), min_size=1, max_size=4),
    keep=st.integers(0, 50),
    seed=st.integers(0, 10**6),
)
def test_exactly_as_many_stay_no_tensor_is_empty_and_no_kept_one_is_lower(
    sizes: list[int], keep: int, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    names = tuple(str(i) for i in range(len(sizes)))
    saliency = {n: torch.rand(size, generator=generator) for n, size in zip(names, sizes, strict=True)}
    masks = {n: (torch.rand(len(s), generator=generator) < 0.7).float() for n, s in saliency.items()}
    for mask in masks.values():
        mask[0] = 1
    found = thinned(masks, saliency, [Pool(names, keep)])
    before = sum(int(m.sum()) for m in masks.values())
    assert sum(int(m.sum()) for m in found.values()) == max(min(keep, before), len(sizes))
    gone = [float(v) for n in names for v in saliency[n][(masks[n] == 1) & (found[n] == 0)]]
    for name in names:
        assert bool((found[name] <= masks[name]).all())
        kept = saliency[name][found[name] == 1]
        assert float(kept.max()) == float(saliency[name][masks[name] == 1].max())
        others = kept[kept < kept.max()]
        assert not gone or not len(others) or float(others.min()) >= max(gone)
