"""Evaluations on a Ray cluster of two nodes on this machine, one of which is lost on the way."""

from __future__ import annotations

import os
import signal
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from neuroprune.base.errors import UserError
from neuroprune.search._base import STRATEGIES
from neuroprune.search.evaluate import Result
from neuroprune.search.run import search
from neuroprune.search.space import Point
from neuroprune.search.workers import RETRIES, RayWorkers
from neuroprune.testing.strategy_contract import BUDGET, SPACES, judged

pytestmark = pytest.mark.extras
ray = pytest.importorskip("ray")
SPACE = SPACES["widths"]
MEMORY = 80 * 2**20
#: so that a lost node is noticed within a second
IMPATIENT = {
    "health_check_initial_delay_ms": 0,
    "health_check_period_ms": 300,
    "health_check_timeout_ms": 300,
    "health_check_failure_threshold": 3,
}


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    from ray.cluster_utils import Cluster

    arguments = {"num_cpus": 1, "object_store_memory": MEMORY}
    made = Cluster(
        initialize_head=True, head_node_args={**arguments, "include_dashboard": False, "_system_config": IMPATIENT}
    )
    made.add_node(**arguments)
    ray.init(address=made.address, log_to_driver=False, logging_level="ERROR")
    yield made
    ray.shutdown()
    made.shutdown()


def evaluator_in(folder: Path, slow_node: str = "") -> Any:
    """Of a class that workers get by value: they do not know this file. An evaluation leaves a line in ``folder``
    when it begins and one when it is done: word, point, node, threads."""
    from neuroprune.search.evaluate import Evaluator
    from neuroprune.testing.strategy_contract import judged

    class Slow(Evaluator):
        def evaluate(self, point: Point) -> Result:
            import time

            import ray

            self._note("begun", point)
            time.sleep(20.0 if ray.get_runtime_context().get_node_id() == slow_node else 0.1)
            self._note("done", point)
            return judged(self.space, point)

        def _note(self, word: str, point: Point) -> None:
            import ray
            import torch

            node = ray.get_runtime_context().get_node_id()
            with (folder / "log").open("a") as file:
                file.write(f"{word} {'-'.join(map(str, point.shares))} {node} {torch.get_num_threads()}\n")

    subject: Any = type("Subject", (), {"space": SPACE})()
    judge: Any = None
    return Slow(subject, judge, BUDGET, path=folder / "results.jsonl")


def noted(folder: Path, word: str) -> list[list[str]]:
    """[point, node, threads] of every such line."""
    lines = [line.split() for line in (folder / "log").read_text().splitlines()]
    return [line[1:] for line in lines if line[0] == word]


