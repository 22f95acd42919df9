"""scikit-learn's handwritten digits: 1,797 real 8x8 images that come with a dependency."""

from __future__ import annotations

import torch

from neuroprune.base.errors import UserError
from neuroprune.tasks.datasets._base import DATASETS, DataOptions
from neuroprune.tasks.datasets._images import (
    Images,
    Normalise,
    Pixels,
    image_task,
    resized,
    stratified_limit,
    stratified_split,
)
from neuroprune.tasks.task import Task

#: pixels are 0..16; mean and standard deviation of pixel / 16 over all images
_NORMALISE = Normalise(scale=1 / 16, mean=(0.3053,), std=(0.3760,))


@DATASETS.register(
    "digits",
    summary="1,797 handwritten digits, 8x8, upsampled by resize=; comes with scikit-learn",
    source="UCI Optical Recognition of Handwritten Digits (Alpaydin, Kaynak 1998)",
)
def digits(argument: str, options: DataOptions) -> Task:
    """Stratified 60/20/20 by ``options.seed``; [1, resize, resize], default 8."""
    from sklearn.datasets import load_digits

    if argument:
        raise UserError(f"digits takes no argument, got {argument!r}", mend="write --data digits")
    source = load_digits()
    kept = stratified_limit(source.target, options.limit, options.seed)
    labels = source.target[kept]
    x = torch.from_numpy(source.images[kept]).float().unsqueeze(1)  # [N, 1, 8, 8]
    everything = Images(resized(x, options.resize), torch.from_numpy(labels).long())
    train, val, test = (everything[rows] for rows in stratified_split(labels, (0.6, 0.2, 0.2), options.seed))
    side = everything.x.shape[-1]
    pixels = Pixels(_NORMALISE, classes=[str(digit) for digit in range(10)], shift=side // 12)
    return image_task("digits", train, val, test, pixels, options)
