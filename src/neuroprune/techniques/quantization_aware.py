"""Weights chosen and trained on the grid of an integer type."""

from __future__ import annotations

import copy

from torch import Tensor, nn

from neuroprune.base.errors import UserError
from neuroprune.compression.cluster import cluster_weights
from neuroprune.pruning.criteria import CRITERIA, WeightView
from neuroprune.pruning.masks import Masks
from neuroprune.pruning.score import view_of
from neuroprune.pruning.select_weights import Spread
from neuroprune.recover.on_grid import weights_on_grid
from neuroprune.techniques._base import TECHNIQUES, Setting, Thinned
from neuroprune.techniques._masking import fraction_of, spared, tightening, train


@TECHNIQUES.register(
    "quantization-aware",
    summary="what rounds to zero on the integer grid goes; training with weights on the grid, masks in force",
    source="S2; S3 (combined with quantisation); Jacob et al. 2018",
)
def quantization_aware(
    setting: Setting,
    *,
    bits: int = 8,
    criterion: str = "on_grid",
    schedule: str = "cubic",
    spread: Spread = "erk",
    clusters: int | None = None,
    keep: tuple[str, ...] = (),
) -> Thinned:
    """``bits``: of the grid that training sees. ``clusters``: afterwards so many values per tensor, zero among
    them. ``criterion``: one that reads nothing but weights."""
    if CRITERIA.get(criterion).needs:
        raise UserError(
            f"the criterion {criterion!r} needs data, and here weights are scored as the grid has them",
            mend="use on_grid, l1, l2, lamp or random",
        )
    model = copy.deepcopy(setting.model)
    masks = Masks.for_weights(model, keep)
    fraction = fraction_of(setting, masks, model)

    def saliencies() -> dict[str, Tensor]:
        return {name: _saliency(criterion, name, p, setting.seed) for name, p in masks.parameters().items()}

    with weights_on_grid(model, bits):
        hook = tightening(
            setting, masks, fraction, saliencies, schedule=schedule, spread=spread,
            name=f"{criterion} {setting.seed} {bits}",
        )  # fmt: skip
        trainings = train(setting, model, "quantisation-aware training", hook)
    masks = _again(model, masks)
    facts = {"bits": bits}
    if clusters is not None:
        report = cluster_weights(model, k=clusters)
        facts |= {"distinct weights before": report.before, "distinct weights": report.after}
    return Thinned(model.eval(), masks=masks, trainings=trainings, facts=facts, notes=spared(hook.spared))


def _saliency(criterion: str, name: str, value: Tensor, seed: int) -> Tensor:
    rule = CRITERIA.get(criterion).saliency
    if rule is None:
        raise UserError(f"the criterion {criterion!r} scores whole units", mend="use on_grid, l1 or l2")
    view: WeightView = view_of(name, value.detach(), seed)
    return rule(view)


def _again(model: nn.Module, masks: Masks) -> Masks:
    """The same masks over the model's own parameters, which are others after training on the grid."""
    fresh = Masks(model, "weight", {name: mask.clone() for name, mask in masks.masks.items()})
    fresh.apply()
    return fresh
