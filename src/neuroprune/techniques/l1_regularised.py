"""Training that presses units towards zero, then a cut of those that are there."""

from __future__ import annotations

import copy
import math
from dataclasses import replace
from typing import Literal

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from neuroprune.base.errors import UserError
from neuroprune.graph.units import Group
from neuroprune.recover.config import FitConfig
from neuroprune.recover.hooks import On, Shrinkage
from neuroprune.techniques._base import TECHNIQUES, Setting, Thinned
from neuroprune.techniques._cutting import cut_to, is_any, units_of
from neuroprune.techniques._masking import train


@TECHNIQUES.register(
    "l1",
    summary="L1 regularisation of batch norm's scales (or filters) while training, then the cut",
    source="S2; Liu et al. 2017, Network slimming; proximal: Parikh, Boyd 2014",
)
def l1_regularised(
    setting: Setting,
    *,
    pressure: float = 0.3,
    strength: float | None = None,
    kind: Literal["proximal", "plain"] = "proximal",
    on: On | None = None,
    criterion: str | None = None,
    keep: tuple[str, ...] = (),
    round_to: int = 1,
) -> Thinned:
    """Half of the epochs press (`Shrinkage`), the other half train what was kept.

    ``pressure``: by what part of its mean size everything would shrink if the loss did not hold it; or give the
    ``strength`` of `Shrinkage` itself. ``on``: default ``scales``, or ``filters`` where a unit has no batch norm;
    ``criterion``: what the cut goes by, default ``bn_scale`` or ``l2`` accordingly, under one threshold.
    """
    model = copy.deepcopy(setting.model)
    units = units_of(setting, model, is_any, "units")
    on = on or ("scales" if all(_has_scale(model, group) for group in units.found.groups) else "filters")
    press = replace(setting.fit, epochs=setting.fit.epochs - setting.fit.epochs // 2)
    after = replace(setting.fit, epochs=setting.fit.epochs // 2)
    strength = _strength(setting, model, press, on, pressure) if strength is None else strength
    pressed = train(setting, model, "training with l1", Shrinkage(model, strength, on, kind), config=press)
    chosen = criterion or ("bn_scale" if on == "scales" else "l2")
    small, plan = cut_to(
        setting,
        model.eval(),
        units,
        setting.density,
        criterion=chosen,
        scope="global",
        keep=keep,
        round_to=round_to,
    )
    trainings = (*pressed, *train(setting, small, "training after the cut", config=after))
    return Thinned(small.eval(), plan, trainings=trainings)


def _strength(setting: Setting, model: nn.Module, config: FitConfig, on: On, pressure: float) -> float:
    """``pressure`` times the mean size of what is penalised, over the sum of all steps' rates."""
    if not 0 <= pressure < math.inf:
        raise UserError("the pressure must not be negative", value=pressure, mend="give pressure=1")
    steps = len(setting.task.train)
    rates = sum(config.learning_rate(step, steps) for step in range(config.epochs * steps))
    sizes = []
    for tensor in Shrinkage(model, 0.0, on).penalised():
        rows = tensor.detach().flatten(1) if on == "filters" else tensor.detach().reshape(-1, 1)
        sizes.append(float(rows.norm(dim=1).mean()) / math.sqrt(rows.shape[1]))
    return pressure * sum(sizes) / len(sizes) / rates if rates else 0.0


def _has_scale(model: nn.Module, group: Group) -> bool:
    owners = (model.get_submodule(part.tensor.rpartition(".")[0]) for part in group.slices)
    return any(isinstance(owner, _BatchNorm) for owner in owners)
