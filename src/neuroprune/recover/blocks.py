"""Modules that learn to give what the dense network's give, and windows of them that run one into the next."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from neuroprune.pruning.plan import Plan
from neuroprune.recover.replay import Replay
from neuroprune.recover.sites import Site

#: layers in a block and in a window of blocks: what hangs together is learnt together, and memory stays small.
#: Steps cost the same in wide windows as in narrow ones (each layer takes as many), and do more
MOST_IN_BLOCK, MOST_IN_WINDOW = 4, 12

Seen = Callable[[str, tuple[Any, ...], Mapping[str, Any], Any], None]


def inside(layers: Sequence[str], block: str) -> list[str]:
    return [name for name in layers if name == block or name.startswith(block + ".")]


def blocks_of(sites: Sequence[Site], replay: Replay) -> list[str]:
    """Largest modules with one output tensor and at most ``MOST_IN_BLOCK`` sites, in the order of execution.

    None whose layer has its batch norm outside: a refit wrote into both, so the value between them says nothing.
    """
    layers = [site.layer for site in sites]
    norms = {site.layer: site.norm for site in sites if site.norm is not None}
    own = {name: inside(layers, name) for name in replay.readers}
    fit = {
        name for name, within in own.items()
        if 1 <= len(within) <= MOST_IN_BLOCK
        and all(norms[layer].startswith(name + ".") for layer in within if layer in norms)
    }  # fmt: skip
    outermost = [name for name in fit if not any(name.startswith(other + ".") for other in fit)]
    return sorted(outermost, key=lambda name: layers.index(own[name][0]))


@contextmanager
def watched(modules: Mapping[str, nn.Module], names: Sequence[str], seen: Seen) -> Iterator[None]:
    """``seen(name, args, kwargs, output)`` is called whenever one of these modules has run."""
    handles = [
        modules[name].register_forward_hook(lambda _m, a, k, out, n=name: seen(n, a, k, out), with_kwargs=True)
        for name in names
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def windows_of(blocks: Sequence[str], sites: Sequence[Site], replay: Replay) -> list[list[str]]:
    """Runs of blocks of which each gets what the one before gives, and nothing else; few layers in each."""
    layers = [site.layer for site in sites]
    given: dict[str, Any] = {}
    follows: dict[str, str] = {}

    def seen(name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Any) -> None:
        alone = len(args) == 1 and not kwargs and isinstance(args[0], Tensor)
        before = [other for other, value in given.items() if alone and value is args[0]]
        follows[name] = before[0] if before else ""
        given[name] = output

    with watched(replay.modules, blocks, seen):
        replay.run(0)
    windows: list[list[str]] = []
    for name in blocks:
        within = sum(len(inside(layers, other)) for other in (windows[-1] if windows else []))
        fits = within + len(inside(layers, name)) <= MOST_IN_WINDOW
        if windows and fits and follows.get(name) == windows[-1][-1]:
            windows[-1].append(name)
        else:
            windows.append([name])
    return windows


def kept_rows(dense: nn.Module, plan: Plan, layers: Sequence[str]) -> Tensor | None:
    """Output channels of the last of ``layers`` that the plan keeps; None: all."""
    name = f"{layers[-1]}.weight"
    removed = plan.removed.get(name, {}).get(0, ())
    size = dense.get_parameter(name).shape[0]
    return torch.tensor([i for i in range(size) if i not in set(removed)]) if removed else None


def as_cut(target: Tensor, shape: torch.Size, kept: Tensor | None) -> Tensor | None:
    """The dense network's value in the channels that are left; None where it does not fit ``shape``."""
    if target.dim() != len(shape):
        return None
    cut = [dim for dim, size in enumerate(shape) if target.shape[dim] != size]
    if kept is not None and len(cut) == 1 and shape[cut[0]] == len(kept) and int(kept[-1]) < target.shape[cut[0]]:
        target = target.index_select(cut[0], kept.to(target.device))
    return target if target.shape == shape else None
