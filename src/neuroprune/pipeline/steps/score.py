"""Score every unit by a criterion."""

from __future__ import annotations

from itertools import islice

from pydantic import Field, field_validator

from neuroprune.base.errors import UserError
from neuroprune.pipeline.context import Context
from neuroprune.pipeline.step import Outcome, StepConfig, step
from neuroprune.pruning.criteria import CRITERIA
from neuroprune.pruning.score import gather, score
from neuroprune.pruning.statistics import Statistics


class ScoreConfig(StepConfig):
    """``criterion``: see ``neuroprune list criteria``; ``batches``: how many training batches it may look at.

    ``keep``: groups that will stay whole, in which the criterion need find nothing.
    """

    criterion: str = "activation"
    batches: int = Field(16, ge=1)
    keep: tuple[str, ...] = ()

    @field_validator("criterion")
    @classmethod
    def _known(cls, name: str) -> str:
        return known_criterion(name)


def known_criterion(name: str) -> str:
    """``name``, or a ValueError (which becomes file and line) with the nearest criterion."""
    try:
        CRITERIA.get(name)
    except UserError as error:
        raise ValueError(" ".join(str(error).split())) from None
    return name


@step(
    "score",
    ScoreConfig,
    summary="score every unit by a criterion",
    source="S2, step 3",
    gives=("scores",),
)
def run_score(context: Context, config: ScoreConfig) -> Outcome:
    statistics = statistics_of(context, config.criterion, config.batches)
    context.scores = score(
        context.model, context.trace, config.criterion, statistics, seed=context.seed, keep=config.keep
    )
    units = sum(len(values) for values in context.scores.values())
    return Outcome(
        f"{config.criterion} over {units} units in {len(context.scores)} groups",
        facts={"criterion": config.criterion},
    )


def statistics_of(context: Context, criterion: str, batches: int) -> Statistics:
    """What the criterion needs to know from the first ``batches`` of the training data, in fixed order."""
    data = islice(context.task.train.epoch(None), batches)
    units = context.trace if "loss" in CRITERIA.get(criterion).needs else None
    return gather(context.model, criterion, data, context.task.forward, context.task.loss, trace=units)
