"""Calibration batches for the steps that need no labels."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from neuroprune.pipeline.context import Context
from neuroprune.pipeline.step import StepConfig
from neuroprune.tasks.batches import batch_length
from neuroprune.tasks.task import Task


class CalibrationOptions(StepConfig):
    """``examples``: how many training examples are looked at, in a random order that the run's seed fixes."""

    examples: int = Field(2048, ge=1)


def calibration(context: Context, options: CalibrationOptions) -> list[Any]:
    return batches_of(context.task, options.examples)


def batches_of(task: Task, examples: int) -> list[Any]:
    """Whole batches of the first training epoch, until there are enough examples; their labels are not used."""
    batches: list[Any] = []
    count = 0
    for batch in task.train.epoch(0):
        batches.append(batch)
        count += batch_length(batch)
        if count >= examples:
            break
    return batches


def judged(context: Context) -> str:
    """``accuracy 91.20 %`` of the network as it is, on val."""
    task = context.task
    return f"{task.metric} {task.evaluate(context.model, task.val):.2f} {task.metric_unit} on val".rstrip()
