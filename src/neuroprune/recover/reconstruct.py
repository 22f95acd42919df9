"""Recovery without labels, second rung: blocks learn to give what the dense network's blocks give.

Window after window of a few blocks, on the inputs that the recovered network really gives: some hundred Adam steps
on the squared error of the blocks' outputs. Gradients stay inside the window (BRECQ, Li et al. 2021, for
quantisation). Some examples are held out: of the states along the way the best on those stays, so that few
examples do no harm.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from neuroprune.base.modes import evaluation, gradients
from neuroprune.base.progress import Progress, SilentProgress
from neuroprune.graph.calls import map_tensors
from neuroprune.pruning.bypass import is_inside
from neuroprune.pruning.plan import Plan
from neuroprune.recover.arguments import Arguments
from neuroprune.recover.blocks import as_cut, blocks_of, inside, kept_rows, watched, windows_of
from neuroprune.recover.distill import rate
from neuroprune.recover.replay import Enough, Forward, Replay
from neuroprune.recover.sites import find_sites

#: one example in so many is held out to choose by; looked at so often
HELD, LOOKS = 8, 6


@dataclass(frozen=True)
class ReconstructConfig:
    """``steps`` of Adam with the peak rate ``lr`` (cosine) per window of blocks, ``batch`` examples each."""

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


@dataclass(frozen=True)
class _Lesson:
    """What a window gets, and what its blocks should give: all examples, [n, ...] each. ``call``: how its first
    block is called."""

    call: Arguments
    inputs: tuple[Tensor, ...]
    targets: tuple[Tensor, ...]


class _Window(nn.Module):
    """Blocks that run one into the next; all their outputs."""

    def __init__(self, blocks: Sequence[nn.Module], call: Arguments) -> None:
        super().__init__()
        self.blocks, self.call = nn.ModuleList(blocks), call

    def forward(self, *inputs: Tensor) -> list[Tensor]:
        outputs = [self.call.call(self.blocks[0], inputs)]
        for block in self.blocks[1:]:
            outputs.append(block(outputs[-1].clone()))  # a block may write into what it gets
        return outputs


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

    Blocks may be called in any way. Those whose batches are not examples of one size, or whose examples depend on
    each other, stay as they are.
    """
    config, progress = config or ReconstructConfig(), progress or SilentProgress()
    sites = find_sites(dense, lambda net: forward(net, batches[0]))
    theirs, ours = Replay(dense, forward, batches), Replay(model, forward, batches)
    layers = [site.layer for site in sites]
    names = [name for name in blocks_of(sites, theirs) if not is_inside(name, plan.bypassed)]
    windows = windows_of(names, sites, theirs)
    progress.start("reconstructing blocks", len(windows))
    done: list[str] = []
    results: list[Reconstructed] = []
    for number, window in enumerate(windows):
        kept = {name: kept_rows(dense, plan, inside(layers, name)) for name in window}
        lesson = _lesson(theirs, ours, window, kept)
        if lesson is not None:
            results += _learn([ours.modules[name] for name in window], window, lesson, config, number)
        done += [layer for name in window for layer in inside(layers, name)]
        theirs.finish(done, layers)
        ours.finish(done, layers)
        progress.advance(window[-1])
    return results


def _lesson(
    theirs: Replay, ours: Replay, names: Sequence[str], kept: Mapping[str, Tensor | None]
) -> _Lesson | None:
    """None where inputs or outputs are not examples of one size, or do not fit."""
    calls: list[Arguments] = []
    rows: list[tuple[Tensor, ...]] = []
    for index in range(len(ours.batches)):
        (given, outputs), (_, wanted) = _through(ours, names, index), _through(theirs, names, index)
        pairs = zip(names, wanted, outputs, strict=True)
        targets = [as_cut(w, o.shape, kept[name]) for name, w, o in pairs]
        if any(target is None for target in targets) or (calls and not given.fits(calls[0])):
            return None
        calls.append(given)
        rows.append((*given.examples, *(target for target in targets if target is not None)))
        if index == 0 and not _independent([ours.modules[name] for name in names], given, outputs):
            return None
    if any(t.dim() == 0 for row in rows for t in row) or any(len({len(t) for t in row}) > 1 for row in rows):
        return None
    if len({tuple((t.dtype, t.shape[1:]) for t in row) for row in rows}) != 1:
        return None
    every = tuple(torch.cat(parts) for parts in zip(*rows, strict=True))
    inputs = len(calls[0].examples)
    return _Lesson(calls[0], every[:inputs], every[inputs:])


