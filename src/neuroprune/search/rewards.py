"""What a search maximises: accuracy and cost in one number."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from neuroprune.base.errors import UserError
from neuroprune.base.registry import Registry


@dataclass(frozen=True)
class Measured:
    """``score``: accuracy or agreement in percent; ``sparsity``: share of the parameters that is gone; ``macs``,
    ``params``: counts; ``cost``: share of the dense network's cost, of the budget's first kind."""

    score: float
    sparsity: float
    macs: float
    params: float
    cost: float

    @property
    def error(self) -> float:
        """0..1."""
        return 1.0 - self.score / 100.0


#: (what was measured, weight) -> larger is better
Rule = Callable[[Measured, float], float]
REWARDS: Registry[Rule] = Registry("reward")


@REWARDS.register("accuracy", summary="the score alone, where all meet the budget", source="He et al. 2018")
def accuracy(found: Measured, weight: float) -> float:
    return found.score


@REWARDS.register("sparsity", summary="accuracy + weight * share of the parameters gone", source="S1, Neuro Prune")
def sparsity(found: Measured, weight: float) -> float:
    return found.score + weight * found.sparsity


@REWARDS.register("cost", summary="accuracy - weight * cost over the dense network's", source="ours")
def cost(found: Measured, weight: float) -> float:
    return found.score - weight * found.cost


@REWARDS.register("error", summary="-error", source="He et al. 2018, AMC: R_err")
def error(found: Measured, weight: float) -> float:
    return -found.error


@REWARDS.register("flops", summary="-error * ln(FLOPs)", source="He et al. 2018, AMC: R_FLOPs")
def flops(found: Measured, weight: float) -> float:
    """FLOPs are two per multiply-accumulate."""
    return -found.error * math.log(max(2 * found.macs, math.e))


@REWARDS.register("params", summary="-error * ln(parameters)", source="He et al. 2018, AMC: R_Param")
def params(found: Measured, weight: float) -> float:
    return -found.error * math.log(max(found.params, math.e))


@dataclass(frozen=True)
class Reward:
    """A registered rule and its weight: S1's ``lambda_weight``, in points of accuracy. Raises UserError for an
    unknown rule and a weight that is negative or not finite."""

    rule: str = "accuracy"
    weight: float = 20.0

    def __post_init__(self) -> None:
        REWARDS.get(self.rule)
        if not (math.isfinite(self.weight) and self.weight >= 0):
            raise UserError(
                "the reward's weight must be 0 or more", value=self.weight,
                mend="20 makes one point of accuracy worth five points of sparsity",
            )  # fmt: skip

    def __call__(self, found: Measured) -> float:
        return REWARDS.get(self.rule)(found, self.weight)
