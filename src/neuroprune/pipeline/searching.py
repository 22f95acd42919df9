"""``neuroprune search``: model, data and budget of a recipe, and a folder in which a search can be interrupted."""

from __future__ import annotations

import contextlib
import fcntl
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

import neuroprune.search.strategies  # noqa: F401  # fills the registry
from neuroprune import __version__
from neuroprune.base.errors import CutRefused, Interrupted, UserError
from neuroprune.base.files import check_free, read_json, save_tensors, write_json
from neuroprune.base.modes import copy_of
from neuroprune.base.progress import Progress, SilentProgress
from neuroprune.budget.calibration import example_of
from neuroprune.budget.exported import Variant
from neuroprune.budget.judge import Judge
from neuroprune.budget.kinds import KINDS, Setting
from neuroprune.budget.target import Target
from neuroprune.pipeline.calibrating import batches_of
from neuroprune.pipeline.context import state_digest
from neuroprune.pipeline.recipe import Recipe
from neuroprune.pipeline.run import model_of, run_recipe, task_of
from neuroprune.pruning.plan import Plan
from neuroprune.pruning.restore import save_undo
from neuroprune.pruning.surgery import apply
from neuroprune.pruning.verify import Verification, verify
from neuroprune.recover.layout import channels_innermost, channels_outermost
from neuroprune.recover.refit import ROWS_PER_COLUMN
from neuroprune.report import build_search
from neuroprune.search._base import STRATEGIES, Strategy
from neuroprune.search.evaluate import Evaluator, score_of
from neuroprune.search.rewards import Reward
from neuroprune.search.run import Found, search
from neuroprune.search.space import Point
from neuroprune.search.subject import Options, Subject
from neuroprune.tasks.check import check_task
from neuroprune.tasks.task import Accuracy, Task

SCHEMA = 1
JSON, PAGE, PLAN, WEIGHTS = "search.json", "search.html", "plan.json", "weights.safetensors"
IDENTITY, EVALUATIONS = "identity.json", "evaluations.jsonl"
#: parts of what a search depends on, and how to call them where they differ
_WORDS = {"model": "another network", "data": "other data", "version": "another version of neuroprune"}


@dataclass(frozen=True)
class SearchOptions:
    """``examples``: unlabelled training examples for statistics and the last refit. ``agent``: of the strategy rl.
    ``ray``: address of a cluster, ``auto``, or None for this process; ``workers``: evaluations at a time there."""

    strategy: str = "dp"
    evaluations: int = 100
    reward: Reward = field(default_factory=Reward)
    subject: Options = field(default_factory=Options)
    examples: int = 2048
    agent: str | None = None
    ray: str | None = None
    workers: int | None = None

    def check(self) -> None:
        """Raises UserError before anything is loaded."""
        STRATEGIES.get(self.strategy)
        if self.evaluations < 1 or self.examples < 1:
            raise UserError(
                "a search needs at least one evaluation and one example",
                value=f"{self.evaluations} evaluations, {self.examples} examples", mend="--evaluations 100",
            )  # fmt: skip
        if self.workers is not None and self.ray is None:
            raise UserError(
                "workers belong to a Ray cluster", value=f"--workers {self.workers}", mend="add --ray auto"
            )
        if self.agent is not None and self.strategy != "rl":
            raise UserError("only the strategy rl has an agent", value=self.agent, mend="--strategy rl")

    def identity(self) -> dict[str, Any]:
        """What results depend on; the number of evaluations and where they run are free to change."""
        return {"strategy": self.strategy, "reward": asdict(self.reward), "options": asdict(self.subject),
                "examples": self.examples, "agent": self.agent}  # fmt: skip


@dataclass(frozen=True)
class Searched:
    """``network``: of the best point, recovered by the whole closed form and proven; ``document``: search.json."""

    found: Found
    network: nn.Module
    plan: Plan
    verification: Verification
    document: Mapping[str, Any]


def search_into(
    folder: Path,
    recipe: Recipe,
    options: SearchOptions,
    *,
    resume: bool = False,
    progress: Progress | None = None,
    command: str = "the same command with --resume",
) -> Searched:
    """Search for what to prune of a recipe's network; see the module's constants for the files in ``folder``.

    A recipe that trains its network first does so in ``folder/dense``. Raises UserError for anything the user
    must mend, and Interrupted on Ctrl-C, when every finished evaluation is in the folder.
    """
    options.check()
    if not recipe.budget.limits:
        raise UserError("the recipe has no budget", mend="add 'budget: {macs: 0.5}', or --set budget.macs=0.5")
    if not resume:
        check_free(folder)
    progress, before = progress or SilentProgress(), torch.get_num_threads()
    torch.set_num_threads(recipe.header.threads)
    try:
        task, dense = task_of(recipe), _trained(recipe, folder, progress)
        with _taken(folder, shared=STRATEGIES.get(options.strategy).shared):
            _check_identity(folder, recipe, options, task, dense)
            return _Search(folder, recipe, options, task, dense, progress).run()
    except KeyboardInterrupt as stop:
        raise Interrupted(
            "stopped; every finished evaluation is kept", where=str(folder / EVALUATIONS),
            mend=f"go on with: {command}",
        ) from stop  # fmt: skip
    finally:
        progress.close()
        torch.set_num_threads(before)


