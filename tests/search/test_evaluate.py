"""Evaluations: known ones are not done again, finished ones are not lost, and scores are what they say."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from neuroprune.base.errors import UserError
from neuroprune.base.nouns import Budget
from neuroprune.budget.judge import Judge, Judged
from neuroprune.search._base import STRATEGIES
from neuroprune.search.evaluate import Evaluator, Result, score_of
from neuroprune.search.log import Lines
from neuroprune.search.rewards import REWARDS, Measured, Reward
from neuroprune.search.run import found_in, search
from neuroprune.search.space import Point, Space
from neuroprune.testing.strategy_contract import SPACES

BUDGET = Budget(macs=0.5)


class Counting:
    """Stands for a subject: its network is a bias that depends on the shares; it counts how often it is asked."""

    space = SPACES["widths"]

    def __init__(self) -> None:
        self.made: list[Point] = []

    def network(self, point: Point) -> nn.Module:
        self.made.append(point)
        net = nn.Linear(2, 2)
        with torch.no_grad():
            net.weight.copy_(torch.eye(2))
            net.bias.copy_(torch.tensor([0.0, 1.5 * (1 - point.shares[0])]))
        return net


def judge() -> Judge:
    dense = nn.Linear(2, 2)
    with torch.no_grad():
        dense.weight.copy_(torch.eye(2))
        dense.bias.zero_()
    x = torch.tensor([[1.0, 0.0], [0.5, 0.0], [0.0, 1.0], [0.25, 0.0]])
    return Judge(dense, lambda net, batch: net(batch), [x], labels=False)


def evaluator(path: Path | None = None) -> tuple[Evaluator, Counting]:
    subject = Counting()
    return Evaluator(subject, judge(), BUDGET, path=path), subject


def test_points_of_one_network_are_evaluated_once() -> None:
    ours, subject = evaluator()
    # the bias 1.5 * (1 - 4/8) = 0.75 beats 0.5 and 0.25 of the first column: rows 2 and 4 change their class
    first = ours(Point((0.5, 0.5, 0.5)))
    assert first.score == 50.0
    assert ours(Point((0.51, 0.49, 0.5))) == first
    assert len(subject.made) == 1
    assert ours(Point((1.0, 0.5, 0.5))).score == 100.0
    assert len(subject.made) == 2


def test_results_say_what_they_cost_and_whether_that_is_allowed() -> None:
    ours, _ = evaluator()
    whole, half = ours(ours.space.whole()), ours(Point((0.5, 0.5, 0.25)))
    assert not whole.feasible
    assert half.feasible
    assert half.costs == ours.space.cost(Point((0.5, 0.5, 0.25)))


def test_finished_results_outlive_the_process_and_a_torn_line(tmp_path: Path) -> None:
    path = tmp_path / "evaluations.jsonl"
    ours, _ = evaluator(path)
    points = [Point((share, 0.5, 0.5)) for share in (0.25, 0.5, 0.75)]
    results = [ours(point) for point in points]
    with path.open("ab") as file:
        file.write(b'{"point": {"sha')  # killed while it wrote
    again, subject = evaluator(path)
    assert [again(point) for point in points] == results
    assert not subject.made
    again(Point((1.0, 0.5, 0.5)))
    assert [json.loads(line)["point"]["shares"][0] for line in path.read_text().splitlines()] == [
        0.25, 0.5, 0.75, 1.0,
    ]  # fmt: skip


def test_two_processes_see_each_others_results(tmp_path: Path) -> None:
    (one, _), (two, subject) = (evaluator(tmp_path / "e.jsonl") for _ in range(2))
    assert two(Point((0.5, 0.5, 0.5))) == one(Point((0.5, 0.5, 0.5)))
    assert len(subject.made) <= 1
    result = one(Point((0.25, 0.5, 0.5)))
    assert two.look_up(Point((0.25, 0.5, 0.5))) == result


def test_a_damaged_line_that_others_follow_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "e.jsonl"
    path.write_text('nonsense\n{"point": 1}\n')
    with pytest.raises(UserError, match="damaged"):
        Lines(path).read()
    path.write_text('{"other": 1}\n')
    with pytest.raises(UserError, match="no point"):
        evaluator(path)


def test_a_line_longer_than_a_block_is_cut_off_whole(tmp_path: Path) -> None:
    path = tmp_path / "e.jsonl"
    path.write_bytes(b'{"a": 1}\n' + b"x" * 10_000)
    lines = Lines(path)
    lines.append({"b": 2})
    assert lines.read() == [{"a": 1}, {"b": 2}]


@pytest.mark.parametrize("name", ["random", "evolution", "uniform", "dp"])
def test_a_search_that_goes_on_ends_with_the_same_evaluations(name: str, tmp_path: Path) -> None:
    def run(path: Path, count: int) -> tuple[list[Point], Counting]:
        ours, subject = evaluator(path)
        strategy = STRATEGIES.get(name)(ours.space, BUDGET, 1, None)
        return [point for point, _ in search(strategy, ours, count).history], subject

    whole, _ = run(tmp_path / "whole.jsonl", 9)
    run(tmp_path / "parts.jsonl", 4)
    parts, second = run(tmp_path / "parts.jsonl", 9)
    assert parts == whole
    assert set(second.made).isdisjoint(whole[:4])


def test_the_curve_and_the_front_are_those_of_the_history() -> None:
    ours, _ = evaluator()
    for share in (0.25, 1.0, 0.5, 0.75):
        ours(Point((share, 0.25, 0.25)))
    found = found_in(ours)
    scores = [result.score for _, result in found.history]
    assert found.curve() == [max(scores[: n + 1]) for n in range(4)]
    front = [point.shares[0] for point, _ in found.front("macs")]
    assert front == sorted(front)
    best = dict(found.history)
    for point, result in best.items():
        beaten = any(r.score >= result.score and r.costs["macs"] < result.costs["macs"] for r in best.values())
        on = any(p == point for p, _ in found.front("macs"))
        assert on != beaten


def test_fewer_than_one_evaluation_is_refused() -> None:
    ours, _ = evaluator()
    with pytest.raises(UserError, match="at least one evaluation"):
        search(STRATEGIES.get("random")(ours.space, BUDGET, 0, None), ours, 0)
    with pytest.raises(UserError, match="nothing was evaluated"):
        found_in(ours)


def test_scores_prefer_labels_then_agreement_then_the_error_and_nan_is_nothing() -> None:
    assert score_of(Judged(0.5, 80.0, 70.0)) == 70.0
    assert score_of(Judged(0.5, 80.0, None)) == 80.0
    assert score_of(Judged(0.25, None, None)) == 75.0
    assert score_of(Judged(7.0, None, None)) == 0.0
    assert score_of(Judged(None, 90.0, 90.0)) == 0.0
    assert score_of(Judged(0.5, 80.0, math.nan)) == 0.0


class Broken(Counting):
    def network(self, point: Point) -> nn.Module:
        net = super().network(point)
        assert isinstance(net.bias, Tensor)
        with torch.no_grad():
            net.bias.fill_(math.nan)
        return net


def test_a_network_of_nan_is_written_down_as_worth_nothing(tmp_path: Path) -> None:
    path = tmp_path / "e.jsonl"
    result = Evaluator(Broken(), judge(), BUDGET, path=path)(Point((0.5, 0.5, 0.5)))
    assert result.score == 0.0
    assert math.isfinite(result.reward)
    assert Evaluator(Broken(), judge(), BUDGET, path=path).history[0][1] == result


def test_rewards_by_hand() -> None:
    found = Measured(score=90.0, sparsity=0.25, macs=5e5, params=1e4, cost=0.4)
    by_hand = {
        "accuracy": 90.0, "sparsity": 90 + 20 * 0.25, "cost": 90 - 20 * 0.4, "error": -0.1,
        "flops": -0.1 * math.log(1e6), "params": -0.1 * math.log(1e4),
    }  # fmt: skip
    assert {name: pytest.approx(Reward(name, 20.0)(found)) for name in REWARDS.names()} == by_hand


@pytest.mark.parametrize("weight", [-1.0, math.nan, math.inf])
def test_weights_out_of_range_are_refused(weight: float) -> None:
    with pytest.raises(UserError, match="weight must be 0 or more"):
        Reward("sparsity", weight)
    with pytest.raises(UserError, match="did you mean 'sparsity'"):
        Reward("sparsty")


def test_results_out_of_files_are_checked() -> None:
    result = Result(1.0, 2.0, {"macs": 3.0}, True, 0.5, {"agreement": None})
    assert Result.from_json(json.loads(json.dumps(result.to_json()))) == result
    with pytest.raises(UserError, match="no result"):
        Result.from_json({"score": 1})


def test_space_of_another_size_refuses_the_log(tmp_path: Path) -> None:
    path = tmp_path / "e.jsonl"
    evaluator(path)[0](Point((0.5, 0.5, 0.5)))

    class Other(Counting):
        space: Space = SPACES["one_group"]

    with pytest.raises(UserError, match="another space"):
        Evaluator(Other(), judge(), BUDGET, path=path)
