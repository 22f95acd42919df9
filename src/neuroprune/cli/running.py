"""``neuroprune demo``, ``run`` and ``compress``: recipes from start to verdict."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from neuroprune.cli.options import (
    Args,
    BatchSize,
    Budgets,
    Criterion,
    Data,
    Epochs,
    Keep,
    Labels,
    Limit,
    MaxDrop,
    Model,
    NoTrain,
    Out,
    Profile,
    Rate,
    RecipeOnly,
    Recover,
    Replay,
    Resize,
    Resume,
    Set,
    Threads,
    TrainEpochs,
    Weights,
    guarded,
)

if TYPE_CHECKING:
    from neuroprune.pipeline.recipe import Recipe


@guarded
def demo(out: Out = None, resume: Resume = False, set_: Set = None, replay: Replay = None) -> None:
    """Train, prune, cut, distil, quantise, measure: the whole way in two minutes."""
    from neuroprune.pipeline.recipe import shipped_recipes

    _run(shipped_recipes()["demo"], set_, out, resume, replay)


@guarded
def run(
    recipe: Annotated[str, typer.Argument(help="A YAML file, or the name of a shipped recipe.")],
    out: Out = None,
    resume: Resume = False,
    set_: Set = None,
    profile: Profile = None,
    replay: Replay = None,
) -> None:
    """Run the steps of a recipe."""
    from neuroprune.pipeline.recipe import shipped_recipes

    path = Path(recipe)
    shipped = shipped_recipes().get(recipe)
    _run(shipped if shipped is not None and not path.exists() else path, set_, out, resume, replay, profile)


@guarded
def compress(
    model: Model,
    data: Data,
    budget: Budgets,
    max_drop: MaxDrop = None,
    out: Out = None,
    weights: Weights = None,
    arg: Args = None,
    resize: Resize = None,
    no_train: NoTrain = False,
    recover: Recover = None,
    labels: Labels = "use",
    epochs: Epochs = None,
    train_epochs: TrainEpochs = 0,
    lr: Rate = 1e-3,
    batch_size: BatchSize = 64,
    limit: Limit = None,
    criterion: Criterion = "activation",
    keep: Keep = None,
    seed: int = 0,
    threads: Threads = 1,
    recipe_only: RecipeOnly = False,
    resume: Resume = False,
    replay: Replay = None,
) -> None:
    """Compress a trained model to a budget: choose a recipe, write it down, run it."""
    from neuroprune.base.files import write_text
    from neuroprune.base.nouns import Budget
    from neuroprune.pipeline.arguments import constructor_arguments, name_of
    from neuroprune.pipeline.choose import choose_recipe
    from neuroprune.pipeline.recipe import recipe_from

    spec = {"spec": model, "weights": str(weights) if weights else None, "kwargs": constructor_arguments(arg)}
    source = {"spec": data, "resize": resize, "batch_size": batch_size, "limit": limit}
    chosen = choose_recipe(
        name=name_of(model),
        budget=Budget.parse(budget),
        max_drop=1.0 if max_drop is None and labels != "none" else max_drop,
        model={key: value for key, value in spec.items() if value},
        data={key: value for key, value in source.items() if value is not None},
        epochs=epochs,
        recover=recover,
        no_train=no_train,
        data_labels=labels,
        train_epochs=train_epochs,
        lr=lr,
        criterion=criterion,
        keep=keep or (),
        seed=seed,
        threads=threads,
    )
    recipe = recipe_from(chosen, "the chosen recipe")
    if recipe_only:
        path = (out or Path()) / "recipe.yaml"
        write_text(path, recipe.text)
        typer.echo(str(path))
        return
    _execute(recipe, out, resume, replay)


def _run(
    path: Path,
    overrides: list[str] | None,
    out: Path | None,
    resume: bool,
    replay: Path | None,
    profile: str | None = None,
) -> None:
    from neuroprune.pipeline.recipe import load_recipe

    _execute(load_recipe(path, overrides or [], profile), out, resume, replay)


def _execute(recipe: Recipe, out: Path | None, resume: bool, replay: Path | None) -> None:
    """Run, print the table, end with the path of the report; raise for a missed budget after that.

    Under torchrun the first process does so, and the others share its trainings.
    """
    from neuroprune.pipeline.run import code_of
    from neuroprune.recover.data_parallel import gathered

    with gathered(lambda: code_of(recipe), recipe.header.threads) as leads:
        if leads:
            _execute_alone(recipe, out, resume, replay)


def _execute_alone(recipe: Recipe, out: Path | None, resume: bool, replay: Path | None) -> None:
    from rich.console import Console

    from neuroprune.base.progress import RichProgress
    from neuroprune.pipeline.arguments import default_out, resume_command
    from neuroprune.pipeline.run import run_recipe
    from neuroprune.pipeline.summary import table_of

    folder = out or default_out(recipe.header.name, resume)
    command = resume_command(folder, given=out is not None)
    result = run_recipe(recipe, folder, resume=resume, progress=RichProgress(), replay=replay, command=command)
    if result.results is not None:
        console = Console(width=None if sys.stdout.isatty() else 132)
        console.print(table_of(result.results["table"]))
        typer.echo(result.text)
        typer.echo(str(result.folder / "report.html"))
    else:
        typer.echo(str(result.folder))
    sys.stdout.flush()
    result.require_met()
