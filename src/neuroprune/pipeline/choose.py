"""The recipe that ``compress`` chooses: one place, so that command line and Python do the same."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from neuroprune.base.errors import UserError
from neuroprune.base.nouns import Budget
from neuroprune.base.registry import nearest


def choose_recipe(
    *,
    name: str,
    budget: Budget,
    max_drop: float | None,
    model: dict[str, Any] | None = None,
    data: dict[str, Any] | None = None,
    epochs: int | None = None,
    recover: str | None = None,
    no_train: bool = False,
    data_labels: str = "use",
    train_epochs: int = 0,
    lr: float = 1e-3,
    optimizer: str = "adamw",
    criterion: str = "activation",
    keep: Sequence[str] = (),
    seed: int = 0,
    threads: int = 1,
    attempts: int = 3,
) -> dict[str, Any]:
    """Plain data for `recipe_from`.

    With labels: fit a uniform ratio to the budget by measuring, cut, fine-tune for ``epochs`` (10), int8, measure.
    With ``recover`` (closed-form, reconstruct, distill) or ``no_train`` (at most reconstruct, which is then the
    default): `prune_to_budget`, the rungs up to that one, fine-tuning only for ``epochs`` (0), int8, measure. Data
    without labels (``data_labels="none"``) is taken that way too, by default up to distillation.

    AdamW by default, because its step does not depend on the scale of an unknown network's gradients.
    Raises UserError for a budget without limits, and for options that exclude each other.
    """
    if not budget.limits:
        raise UserError("compress needs a budget", mend="for example latency=0.5, size=500KB or macs=0.3")
    if data_labels not in ("use", "none"):
        raise UserError(f"unknown labels {data_labels!r}", mend="write use or none")
    blind = data_labels == "none"
    rung = _rung(recover, no_train, blind, epochs, train_epochs)
    tuning = {"epochs": epochs if epochs is not None else 10, "lr": lr, "optimizer": optimizer}
    head: dict[str, Any] = {
        "name": name,
        "title": f"{name}: {', '.join(map(str, budget.limits))}",
        "seed": seed,
        "threads": threads,
        "budget": budget.to_json(),
        "max_drop": max_drop,
        "attempts": 1 if rung else attempts,
    }
    if data is not None and blind:
        data = {**data, "labels": "none"}
    places = {key: value for key, value in (("model", model), ("data", data)) if value is not None}
    fit = {"keep": list(keep)} if keep else {}
    steps: list[dict[str, Any]] = [{"train": {**tuning, "epochs": train_epochs}}] if train_epochs else []
    if rung:
        steps += [*_without_labels(rung, fit), *([{"finetune": tuning}] if epochs else [])]
    else:
        steps += _with_labels({"criterion": criterion, **fit}, fit, tuning)
    steps += [
        {"export": {}},
        {"quantize": {"optional": True}},
        {"validate": {}},
        {"measure": {}},
        {"document": {}},
        {"report": {}},
    ]
    return {**head, **places, "steps": steps}


#: rungs of recovery without labels, each with the steps of the ones before it
RUNGS = ("closed-form", "reconstruct", "distill")


def _rung(recover: str | None, no_train: bool, blind: bool, epochs: int | None, train_epochs: int) -> str | None:
    """How far recovery without labels goes; None: the recipe that learns from labels."""
    if recover is not None and recover not in RUNGS:
        guess = nearest(recover, RUNGS)
        hint = f"did you mean {guess!r}? " if guess else ""
        raise UserError(f"unknown recover {recover!r}", mend=f"{hint}use one of {', '.join(RUNGS)}")
    if no_train and recover == "distill":
        raise UserError(
            "distillation trains the network, and no_train forbids it", mend="leave one of the two out"
        )
    if no_train and (epochs or train_epochs):
        raise UserError(
            "no_train forbids fine-tuning and training", value=f"{epochs or train_epochs} epochs",
            mend="leave one of the two out",
        )  # fmt: skip
    if blind and train_epochs:
        raise UserError(
            "the dense network cannot be trained without labels", value=f"{train_epochs} epochs",
            mend="give its weights, or use the labels",
        )  # fmt: skip
    return recover or ("reconstruct" if no_train else "distill" if blind else None)


def _with_labels(score: dict[str, Any], fit: dict[str, Any], tuning: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"initialise": {}}, {"score": score}, {"fit_budget": fit}, {"cut": {}}, {"finetune": tuning}]


def _without_labels(rung: str, fit: dict[str, Any]) -> list[dict[str, Any]]:
    further: list[dict[str, Any]] = [{"reconstruct": {}}, {"distill": {}}]
    return [{"prune_to_budget": fit}, *further[: RUNGS.index(rung)]]
