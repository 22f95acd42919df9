"""S1's loop: track activations, prune by masks, evaluate with the reward, retrain; undo what does not pay."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import Field, ValidationInfo, field_validator
from torch import Tensor

from neuroprune.base.errors import UserError
from neuroprune.export import EXPORTS
from neuroprune.graph.cost import cost
from neuroprune.pipeline.context import Context
from neuroprune.pipeline.granularity import RoundTo, round_to_of, shape_of
from neuroprune.pipeline.measuring import latencies
from neuroprune.pipeline.step import Outcome, step
from neuroprune.pipeline.steps.initialise import masks_of
from neuroprune.pipeline.steps.score import known_criterion, statistics_of
from neuroprune.pipeline.training import FitOptions, fit_in
from neuroprune.pruning.allocate import Scope, allocate
from neuroprune.pruning.criteria import CRITERIA
from neuroprune.pruning.masks import Granularity, Masks
from neuroprune.pruning.patterns import pattern
from neuroprune.pruning.plan import Plan
from neuroprune.pruning.schedules import SCHEDULES, Schedule
from neuroprune.pruning.score import saliencies, score
from neuroprune.pruning.select_weights import Spread
from neuroprune.pruning.surgery import apply


class RoundsConfig(FitOptions):
    """``fraction`` of what is still on goes in each round; ``epochs`` of retraining follow it.

    ``reward = metric + lambda_weight * sparsity`` with the metric in its own unit (points of accuracy) and
    sparsity in 0..1: a ``lambda_weight`` of 20 trades one point of accuracy for five points of sparsity.
    A round whose reward after retraining is lower than the best so far is undone, masks and weights, and the
    fraction halved; under ``smallest_fraction`` the loop ends, as it does at ``target`` (share of units or
    weights that are off). ``sparsity_schedule``: another than ``adaptive`` sets the share that is off after each
    round on the way to ``target`` itself (`neuroprune list schedules`); rounds that do not pay are then undone,
    and the next one tries its own share.

    Beside that reward each round tells ``cost_reward = metric + lambda_weight * (1 - cost / dense cost)``:
    sparsity alone favours layers that are large, not slow. ``cost``: ``macs``, counted, or ``latency``, measured
    on the device beside the dense network, of the network that a cut would leave; masks on single weights leave
    all of it. ``reward: cost`` lets it decide. ``round_to: auto`` and ``shape: auto`` are the device's own.
    ``shape`` and ``spread``: of masks on single weights (`select_weights`).
    """

    granularity: Granularity = "filter"
    shape: str = "weight"
    spread: Spread = "normalised"
    sparsity_schedule: str = "adaptive"
    reward: Literal["sparsity", "cost"] = "sparsity"
    cost: Literal["macs", "latency"] = "macs"
    seconds: float = Field(1.0, gt=0)
    rounds: int = Field(4, ge=1)
    fraction: float = Field(0.2, gt=0, lt=1)
    smallest_fraction: float = Field(0.02, gt=0)
    target: float = Field(0.95, gt=0, lt=1)
    lambda_weight: float = Field(20.0, ge=0)
    criterion: str = "activation"
    batches: int = Field(16, ge=1)
    scope: Scope = "global"
    round_to: RoundTo = 1
    minimum: int = Field(1, ge=1)
    keep: tuple[str, ...] = ()
    epochs: int = Field(1, ge=0)
    lr: float = Field(0.02, gt=0)

    @field_validator("criterion")
    @classmethod
    def _known(cls, name: str, info: ValidationInfo) -> str:
        if info.data.get("granularity") == "weight" and CRITERIA.get(known_criterion(name)).saliency is None:
            raise ValueError(f"the criterion {name!r} scores whole units: use granularity: filter, or l1")
        return known_criterion(name)

    @field_validator("shape", "sparsity_schedule")
    @classmethod
    def _exists(cls, name: str, info: ValidationInfo) -> str:
        try:
            if info.field_name == "shape":
                pattern("weight" if name == "auto" else name)
            elif name != "adaptive":
                SCHEDULES.get(name)
        except UserError as error:
            raise ValueError(" ".join(str(error).split())) from None
        return name

    def fraction_at(self, number: int, best: float, step_size: float) -> float:
        """The share that is to be off in round ``number``; ``best``: what is off now."""
        if self.sparsity_schedule == "adaptive":
            return min(self.target, best + step_size * (1 - best))
        return Schedule(self.sparsity_schedule, target=self.target, end=1.0).at(number / self.rounds)


@dataclass
class _Best:
    """The last state that paid: what a failed round goes back to."""

    fraction: float  # share of units or weights off
    reward: float
    weights: dict[str, Tensor]
    masks: dict[str, Tensor]
    plan: Plan | None


@step(
    "rounds",
    RoundsConfig,
    summary="prune by masks in rounds: activations, threshold, reward, retraining, undo",
    source="S1, stages 2 to 5",
    needs=("masks",),
    gives=("selection",),
)
def rounds(context: Context, config: RoundsConfig) -> Outcome:
    masks = masks_of(context, config.granularity)
    metric = context.task.evaluate(context.model, context.task.val)
    best = _keep(context, masks, 0.0, metric)
    step_size = config.fraction
    log: list[dict[str, Any]] = []
    curves: list[dict[str, Any]] = []
    candidates: list[dict[str, Any]] = []
    for number in range(1, config.rounds + 1):
        fraction = config.fraction_at(number, best.fraction, step_size)
        entry, curve = _round(context, config, masks, number, fraction)
        curves += curve
        candidates += _candidate(context, entry)
        deciding = entry["cost_reward" if config.reward == "cost" else "reward"]
        entry["accepted"] = deciding >= best.reward
        if entry["accepted"]:
            best = _keep(context, masks, fraction, deciding)
        else:
            step_size /= 2
            following = f", next fraction {step_size:.3g}" if config.sparsity_schedule == "adaptive" else ""
            entry["note"] = f"the reward fell: undone{following}"
            _go_back(context, masks, best)
        log.append(entry)
        context.progress.advance(f"reward {entry['reward']:.2f}")
        exhausted = config.sparsity_schedule == "adaptive" and step_size < config.smallest_fraction
        if best.fraction >= config.target or exhausted:
            break
    context.masks, context.granularity, context.plan = masks.state(), config.granularity, best.plan
    return _outcome(context, config, log, {"rounds": log, "curves": curves, "candidates": candidates}, masks)


def _round(
    context: Context, config: RoundsConfig, masks: Masks, number: int, fraction: float
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Prune to ``fraction``, look, retrain, look again. The model, the masks and ``context.plan`` change."""
    notes = _prune(context, config, masks, fraction)
    pruned = context.task.evaluate(context.model, context.task.val)
    label = f"retraining, round {number}"
    curve = fit_in(context, config, label=label, part=number, after_step=masks.apply)
    metric = context.task.evaluate(context.model, context.task.val)
    sparsity, cost_share = masks.sparsity(), _cost(context, config, number)
    entry = {
        "round": number,
        "fraction": fraction,
        "sparsity": sparsity,
        "metric_before_retraining": pruned,
        "metric": metric,
        "reward": metric + config.lambda_weight * sparsity,
        "cost": cost_share,
        "cost_kind": config.cost,
        "cost_reward": metric + config.lambda_weight * (1 - cost_share),
        "note": "; ".join(notes),
    }
    return entry, curve


