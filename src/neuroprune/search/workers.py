"""Evaluations on a Ray cluster: one thread each, started again when their worker or its node is lost."""

from __future__ import annotations

import contextlib
import functools
import io
import logging
import pickle
import socket
from collections import deque
from typing import Any

import torch

from neuroprune.base.errors import UserError
from neuroprune.search.evaluate import Evaluator, Result
from neuroprune.search.space import Point

#: how often an evaluation is begun again after its worker was lost
RETRIES = 3
#: seconds without a result after which it is asked whether the cluster has any worker left
PATIENCE = 60.0


class RayWorkers:
    """As `neuroprune.search.run.Workers` asks for it; of an evaluator's results none is lost.

    The evaluator (network, data, moments) is put into the cluster's object store once, and every worker process
    takes it from there once. Where an evaluation fails for good, those that are running are waited for first.
    """

    def __init__(self, evaluator: Evaluator, address: str = "auto", slots: int | None = None) -> None:
        """``address``: of the cluster; ``auto``: the one that this machine belongs to, else a new one on its
        cores. ``slots``: evaluations at a time; None: as many as the cluster has cores when this begins. Raises
        UserError where Ray is not installed, nothing answers at ``address``, and for less than one slot."""
        if slots is not None and slots < 1:
            raise UserError("there must be at least one worker", value=slots, mend="leave it out for all cores")
        self.ray = _ray()
        self.ours = not self.ray.is_initialized()
        if self.ours:
            _connect(self.ray, address)
        self.slots = slots or max(1, int(self.ray.cluster_resources().get("CPU", 1)))
        self.running: dict[Any, tuple[Point, int]] = {}
        self.failures: deque[Exception] = deque()
        # in a list Ray hands the reference itself to a task, so that a process fetches the evaluator once
        self.stored = [self._put(evaluator)]
        self.task = self.ray.remote(num_cpus=1, max_retries=0)(evaluated)

    def start(self, point: Point) -> None:
        if not self.failures:
            self._submit(point, 0)

    def wait(self) -> list[tuple[Point, Result]]:
        """Raises what an evaluation raised, or UserError where it was lost too often or no worker is left; what
        else was running is given back before."""
        done: list[tuple[Point, Result]] = []
        while self.running and not done:
            ready, _ = self.ray.wait(list(self.running), num_returns=1, timeout=PATIENCE)
            if not ready and not self.ray.cluster_resources().get("CPU"):
                raise _no_worker_left()
            for reference in ready:
                done += self._collected(reference)
        if not done and self.failures:
            raise self.failures.popleft()
        return done

    def close(self) -> None:
        for reference in self.running:
            with contextlib.suppress(Exception):  # it may be gone with its node
                self.ray.cancel(reference, force=True)
        self.running.clear()
        if self.ours:
            self.ray.shutdown()

    def _put(self, evaluator: Evaluator) -> Any:
        """As `torch.save` does: batches that are parts of one tensor would else each bring the whole of it."""
        buffer = io.BytesIO()
        try:
            torch.save(evaluator, buffer, pickle_module=self.ray.cloudpickle, pickle_protocol=5)
            return self.ray.put(buffer.getvalue())
        except (TypeError, AttributeError, pickle.PicklingError) as error:
            self.close()
            raise UserError(
                f"the network or its data cannot be sent to workers: {str(error).splitlines()[0]}",
                mend="what the model or the task holds must be picklable; or search without --ray",
            ) from error

    def _submit(self, point: Point, lost: int) -> None:
        self.running[self.task.remote(self.stored, point)] = point, lost

    def _collected(self, reference: Any) -> list[tuple[Point, Result]]:
        """The result; nothing where there is none, which is begun again or noted as a failure."""
        point, lost = self.running.pop(reference)
        try:
            return [(point, self.ray.get(reference))]
        except self.ray.exceptions.RayTaskError as error:  # it was raised by the evaluation itself
            self.failures.append(error.cause if isinstance(error.cause, Exception) else error)
        except self.ray.exceptions.RayError as error:
            if lost < RETRIES:
                self._submit(point, lost + 1)
            else:
                self.failures.append(_lost_too_often(error, point))
        return []


def evaluated(stored: list[Any], point: Point) -> Result:
    """Runs in a worker process. ``stored``: the evaluator's reference."""
    return _fetched(stored[0]).evaluate(point)


@functools.lru_cache(maxsize=1)
def _fetched(reference: Any) -> Evaluator:
    import ray

    torch.set_num_threads(1)
    evaluator: Evaluator = torch.load(io.BytesIO(ray.get(reference)), weights_only=False)
    return evaluator


def _ray() -> Any:
    try:
        import ray
    except ImportError as error:
        raise UserError(
            f"a cluster needs Ray: {error}", mend="install it with: pip install 'neuroprune[distributed]'"
        ) from error
    return ray


def _connect(ray: Any, address: str) -> None:
    _check_answers(address)
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    try:
        ray.init(address=address, **quiet)
    except ConnectionError as error:
        if address != "auto":
            raise _no_answer(address, error) from error
        ray.init(address="local", include_dashboard=False, **quiet)
    except (ValueError, RuntimeError) as error:
        raise _no_answer(address, error) from error


def _check_answers(address: str) -> None:
    """Ray itself would try for minutes."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if not colon or not port.isdigit():
        return
    try:
        socket.create_connection((host, int(port)), timeout=10.0).close()
    except (OSError, OverflowError) as error:
        raise _no_answer(address, error) from error


def _no_answer(address: str, error: Exception) -> UserError:
    return UserError(
        f"no Ray cluster answers: {str(error).splitlines()[0]}", value=address,
        mend="start one with `ray start --head`, and give the address that it prints, or auto",
    )  # fmt: skip


def _no_worker_left() -> UserError:
    return UserError(
        "the Ray cluster has no worker left; finished evaluations are written down",
        mend="start nodes with `ray start --address=...`, then run the same command again",
    )


def _lost_too_often(error: Exception, point: Point) -> UserError:
    return UserError(
        f"an evaluation was lost {RETRIES + 1} times: {str(error).splitlines()[0]}", value=point,
        mend="give the workers more memory; finished evaluations are written down, run the same command again",
    )  # fmt: skip
