"""A task: the data of a network, and how to run, train and judge the network on it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.nn import functional

from neuroprune.base.modes import evaluation

Batch = Any  # what the data yields: a tensor, a tuple or list of tensors, a dict; only task functions look inside


class Batches(Protocol):
    """A data split that can be walked any number of times, the same way each time for the same epoch."""

    def epoch(self, index: int | None) -> Iterator[Batch]:
        """Batches of training epoch ``index``; None: fixed order, no shuffling, no augmentation."""

    def __len__(self) -> int:
        """Batches per epoch."""

    @property
    def samples(self) -> int:
        """Examples per epoch."""


@runtime_checkable
class Fingerprinted(Protocol):
    """Batches that know a cheaper or wider digest of their content than their first batches."""

    def fingerprint(self) -> str:
        """A sha256 in hexadecimal."""


def default_forward(model: nn.Module, batch: Batch) -> Any:
    """``model(batch[0])`` for a tuple or list, ``model(batch)`` for anything else."""
    return model(batch[0] if isinstance(batch, tuple | list) else batch)


def logits_of(output: Any) -> Tensor:
    """The class scores in a model's output: itself, its ``logits``, or the first of a tuple.

    Raises TypeError when there is no tensor to be found.
    """
    if isinstance(output, Tensor):
        return output
    if isinstance(output, Mapping):
        output = output.get("logits", next(iter(output.values()), None))
    elif hasattr(output, "logits"):
        output = output.logits
    elif isinstance(output, tuple | list) and output:
        output = output[0]
    if not isinstance(output, Tensor):
        raise TypeError(f"the model returned {type(output).__name__}, and no tensor of class scores in it")
    return output


def class_scores(output: Any) -> Tensor | None:
    """[N, classes, ...] in a model's output; None where there are no such."""
    try:
        scores = logits_of(output)
    except TypeError:
        return None
    return scores if scores.dim() >= 2 and scores.shape[1] > 1 and scores.is_floating_point() else None


def default_loss(batch: Batch, output: Any) -> Tensor:
    """Cross entropy of the scores [N, classes, ...] against the class indices ``batch[1]`` [N, ...]."""
    return functional.cross_entropy(logits_of(output), batch[1])


@dataclass(frozen=True)
class Accuracy:
    """Share of right top-1 predictions in percent (0..100); a task's default ``evaluate``.

    Scores are [N, classes, ...] and labels [N, ...], so that each pixel counts in segmentation.
    """

    forward: Callable[[nn.Module, Batch], Any] = default_forward

    @staticmethod
    def hits(batch: Batch, output: Any) -> tuple[int, int]:
        """How many predictions are right, and of how many."""
        right = logits_of(output).argmax(dim=1) == batch[1]
        return int(right.sum()), right.numel()

    def __call__(self, model: nn.Module, batches: Batches) -> float:
        right = total = 0
        with evaluation(model):
            for batch in batches.epoch(None):
                hits, count = self.hits(batch, self.forward(model, batch))
                right, total = right + hits, total + count
        return 100.0 * right / max(total, 1)


@dataclass(frozen=True)
class Task:
    """Three splits of data and the functions that run, train and judge a model on them.

    ``example_inputs`` are positional arguments of the model, a batch of one or two examples.
    ``forward(model, batch)`` runs the model; ``loss(batch, output)`` is a scalar to minimise;
    ``evaluate(model, batches)`` is the figure to keep high, in ``metric_unit``.
    ``preprocessing`` holds the constants that an exported model's user needs; for images
    ``input = (pixel * scale - mean) / std`` per channel, in ``layout``, of ``size`` (height, width).
    """

    name: str
    train: Batches
    val: Batches
    test: Batches
    example_inputs: tuple[Any, ...]
    forward: Callable[[nn.Module, Batch], Any] = default_forward
    loss: Callable[[Batch, Any], Tensor] = default_loss
    evaluate: Callable[[nn.Module, Batches], float] = field(default_factory=Accuracy)
    metric: str = "accuracy"
    metric_unit: str = "%"
    preprocessing: Mapping[str, Any] = field(default_factory=dict)
    has_labels: bool = True

    def digest(self) -> str:
        """A sha256 over names, sizes and a sample of the content, so that a resumed run notices other data."""
        parts = [self.name, self.metric]
        for batches in (self.train, self.val, self.test):
            parts += [str(len(batches)), str(batches.samples), _content(batches)]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _content(batches: Batches, first: int = 2) -> str:
    """Digest of the whole split where it offers one, else of its first batches."""
    if isinstance(batches, Fingerprinted):
        return batches.fingerprint()
    digest = hashlib.sha256()
    for _, batch in zip(range(first), batches.epoch(None), strict=False):
        for tensor in tensors_in(batch):
            digest.update(tensor_bytes(tensor))
    return digest.hexdigest()


def tensors_in(value: Any) -> Iterator[Tensor]:
    """Every tensor in nested tuples, lists and mappings, in order."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from tensors_in(item)
    elif isinstance(value, tuple | list):
        for item in value:
            yield from tensors_in(item)


def tensor_bytes(tensor: Tensor) -> bytes:
    """Type, shape and content as bytes; any dtype."""
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    head = f"{tensor.dtype}{tuple(tensor.shape)}".encode()
    return head + flat.view(torch.uint8).numpy().tobytes()
