"""Order and randomness of the data depend on (seed, epoch) alone."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from neuroprune.base.errors import UserError
from neuroprune.tasks.batches import LoaderBatches, RandomState, TensorBatches, as_batches, derive_seed, seeded


def _numbers(batches: object, epoch: int | None) -> list[float]:
    return [float(v) for batch in batches.epoch(epoch) for v in batch[0].flatten()]  # type: ignore[attr-defined]


class Noisy(Dataset[tuple[Tensor, int]]):
    """Draws from all three global generators, as augmentations do."""

    def __len__(self) -> int:
        return 10

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return torch.tensor([index + random.random() + np.random.rand() + float(torch.rand(()))]), index


@given(
    st.integers(1, 40),
    st.integers(1, 12),
    st.booleans(),
    st.integers(0, 3),
    st.one_of(st.none(), st.integers(0, 5)),
)
def test_every_example_comes_once_in_batches_of_two_or_more(
    count: int, size: int, shuffle: bool, seed: int, epoch: int | None
) -> None:
    x = torch.arange(count).float()
    batches = TensorBatches((x, x * 2), size, shuffle=shuffle, seed=seed)
    seen = list(batches.epoch(epoch))
    assert len(seen) == len(batches)
    assert batches.samples == count
    assert torch.equal(torch.cat([a for a, _ in seen]).sort().values, x)
    assert all(torch.equal(b, 2 * a) for a, b in seen)
    if size > 1 and count > 1:
        assert all(2 <= len(a) <= size + 1 for a, _ in seen)


def test_order_depends_on_seed_and_epoch_and_on_nothing_else() -> None:
    x = torch.arange(20).float()
    one = TensorBatches((x,), 4, shuffle=True, seed=1)
    first = _numbers(one, 3)
    torch.manual_seed(99)
    assert _numbers(one, 3) == first
    assert _numbers(TensorBatches((x,), 4, shuffle=True, seed=1), 3) == first
    assert _numbers(one, 4) != first
    assert _numbers(TensorBatches((x,), 4, shuffle=True, seed=2), 3) != first
    assert _numbers(one, None) == x.tolist()


def test_walking_tensors_leaves_the_global_generator_alone() -> None:
    batches = TensorBatches((torch.arange(9.0),), 4, shuffle=True, seed=0)
    before = torch.get_rng_state()
    list(batches.epoch(1))
    assert torch.equal(torch.get_rng_state(), before)


def test_transform_is_for_all_and_augment_for_training_before_it() -> None:
    x = torch.arange(6, dtype=torch.uint8)[:, None]
    batches = TensorBatches(
        (x, x),
        3,
        shuffle=False,
        seed=0,
        transform=lambda t: t.float() / 2,
        augment=lambda t, generator: t + 10,
    )
    assert _numbers(batches, None) == [0, 0.5, 1, 1.5, 2, 2.5]
    assert _numbers(batches, 1) == [5, 5.5, 6, 6.5, 7, 7.5]
    assert next(iter(batches.epoch(1)))[1].tolist() == [[0], [1], [2]]


def test_augment_repeats_within_an_epoch_and_differs_between_epochs() -> None:
    batches = TensorBatches(
        (torch.zeros(8, 1),), 4, shuffle=False, seed=0, augment=lambda t, g: t + torch.rand(t.shape, generator=g)
    )
    assert _numbers(batches, 1) == _numbers(batches, 1) != _numbers(batches, 2)


def test_arrays_of_other_length_are_refused() -> None:
    with pytest.raises(UserError, match="differ in length") as caught:
        TensorBatches((torch.zeros(3, 2), torch.zeros(4)), 2, shuffle=False, seed=0)
    assert "(3, 2), (4,)" in str(caught.value)
    with pytest.raises(UserError, match="batch size"):
        TensorBatches((torch.zeros(3),), 0, shuffle=False, seed=0)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_shuffling_loader_with_augmentation_is_repeatable(workers: int) -> None:
    loader = DataLoader(Noisy(), batch_size=3, shuffle=True, num_workers=workers)
    batches = LoaderBatches(loader, seed=5)
    first = _numbers(batches, 2)
    torch.rand(7), np.random.rand(7), random.random()
    assert _numbers(LoaderBatches(loader, seed=5), 2) == first
    assert _numbers(batches, 3) != first
    assert _numbers(batches, None) == _numbers(batches, None)
    assert (len(batches), batches.samples) == (4, 10)


def test_a_loader_draws_from_a_stream_of_its_own() -> None:
    """What the model draws between two batches must not change the data, nor the data what it draws."""
    batches = LoaderBatches(DataLoader(Noisy(), batch_size=2, shuffle=True), seed=0)
    alone = _numbers(batches, 1)
    torch.manual_seed(3)
    expected = torch.rand(5).tolist()
    torch.manual_seed(3)
    mixed, drawn = [], []
    for x, _ in batches.epoch(1):
        mixed += [float(v) for v in x.flatten()]
        drawn.append(float(torch.rand(())))
        random.random(), np.random.rand()
    assert mixed == alone
    assert drawn == expected


def test_generators_inside_the_loader_are_seeded_too() -> None:
    x = TensorDataset(torch.arange(12.0))
    loader = DataLoader(x, batch_size=4, shuffle=True, generator=torch.Generator().manual_seed(1))
    batches = LoaderBatches(loader, seed=0)
    assert _numbers(batches, 1) == _numbers(batches, 1) != _numbers(batches, 2)


def test_a_one_shot_generator_is_refused() -> None:
    stream = ((torch.zeros(2), torch.zeros(2)) for _ in range(3))
    with pytest.raises(UserError, match="only once") as caught:
        as_batches(stream, batch_size=2, shuffle=False, seed=0)
    assert "DataLoader" in str(caught.value)


class Stream(IterableDataset[Tensor]):
    def __iter__(self) -> Iterator[Tensor]:
        yield from torch.arange(5.0)[:, None]


class Sequence3(Dataset[tuple[Tensor, int]]):
    def __len__(self) -> int:
        return 9

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return torch.tensor([float(index)]), index % 2


@pytest.mark.parametrize(
    ("data", "samples", "count"),
    [
        ((np.zeros((7, 3)), np.zeros(7, dtype=np.uint8)), 7, 2),
        ((torch.zeros(7, 3), torch.zeros(7)), 7, 2),
        (torch.zeros(7, 3), 7, 2),
        (np.zeros((7, 3)), 7, 2),
        (TensorDataset(torch.zeros(7, 3), torch.zeros(7)), 7, 2),
        (Sequence3(), 9, 3),
        (Stream(), 5, 2),
        (DataLoader(Sequence3(), batch_size=5), 9, 2),
        (DataLoader(Sequence3(), batch_size=5, drop_last=True), 5, 1),
        ([(torch.zeros(2, 3), torch.zeros(2)), (torch.zeros(3, 3), torch.zeros(3))], 5, 2),
        ([{"x": torch.zeros(2, 3)}], 2, 1),
        (TensorBatches((torch.zeros(7),), 4, shuffle=False, seed=0), 7, 2),
    ],
)
def test_every_kind_of_data_becomes_batches(data: object, samples: int, count: int) -> None:
    batches = as_batches(data, batch_size=4, shuffle=False, seed=0)
    assert (batches.samples, len(batches)) == (samples, count)
    assert len(list(batches.epoch(1))) == count


def test_types_suit_training() -> None:
    batches = as_batches((np.zeros((4, 3)), np.arange(4, dtype=np.uint8)), batch_size=4, shuffle=False, seed=0)
    x, y = next(iter(batches.epoch(None)))
    assert (x.dtype, y.dtype) == (torch.float32, torch.int64)
    tokens = as_batches(torch.zeros(4, 5, dtype=torch.int64), batch_size=4, shuffle=False, seed=0)
    assert next(iter(tokens.epoch(None)))[0].dtype == torch.int64


def test_a_shuffled_dataset_keeps_its_fixed_order_and_never_trains_on_one() -> None:
    batches = as_batches(Sequence3(), batch_size=4, shuffle=True, seed=0)
    assert _numbers(batches, None) == [float(i) for i in range(9)]
    assert [len(x) for x, _ in batches.epoch(1)] == [4, 4]
    assert len(batches) == 2


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ((np.zeros((0, 3)), np.zeros(0)), "the train data is empty"),
        ([], "the train data is empty"),
        (TensorDataset(torch.zeros(0, 3)), "the train data is empty"),
        ("digits", "cannot use str as train data"),
        (3, "cannot use int as train data"),
        ({"x": torch.zeros(3)}, "cannot use dict as train data"),
        ((np.zeros(3), np.array(["a", "b", "c"])), "cannot be used as data"),
    ],
)
def test_data_that_cannot_be_used_is_refused(data: object, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        as_batches(data, batch_size=4, shuffle=True, seed=0, what="train")
    assert "mend:" in str(caught.value)


def test_seeds_are_the_same_everywhere_and_apart() -> None:
    assert all(0 <= derive_seed(seed, 1) < 2**63 for seed in range(100))
    assert len({derive_seed(seed, epoch) for seed in range(20) for epoch in range(20)}) == 400
    assert derive_seed(1, 23) != derive_seed(12, 3)


def test_seeded_puts_all_generators_back() -> None:
    RandomState.seed(1)
    expected = (float(torch.rand(())), np.random.rand(), random.random())
    RandomState.seed(1)
    with contextlib.suppress(RuntimeError), seeded(7):
        torch.rand(3), np.random.rand(3), random.random()
        raise RuntimeError
    assert (float(torch.rand(())), np.random.rand(), random.random()) == expected


def test_tensors_keep_their_type_and_arrays_of_double_do_not() -> None:
    x, y = torch.randn(4, 2), torch.arange(4)
    for dtype in (torch.float64, torch.float32, torch.float16):
        (batch,) = as_batches((x.to(dtype), y), batch_size=4, shuffle=False, seed=0).epoch(None)
        assert batch[0].dtype == dtype
    (batch,) = as_batches((x.double().numpy(), y), batch_size=4, shuffle=False, seed=0).epoch(None)
    assert batch[0].dtype == torch.float32


@pytest.mark.parametrize(("inputs", "targets"), [("float32", "float64"), ("float64", "float32")])
def test_targets_of_double_follow_the_inputs(inputs: str, targets: str) -> None:
    """A loss of two types cannot be differentiated."""
    x, y = torch.randn(4, 2, dtype=getattr(torch, inputs)), torch.randn(4, 1, dtype=getattr(torch, targets))
    (batch,) = as_batches((x, y), batch_size=4, shuffle=False, seed=0).epoch(None)
    assert batch[1].dtype == x.dtype
    assert torch.allclose(batch[1].double(), y.double(), atol=1e-6)
