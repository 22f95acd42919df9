"""What every allocation must keep to; third parties subclass the contract for their own."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from neuroprune.base.errors import UserError
from neuroprune.base.progress import SilentProgress
from neuroprune.budget.allocations import ALLOCATIONS
from neuroprune.budget.evidence import Evidence
from neuroprune.budget.kinds import KINDS, Setting
from neuroprune.budget.problem import Costs, Problem, layers_of
from neuroprune.graph.trace import trace
from neuroprune.tasks.task import default_forward


class _Residual(nn.Module):
    """Two blocks on one stream: groups that share layers."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Conv2d(2, 6, 3, padding=1), nn.Linear(6, 3)
        self.inner = nn.ModuleList(nn.Conv2d(6, width, 3, padding=1) for width in (8, 5))
        self.outer = nn.ModuleList(nn.Conv2d(width, 6, 1) for width in (8, 5))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for inner, outer in zip(self.inner, self.outer, strict=True):
            x = x + outer(inner(x).relu())
        out: Tensor = self.head(x.relu().mean((2, 3)))
        return out


def _linear(*widths: int) -> nn.Module:
    layers: list[nn.Module] = []
    for before, after in itertools.pairwise(widths):
        layers += [nn.Linear(before, after), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


#: name -> (network, shape of one example)
NETS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "chain": (lambda: _linear(6, 12, 9, 3), (6,)),
    "residual": (_Residual, (2, 5, 5)),
    "single_group": (lambda: _linear(4, 10, 3), (4,)),
    "few_units": (lambda: _linear(4, 2, 3, 2, 3), (4,)),
}
#: where the limits lie, between the least that removal reaches (0) and the dense network (1)
SHARES = (0.25, 0.55, 0.85)
BUDGETS = (("macs",), ("params",), ("macs", "params"))


@functools.cache
def _evidence(kind: str) -> tuple[Evidence, Setting]:
    make, shape = NETS[kind]
    torch.manual_seed(5)
    model, batches = make().eval(), [torch.randn(16, *shape) for _ in range(2)]
    found = trace(model, batches[0][:2])
    orders = [np.arange(group.size) for group in found.groups]
    known = Evidence(model, found, found.groups, orders, default_forward, batches, 0, SilentProgress())
    return known, Setting(model, batches[0][:2], default_forward, batches)


def problem_of(kind: str, budgets: tuple[str, ...], share: float, step: int = 1) -> Problem:
    """A network of `NETS`, made-up errors that rise ever faster, limits at ``share``, counts ``step`` apart."""
    known, setting = _evidence(kind)
    groups, random = known.groups, np.random.default_rng(7)
    errors = [np.r_[0.0, np.cumsum(np.sort(random.exponential(size=group.size)))] for group in groups]
    allowed = [list(range(0, group.size, step)) for group in groups]
    layers = layers_of(setting.dense, groups)
    costs = Costs(layers, {name: KINDS.get(name).layers(layers, setting) for name in budgets}, {})
    least, most = ([a[place] for a in allowed] for place in (-1, 0))
    ends = {name: (costs.total(name, np.array(least)), costs.total(name, np.array(most))) for name in budgets}
    limits = {name: low + share * (high - low) for name, (low, high) in ends.items()}
    return Problem(groups, errors, costs, limits, allowed, known)


class AllocationContract:
    """Subclass, set ``name`` to a registered allocation, and let pytest collect it."""

    name: str

    def removed(self, problem: Problem) -> np.ndarray:
        return ALLOCATIONS.get(self.name)(problem)

    def test_it_has_a_summary_and_a_source(self) -> None:
        entry = next(e for e in ALLOCATIONS.entries() if e.name == self.name)
        assert entry.summary
        assert entry.source

    @pytest.mark.parametrize("kind", NETS)
    @pytest.mark.parametrize("budgets", BUDGETS, ids="+".join)
    @pytest.mark.parametrize("step", [1, 3])
    def test_every_budget_holds_by_allowed_counts(self, kind: str, budgets: tuple[str, ...], step: int) -> None:
        for share in (0.0, *SHARES):
            problem = problem_of(kind, budgets, share, step)
            removed = self.removed(problem)
            assert len(removed) == len(problem.groups)
            assert all(int(n) in a for n, a in zip(removed, problem.allowed, strict=True)), removed
            for name, limit in problem.limits.items():
                assert problem.costs.total(name, removed) <= limit * (1 + 1e-6)

    @pytest.mark.parametrize("kind", NETS)
    def test_it_is_deterministic_and_leaves_the_problem_alone(self, kind: str) -> None:
        problem, same = (problem_of(kind, ("macs",), 0.5) for _ in range(2))
        weights = {name: value.clone() for name, value in problem.known.dense.state_dict().items()}
        assert self.removed(problem).tolist() == self.removed(problem).tolist() == self.removed(same).tolist()
        assert all(np.array_equal(a, b) for a, b in zip(problem.errors, same.errors, strict=True))
        assert (problem.limits, problem.allowed) == (same.limits, same.allowed)
        assert all(torch.equal(weights[name], v) for name, v in problem.known.dense.state_dict().items())

    @pytest.mark.parametrize("kind", NETS)
    def test_a_looser_budget_removes_no_more(self, kind: str) -> None:
        left = []
        for share in SHARES:
            problem = problem_of(kind, ("macs",), share)
            left.append(problem.costs.total("macs", self.removed(problem)))
        assert left == sorted(left), left

    @pytest.mark.parametrize("kind", NETS)
    def test_where_all_may_stay_all_stays(self, kind: str) -> None:
        assert self.removed(problem_of(kind, ("macs", "params"), 1.0)).tolist() == [0] * len(
            _evidence(kind)[0].groups
        )

    @pytest.mark.parametrize("kind", NETS)
    def test_a_budget_out_of_reach_names_the_least_that_is_reached(self, kind: str) -> None:
        problem = problem_of(kind, ("macs",), 0.0)
        least = problem.limits["macs"]
        with pytest.raises(UserError, match="macs") as caught:
            self.removed(replace(problem, limits={"macs": 0.9 * least}))
        assert f"{least:.6g}" in str(caught.value)
