"""Your own data and model on the command line:

    neuroprune compress examples/own_data.py:network --data examples/own_data.py:waves --train-epochs 6 \\
        --budget params=0.5 --max-drop 2 --out runs/waves

A data callable returns the keyword arguments of ``neuroprune.tasks.make.make_task`` (or a Task).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

SHAPES = 3  # sine, square, saw


def _waves(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Noisy waves [count, 1, 64] and which shape each one has [count]."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, SHAPES, (count,), generator=generator)
    turns = torch.rand(count, 1, generator=generator) * 3 + 2
    phase = torch.rand(count, 1, generator=generator)
    t = (torch.linspace(0, 1, 64) * turns + phase) % 1  # [count, 64]
    forms = torch.stack([(2 * torch.pi * t).sin(), (t < 0.5) * 2.0 - 1, 2 * t - 1])  # [3, count, 64]
    clean = forms[labels, torch.arange(count)]
    return (clean + 0.3 * torch.randn(count, 64, generator=generator)).unsqueeze(1), labels


def waves() -> dict[str, Any]:
    """Three kinds of waves, as ``make_task`` takes them."""
    return {"train": _waves(600, 0), "val": _waves(200, 1), "test": _waves(200, 2), "name": "waves"}


def network(width: int = 24) -> nn.Module:
    """A small 1-D convolutional classifier: [N, 1, 64] -> [N, 3]."""
    return nn.Sequential(
        nn.Conv1d(1, width, 7, padding=3),
        nn.BatchNorm1d(width),
        nn.ReLU(),
        nn.MaxPool1d(4),
        nn.Conv1d(width, 2 * width, 5, padding=2),
        nn.BatchNorm1d(2 * width),
        nn.ReLU(),
        nn.AdaptiveAvgPool1d(1),
        nn.Flatten(),
        nn.Linear(2 * width, SHAPES),
    )