def _trained(recipe: Recipe, folder: Path, progress: Progress) -> nn.Module:
    """The dense network: where the recipe trains one, after that step, in a run of its own."""
    names = [call.name for call in recipe.steps]
    if "train" not in names:
        return model_of(recipe)
    first = replace(recipe, steps=recipe.steps[: names.index("train") + 1])
    return run_recipe(first, folder / "dense", resume=True, progress=progress).model


@contextlib.contextmanager
def _taken(folder: Path, *, shared: bool) -> Iterator[None]:
    """Processes whose strategies do not share what they ask for would evaluate the same points."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except OSError as error:
            raise UserError(
                "another process searches in this folder", where=str(folder),
                mend="wait for it to end; tpe and nsga2 are the strategies that several processes can share",
            ) from error  # fmt: skip
        yield


def _check_identity(folder: Path, recipe: Recipe, options: SearchOptions, task: Task, dense: nn.Module) -> None:
    """Raises UserError where the folder holds a search of something else."""
    header = recipe.header
    identity = {
        **options.identity(), "budget": recipe.budget.to_json(), "seed": header.seed,
        "model": state_digest(dense.state_dict()), "data": task.digest(), "version": __version__,
    }  # fmt: skip
    path = folder / IDENTITY
    identity = _through_json(identity)
    if not path.exists():
        write_json(path, identity)
        return
    before = read_json(path)
    changed = [key for key in identity if not isinstance(before, dict) or before.get(key) != identity[key]]
    if changed:
        raise UserError(
            "the folder holds a search of something else",
            where=str(folder),
            value="; ".join(_WORDS.get(key) or f"{key} {before.get(key)}, now {identity[key]}" for key in changed)
            if isinstance(before, dict) else "an unreadable identity.json",
            mend="give the same recipe and options, or another --out",
        )  # fmt: skip


def _through_json(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _through_json(item) for key, item in value.items()}
    return [_through_json(item) for item in value] if isinstance(value, list | tuple) else value


class _Search:
    def __init__(
        self,
        folder: Path,
        recipe: Recipe,
        options: SearchOptions,
        task: Task,
        dense: nn.Module,
        progress: Progress,
    ) -> None:
        self.folder, self.recipe, self.options, self.progress = folder, recipe, options, progress
        self.task, self.dense, self.budget = task, copy_of(dense).eval(), recipe.budget
        self.labels = recipe.header.data is None or recipe.header.data.labels == "use"
        check_task(task, self.dense)
        self.batches = batches_of(task, options.examples)
        channels_innermost(self.dense, task.forward, self.batches[0])
        example = example_of(self.dense, task.forward, self.batches[0])
        target = Target(recipe.header.device, recipe.header.threads)
        self.setting = Setting(self.dense, example, task.forward, self.batches, target, progress)

    def run(self) -> Searched:
        judge = self._judge()
        kinds = [limit.kind for limit in self.budget.limits]
        subject = Subject(self.setting, kinds, replace(self.options.subject, seed=self.recipe.header.seed))
        evaluator = Evaluator(subject, judge, self.budget, self.options.reward, self.folder / EVALUATIONS)
        strategy = self._strategy(subject)
        workers = self._workers(evaluator)
        found = search(strategy, evaluator, self.options.evaluations, workers=workers, progress=self.progress)
        self.progress.finish(f"{len(found.history)} evaluations of {found.distinct} networks, "
                             f"best {found.best[1].score:.2f}")  # fmt: skip
        last = max(finished(subject, found.best[0]), key=lambda one: score_of(judge(one.network)))
        network, plan, proof = last.network, last.plan, last.proof
        document = self._document(found, subject, judge, last)
        self._write(network, plan, document)
        return Searched(found, network, plan, proof, document)

    def _judge(self) -> Judge:
        """On the validation split; the test split is never looked at."""
        labels = self.labels and self.task.has_labels
        own = labels and not isinstance(self.task.evaluate, Accuracy)
        evaluate = (lambda model: self.task.evaluate(model, self.task.val)) if own else None
        return Judge(self.dense, self.task.forward, list(self.task.val.epoch(None)), evaluate, labels)

    def _strategy(self, subject: Subject) -> Strategy:
        more: dict[str, Any] = {} if self.options.agent is None else {"agent": self.options.agent}
        kind = STRATEGIES.get(self.options.strategy)
        return kind(subject.space, self.budget, self.recipe.header.seed, self.folder, **more)

    def _workers(self, evaluator: Evaluator) -> Any:
        if self.options.ray is None:
            return None
        from neuroprune.search.workers import RayWorkers

        return RayWorkers(evaluator, self.options.ray, self.options.workers)

    def _document(self, found: Found, subject: Subject, judge: Judge, last: Finished) -> dict[str, Any]:
        point, result = found.best
        kind, space = self.budget.limits[0].kind, subject.space
        groups = [{"group": w.name, "units": w.size, "kept": n}
                  for w, n in zip(space.widths, space.counts(point), strict=True)]  # fmt: skip
        metric = judge.metric or "agreement"
        return {
            "schema": SCHEMA, "version": __version__, **_through_json(self.options.identity()),
            "seed": self.recipe.header.seed, "budget": self.budget.to_json(),
            "evaluations": len(found.history), "distinct": found.distinct,
            "metric": metric, "dense": judge.dense if judge.dense is not None else 100.0,
            "notes": list(found.notes), "curve": found.curve(), "front_kind": kind,
            "front": [{"share": one.costs[kind] / space.dense_cost()[kind], "score": one.score,
                       "point": where.to_json()} for where, one in found.front(kind)],
            "best": {"point": point.to_json(), "result": result.to_json(), "groups": groups},
            "final": {"score": score_of(judge(last.network)), "costs": self._costs(last.network),
                      "recovered": last.how, "max_relative_error": last.proof.max_relative_error},
        }  # fmt: skip

    def _costs(self, network: nn.Module) -> dict[str, dict[str, float]]:
        """Dense and pruned in one run, per kind of the budget."""
        both = {"dense": Variant(self.dense), "now": Variant(network)}
        costs = {}
        for limit in self.budget.limits:
            figures = KINDS.get(limit.kind).figures(both, self.setting)
            costs[limit.kind] = {**figures, "limit": limit.absolute(figures["dense"])}
        return costs

    def _write(self, network: nn.Module, plan: Plan, document: Mapping[str, Any]) -> None:
        """search.json last: where it is, everything is."""
        save_undo(self.folder / "undo", channels_outermost(copy_of(self.dense)), plan)
        save_tensors(self.folder / WEIGHTS, network.state_dict())
        plan.save(self.folder / PLAN)
        build_search(document, self.folder / PAGE, title=self.recipe.header.title or self.recipe.header.name)
        write_json(self.folder / JSON, document)


@dataclass(frozen=True)
class Finished:
    """The network of a point, its plan and the proof of it. ``how``: it was recovered."""

    how: str
    network: nn.Module
    plan: Plan
    proof: Verification


def finished(subject: Subject, point: Point) -> list[Finished]:
    """The network of ``point`` after the whole closed form on all calibration examples, and as it was on trial.

    Where units are only cut on trial, the latter alone. Raises CutRefused where a plan cannot be proven.
    """
    how = subject.options.recover
    tried = [(how, subject.network(point), subject.plan(point, subject.kept(point)))]
    if how == "closed-form":
        tried = []
    if how in ("refit", "closed-form"):
        form = subject.recovered(point, subject.setting.batches, ROWS_PER_COLUMN)
        done = form.run(subject.consumed, subject.counts(point), subject.rankings, subject.setting.progress)
        plan = subject.plan(point, done.kept)
        tried.insert(0, ("closed-form", apply(plan, done.model).eval(), plan))
    return [_proven(subject, *one) for one in tried]


def _proven(subject: Subject, how: str, network: nn.Module, plan: Plan) -> Finished:
    proof = verify(subject.dense, plan, subject.setting.example, found=subject.found)
    if not proof.exact:
        raise CutRefused(proof.problem, where=proof.where or None)
    channels_outermost(network)
    return Finished(how, network, plan, proof)


#: heights of the sparkline
_BARS = "▁▂▃▄▅▆▇█"
#: evaluations after which the table shows the best so far
_SHOWN = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)


def summary_lines(done: Searched, folder: Path) -> list[str]:
    """What the command prints: the curve of the best so far, the network, where the files are."""
    document, curve = done.document, done.found.curve()
    lines = [f"best {document['metric']} so far, %, on validation data (dense: {document['dense']:.2f})"]
    lines.append(f"  {sparkline(curve)}")
    shown = sorted({n for n in _SHOWN if n < len(curve)} | {len(curve)})
    lines.append("  evaluations " + "".join(f"{n:>8}" for n in shown))
    lines.append("  best        " + "".join(f"{curve[n - 1]:>8.2f}" for n in shown))
    final = document["final"]
    lines.append(f"recovered by {final['recovered']}: {document['metric']} {final['score']:.2f} %")
    for kind, cost in final["costs"].items():
        missed = "" if cost["now"] <= cost["limit"] * (1 + 1e-9) else "; the limit is MISSED"
        share, limit = cost["now"] / cost["dense"], cost["limit"] / cost["dense"]
        lines.append(f"{kind}: {share:.3f} of dense (limit {limit:.3f}){missed}")
    names = (JSON, PAGE, PLAN, WEIGHTS, EVALUATIONS)
    lines += [f"note: {note}" for note in document["notes"]]
    return [*lines, *(str(folder / name) for name in names)]


def sparkline(values: list[float], width: int = 60) -> str:
    """A bar per value, or per equal share of them, between the least and the greatest."""
    step = max(1.0, len(values) / width)
    picked = [values[min(int((n + 1) * step) - 1, len(values) - 1)] for n in range(min(len(values), width))]
    low, high = min(values), max(values)
    span = (high - low) or 1.0
    return "".join(_BARS[round((value - low) / span * (len(_BARS) - 1))] for value in picked)
