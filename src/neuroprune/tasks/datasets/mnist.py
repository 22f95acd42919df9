"""MNIST from an npz file: 60,000 + 10,000 handwritten digits, 28x28."""

from __future__ import annotations

from neuroprune.tasks.datasets._arrays import existing, read_halves
from neuroprune.tasks.datasets._base import DATASETS, DataOptions
from neuroprune.tasks.datasets._images import Normalise, Pixels, hold_out, image_task
from neuroprune.tasks.task import Task

#: mean and standard deviation of pixel / 255 over the training images
_NORMALISE = Normalise(scale=1 / 255, mean=(0.1307,), std=(0.3081,))


@DATASETS.register(
    "mnist",
    summary="mnist:FILE.npz, 60,000 + 10,000 handwritten digits, 28x28",
    source="LeCun, Cortes, Burges 1998",
)
def mnist(argument: str, options: DataOptions) -> Task:
    """Validation is a stratified tenth of the training images; [1, 28, 28] or [1, resize, resize]."""
    path = existing(argument, "mnist", "mnist:path/to/mnist.npz")
    train, test = read_halves(path, image=(28, 28), classes=10, options=options)
    pixels = Pixels(_NORMALISE, classes=[str(digit) for digit in range(10)], shift=2)
    return image_task("mnist", *hold_out("mnist", train, options.seed), test, pixels, options)
