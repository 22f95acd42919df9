"""``compress``: the whole job in one call, for any PyTorch model and any task."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from torch import Tensor, nn

from neuroprune.base.errors import UserError
from neuroprune.base.nouns import Budget
from neuroprune.base.progress import Progress
from neuroprune.pipeline.choose import choose_recipe
from neuroprune.pipeline.recipe import recipe_from
from neuroprune.pipeline.run import run_recipe
from neuroprune.tasks.agreement import without_labels
from neuroprune.tasks.make import make_task

__all__ = ["CompressResult", "compress"]


@dataclass(frozen=True)
class CompressResult:
    """What `compress` made.

    ``model``: the compact network, of the class that was given, in evaluation mode. ``folder``: everything about
    the run; ``artifact``: the part of it that goes to the device. ``met``: whether all limits hold; if not,
    ``binding`` names the one that is missed most, and the network is the best that was reached. ``text`` says
    it in one sentence. ``measurements``: rows with ``metric``, ``unit``, ``before``, ``after``, ``change``,
    ``target``, ``met`` and ``kind`` (measured, modelled or unavailable).
    """

    model: nn.Module
    folder: Path
    artifact: Path
    met: bool
    binding: str | None
    text: str
    measurements: tuple[Mapping[str, Any], ...]

    def report(self) -> Path:
        """The page with tables and plots: one HTML file that works offline."""
        return self.folder / "report.html"


def compress(
    model: nn.Module,
    *,
    train: Any,
    val: Any,
    test: Any = None,
    example_inputs: Any = None,
    budget: Budget | None = None,
    max_drop: float | None = 1.0,
    evaluate: Callable[[nn.Module], float] | None = None,
    loss: Callable[[Any, Any], Tensor] | None = None,
    forward: Callable[[nn.Module, Any], Any] | None = None,
    metric: str | None = None,
    epochs: int | None = None,
    recover: str | None = None,
    no_train: bool = False,
    labels: Literal["use", "none"] = "use",
    lr: float = 1e-3,
    optimizer: str = "adamw",
    criterion: str = "activation",
    keep: Sequence[str] = (),
    batch_size: int = 64,
    out: Path | str | None = None,
    resume: bool = False,
    seed: int = 0,
    threads: int = 1,
    progress: Progress | None = None,
) -> CompressResult:
    """Make a trained ``model`` meet ``budget`` and lose at most ``max_drop``; the model given is not changed.

    >>> result = compress(model, train=(x, y), val=(vx, vy), budget=Budget(latency=0.5))  # doctest: +SKIP
    >>> result.model, result.artifact, result.report(), result.met                        # doctest: +SKIP

    ``train``, ``val``, ``test``: ``(x, y)`` tensors or arrays, a Dataset, a DataLoader, a list of batches.
    ``example_inputs``: positional arguments of the model for one or two examples; by default the first inputs of
    ``train``. Without ``forward`` (model, batch -> output), ``loss`` (batch, output -> scalar) and ``evaluate``
    (model -> float, higher is better) the task is a classification with cross entropy and accuracy in percent.
    ``max_drop`` is a difference of that metric in its own unit: points for accuracy, and for your ``evaluate``
    whatever it returns (with a negative squared error, by how much the error may grow); None: no limit.
    ``epochs`` of fine-tuning: 10 by default. ``no_train``: no training at all, units are chosen and layers
    refitted from the inputs of ``train``; ``recover``: how far to go without labels (``closed-form``,
    ``reconstruct``, ``distill``), fine-tuning then only for ``epochs`` given. ``labels="none"``: the data need
    hold none; the metric is the agreement with the dense network in percent, and ``max_drop`` counts its points.
    ``budget``: default half the latency. ``out``: the run's folder, by default a new one under the system's
    temporary folder, which is left there; with ``resume`` an interrupted run in it is continued.

    A budget that cannot be met is no exception: see ``CompressResult.met``. Raises UserError for data, models
    and options that cannot be used, and Interrupted on Ctrl-C.
    """
    _check_types(model, budget)
    kind = type(model).__name__
    task = make_task(
        train=train, val=val, test=test, example_inputs=example_inputs, forward=forward, loss=loss,
        evaluate=evaluate or (_judged_later if labels == "none" else None), metric=metric, name=kind,
        batch_size=batch_size, seed=seed,
    )  # fmt: skip
    if labels == "none" and evaluate is None:
        task = without_labels(task, model)
    recipe = choose_recipe(
        name=kind.strip("_") or "model", budget=budget or Budget(latency=0.5), max_drop=max_drop, epochs=epochs,
        recover=recover, no_train=no_train, data_labels=labels, lr=lr, optimizer=optimizer, criterion=criterion,
        keep=keep, seed=seed, threads=threads,
    )  # fmt: skip
    folder = Path(tempfile.mkdtemp(prefix="neuroprune-")) if out is None else Path(out)
    command = f"compress(..., out={str(folder)!r}, resume=True)"
    result = run_recipe(
        recipe_from(recipe), folder, resume=resume, model=model, task=task, progress=progress, command=command
    )
    assert result.results is not None  # the recipe above ends with a report
    assert result.met is not None
    return CompressResult(
        model=result.model.eval(),
        folder=folder,
        artifact=folder / "artifact",
        met=result.met,
        binding=result.binding,
        text=result.text,
        measurements=tuple(result.results["table"]),
    )


def _judged_later(model: nn.Module) -> float:
    raise AssertionError("`without_labels` gives the task its judge")


def _check_types(model: object, budget: object) -> None:
    """Raises UserError for what a type checker would have caught."""
    if not isinstance(model, nn.Module):
        raise UserError(
            "the model is no torch.nn.Module", value=type(model).__name__, mend="pass the network itself"
        )
    if budget is not None and not isinstance(budget, Budget):
        raise UserError(
            "the budget is no Budget", value=budget, mend="write budget=neuroprune.Budget(latency=0.5)"
        )