def _cost(context: Context, config: RoundsConfig, number: int) -> float:
    """What a cut by the masks would cost, as a share of the dense network; 1 where nothing can be cut."""
    if context.plan is None:
        return 1.0
    small, inputs = apply(context.plan, copy.deepcopy(context.model)), context.task.example_inputs
    if config.cost == "macs":
        return cost(small, inputs).macs / max(cost(context.dense, inputs).macs, 1)
    context.work.mkdir(parents=True, exist_ok=True)
    files = {"dense": context.work / "dense.onnx", "candidate": context.work / "candidate.onnx"}
    for network, path in zip((context.dense, small), files.values(), strict=True):
        EXPORTS.get("onnx").write(network, inputs, path)
    threads = context.recipe.header.threads
    found = latencies(context, f"{context.name}/round {number}", files, threads=threads, seconds=config.seconds)
    return float(found["candidate"]["cpu_p50_ms"] / found["dense"]["cpu_p50_ms"])


def _prune(context: Context, config: RoundsConfig, masks: Masks, fraction: float) -> list[str]:
    """Track activations, normalise per layer, find the threshold, update the masks; what to tell of it."""
    statistics = statistics_of(context, config.criterion, config.batches)
    if config.granularity == "weight":
        rule = CRITERIA.get(config.criterion)
        saliency = saliencies(context.model, rule, statistics, context.seed)
        spared = masks.switch_weights(
            saliency, fraction, shape=shape_of(context, config.shape), spread=config.spread
        )
        return [f"{name} would have been emptied: its best weights stay" for name in spared]
    scores = score(context.model, context.trace, config.criterion, statistics, seed=context.seed, keep=config.keep)
    context.plan = allocate(
        context.model,
        context.trace,
        scores,
        fraction,
        scope=config.scope,
        round_to=round_to_of(context, config.round_to),
        minimum=config.minimum,
        keep=config.keep,
        criterion=config.criterion,
        constraint=f"fraction={fraction:.4g}",
    )
    masks.switch_units(context.trace, {d.group: d.removed for d in context.plan.decisions})
    return []


def _candidate(context: Context, entry: dict[str, Any]) -> list[dict[str, Any]]:
    """Where this round would lead if it were cut now; masks on single weights make nothing smaller."""
    if context.plan is None:
        return []
    smaller = cost(apply(context.plan, copy.deepcopy(context.model)), context.task.example_inputs)
    return [
        {
            "label": f"round {entry['round']}",
            "ratio": entry["fraction"],
            "params": smaller.params,
            "macs": smaller.macs,
            "size_bytes": None,
            "latency_ms": None,
            "metric": entry["metric"],
            "chosen": False,
            "stage": "under masks",
        }
    ]


def _keep(context: Context, masks: Masks, fraction: float, reward: float) -> _Best:
    weights = copy.deepcopy(context.model.state_dict())
    return _Best(fraction, reward, weights, masks.state(), context.plan)


def _go_back(context: Context, masks: Masks, best: _Best) -> None:
    context.model.load_state_dict(best.weights)
    masks.load_state(best.masks)
    context.plan = best.plan


def _outcome(
    context: Context,
    config: RoundsConfig,
    log: list[dict[str, Any]],
    pieces: dict[str, list[dict[str, Any]]],
    masks: Masks,
) -> Outcome:
    accepted = [entry for entry in log if entry["accepted"]]
    metric = accepted[-1]["metric"] if accepted else context.task.evaluate(context.model, context.task.val)
    unit = context.task.metric_unit
    return Outcome(
        f"{len(accepted)} of {len(log)} rounds kept, sparsity {masks.sparsity():.1%}, "
        f"{context.task.metric} {metric:.2f} {unit}".rstrip(),
        facts={"criterion": config.criterion, "sparsity": masks.sparsity()},
        pieces=pieces,
    )
