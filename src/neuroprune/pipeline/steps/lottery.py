"""Find a lottery ticket: prune in rounds, rewind, train again, compare with its controls."""

from __future__ import annotations

import copy
from dataclasses import asdict
from typing import Any, Literal

from pydantic import Field, model_validator

from neuroprune.base.errors import UserError
from neuroprune.pipeline.context import Context
from neuroprune.pipeline.step import Outcome, step
from neuroprune.pipeline.training import FitOptions
from neuroprune.pruning.allocate import Scope
from neuroprune.pruning.masks import Granularity
from neuroprune.pruning.plan import Plan
from neuroprune.pruning.restore import save_undo
from neuroprune.recover.lottery import LotteryConfig, Ticket, TicketRecord, find_ticket
from neuroprune.recover.ticket import put


class LotteryOptions(FitOptions):
    """As `recover.lottery.LotteryConfig`; ``epochs``, ``lr`` and so on are of each whole training.

    The first training is that of the dense network, which becomes control and teacher: put no ``train`` before
    it, or the tickets go back to trained weights. ``rewind``: init, epoch (to ``rewind_epoch``) or lr.
    """

    granularity: Granularity = "weight"
    rounds: int = Field(10, ge=1)
    fraction: float = Field(0.2, gt=0, lt=1)
    rewind: Literal["init", "epoch", "lr"] = "init"
    rewind_epoch: int = Field(0, ge=0)
    criterion: str = "l1"
    batches: int = Field(16, ge=1)
    scope: Scope = "local"
    rates: dict[str, float] = Field(default_factory=dict)
    controls: tuple[Literal["reinit", "random_mask", "dense"], ...] = ("reinit", "random_mask")
    control_rounds: tuple[int, ...] = ()
    tolerance: float = Field(0.0, ge=0)

    def lottery_config(self, seed: int) -> LotteryConfig:
        own = self.model_dump(include=set(LotteryOptions.model_fields) - set(FitOptions.model_fields))
        return LotteryConfig(self.fit_config(seed, self.epochs, None), **own)

    @model_validator(mode="after")
    def _consistent(self) -> LotteryOptions:
        try:
            self.lottery_config(0)
        except UserError as error:
            raise ValueError(" ".join(str(error).split())) from None
        return self


@step(
    "lottery",
    LotteryOptions,
    summary="find a lottery ticket: prune in rounds, rewind, train again; with controls",
    source="Frankle, Carbin 2019; Frankle et al. 2020; Renda et al. 2020",
    gives=("masks", "selection"),
)
def lottery(context: Context, config: LotteryOptions) -> Outcome:
    ticket = find_ticket(
        context.model,
        context.task,
        config.lottery_config(context.seed),
        checkpoint=context.work / "lottery",
        progress=context.progress,
    )
    context.dense = copy.deepcopy(context.model)
    put(context.dense, ticket.dense)
    save_undo(context.folder.undo, context.dense, Plan.identity(context.dense))
    context.masks, context.granularity, context.plan = ticket.masks, ticket.granularity, ticket.plan
    dense = ticket.record_of("dense", 0).metric
    return Outcome(
        _summary(context, ticket),
        facts={"criterion": config.criterion, "sparsity": ticket.record.sparsity, "dense_metric": dense},
        pieces={
            "curves": [_curve(context, record) for record in ticket.records],
            "tickets": [_row(ticket, record) for record in ticket.records],
            "notes": _notes(context, ticket),
        },
    )


def _summary(context: Context, ticket: Ticket) -> str:
    found, dense = ticket.record, ticket.record_of("dense", 0).metric
    controls = [r for r in ticket.records if r.round == ticket.round and r.kind in ("reinit", "random_mask")]
    others = "".join(f", {r.kind.replace('_', ' ')} {r.metric:.2f}" for r in controls)
    return (
        f"ticket of round {ticket.round}, sparsity {found.sparsity:.1%}, {context.task.metric} {found.metric:.2f} "
        f"{context.task.metric_unit} on val (dense {dense:.2f}{others})"
    )


def _curve(context: Context, record: TicketRecord) -> dict[str, Any]:
    label = f"{record.kind.replace('_', ' ')}, round {record.round}" if record.round else "dense training"
    epochs = [asdict(epoch) for epoch in record.epochs]
    return {"step": context.name, "label": label, "metric": context.task.metric, "epochs": epochs}


def _row(ticket: Ticket, record: TicketRecord) -> dict[str, Any]:
    """An entry of ``tickets`` in results.json."""
    return {
        "kind": record.kind,
        "round": record.round,
        "sparsity": record.sparsity,
        "metric": record.metric,
        "chosen": record is ticket.record,
    }


def _notes(context: Context, ticket: Ticket) -> list[str]:
    notes = []
    if not ticket.reached:
        notes.append(
            f"No ticket reached the dense network's {context.task.metric} on val: the best one was taken "
            "(fewer or smaller rounds, longer training, or rewind: lr may find one)."
        )
    if ticket.unscored:
        notes.append(f"Whole, because the criterion finds nothing to score there: {', '.join(ticket.unscored)}.")
    if ticket.record.single:
        notes.append(f"Kept at one weight, so that no layer is empty: {', '.join(ticket.record.single)}.")
    return notes
