"""Run a recipe: step by step, each finished one safe on disk, an interrupted run continued where it stopped."""

from __future__ import annotations

import contextlib
import copy
import errno
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from neuroprune import __version__
from neuroprune.base.errors import BudgetNotMet, Interrupted, UserError
from neuroprune.base.files import read_json, write_bytes
from neuroprune.base.progress import Progress, SilentProgress
from neuroprune.compression.layer_weights import check_patterns as check_layers
from neuroprune.graph import trace
from neuroprune.pipeline.attempts import Attempt, best_attempt, candidates_of, next_correction
from neuroprune.pipeline.context import Context, Correction, Snapshot, load_step, save_step, state_digest
from neuroprune.pipeline.folder import RunFolder
from neuroprune.pipeline.journal import Journal
from neuroprune.pipeline.recipe import Recipe, StepCall
from neuroprune.pipeline.step import STEPS
from neuroprune.pipeline.stepprogress import StepProgress
from neuroprune.pipeline.transferring import TransferConfig
from neuroprune.pruning.allocate import check_patterns
from neuroprune.pruning.head import new_head
from neuroprune.tasks.agreement import without_labels
from neuroprune.tasks.batches import RandomState
from neuroprune.tasks.check import check_task
from neuroprune.tasks.classes import class_count
from neuroprune.tasks.importing import import_code
from neuroprune.tasks.models import load_model
from neuroprune.tasks.task import Task

#: what the operating system says when there is no room left: full disk, quota, file size limit
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@dataclass(frozen=True)
class RunResult:
    """A finished run. ``met`` is None for a recipe that measures nothing; ``results`` is results.json."""

    folder: Path
    model: nn.Module
    met: bool | None
    binding: str | None
    text: str
    results: dict[str, Any] | None

    def require_met(self) -> None:
        """Raises BudgetNotMet (exit code 3) where a limit was missed; everything is on disk already."""
        if self.met is False:
            raise BudgetNotMet(
                self.text,
                where=str(self.folder),
                value=f"binding constraint: {self.binding}",
                mend="loosen that limit, allow a larger max_drop, or fine-tune for more epochs",
            )


def run_recipe(
    recipe: Recipe,
    out: Path,
    *,
    resume: bool = False,
    model: nn.Module | None = None,
    task: Task | None = None,
    progress: Progress | None = None,
    replay: Path | None = None,
    command: str = "the same command with --resume",
) -> RunResult:
    """Run all steps of ``recipe`` in the folder ``out``.

    ``model`` and ``task`` take the place of the recipe's own (the model given is not modified). ``replay`` is
    the journal of another run, whose measurements are taken instead of new ones. ``command`` is what a user
    types to resume. Raises UserError for anything the user must mend and Interrupted on Ctrl-C; a missed
    budget is no exception here: see `RunResult.require_met`.
    """
    progress = progress or SilentProgress()
    folder, done = RunFolder(out), list[str]()
    with _left_alone(recipe, folder), _explained(out, command, progress, done):
        task = task or task_of(recipe)
        network = copy.deepcopy(model) if model is not None else model_of(recipe)
        if recipe.header.data is not None and recipe.header.data.labels == "none":
            task = without_labels(task, network)
        check_task(task, network)
        _check_keep(recipe, network, task)
        others = _other_data(recipe, network)
        folder.open({**_identity(recipe, network, task), **others}, recipe.text, resume=resume)
        _replay(folder, replay)
        folder.clean()
        return Runner(recipe, folder, network, task, progress, done).run()


@contextlib.contextmanager
def _left_alone(recipe: Recipe, folder: RunFolder) -> Iterator[None]:
    """Threads and random generators are the caller's again afterwards; the steps set them."""
    threads, generators = torch.get_num_threads(), RandomState()
    torch.set_num_threads(recipe.header.threads)
    try:
        yield
    finally:
        generators.restore()
        folder.close()
        torch.set_num_threads(threads)


@contextlib.contextmanager
def _explained(out: Path, command: str, progress: Progress, done: list[str]) -> Iterator[None]:
    """What stopped the run, and how to go on; ``done``: steps that are finished."""
    try:
        yield
    except KeyboardInterrupt as stop:
        progress.close()
        raise Interrupted(
            f"stopped; finished and kept: {', '.join(done) if done else 'nothing yet'}",
            where=str(out),
            mend=f"go on with: {command}",
        ) from stop
    except OSError as error:
        progress.close()
        if error.errno not in _NO_ROOM:
            raise
        raise UserError(
            f"no room to write: {error.strerror}",
            where=str(error.filename or out),
            mend=f"free some space, then: {command}",
        ) from error
    except BaseException:
        progress.close()
        raise


def task_of(recipe: Recipe) -> Task:
    """The recipe's data. Raises UserError."""
    data = recipe.header.data
    if data is None:
        raise UserError("the recipe names no data", mend="add 'data: {spec: digits}'")
    return data.load(recipe.header.seed)


def model_of(recipe: Recipe) -> nn.Module:
    """The recipe's network with its weights, as the steps begin with it. Raises UserError."""
    spec = recipe.header.model
    if spec is None:
        raise UserError("the recipe names no model", mend="add 'model: {spec: package.module:callable}'")
    weights = Path(spec.weights) if spec.weights else None
    return load_model(spec.spec, weights=weights, kwargs=spec.kwargs, seed=recipe.header.seed)


def code_of(recipe: Recipe) -> None:
    """Import what the recipe's network and data are made of, without making either. Raises UserError."""
    for spec in (recipe.header.model, recipe.header.data):
        if spec is not None:
            import_code(spec.spec)


