"""Short fine-tuning with labels and a teacher, for the benchmarks that go on from a label-free cut."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from neuroprune.recover.fit import FitConfig, fit
from neuroprune.tasks.batches import TensorBatches
from neuroprune.tasks.task import Task


def augmented(images: Tensor, generator: torch.Generator) -> Tensor:
    """Half of them mirrored, the batch moved by up to four pixels."""
    mirrored = torch.rand(len(images), generator=generator) < 0.5
    images = torch.where(mirrored.view(-1, 1, 1, 1), images.flip(3), images)
    down, right = torch.randint(0, 9, (2,), generator=generator).tolist()
    return functional.pad(images, (4, 4, 4, 4))[:, :, down : down + 32, right : right + 32]


def finetune(
    model: nn.Module, teacher: nn.Module, train: Tensor, labels: Tensor, config: FitConfig, batch: int = 64
) -> None:
    """Train ``model`` in place; the last epoch counts, so what `fit` validates on decides nothing."""
    batches = TensorBatches((train, labels), batch, shuffle=True, seed=config.seed, augment=augmented)
    few = TensorBatches((train[:256], labels[:256]), 256, shuffle=False, seed=0)
    fit(model, Task("images", batches, few, few, (train[:2],)), config, teacher=teacher)
    model.eval()
