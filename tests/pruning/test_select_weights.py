"""How many weights go where: exact counts, four spreads, blocks, and layers that are never emptied."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from neuroprune.base.errors import UserError
from neuroprune.pruning.select_weights import erk_densities, select_weights

SALIENCY = {"a": torch.tensor([[1.0, 2, 3, 4]]), "b": torch.tensor([[10.0, 20], [30, 40]])}


@pytest.mark.parametrize(
    ("spread", "a", "b"),
    [
        ("global", [[0, 0, 0, 1]], [[1, 1], [1, 1]]),  # the three smallest of all
        ("normalised", [[0, 0, 1, 1]], [[0, 1], [1, 1]]),  # .4 .8 1.2 1.6 in both; ties in their order
        ("layer", [[0, 1, 1, 1]], [[0, 1], [1, 1]]),  # a quarter (of 3/8, rounded down) of each
    ],
)
def test_three_of_eight(spread: str, a: list[list[int]], b: list[list[int]]) -> None:
    found = select_weights(SALIENCY, 3 / 8, spread=spread).masks  # type: ignore[arg-type]
    assert found["a"].tolist() == a
    assert found["b"].tolist() == b


@given(st.integers(1, 60), st.floats(0, 0.999), st.sampled_from(["global", "normalised"]))
def test_the_share_is_met_exactly_also_with_ties(count: int, fraction: float, spread: str) -> None:
    saliency = {"w": torch.ones(1, count), "v": torch.arange(float(count))[None] % 3}
    found = select_weights(saliency, fraction, spread=spread)  # type: ignore[arg-type]
    if not found.spared:
        gone = sum(int((mask == 0).sum()) for mask in found.masks.values())
        assert gone == int(2 * count * fraction + 1e-9)


def test_a_layer_that_would_be_emptied_keeps_its_best_block_and_is_named() -> None:
    saliency = {"a": torch.tensor([[0.1, 0.2], [0.4, 0.3]]), "b": torch.full((2, 2), 9.0)}
    found = select_weights(saliency, 0.5, spread="global")
    assert found.spared == ("a",)
    assert found.masks["a"].tolist() == [[0, 0], [1, 0]]
    rows = select_weights(saliency, 0.5, spread="global", shape="row")
    assert (rows.spared, rows.masks["a"].tolist()) == (("a",), [[0, 0], [1, 1]])


def test_blocks_go_whole() -> None:
    saliency = {"w": torch.tensor([[1.0, 5], [2, 6], [3, 7], [4, 8]])}
    assert select_weights(saliency, 0.5, shape="2x1").masks["w"].tolist() == [[0, 1], [0, 1], [0, 1], [0, 1]]
    assert select_weights(saliency, 0.3, shape="2x1").masks["w"].tolist() == [[0, 1], [0, 1], [1, 1], [1, 1]]


def test_n_of_m_has_its_own_share() -> None:
    saliency = {"w": torch.tensor([[1.0, 5, 2, 6]])}
    assert select_weights(saliency, 0.5, shape="2:4").masks["w"].tolist() == [[0, 1, 0, 1]]
    assert select_weights(saliency, 0.0, shape="2:4").masks["w"].tolist() == [[1, 1, 1, 1]]
    with pytest.raises(UserError, match="neither more nor less"):
        select_weights(saliency, 0.8, shape="2:4")


def test_erk_by_hand_and_capped() -> None:
    shapes = {"conv": (4, 2, 3, 3), "head": (10, 4)}  # 72 and 40 weights, raw densities 12/72 and 14/40
    found = erk_densities(shapes, 0.25)  # 28 of 112: eps (12 + 14) = 28
    assert found["conv"] == pytest.approx(28 / 26 * 12 / 72)
    assert found["head"] == pytest.approx(28 / 26 * 14 / 40)
    assert erk_densities(shapes, 0.9) == pytest.approx({"conv": (0.9 * 112 - 40) / 72, "head": 1.0})
    masks = select_weights({name: torch.rand(shape) for name, shape in shapes.items()}, 0.75, spread="erk").masks
    assert [int(mask.sum()) for mask in masks.values()] == [13, 16]  # what goes is rounded down


@pytest.mark.parametrize(
    ("fraction", "options", "said"),
    [
        (1.0, {}, "at least 0 and below 1"),
        (0.5, {"spread": "even"}, "unknown spread"),
        (0.5, {"shape": "brick"}, "unknown pattern"),
    ],
)
def test_bad_options(fraction: float, options: dict[str, str], said: str) -> None:
    with pytest.raises(UserError, match=said):
        select_weights(SALIENCY, fraction, **options)  # type: ignore[arg-type]


def test_scores_that_are_not_finite() -> None:
    with pytest.raises(UserError, match="not finite"):
        select_weights({"w": torch.tensor([[1.0, float("nan")]])}, 0.5)
