"""Splits, limits, resizing and moving of images, against brute force and Pillow."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from neuroprune.base.errors import UserError
from neuroprune.tasks.datasets._images import (
    Images,
    Normalise,
    Shift,
    hold_out,
    resized,
    stratified_limit,
    stratified_split,
)

_LABELS = st.lists(st.integers(0, 4), min_size=1, max_size=80).map(np.array)


@given(_LABELS, st.integers(0, 5), st.sampled_from([(0.6, 0.2, 0.2), (0.9, 0.1), (0.5, 0.5)]))
def test_splits_cover_everything_once_with_equal_shares(
    labels: np.ndarray, seed: int, shares: tuple[float, ...]
) -> None:
    parts = stratified_split(labels, shares, seed)
    assert np.array_equal(np.sort(np.concatenate(parts)), np.arange(len(labels)))
    assert all(np.array_equal(a, b) for a, b in zip(parts, stratified_split(labels, shares, seed), strict=True))
    for label, count in zip(*np.unique(labels, return_counts=True), strict=True):
        for part, share in zip(parts, shares, strict=True):
            assert abs((labels[part] == label).sum() - share * count) <= 1 + 1e-9
        if count > 1:
            assert (labels[parts[0]] == label).any()
            assert (labels[parts[-1]] == label).any()


def test_splits_depend_on_the_seed() -> None:
    labels = np.arange(100) % 5
    assert not np.array_equal(stratified_split(labels, (1, 1), 0)[0], stratified_split(labels, (1, 1), 1)[0])


@given(_LABELS, st.integers(1, 90), st.integers(0, 3))
def test_limits_keep_every_class_and_its_share(labels: np.ndarray, limit: int, seed: int) -> None:
    kept = stratified_limit(labels, limit, seed)
    assert len(np.unique(kept)) == len(kept) == min(limit, len(labels))
    assert np.array_equal(kept, np.sort(kept))
    names, counts = np.unique(labels, return_counts=True)
    if limit >= len(names):
        assert set(labels[kept]) == set(labels)
    share = len(kept) / len(labels)
    for label, count in zip(names, counts, strict=True):
        assert abs((labels[kept] == label).sum() - share * count) <= len(names)


def test_a_limit_must_be_positive() -> None:
    with pytest.raises(UserError, match="limit must be at least 1"):
        stratified_limit(np.zeros(3), 0, 0)


def test_hold_out_needs_enough() -> None:
    images = Images(torch.zeros(3, 1, 2, 2), torch.tensor([0, 1, 2]))
    with pytest.raises(UserError, match="too few examples"):
        hold_out("pets", images, 0)
    train, val = hold_out("pets", Images(torch.arange(40.0).view(40, 1, 1, 1), torch.arange(40) % 2), 0)
    assert (len(train), len(val)) == (36, 4)
    assert not set(train.x.flatten().tolist()) & set(val.x.flatten().tolist())


@pytest.mark.parametrize("side", [5, 8, 13, 16])
def test_resizing_agrees_with_pillow(side: int) -> None:
    pixels = torch.rand(3, 2, 8, 8)
    ours = resized(pixels, side)
    assert ours.shape == (3, 2, side, side)
    for example in range(3):
        for channel in range(2):
            image = Image.fromarray(pixels[example, channel].numpy())
            theirs = np.asarray(image.resize((side, side), Image.Resampling.BILINEAR))
            np.testing.assert_allclose(ours[example, channel].numpy(), theirs, atol=1e-5)


def test_resizing_keeps_bytes_bytes() -> None:
    x = torch.randint(0, 256, (2, 1, 6, 6), dtype=torch.uint8)
    assert resized(x, 12).dtype == torch.uint8
    assert torch.equal(resized(torch.full_like(x, 255), 9), torch.full((2, 1, 9, 9), 255, dtype=torch.uint8))
    assert resized(x, None) is x
    assert resized(x, 6) is x
    with pytest.raises(UserError, match="resize must be at least 1"):
        resized(x, 0)


def test_shifted_images_are_shifts() -> None:
    x = torch.randint(1, 100, (40, 2, 5, 6))
    padded = np.pad(x.numpy(), ((0, 0), (0, 0), (2, 2), (2, 2)))
    shifts = [(dy, dx) for dy in range(5) for dx in range(5)]
    for flip in (False, True):
        moved = Shift(2, flip)(x, torch.Generator().manual_seed(0)).numpy()
        assert moved.shape == tuple(x.shape)
        used = set()
        for row in range(40):
            options = {
                (dy, dx, mirror): padded[row, :, dy : dy + 5, dx : dx + 6][..., :: -1 if mirror else 1]
                for dy, dx in shifts
                for mirror in ((False, True) if flip else (False,))
            }
            used |= {key for key, option in options.items() if np.array_equal(option, moved[row])}
        assert len(used) > 15
        assert {key[2] for key in used} == ({False, True} if flip else {False})


def test_normalising() -> None:
    x = torch.randint(0, 256, (2, 3, 4, 4), dtype=torch.uint8)
    ours = Normalise(1 / 255, (0.1, 0.2, 0.3), (0.4, 0.5, 0.6))(x).numpy()
    expected = (x.numpy().transpose(0, 2, 3, 1) / 255 - [0.1, 0.2, 0.3]) / [0.4, 0.5, 0.6]
    np.testing.assert_allclose(ours.transpose(0, 2, 3, 1), expected, rtol=1e-5, atol=1e-6)
