"""Recovery without labels, third rung: the whole network learns to give what the dense network gives."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from neuroprune.base.errors import UserError
from neuroprune.base.modes import evaluation, gradients
from neuroprune.base.progress import Progress, SilentProgress
from neuroprune.graph.calls import tensors_in
from neuroprune.recover.replay import Forward


@dataclass(frozen=True)
class DistillConfig:
    """``epochs`` over the calibration batches, Adam at the peak rate ``lr`` (one warm-up tenth, then cosine)."""

    epochs: int = 2
    lr: float = 3e-4
    seed: int = 0


@dataclass(frozen=True)
class Distilled:
    """Squared error of the outputs over their variance, mean of an epoch's batches."""

    epoch: int
    error: float


def distill(
    dense: nn.Module,
    model: nn.Module,
    forward: Forward,
    batches: Sequence[Any],
    config: DistillConfig | None = None,
    progress: Progress | None = None,
) -> list[Distilled]:
    """Train ``model`` in place on the squared error of its outputs against those of ``dense``; no labels.

    Batch norms keep their statistics (evaluation mode). Raises UserError when the error is no longer finite.
    """
    config, progress = config or DistillConfig(), progress or SilentProgress()
    with evaluation(dense):
        wanted = [_floating(forward(dense, batch)) for batch in batches]
    scales = [
        float(torch.cat([t[i].flatten() for t in wanted]).var().clamp_min(1e-30)) for i in range(len(wanted[0]))
    ]
    generator = torch.Generator().manual_seed(config.seed)
    steps = config.epochs * len(batches)
    progress.start("label-free distillation", steps)
    results = []
    with gradients(model, everywhere=True), evaluation(model), torch.enable_grad():
        optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=config.lr)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step, steps))
        for epoch in range(1, config.epochs + 1):
            total = 0.0
            for index in torch.randperm(len(batches), generator=generator).tolist():
                given = _floating(forward(model, batches[index]))
                pairs = zip(given, wanted[index], scales, strict=True)
                loss = torch.stack([functional.mse_loss(a, b) / scale for a, b, scale in pairs]).mean()
                value = float(loss.detach())
                if not math.isfinite(value):
                    raise UserError(
                        "label-free distillation diverged", where=f"epoch {epoch}", value=value, mend="lower lr"
                    )
                optimizer.zero_grad(set_to_none=True)
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                schedule.step()
                total += value
                progress.advance(f"epoch {epoch}/{config.epochs}  error {value:.4f}")
            results.append(Distilled(epoch, total / len(batches)))
    return results


def _rate(step: int, steps: int) -> float:
    warm = max(steps // 10, 1)
    return min(1.0, (step + 1) / warm) * 0.5 * (1 + math.cos(math.pi * step / max(steps, 1)))


def _floating(output: Any) -> list[Tensor]:
    found = [t for t in tensors_in(output) if t.is_floating_point()]
    if not found:
        raise UserError("the model's output holds no tensor to compare", mend="return tensors from forward")
    return found
