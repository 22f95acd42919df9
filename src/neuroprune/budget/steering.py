"""From what a model of costs promises to what a measurement says: which limits to ask the model for next.

Sums over layers are off by a factor that changes little between neighbouring networks. So each limit is asked for
divided by that factor, as the last measurement shows it, down to the least that can be asked for, and up again
where more was cut than the budget wanted.
"""

from __future__ import annotations

from collections.abc import Mapping

from neuroprune.base.errors import UserError
from neuroprune.base.nouns import Budget
from neuroprune.budget.depth import Choice

#: a budget used to this share is met well enough: the next measurement would tell nothing new
TIGHT = 0.97
#: share by which more is asked for with every miss after the first
AGAIN = 0.03


class Steering:
    """``targets``: what to ask the model for. ``noise``: per kind the share by which a measurement must stay
    under the limit, so that it holds when it is measured again. ``least``: per kind the least that the model
    promises."""

    def __init__(
        self, limits: Mapping[str, float], noise: Mapping[str, float], least: Mapping[str, float]
    ) -> None:
        self.limits, self.least = dict(limits), dict(least)
        self.goals = {kind: 1 / (1 + noise[kind]) for kind in limits}
        self.targets = {kind: self._possible(kind, limits[kind] * self.goals[kind]) for kind in limits}
        self.best: Choice | None = None
        self._best_use = 0.0
        self._failed = {kind: float("inf") for kind in limits}
        self._held = dict.fromkeys(limits, 0.0)
        self._misses = dict.fromkeys(limits, 0)
        self._seen: set[tuple[object, ...]] = set()
        #: per kind the least share of its limit that was measured
        self.nearest = {kind: float("inf") for kind in limits}

    def known(self, choice: Choice) -> bool:
        """This choice was measured already: asking again leads nowhere else."""
        return choice.key() in self._seen

    def saw(self, choice: Choice, shares: Mapping[str, float]) -> bool:
        """A measurement of ``choice``: ``shares`` of the limits. True where the budget is met and used up, or
        nothing else would be asked for."""
        self._seen.add(choice.key())
        use = {kind: shares[kind] / self.goals[kind] for kind in self.limits}
        for kind in self.limits:
            self.nearest[kind] = min(self.nearest[kind], shares[kind])
        held = max(use.values()) <= 1 + 1e-9
        if held and max(use.values()) > self._best_use:
            self.best, self._best_use = choice, max(use.values())
        before = dict(self.targets)
        for kind in self.limits:
            self._move(kind, choice.costs[kind], use[kind], held)
        settled = all(abs(self.targets[kind] - before[kind]) <= 2e-3 * before[kind] for kind in self.limits)
        return held and (settled or max(use.values()) >= TIGHT)

    def _move(self, kind: str, predicted: float, use: float, held: bool) -> None:
        """The model's figure that gives the goal if it is wrong by the same factor again; between what held and
        what failed before."""
        now = self.targets[kind]
        if use > 1 + 1e-9:
            self._misses[kind] += 1
            self._failed[kind] = min(self._failed[kind], now)
        elif held:
            self._held[kind] = max(self._held[kind], now)
        wanted = min(predicted / use if use > 0 else float("inf"), self.limits[kind] * 4)
        low, high = self._held[kind], self._failed[kind]
        if not low < wanted < high:
            wanted = (low + high) / 2 if high < float("inf") else max(wanted, low)
        if use > 1 + 1e-9:
            wanted = min(wanted, 0.995 * now)
            if not low:  # the factor changes: the more often it was not enough, the further below it
                wanted *= 1 - AGAIN * (self._misses[kind] - 1)
        self.targets[kind] = self._possible(kind, wanted)

    def _possible(self, kind: str, target: float) -> float:
        return max(target, self.least[kind] * (1 + 1e-9))

    def unmet(self, budget: Budget) -> UserError:
        """What was missed, and the least that was reached."""
        missed = [one for one in budget.limits if self.nearest[one.kind] > self.goals[one.kind]]
        least = ", ".join(
            f"{self.limits[one.kind] * self.nearest[one.kind]:.6g}{one.unit} where "
            f"{self.limits[one.kind]:.6g}{one.unit} were allowed"
            for one in missed or budget.limits
        )
        names = ", ".join(one.kind for one in missed) or "all limits at once"
        return UserError(
            f"the budget for {names} cannot be met by removing channels and blocks",
            value=f"the least that was reached is {least}",
            mend="raise it, lower round_to and the minimum of kept channels, or let more layers be cut",
        )
