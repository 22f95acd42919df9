"""One training shared by the processes that torchrun started, on one machine or many.

The first process runs the recipe as if it were alone, and alone it writes. The others wait. When it trains, it
sends them the network once and then, for each batch, their part of the examples and the weights as they are; each
computes the gradient of its part, and the sum goes to the first, which takes the optimizer's step. So optimizers,
masks, hooks and checkpoints need not know of the others, and whatever the first does between trainings (measuring,
above all) it does undisturbed. Accelerate (`accelerate.PartialState`) sets up the processes and their devices.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from neuroprune.base.errors import Interrupted, UserError
from neuroprune.pruning.plan import Plan
from neuroprune.pruning.tensors import named_tensors
from neuroprune.recover.batch_gradient import BatchGradient, BatchResult, batch_gradient, train_mode
from neuroprune.recover.collective import gone, together
from neuroprune.recover.computing import in_each
from neuroprune.recover.config import FitConfig
from neuroprune.recover.global_batch_norm import global_statistics
from neuroprune.tasks.batches import LoaderBatches, RandomState, batch_length, derive_seed
from neuroprune.tasks.task import Batch, Task

#: others wait while the first measures, which may take its time
_PATIENCE = timedelta(days=7)
_team: Team | None = None


class Team:
    """The processes that torchrun started. Messages go over gloo, tensors over what accelerate chose."""

    def __init__(self) -> None:
        state = _state()
        self.rank, self.size = int(state.process_index), int(state.num_processes)
        self.in_step = False  # whether the others expect tensors, and would not hear a message
        self._words = torch.distributed.new_group(backend="gloo", timeout=_PATIENCE)

    def tell(self, messages: list[Any]) -> Any:
        """From the first process one message to each; returns its own."""
        return self._scattered(messages)

    def hear(self) -> Any:
        """What the first process tells this one."""
        return self._scattered([None] * self.size)

    def dismiss(self) -> None:
        """The first process tells the others that this is over, whatever ended it; where they are gone, nobody."""
        if not self.in_step:
            with contextlib.suppress(Interrupted):
                self.tell([None] * self.size)

    def _scattered(self, messages: list[Any]) -> Any:
        mine: list[Any] = [None]
        with together():
            torch.distributed.scatter_object_list(mine, messages if self.rank == 0 else None, 0, self._words)
        return mine[0]

    def spread(self, tensors: list[Tensor]) -> None:
        """The first process's values into everybody's tensors, in place."""
        for alike in _by_type(tensors):
            flat = torch.cat([tensor.detach().reshape(-1) for tensor in alike])
            with together():
                torch.distributed.broadcast(flat, 0)
            if self.rank:
                _into(alike, flat)

    def add_up(self, tensors: list[Tensor]) -> None:
        """The sum over all processes into everybody's tensors, in place."""
        for alike in _by_type(tensors):
            flat = torch.cat([tensor.reshape(-1) for tensor in alike])
            with together():
                torch.distributed.all_reduce(flat)
            _into(alike, flat)


def _state() -> Any:
    try:
        from accelerate import PartialState
    except ImportError as error:
        raise UserError(
            "training on several processes needs accelerate",
            where="torchrun",
            mend="pip install 'neuroprune[distributed]', or run without torchrun",
        ) from error
    with together():
        return PartialState(cpu=not torch.cuda.is_available(), timeout=_PATIENCE)


def current_team() -> Team | None:
    """The processes that share this one's trainings; None where it is alone."""
    return _team


@contextmanager
def gathered(prepare: Callable[[], Any], threads: int) -> Iterator[bool]:
    """True in the process that is to do the work: the only one, or the first of those that torchrun started.

    In the others the body of the ``with`` should be left out: they have served the first until it was done.
    ``prepare()`` imports what a user's network is made of, so that it can be received. Raises UserError where
    accelerate is lacking, and Interrupted where another process is gone.
    """
    global _team
    if int(os.environ.get("WORLD_SIZE", "1")) < 2:
        yield True
        return
    signal.signal(signal.SIGTERM, _terminated)  # torchrun's word that another process is gone
    team = Team()
    try:
        if team.rank:
            torch.set_num_threads(threads)
            prepare()
            _serve(team)
            yield False
        else:
            _team = team
            try:
                yield True
            finally:
                team.dismiss()
    finally:
        _team = None
        with contextlib.suppress(Exception):
            torch.distributed.destroy_process_group()


def _terminated(*_: Any) -> NoReturn:
    raise gone()


