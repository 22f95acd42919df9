"""Tree-structured Parzen estimator: where good points lie denser than bad ones."""

from __future__ import annotations

from typing import Any

from neuroprune.search._base import STRATEGIES
from neuroprune.search.evaluate import Result
from neuroprune.search.strategies._optuna import OptunaStrategy


@STRATEGIES.register(
    "tpe",
    summary="tree-structured Parzen estimator (Optuna); processes share a folder",
    source="Bergstra et al. 2011",
)
class Tpe(OptunaStrategy):
    def directions(self) -> list[str]:
        return ["maximize"]

    def sampler(self, seed: int) -> Any:
        return self.optuna.samplers.TPESampler(seed=seed)

    def values(self, result: Result) -> list[float]:
        return [result.reward]

    def attributes(self, number: int) -> dict[str, Any]:
        return {}
