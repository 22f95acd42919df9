"""The recipe that ``compress`` chooses: one place, so that command line and Python do the same."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from neuroprune.base.errors import UserError
from neuroprune.base.nouns import Budget


def choose_recipe(
    *,
    name: str,
    budget: Budget,
    max_drop: float | None,
    model: dict[str, Any] | None = None,
    data: dict[str, Any] | None = None,
    epochs: int = 10,
    train_epochs: int = 0,
    lr: float = 1e-3,
    optimizer: str = "adamw",
    criterion: str = "activation",
    keep: Sequence[str] = (),
    seed: int = 0,
    threads: int = 1,
    attempts: int = 3,
) -> dict[str, Any]:
    """Plain data for `recipe_from`: fit a uniform ratio to the budget by measuring, cut, fine-tune, int8, measure.

    AdamW by default, because its step does not depend on the scale of an unknown network's gradients.
    Raises UserError for a budget without limits.
    """
    if not budget.limits:
        raise UserError("compress needs a budget", mend="for example latency=0.5, size=500KB or macs=0.3")
    tuning = {"epochs": epochs, "lr": lr, "optimizer": optimizer}
    head: dict[str, Any] = {
        "name": name,
        "title": f"{name}: {', '.join(map(str, budget.limits))}",
        "seed": seed,
        "threads": threads,
        "budget": budget.to_json(),
        "max_drop": max_drop,
        "attempts": attempts,
    }
    places = {key: value for key, value in (("model", model), ("data", data)) if value is not None}
    fit = {"keep": list(keep)} if keep else {}
    steps: list[dict[str, Any]] = [{"train": {**tuning, "epochs": train_epochs}}] if train_epochs else []
    steps += [
        {"initialise": {}},
        {"score": {"criterion": criterion, **fit}},
        {"fit_budget": fit},
        {"cut": {}},
        {"finetune": tuning},
        {"export": {}},
        {"quantize": {"optional": True}},
        {"validate": {}},
        {"measure": {}},
        {"document": {}},
        {"report": {}},
    ]
    return {**head, **places, "steps": steps}
