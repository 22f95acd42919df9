"""Recovery without labels, second rung: each block learns to give what the dense network's block gives.

Block after block, on the inputs that the recovered network really gives it: a few hundred Adam steps on the
squared error of the block's output. Gradients stay inside the block (BRECQ, Li et al. 2021, for quantisation).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from neuroprune.base.modes import evaluation
from neuroprune.base.progress import Progress, SilentProgress
from neuroprune.pruning.bypass import is_inside
from neuroprune.pruning.plan import Plan
from neuroprune.recover.replay import Enough, Forward, Replay
from neuroprune.recover.sites import Site, find_sites

#: a block has at most so many layers: what hangs together is learnt together, and memory stays small
MOST_SITES = 6


@dataclass(frozen=True)
class ReconstructConfig:
    """``steps`` of Adam with the peak rate ``lr`` (cosine) per block, ``batch`` examples each."""

    steps: int = 300
    lr: float = 1e-3
    batch: int = 64
    seed: int = 0


@dataclass(frozen=True)
class Reconstructed:
    """``before``, ``after``: squared error of the block's output over its variance, on the calibration data."""

    block: str
    before: float
    after: float


def blocks_of(model: nn.Module, sites: Sequence[Site], replay: Replay) -> list[str]:
    """Largest modules with one output tensor and at most ``MOST_SITES`` sites, in the order in which they run."""
    layers = [site.layer for site in sites]
    inside = {
        name: [n for n in layers if n == name or n.startswith(name + ".")] for name in replay.readers
    }  # fmt: skip
    fit = {name for name, own in inside.items() if 1 <= len(own) <= MOST_SITES}
    outermost = [name for name in fit if not any(name.startswith(other + ".") for other in fit)]
    return sorted(outermost, key=lambda name: layers.index(inside[name][0]))


class _Boundary:
    """What goes into a module and comes out of it, over all batches of a replay."""

    def __init__(self, replay: Replay, name: str) -> None:
        self.inputs: list[tuple[Any, ...]] = []
        self.outputs: list[Tensor] = []
        self.plain = True  # positional tensors only, so that examples can be picked
        module = replay.modules[name]

        def enter(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            self.plain = self.plain and not kwargs and all(isinstance(a, Tensor) for a in args)
            self.inputs.append(tuple(a.clone() if isinstance(a, Tensor) else a for a in args))

        def leave(_: nn.Module, args: Any, output: Tensor) -> None:
            self.outputs.append(output.clone())
            raise Enough

        handles = [
            module.register_forward_pre_hook(enter, with_kwargs=True),
            module.register_forward_hook(leave),
        ]
        try:
            for index in range(len(replay.batches)):
                replay.run(index)
        finally:
            for handle in handles:
                handle.remove()

    def stacked(self) -> tuple[Tensor, ...] | None:
        """Inputs, and the outputs last; None where they are not examples of one size."""
        every = [(*inputs, output) for inputs, output in zip(self.inputs, self.outputs, strict=True)]
        if not self.plain or not every or any(t.dim() == 0 for row in every for t in row):
            return None
        kinds = {tuple((t.dtype, t.shape[1:]) for t in row) for row in every}
        if len(kinds) > 1 or any(len({len(t) for t in row}) > 1 for row in every):
            return None
        return tuple(torch.cat(parts) for parts in zip(*every, strict=True))


def reconstruct(
    dense: nn.Module,
    model: nn.Module,
    plan: Plan,
    forward: Forward,
    batches: Sequence[Any],
    config: ReconstructConfig | None = None,
    progress: Progress | None = None,
) -> list[Reconstructed]:
    """Train the blocks of ``model``, which is ``dense`` cut by ``plan``, in place; nothing is labelled.

    Blocks whose inputs are more than tensors by position, or whose batches are not examples, stay as they are.
    """
    config, progress = config or ReconstructConfig(), progress or SilentProgress()
    sites = find_sites(dense, lambda net: forward(net, batches[0]))
    theirs, ours = Replay(dense, forward, batches), Replay(model, forward, batches)
    layers = [site.layer for site in sites]
    names = [name for name in blocks_of(dense, sites, theirs) if not is_inside(name, plan.bypassed)]
    progress.start("reconstructing blocks", len(names))
    done: list[str] = []
    results = []
    for number, name in enumerate(names):
        wanted, given = _Boundary(theirs, name), _Boundary(ours, name)
        own = [n for n in layers if n == name or n.startswith(name + ".")]
        examples = _examples(wanted, given, _kept_rows(dense, plan, own))
        if examples is not None:
            results.append(_learn(ours.modules[name], name, *examples, config, number))
        done += own
        theirs.finish(done, layers)
        ours.finish(done, layers)
        progress.advance(name)
    return results


def _examples(
    wanted: _Boundary, given: _Boundary, kept: Tensor | None
) -> tuple[tuple[Tensor, ...], Tensor] | None:
    """What the block gets, and what the dense one gives in the channels that are left."""
    theirs, ours = wanted.stacked(), given.stacked()
    if theirs is None or ours is None or theirs[-1].dim() != ours[-1].dim():
        return None
    target, shape = theirs[-1], ours[-1].shape
    cut = [dim for dim, size in enumerate(shape) if target.shape[dim] != size]
    if kept is not None and len(cut) == 1 and shape[cut[0]] == len(kept) and int(kept[-1]) < target.shape[cut[0]]:
        target = target.index_select(cut[0], kept.to(target.device))
    return (ours[:-1], target) if target.shape == shape else None


def _kept_rows(dense: nn.Module, plan: Plan, layers: Sequence[str]) -> Tensor | None:
    """Output channels of the block's last layer that the plan keeps."""
    name = f"{layers[-1]}.weight"
    removed = plan.removed.get(name, {}).get(0, ())
    size = dense.get_parameter(name).shape[0]
    return torch.tensor([i for i in range(size) if i not in set(removed)]) if removed else None


def _learn(
    block: nn.Module, name: str, inputs: tuple[Tensor, ...], target: Tensor, config: ReconstructConfig, number: int
) -> Reconstructed:
    trained = [p for p in block.parameters() if p.is_floating_point()]
    before = [p.detach().clone() for p in trained]
    frozen = [p.requires_grad for p in trained]
    scale = float(target.var().clamp_min(1e-30))
    start = _error(block, inputs, target, config.batch) / scale
    generator = torch.Generator().manual_seed(config.seed * 1_000_003 + number)
    optimizer = torch.optim.Adam(trained, lr=config.lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, config.steps)
    with evaluation(block), torch.enable_grad():
        for parameter in trained:
            parameter.requires_grad_(True)
        for _ in range(config.steps):
            picked = torch.randint(target.shape[0], (config.batch,), generator=generator)
            loss = functional.mse_loss(block(*(x[picked] for x in inputs)), target[picked]) / scale
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
    end = _error(block, inputs, target, config.batch) / scale
    for parameter, flag in zip(trained, frozen, strict=True):
        parameter.requires_grad_(flag)
        parameter.grad = None
    if not end <= start:  # worse, or not finite: the rate was too high for this block
        with torch.no_grad():
            for parameter, value in zip(trained, before, strict=True):
                parameter.copy_(value)
        end = start
    return Reconstructed(name, start, end)


def _error(block: nn.Module, inputs: tuple[Tensor, ...], target: Tensor, batch: int) -> float:
    total = 0.0
    with evaluation(block):
        for first in range(0, target.shape[0], batch):
            part = slice(first, first + batch)
            output = block(*(x[part].clone() for x in inputs))  # a block may write into what it gets
            total += float(functional.mse_loss(output, target[part], reduction="sum"))
    return total / target.numel()
