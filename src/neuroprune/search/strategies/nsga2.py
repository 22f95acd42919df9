"""NSGA-II: the Pareto front of score and cost, at and below the budget."""

from __future__ import annotations

from typing import Any

from neuroprune.search._base import STRATEGIES
from neuroprune.search.evaluate import Result
from neuroprune.search.space import Point
from neuroprune.search.strategies._optuna import OptunaStrategy

#: Optuna's 50 is for more evaluations
POPULATION = 24


@STRATEGIES.register(
    "nsga2", summary="Pareto front of score and cost (Optuna); processes share a folder", source="Deb et al. 2002"
)
class Nsga2(OptunaStrategy):
    """Points that cost more than the budget are scaled to it; those that cost less stay, for the front's sake."""

    def directions(self) -> list[str]:
        return ["maximize", "minimize"]

    def sampler(self, seed: int) -> Any:
        made = self.optuna.samplers.NSGAIISampler(population_size=POPULATION, seed=seed)
        # Parents come in another order when they are asked for first, which a resumed search must not mind
        made.get_parent_population(self.study, self._finished() // POPULATION)
        return made

    def values(self, result: Result) -> list[float]:
        kind = self.budget.limits[0].kind
        return [result.score, result.costs[kind] / self.space.dense_cost()[kind]]

    def attributes(self, number: int) -> dict[str, Any]:
        """Optuna's own mark of the generation, which a trial that is added has not got."""
        return {self.optuna.samplers.NSGAIISampler._get_generation_key(): number // POPULATION}

    def _as_it_is(self, point: Point) -> bool:
        return self.space.fits(point, self.budget)
