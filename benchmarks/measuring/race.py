"""Time to find and plan a cut, ours against Torch-Pruning's, in one process and interleaved (cell A3)."""

from __future__ import annotations

import copy
import functools
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import nn

import neuroprune
from measuring.checks import said
from measuring.children import Report
from measuring.peer import cut, output_layers
from measuring.shares import parameters
from neuroprune import pruning

#: CPU seconds of one round of both, under which it is repeated
SHORT, ROUNDS = 20.0, 3


def measure_race(zoo: Any, name: str, ratio: float, report: Report) -> None:
    """Medians of CPU seconds: ``ours`` is trace and plan, ``theirs`` constructor and step, each on a new copy.

    ``status``: ``both``, or ``ours`` / ``theirs`` where only one of them comes to an end, or ``none``.
    """
    report.tell(stage="build")
    model, inputs = zoo.build(name)
    heads = output_layers(model, inputs, zoo.classes(name))
    _warm_up()
    report.tell(stage="race", params=parameters(model))
    ours: list[float] = []
    theirs: list[float] = []
    problems: dict[str, str] = {}
    for _ in range(ROUNDS):
        _one(lambda net: plan(net, inputs, ratio), model, ours, problems, "ours")
        report.tell(ours=_median(ours))
        there = copy.deepcopy(model)
        paired = dict(zip(model.modules(), there.modules(), strict=True))
        work = functools.partial(cut, inputs=inputs, ratio=ratio, ignored=[paired[head] for head in heads])
        _one(work, there, theirs, problems, "theirs")
        report.tell(theirs=_median(theirs), problems=problems, rounds=max(len(ours), len(theirs)))
        report.tell(status=finished(report.record))
        if problems or sum(ours + theirs) > SHORT * max(len(ours), 1):
            break
    report.tell(stage="done", quotient=_median(ours) / _median(theirs) if ours and theirs else None)


def finished(record: Mapping[str, Any]) -> str:
    """Who came to an end; a race that ran out of time has what was measured until then."""
    ours, theirs = record.get("ours") is not None, record.get("theirs") is not None
    return {(True, True): "both", (True, False): "ours", (False, True): "theirs"}.get((ours, theirs), "none")


def plan(model: nn.Module, inputs: Any, ratio: float) -> Any:
    """Trace, score by magnitude and allocate: everything before the proof and the cut."""
    found = neuroprune.trace(model, inputs)
    scores = pruning.score(model, found, "l2")
    return pruning.allocate(model, found, scores, ratio, criterion="l2")


def plan_of_first(model: nn.Module, found: Any, ratio: float) -> Any:
    """A plan without looking at weights: the first units of every group go. For models on the meta device."""
    scores = {group.name: np.arange(group.size, dtype=np.float64) for group in found.groups}
    return pruning.allocate(model, found, scores, ratio, criterion="first")


def _one(
    work: Callable[[nn.Module], Any], model: nn.Module, into: list[float], problems: dict[str, str], who: str
) -> None:
    began = time.process_time()
    try:
        work(model)
    except Exception as error:
        problems[who] = said(error)
        return
    into.append(time.process_time() - began)


def _warm_up() -> None:
    """What either side imports and compiles at its first use is not what the model costs."""
    net, inputs = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Flatten(), nn.Linear(16, 2)), torch.zeros(1, 3, 2, 2)
    plan(net, inputs, 0.5)
    cut(net, inputs, 0.5, [net[2]])


def _median(seconds: list[float]) -> float | None:
    return round(statistics.median(seconds), 4) if seconds else None