def _identity(recipe: Recipe, model: nn.Module, task: Task) -> dict[str, Any]:
    """What a run depends on. A resumed run must agree in all of it."""
    return {
        "recipe": recipe.to_json(),
        "model": state_digest(model.state_dict()),
        "data": task.digest(),
        "version": __version__,
    }


def _other_data(recipe: Recipe, network: nn.Module) -> dict[str, Any]:
    """For the identity: the data that a transfer goes to. Whether it can is found before anything is trained."""
    digests = []
    for call in recipe.steps:
        if isinstance(call.config, TransferConfig):
            try:
                task = call.config.data.load(recipe.header.seed)
                new_head(copy.deepcopy(network), task.example_inputs, class_count(task), seed=0)
            except UserError as error:
                raise UserError(
                    error.what, where=error.where or call.where, value=error.value, mend=error.mend
                ) from error
            digests.append(task.digest())
    return {"other_data": digests} if digests else {}


def _replay(folder: RunFolder, journal: Path | None) -> None:
    if journal is None or folder.journal.exists():
        return
    if not journal.is_file():
        raise UserError("there is no journal to replay", where=str(journal), mend="give a run's journal.jsonl")
    write_bytes(folder.journal, journal.read_bytes())


def _check_keep(recipe: Recipe, network: nn.Module, task: Task) -> None:
    """A pattern that matches nothing is found before the folder is taken, not after the training."""
    options = [(call, getattr(call.config, "keep", ())) for call in recipe.steps]
    asked = [(call, patterns) for call, patterns in options if patterns and call.name != "cluster"]
    for call, patterns in options:
        if call.name == "cluster":  # keeps layers, not groups
            check_layers(network, patterns, call.where)
    if asked:
        groups = trace(network, task.example_inputs).groups
        for call, patterns in asked:
            check_patterns(groups, patterns, where=call.where)


class Runner:
    """Walks the recipe's steps; the state is always the fold of the records of the finished steps."""

    def __init__(
        self,
        recipe: Recipe,
        folder: RunFolder,
        model: nn.Module,
        task: Task,
        progress: Progress,
        executed: list[str],
    ) -> None:
        self.recipe, self.folder, self.task, self.progress = recipe, folder, task, progress
        self._start = model
        self._known = set(folder.finished())
        self._journal = Journal(folder.journal)
        self.executed = executed  # finished steps, for whoever must say how far this came
        self.context = self._fresh()

    def _fresh(self) -> Context:
        model = copy.deepcopy(self._start)
        return Context(self.recipe, self.folder, self._journal, self.task, model, copy.deepcopy(model))

    def _rewound(self, names: list[str]) -> Context:
        """The state after exactly these finished steps."""
        context = self._fresh()
        for name in names:
            load_step(context, self.folder.record(name), self.folder.steps / name)
        return context

    def run(self) -> RunResult:
        calls = self.recipe.steps
        names = [call.name for call in calls]
        loops = self.recipe.header.attempts > 1
        first, last = (names.index("fit_budget"), names.index("measure")) if loops else (0, -1)
        self._walk(0, first)
        prefix = list(self.executed)
        passes: list[list[str]] = []
        history: list[Attempt] = []
        correction: Correction | None = None
        while loops and (not history or correction is not None):
            began = len(self.executed)
            self.context = self._rewound(prefix) if passes else self.context
            self.context.correction = correction
            self._walk(first, last + 1)
            passes.append(self.executed[began:])
            history.append(Attempt.of(self.context.facts))
            correction = next_correction(history, self.recipe.header.attempts)
        if len(history) > 1:
            self._keep(prefix, passes, best_attempt(history))
        self._walk(last + 1, len(calls))
        return self._result()

    def _keep(self, prefix: list[str], passes: list[list[str]], chosen: int) -> None:
        """Go on from the best attempt; the others stay in the report as candidates."""
        abandoned: list[dict[str, Any]] = []
        for number, names in enumerate(passes):
            if number != chosen:
                abandoned += candidates_of(self._rewound(prefix + names), number + 1)
        self.context = self._rewound(prefix + passes[chosen])
        self.context.abandoned = abandoned

    def _walk(self, start: int, stop: int) -> None:
        for position in range(start, stop):
            call = self.recipe.steps[position]
            name = f"{len(self.executed) + 1:02d}-{call.name}"
            if name in self._known:
                load_step(self.context, self.folder.record(name), self.folder.steps / name)
                self.progress.start(name, 1)
                self.progress.finish(f"{self.context.finished[-1]['summary']} (from the interrupted run)")
            else:
                self._do(name, position, call)
            self.executed.append(name)

    def _do(self, name: str, position: int, call: StepCall) -> None:
        context, step = self.context, STEPS.get(call.name)
        before = Snapshot.of(context)
        began = time.perf_counter()
        self.progress.start(name, 1)
        with self.folder.writing(name) as temporary:
            context.begin(name, position, temporary, StepProgress(self.progress, name))
            outcome = step.run(context, call.config)
            head = {
                "name": name,
                "title": call.config.stage or call.name,
                "seconds": round(time.perf_counter() - began, 3),
                "options": call.config.model_dump(mode="json"),
            }
            record = save_step(context, before, outcome, temporary, head)
        context.absorb(record, self.folder.steps / name)
        self.progress.finish(outcome.summary)

    def _result(self) -> RunResult:
        verdict = self.context.facts.get("verdict")
        results = read_json(self.folder.results) if self.folder.results.exists() else None
        if verdict is None:
            return RunResult(self.folder.root, self.context.model, None, None, "nothing was measured", results)
        return RunResult(
            self.folder.root, self.context.model, verdict["ok"], verdict["binding"], verdict["text"], results
        )