@contextmanager
def shared(
    model: nn.Module, task: Task, config: FitConfig, teacher: nn.Module | None, plan: Plan | None
) -> Iterator[tuple[BatchGradient, Callable[[Batch, str], BatchResult]]]:
    """As `batch_gradient`, and what computes a batch's gradient: the same, or all processes together."""
    team = current_team()
    job = None if team is None else _packed(model, task, config, teacher, plan)
    with batch_gradient(model, task, config, teacher, plan) as gradient:
        if team is None:
            yield gradient, gradient
            return
        team.tell([job] * team.size)
        try:
            yield gradient, _Leader(team, gradient)
        finally:
            team.dismiss()


def _packed(
    model: nn.Module, task: Task, config: FitConfig, teacher: nn.Module | None, plan: Plan | None
) -> bytes:
    """What the others need of a training: the first batch stands for the data, which come batch by batch."""
    few = LoaderBatches([next(iter(task.train.epoch(None)))], 0)
    try:
        return pickle.dumps((model, replace(task, train=few, val=few, test=few), config, teacher, plan))
    except Exception as error:  # a lambda, a parametrisation, a lock: pickle raises whatever it meets
        raise UserError(
            f"the network or the task cannot be sent to the other processes: {error}",
            where=f"model {type(model).__name__}",
            mend="define its parts in a module, not inside functions, or run this recipe without torchrun",
        ) from error


class _Leader:
    """Called with a whole batch in the first process."""

    def __init__(self, team: Team, gradient: BatchGradient) -> None:
        self.team, self.gradient, self.calls = team, gradient, 0

    def __call__(self, batch: Batch, where: str) -> BatchResult:
        size = batch_length(batch)
        if size < self.team.size:  # not one example for each
            return self.gradient(batch, where)
        self.calls += 1
        pieces = [(self.calls, piece, batch_length(piece) / size) for piece in _cut(batch, size, self.team.size)]
        _, mine, share = self.team.tell(pieces)
        return _together(self.team, self.gradient, mine, share, where)


def _together(team: Team, gradient: BatchGradient, piece: Batch, share: float, where: str) -> BatchResult:
    """This process's part of a batch; afterwards every process has the gradient of the whole."""
    model = gradient.model
    team.in_step = True
    team.spread(list(named_tensors(model).values()))
    with global_statistics(model):
        done = gradient(piece, where, share)
    trained = [p for p in model.parameters() if p.requires_grad]
    used = torch.tensor([p.grad is not None for p in trained], dtype=torch.float64)
    counted = torch.tensor([done.loss * share, done.right, done.judged], dtype=torch.float64)
    sums = torch.cat([counted, used]).to(gradient.computing.device)
    for parameter in trained:
        parameter.grad = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
    team.add_up([sums, *(p.grad for p in trained if p.grad is not None)])
    loss, right, judged, *users = sums.tolist()
    for parameter, count in zip(trained, users, strict=True):
        parameter.grad = parameter.grad if count else None  # as alone: no step, no decay for what took no part
    team.in_step = False
    return BatchResult(loss, int(right), int(judged))


def _serve(team: Team) -> None:
    """In all processes but the first: training after training, until there is no more."""
    while (job := team.hear()) is not None:
        model, task, config, teacher, plan = pickle.loads(job)
        generators = RandomState()
        with batch_gradient(model, task, config, teacher, plan) as gradient:
            while (part := team.hear()) is not None:
                call, piece, share = part
                train_mode(model)
                model.zero_grad(set_to_none=True)
                RandomState.seed(derive_seed(config.seed, call, "process", team.rank))  # dropout of its own
                _together(team, gradient, piece, share, f"process {team.rank}, batch {call}")
        generators.restore()


def _cut(batch: Batch, size: int, parts: int) -> list[Batch]:
    """Tensors that are as long as the batch in nearly equal pieces; all else whole to everybody."""

    def of(start: int, stop: int) -> Batch:
        def piece(tensor: Tensor) -> Tensor:
            return tensor[start:stop].clone() if tensor.dim() and len(tensor) == size else tensor

        return in_each(batch, piece)

    return [of(size * part // parts, size * (part + 1) // parts) for part in range(parts)]


def _by_type(tensors: list[Tensor]) -> list[list[Tensor]]:
    found: dict[torch.dtype, list[Tensor]] = {}
    for tensor in tensors:
        found.setdefault(tensor.dtype, []).append(tensor)
    return list(found.values())


@torch.no_grad()
def _into(tensors: list[Tensor], flat: Tensor) -> None:
    for tensor, values in zip(tensors, torch.split(flat, [t.numel() for t in tensors]), strict=True):
        tensor.copy_(values.view(tensor.shape))
