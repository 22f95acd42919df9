"""``neuroprune sensitivity``: curves of a network on a task, in a folder with a page."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from neuroprune.base.errors import Interrupted, UserError
from neuroprune.base.files import check_free
from neuroprune.base.progress import Progress, SilentProgress
from neuroprune.budget.curves import Sensitivity
from neuroprune.budget.sensitivity import sensitivity
from neuroprune.report import build_sensitivity
from neuroprune.tasks.check import check_task
from neuroprune.tasks.task import Accuracy, Task

JSON, PAGE = "sensitivity.json", "sensitivity.html"
#: groups that the summary names
NAMED = 8


def ratios_of(text: str) -> tuple[float, ...]:
    """``0.1,0.5,0.9`` as numbers. Raises UserError."""
    try:
        return tuple(float(part) for part in text.split(",") if part.strip())
    except ValueError:
        raise UserError(
            f"cannot read --ratios {text}", mend="write numbers above 0 and below 1: 0.1,0.3,0.5,0.7,0.9"
        ) from None


def sensitivity_into(
    folder: Path,
    network: nn.Module,
    task: Task,
    options: Mapping[str, Any],
    *,
    title: str,
    labels: bool = True,
    resume: bool = False,
    threads: int = 1,
    progress: Progress | None = None,
    command: str = "the same command with --resume",
) -> Sensitivity:
    """Analyse ``network`` on the task's validation split; writes ``sensitivity.json`` and ``sensitivity.html``.

    ``options``: of `neuroprune.sensitivity`. Raises UserError for anything the user must mend, and Interrupted on
    Ctrl-C, when what was measured is in the folder and ``command`` goes on.
    """
    task = task if labels else replace(task, has_labels=False)
    if not resume:
        check_free(folder)
    progress, before = progress or SilentProgress(), torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        check_task(task, network)
        own = labels and task.has_labels and not isinstance(task.evaluate, Accuracy)
        found = sensitivity(
            network,
            list(task.val.epoch(None)),
            evaluate=(lambda model: task.evaluate(model, task.val)) if own else None,
            forward=task.forward,
            labels=labels and task.has_labels,
            out=folder / JSON,
            resume=resume,
            progress=progress,
            **options,
        )
        progress.finish(f"{len(found.curves)} groups, {sum(len(c.points) for c in found.curves)} points")
        names = [curve.group for curve in found.ranked()]
        build_sensitivity(found.to_json(), folder / PAGE, ranked=names, title=title)
        return found
    except KeyboardInterrupt as stop:
        raise Interrupted(
            "stopped; every point that was measured is kept",
            where=str(folder / JSON),
            mend=f"go on with: {command}",
        ) from stop
    finally:
        progress.close()
        torch.set_num_threads(before)


def summary_lines(found: Sensitivity, folder: Path) -> list[str]:
    """What the command prints: the most sensitive groups, what halving each does, where the files are."""
    what = f"{found.metric} {found.unit}".strip() if found.metric else "error of the outputs"
    head = f"{found.metric} {found.dense:.4g} {found.unit}".strip() if found.dense is not None else "no labels"
    middle = len(found.options["ratios"]) // 2
    lines = [f"{len(found.curves)} groups on {found.examples:,} examples (measured; dense: {head})"]
    lines.append(f"most sensitive first, {what} with {found.options['ratios'][middle]:.0%} of one group removed:")
    for curve in found.ranked()[:NAMED]:
        point = curve.points[middle]
        value = point.metric if found.metric else point.divergence
        shown = "not finite" if value is None else f"{value:.4g}"
        lines.append(f"  {curve.group:<40} {point.removed:>5} of {curve.units:<5} {shown:>10}")
    if len(found.curves) > NAMED:
        lines.append(f"  and {len(found.curves) - NAMED} more; all of them are in {PAGE}")
    return [*lines, str(folder / JSON), str(folder / PAGE)]
