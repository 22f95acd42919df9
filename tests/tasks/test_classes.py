"""Some classes of a data set, numbered anew; and how many classes a task has."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from neuroprune.base.errors import UserError
from neuroprune.tasks.batches import TensorBatches
from neuroprune.tasks.classes import class_count, only_classes
from neuroprune.tasks.load import load_task
from neuroprune.tasks.make import make_task
from neuroprune.tasks.task import Batches


def _tensors(batches: Batches) -> tuple[torch.Tensor, torch.Tensor]:
    assert isinstance(batches, TensorBatches)
    return batches.tensors[0], batches.tensors[1]


def test_examples_of_these_classes_in_their_order() -> None:
    whole, some = load_task("digits", resize=12), load_task("digits", resize=12, classes=[7, 2])
    for split in ("train", "val", "test"):
        x, y = _tensors(getattr(whole, split))
        mine, labels = _tensors(getattr(some, split))
        expected = [
            (row, [7, 2].index(label)) for row, label in zip(x, y.tolist(), strict=True) if label in (7, 2)
        ]
        assert labels.tolist() == [label for _, label in expected]
        assert torch.equal(mine, torch.stack([row for row, _ in expected]))
    assert some.preprocessing["classes"] == ["7", "2"]
    assert class_count(some) == 2
    assert some.name == "digits, 2 classes"
    first, second = (next(iter(some.train.epoch(e)))[0] for e in (1, 2))
    assert not torch.equal(first, second)  # still shuffled and moved
    assert some.digest() != whole.digest() != load_task("digits", resize=12, classes=[2, 7]).digest()


@pytest.mark.parametrize(
    ("classes", "part"),
    [([3], "two or more"), ([], "two or more"), ([1, 1], "different"), ([1, 10], "no example of class 10")],
)
def test_classes_that_cannot_be_picked(classes: list[int], part: str) -> None:
    with pytest.raises(UserError, match=part):
        load_task("digits", classes=classes)


def test_only_data_in_memory_with_one_label_each() -> None:
    x, y = torch.randn(6, 4), torch.arange(6) % 3
    loaded = make_task(train=[(x, y)], val=(x, y))
    dense = make_task(train=(torch.randn(6, 2, 4), torch.zeros(6, 4, dtype=torch.long)), val=(x, y))
    for task in (loaded, dense):
        with pytest.raises(UserError, match="where the data is in memory"):
            only_classes(task, [0, 1])


def test_counting() -> None:
    x, y = torch.randn(6, 4), torch.tensor([0, 1, 0, 1, 0, 1])
    assert class_count(make_task(train=(x, y), val=(x, y), test=(x, y + 3))) == 5
    assert class_count(load_task("digits")) == 10
    other: dict[str, Any] = {"loss": lambda batch, output: output.sum(), "evaluate": lambda model: 0.0}
    with pytest.raises(UserError, match="no classification with labels"):
        class_count(make_task(train=(x, y), val=(x, y), **other))
    with pytest.raises(UserError, match="no classification with labels"):
        class_count(make_task(train=x, val=x, evaluate=lambda model: 0.0))
