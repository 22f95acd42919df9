"""Recovery without labels, third rung: the whole network learns to give what the dense network gives."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from neuroprune.base.errors import UserError
from neuroprune.base.modes import evaluation, gradients
from neuroprune.base.progress import Progress, SilentProgress
from neuroprune.graph.calls import tensors_in
from neuroprune.pruning.bypass import is_inside
from neuroprune.pruning.plan import Plan
from neuroprune.recover.blocks import as_cut, blocks_of, inside, kept_rows, watched
from neuroprune.recover.replay import Forward, Replay
from neuroprune.recover.sites import find_sites


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
        self, dense: nn.Module, model: nn.Module, plan: Plan, forward: Forward, batch: Any, features: float
    ) -> None:
        self.nets, self.forward, self.features = (dense, model), forward, features
        sites = find_sites(dense, lambda net: forward(net, batch))
        names = blocks_of(sites, Replay(dense, forward, [batch])) if features else []
        names = [name for name in names if not is_inside(name, plan.bypassed)]
        layers = [site.layer for site in sites]
        self.kept = {name: kept_rows(dense, plan, inside(layers, name)) for name in names}
        self.seen: tuple[dict[str, Tensor], dict[str, Tensor]] = {}, {}
        self.scales: list[float] | None = None  # of outputs and blocks, on the first batch

    @contextmanager
    def watched(self) -> Iterator[None]:
        with contextlib.ExitStack() as stack:
            for net, seen in zip(self.nets, self.seen, strict=True):

                def saw(name: str, args: Any, kwargs: Any, output: Any, seen: dict[str, Tensor] = seen) -> None:
                    seen[name] = output.clone()  # what the model later writes into it must not reach us

                stack.enter_context(watched(dict(net.named_modules()), list(self.kept), saw))
            yield

    def missed(self, batch: Any) -> tuple[float, Tensor]:
        """The error of the outputs, and what is to be made small."""
        dense, model = self.nets
        with evaluation(dense):
            wanted = floating(self.forward(dense, batch))
        given = floating(self.forward(model, batch))
        values = [*zip(given, wanted, strict=True), *self._blocks()]
        if self.scales is None:
            self.scales = [float(target.var().clamp_min(1e-30)) for _, target in values]
        errors = [functional.mse_loss(a, b) / s for (a, b), s in zip(values, self.scales, strict=True)]
        outputs, inner = torch.stack(errors[: len(given)]).mean(), errors[len(given) :]
        loss = outputs + self.features * torch.stack(inner).mean() if inner else outputs
        return float(outputs.detach()), loss

    def _blocks(self) -> Iterator[tuple[Tensor, Tensor]]:
        theirs, ours = self.seen
        for name, kept in self.kept.items():
            target = as_cut(theirs[name], ours[name].shape, kept)
            if target is not None:
                yield ours[name], target


def rate(step: int, steps: int) -> float:
    """Share of the peak rate: one tenth of warm-up, then a half cosine."""
    warm = max(steps // 10, 1)
    return min(1.0, (step + 1) / warm) * 0.5 * (1 + math.cos(math.pi * step / max(steps, 1)))


def floating(output: Any) -> list[Tensor]:
    found = [t for t in tensors_in(output) if t.is_floating_point()]
    if not found:
        raise UserError("the model's output holds no tensor to compare", mend="return tensors from forward")
    return found
