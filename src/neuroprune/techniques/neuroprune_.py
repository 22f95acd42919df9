"""System S1, Neuro Prune: rounds of activation tracking, normalised threshold, reward and retraining."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

from neuroprune.pruning.masks import Masks
from neuroprune.pruning.schedules import Schedule
from neuroprune.pruning.select_weights import Spread
from neuroprune.techniques._base import TECHNIQUES, Setting, Thinned, Training
from neuroprune.techniques._masking import fraction_of, held, saliency_of, spared


@TECHNIQUES.register(
    "neuroprune",
    summary="rounds: track activations, prune what is under the threshold, reward, retrain",
    source="S1, stages 1 to 5",
)
def neuroprune(
    setting: Setting,
    *,
    criterion: str = "activation",
    rounds: int = 4,
    schedule: str = "cubic",
    lambda_weight: float = 20.0,
    spread: Spread = "normalised",
    keep: tuple[str, ...] = (),
) -> Thinned:
    """Each of the ``rounds`` has its share of the epochs; the fraction follows ``schedule`` over the rounds.

    The reward after each, metric + ``lambda_weight`` * sparsity, is told, and decides nothing: the density is
    given. The step ``rounds`` of recipes lets it decide.
    """
    model = copy.deepcopy(setting.model)
    masks = Masks.for_weights(model, keep)
    course = Schedule(schedule, target=fraction_of(setting, masks, model), end=1.0)
    rounds = max(1, min(rounds, setting.fit.epochs or 1))
    log: list[dict[str, Any]] = []
    trainings: list[Training] = []
    emptied: tuple[str, ...] = ()
    for number in range(1, rounds + 1):
        fraction = course.at(number / rounds)
        emptied = masks.switch_weights(saliency_of(setting, model, criterion), fraction, spread=spread)
        epochs = setting.fit.epochs * number // rounds - setting.fit.epochs * (number - 1) // rounds
        part = replace(setting, fit=replace(setting.fit, epochs=epochs), seed=setting.seed + number)
        trainings += held(part, model, masks, f"retraining, round {number}")
        metric = setting.task.evaluate(model, setting.task.val)
        sparsity = masks.sparsity()
        log.append({"round": number, "fraction": fraction, "sparsity": sparsity, "metric": metric,
                    "reward": metric + lambda_weight * sparsity})  # fmt: skip
    return Thinned(
        model.eval(), masks=masks, trainings=tuple(trainings), facts={"rounds": log}, notes=spared(emptied)
    )