def _independent(blocks: Sequence[nn.Module], given: Arguments, outputs: Sequence[Tensor]) -> bool:
    """Whether the examples in another order give the same outputs in that order: then any may be picked."""
    window = _Window(blocks, given)
    with evaluation(window):
        turned = window(*(x.flip(0).clone() for x in given.examples))
    return bool(given.examples) and all(
        a.shape == b.shape and bool((a.flip(0) - b).abs().max() <= 1e-3 * b.abs().max().clamp_min(1e-30))
        for a, b in zip(turned, outputs, strict=True)
    )


def _through(replay: Replay, names: Sequence[str], index: int) -> tuple[Arguments, list[Tensor]]:
    """What the window is called with and what its blocks give, of one batch."""
    got: list[tuple[tuple[Any, ...], dict[str, Any]]] = []
    outputs: list[Tensor] = []

    def enter(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        got.append(map_tensors(lambda x: x.clone(), (args, kwargs)))  # the block may write into what it gets

    def seen(name: str, args: Any, kwargs: Any, output: Tensor) -> None:
        outputs.append(output.clone())
        if name == names[-1]:
            raise Enough

    handle = replay.modules[names[0]].register_forward_pre_hook(enter, with_kwargs=True)
    try:
        with watched(replay.modules, names, seen):
            replay.run(index)
    finally:
        handle.remove()
    count = len(outputs[0]) if outputs[0].dim() else 0
    return Arguments.of(*got[0], count), outputs


def _learn(
    blocks: Sequence[nn.Module], names: Sequence[str], lesson: _Lesson, config: ReconstructConfig, number: int
) -> list[Reconstructed]:
    """The state of the window that was best on the examples held out, the one before learning among them."""
    window = _Window(blocks, lesson.call)
    trained = [p for p in window.parameters() if p.is_floating_point()]
    scales = [float(target.var().clamp_min(1e-30)) for target in lesson.targets]
    held, learnt = _split(lesson)
    before = _errors(window, lesson, scales, config.batch)
    best, kept = sum(_errors(window, held, scales, config.batch)), [p.detach().clone() for p in trained]
    for _ in _steps(window, trained, learnt, scales, config, number):
        error = sum(_errors(window, held, scales, config.batch))
        if error < best:  # never where it is not finite
            best, kept = error, [p.detach().clone() for p in trained]
    with torch.no_grad():
        for parameter, value in zip(trained, kept, strict=True):
            parameter.copy_(value)
            parameter.grad = None
    after = _errors(window, lesson, scales, config.batch)
    return [Reconstructed(*row) for row in zip(names, before, after, strict=True)]


def _split(lesson: _Lesson) -> tuple[_Lesson, _Lesson]:
    """Every ``HELD``-th example, by which a state is chosen, and the others, from which is learnt. Where there are
    too few for that, all are both."""
    count = len(lesson.targets[0])
    if count < 2 * HELD:
        return lesson, lesson
    out = torch.zeros(count, dtype=torch.bool)
    out[::HELD] = True

    def part(chosen: Tensor) -> _Lesson:
        inputs, targets = (tuple(x[chosen] for x in values) for values in (lesson.inputs, lesson.targets))
        return _Lesson(lesson.call, inputs, targets)

    return part(out), part(~out)


def _steps(
    window: _Window,
    trained: Sequence[nn.Parameter],
    lesson: _Lesson,
    scales: Sequence[float],
    config: ReconstructConfig,
    number: int,
) -> Iterator[int]:
    """Adam, with a stop to look ``LOOKS`` times along the way."""
    generator = torch.Generator().manual_seed(config.seed * 1_000_003 + number)
    optimizer = torch.optim.Adam(trained, lr=config.lr)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: rate(step, config.steps))
    every = max(config.steps // LOOKS, 1)
    with evaluation(window), gradients(window, everywhere=True), torch.enable_grad():
        for step in range(1, config.steps + 1):
            picked = torch.randint(len(lesson.targets[0]), (config.batch,), generator=generator)
            given = window(*(x[picked] for x in lesson.inputs))
            pairs = zip(given, lesson.targets, scales, strict=True)
            loss = torch.stack([functional.mse_loss(out, t[picked]) / scale for out, t, scale in pairs]).mean()
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
            if step % every == 0 or step == config.steps:
                yield step


def _errors(window: nn.Module, lesson: _Lesson, scales: Sequence[float], batch: int) -> list[float]:
    """Of each block: squared error over its variance."""
    totals = [0.0] * len(scales)
    with evaluation(window):
        for first in range(0, len(lesson.targets[0]), batch):
            part = slice(first, first + batch)
            given = window(*(x[part].clone() for x in lesson.inputs))  # a block may write into what it gets
            for n, (output, target) in enumerate(zip(given, lesson.targets, strict=True)):
                totals[n] += float(functional.mse_loss(output, target[part], reduction="sum"))
    return [
        total / target.numel() / scale for total, target, scale in zip(totals, lesson.targets, scales, strict=True)
    ]