@pytest.mark.parametrize("address", ["127.0.0.1:1", "127.0.0.1:99999999", "no address"])
def test_where_nothing_answers_it_says_so_at_once(address: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no Ray cluster answers"):  # while there is no cluster: it comes below
        RayWorkers(evaluator_in(tmp_path), address)


class TestOnTwoNodes:
    """In this order: the second one loses a node."""

    def test_two_at_a_time_one_thread_each_and_the_results_of_one_process(
        self, cluster: Any, tmp_path: Path
    ) -> None:
        evaluator, here = evaluator_in(tmp_path), STRATEGIES.get("random")(SPACE, BUDGET, 0)
        workers = RayWorkers(evaluator)
        assert workers.slots == 2
        found = search(STRATEGIES.get("random")(SPACE, BUDGET, 0), evaluator, 6, workers=workers)
        wanted = [(point, judged(SPACE, point)) for point in (here.ask() for _ in range(6))]
        assert sorted(found.history, key=str) == sorted(wanted, key=str)
        assert {threads for *_, threads in noted(tmp_path, "begun")} == {"1"}
        assert len({node for _, node, _ in noted(tmp_path, "begun")}) == 2
        assert ray.is_initialized()  # it was not started by the workers

    def test_a_lost_node_costs_no_result_and_what_ran_there_is_begun_again(
        self, cluster: Any, tmp_path: Path
    ) -> None:
        victim = next(iter(cluster.worker_nodes))
        evaluator = evaluator_in(tmp_path, victim.node_id)
        lost: list[str] = []

        class Losing(STRATEGIES.get("random")):  # type: ignore[misc]
            def learn(self, point: Point, result: Result) -> None:
                done = {point for point, *_ in noted(tmp_path, "done")}
                running = [point for point, node, _ in noted(tmp_path, "begun") if node == victim.node_id]
                running = [point for point in running if point not in done]
                if running and len(self.told) > 1 and not lost:
                    lost.extend(running)
                    cluster.remove_node(victim, allow_graceful=False)

        losing = Losing(SPACE, BUDGET, 0)
        found = search(losing, evaluator, 8, workers=RayWorkers(evaluator))
        assert len(lost) == 1
        assert not cluster.worker_nodes
        asked = STRATEGIES.get("random")(SPACE, BUDGET, 0)
        wanted = [(point, judged(SPACE, point)) for point in (asked.ask() for _ in range(8))]
        assert sorted(found.history, key=str) == sorted(wanted, key=str)
        assert losing.told == list(found.history)
        begun, done = (Counter(point for point, *_ in noted(tmp_path, word)) for word in ("begun", "done"))
        assert begun == {point: 2 if point in lost else 1 for point in begun}
        assert set(done.values()) == {1}


class TestOnOneNode:
    """`RayWorkers` alone, around functions that need no network: a new process for each loss is quick then."""

    @staticmethod
    def workers(function: Any, slots: int = 1) -> RayWorkers:
        made = RayWorkers(None, slots=slots)  # type: ignore[arg-type]
        made.task = ray.remote(num_cpus=1, max_retries=0)(function)
        return made

    def test_a_killed_worker_s_evaluation_is_begun_again(self, cluster: Any, tmp_path: Path) -> None:
        def killed_once(stored: Any, point: Any) -> str:
            mark = tmp_path / f"{point} was begun"
            if not mark.exists():
                mark.touch()
                os.kill(os.getpid(), signal.SIGKILL)
            return f"result of {point}"

        workers = self.workers(killed_once)
        workers.start(0)  # type: ignore[arg-type]
        assert workers.wait() == [(0, "result of 0")]
        workers.close()

    def test_what_kills_every_worker_is_given_up_after_the_others_are_done(
        self, cluster: Any, tmp_path: Path
    ) -> None:
        def kills(stored: Any, point: Any) -> str:
            if point == {"shares": [0.0]}:
                with (tmp_path / "begun").open("a") as file:
                    file.write(".")
                os.kill(os.getpid(), signal.SIGKILL)
            return "a result"

        workers = self.workers(kills, 2)
        workers.start({"shares": [0.0]})  # type: ignore[arg-type]
        workers.start({"shares": [1.0]})  # type: ignore[arg-type]
        assert workers.wait() == [({"shares": [1.0]}, "a result")]
        with pytest.raises(UserError, match=f"lost {RETRIES + 1} times"):
            workers.wait()
        assert len((tmp_path / "begun").read_text()) == RETRIES + 1
        workers.close()

    def test_an_error_of_the_evaluation_is_raised_as_it_was(self, cluster: Any) -> None:
        def refused(stored: Any, point: Any) -> None:
            raise ValueError("this network cannot be judged")

        workers = self.workers(refused)
        workers.start(0)  # type: ignore[arg-type]
        with pytest.raises(ValueError, match=r"^this network cannot be judged$"):
            workers.wait()
        workers.close()

    def test_what_cannot_be_sent_is_named(self, cluster: Any) -> None:
        with pytest.raises(UserError, match="cannot be sent to workers"):
            RayWorkers(threading.Lock())  # type: ignore[arg-type]


def test_less_than_one_worker_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="at least one worker"):
        RayWorkers(evaluator_in(tmp_path), slots=0)
