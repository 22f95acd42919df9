"""Recovery without labels, third rung: the whole network learns to give what the dense network gives."""

from __future__ import annotations

import contextlib
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
from neuroprune.pruning.plan import Plan
from neuroprune.recover.features import Features
from neuroprune.recover.replay import Forward


@dataclass(frozen=True)
class DistillConfig:
    """``epochs`` over the batches given, Adam at the peak rate ``lr`` (one warm-up tenth, then cosine).

    ``features``: weight of the blocks' outputs beside the network's (FitNets, Romero et al. 2015)."""

    epochs: int = 2
    lr: float = 1e-3
    features: float = 1.0
    seed: int = 0


@dataclass(frozen=True)
class Distilled:
    """Squared error of the outputs over their variance, mean of an epoch's batches."""

    epoch: int
    error: float


def distill(
    dense: nn.Module,
    model: nn.Module,
    plan: Plan,
    forward: Forward,
    batches: Sequence[Any],
    config: DistillConfig | None = None,
    progress: Progress | None = None,
) -> list[Distilled]:
    """Train ``model``, which is ``dense`` cut by ``plan``, in place to give what ``dense`` gives; no labels.

    Squared errors of the outputs, and of the blocks' outputs in the channels that are left. ``batches`` may make
    its items when asked for them. Batch norms keep their statistics (evaluation mode). Raises UserError when the
    error is no longer finite.
    """
    config, progress = config or DistillConfig(), progress or SilentProgress()
    pair = _Pair(dense, model, plan, forward, batches[0], config.features)
    generator = torch.Generator().manual_seed(config.seed)
    steps = config.epochs * len(batches)
    progress.start("label-free distillation", steps)
    results = []
    with gradients(model, everywhere=True), evaluation(model), pair.watched(), torch.enable_grad():
        optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=config.lr)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: rate(step, steps))
        for epoch in range(1, config.epochs + 1):
            total = 0.0
            for index in torch.randperm(len(batches), generator=generator).tolist():
                error, loss = pair.missed(batches[index])
                if not math.isfinite(error):
                    raise UserError(
                        "label-free distillation diverged", where=f"epoch {epoch}", value=error, mend="lower lr"
                    )
                optimizer.zero_grad(set_to_none=True)
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                schedule.step()
                total += error
                progress.advance(f"epoch {epoch}/{config.epochs}  error {error:.4f}")
            results.append(Distilled(epoch, total / len(batches)))
    return results


class _Pair:
    """The dense network and the one that learns, on one batch after another."""

    def __init__(
        self, dense: nn.Module, model: nn.Module, plan: Plan, forward: Forward, batch: Any, weight: float
    ) -> None:
        self.nets, self.forward, self.weight = (dense, model), forward, weight
        self.features = Features(dense, model, plan, forward, batch) if weight else None
        self.scales: list[float] | None = None  # of outputs and blocks, on the first batch

    def watched(self) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext() if self.features is None else self.features.watched()

    def missed(self, batch: Any) -> tuple[float, Tensor]:
        """The error of the outputs, and what is to be made small."""
        dense, model = self.nets
        with evaluation(dense):
            wanted = floating(self.forward(dense, batch))
        given = floating(self.forward(model, batch))
        blocks = [] if self.features is None else self.features.pairs()
        values = [*zip(given, wanted, strict=True), *blocks]
        if self.scales is None:
            self.scales = [float(target.var().clamp_min(1e-30)) for _, target in values]
        errors = [functional.mse_loss(a, b) / s for (a, b), s in zip(values, self.scales, strict=True)]
        outputs, inner = torch.stack(errors[: len(given)]).mean(), errors[len(given) :]
        loss = outputs + self.weight * torch.stack(inner).mean() if inner else outputs
        return float(outputs.detach()), loss


def rate(step: int, steps: int) -> float:
    """Share of the peak rate: one tenth of warm-up, then a half cosine."""
    warm = max(steps // 10, 1)
    return min(1.0, (step + 1) / warm) * 0.5 * (1 + math.cos(math.pi * step / max(steps, 1)))


def floating(output: Any) -> list[Tensor]:
    found = [t for t in tensors_in(output) if t.is_floating_point()]
    if not found:
        raise UserError("the model's output holds no tensor to compare", mend="return tensors from forward")
    return found
