"""The command line: each command is one verb. Heavy imports happen inside the commands, so that help is fast."""

from __future__ import annotations

import json
import os
import shlex
import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from neuroprune.base.errors import NeuropruneError, UserError
from neuroprune.base.registry import nearest
from neuroprune.cli.analysis import sensitivity
from neuroprune.cli.options import (
    Args,
    Criterion,
    Inputs,
    Keep,
    Model,
    Out,
    Replay,
    Resume,
    Set,
    Weights,
    guarded,
)

if TYPE_CHECKING:
    from neuroprune.base.registry import Registry
    from neuroprune.compression.artifact import VerifyReport
    from neuroprune.pipeline.recipe import Recipe

app = typer.Typer(
    name="neuroprune",
    help="Make trained PyTorch networks small and fast, with proof.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)


@app.callback()
def _options(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    """``--debug`` is taken off the command line before anything is parsed, so it may stand anywhere."""


@app.command()
@guarded
def demo(out: Out = None, resume: Resume = False, set_: Set = None, replay: Replay = None) -> None:
    """Train, prune, cut, distil, quantise, measure: the whole way in two minutes."""
    from neuroprune.pipeline.recipe import shipped_recipes

    _run(shipped_recipes()["demo"], set_, out, resume, replay)


@app.command()
@guarded
def run(
    recipe: Annotated[str, typer.Argument(help="A YAML file, or the name of a shipped recipe.")],
    out: Out = None,
    resume: Resume = False,
    set_: Set = None,
    replay: Replay = None,
) -> None:
    """Run the steps of a recipe."""
    from neuroprune.pipeline.recipe import shipped_recipes

    path = Path(recipe)
    shipped = shipped_recipes().get(recipe)
    _run(shipped if shipped is not None and not path.exists() else path, set_, out, resume, replay)


@app.command()
@guarded
def compress(
    model: Model,
    data: Annotated[
        str, typer.Option(help="digits, mnist:F.npz, cifar10:DIR, folder:DIR, npz:F, module:callable")
    ],
    budget: Annotated[
        list[str], typer.Option(help="latency=0.5, latency=8ms, size=500KB, macs=0.3, params=0.3; repeatable")
    ],
    max_drop: Annotated[
        float | None,
        typer.Option(help="Points of accuracy that may be lost (default: 1; without labels: no limit)."),
    ] = None,
    out: Out = None,
    weights: Weights = None,
    arg: Args = None,
    resize: Annotated[int | None, typer.Option(help="Scale images to this many pixels.")] = None,
    no_train: Annotated[
        bool,
        typer.Option("--no-train", help="No training: layers are refitted from the inputs alone."),
    ] = False,
    recover: Annotated[
        str | None,
        typer.Option(help="Recover without labels: closed-form, reconstruct (--no-train's default) or distill."),
    ] = None,
    labels: Annotated[
        str, typer.Option(help="use; or none: the data need have none, agreement with the dense network counts")
    ] = "use",
    epochs: Annotated[
        int | None, typer.Option(help="Epochs of fine-tuning (default: 10; after --no-train or --recover: 0).")
    ] = None,
    train_epochs: Annotated[int, typer.Option(help="Train the dense network first (0: it is trained).")] = 0,
    lr: Annotated[float, typer.Option(help="Learning rate (AdamW).")] = 1e-3,
    batch_size: Annotated[int, typer.Option(help="Examples per training step.")] = 64,
    limit: Annotated[int | None, typer.Option(help="Use only so many examples.")] = None,
    criterion: Criterion = "activation",
    keep: Keep = None,
    seed: int = 0,
    threads: Annotated[int, typer.Option(help="Threads for training.")] = 1,
    recipe_only: Annotated[bool, typer.Option("--recipe-only", help="Write the recipe and stop.")] = False,
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


@app.command()
@guarded
def verify(
    folder: Annotated[Path, typer.Argument(help="An artifact, or the run that made it.")],
    model: Annotated[str | None, typer.Option(help="The network, where the manifest cannot name it.")] = None,
    arg: Args = None,
) -> None:
    """Check an artifact: hashes, weights onto the plain constructor, ONNX Runtime against PyTorch."""
    from neuroprune.compression.artifact import verify_artifact
    from neuroprune.compression.manifest import read_manifest
    from neuroprune.pipeline.arguments import constructor_arguments
    from neuroprune.tasks.models import load_model

    inner = folder / "artifact"
    place = inner if inner.is_dir() else folder
    manifest, problems = read_manifest(place)
    network = None
    if model is not None and not problems:  # arguments out of a manifest that was changed are not used
        network = load_model(model, kwargs=constructor_arguments(arg) or dict(manifest.model.kwargs))
    report = verify_artifact(place, model=network)
    typer.echo(str(report))
    if not report.ok:
        raise _not_verified(report, place, given=model)


def _not_verified(report: VerifyReport, folder: Path, given: str | None) -> UserError:
    """The closing message: what it is that does not hold, and what to do about it."""
    failed = [check.name for check in report.checks if not check.ok]
    if report.completed_by is not None:
        return UserError(
            "the network could not be constructed from the manifest alone; everything else that was checked holds",
            where=str(folder),
            value=f"left to check: the weights, and the files' outputs against PyTorch's ({', '.join(failed)})",
            mend=f"complete the check with: {report.completed_by}",
        )
    again = "get it again from its source, or make it again"
    named = given is not None and any(check.ok and check.name == "model" for check in report.checks)
    return UserError(
        f"the artifact failed its verification: {', '.join(failed)}",
        where=str(folder),
        value=f"{len(failed)} of {len(report.checks)} checks",
        mend=f"check that --model {shlex.quote(given or '')} and --arg name its dense network; else {again}"
        if named
        else again,
    )


@app.command()
@guarded
def restore(
    run: Annotated[Path, typer.Argument(help="The folder of the run that made the cut.")],
    to: Annotated[Path, typer.Option(help="Safetensors file to write.")],
    before_cut: Annotated[
        bool, typer.Option("--before-cut", help="The network just before the cut (retrained under masks).")
    ] = False,
) -> None:
    """Write the dense network's weights, bit for bit as they were before pruning."""
    from neuroprune.base.files import save_tensors
    from neuroprune.pruning.restore import load_undo

    undo = run / "undo" / "before-cut" if before_cut else run / "undo"
    tensors = load_undo(undo)
    save_tensors(to, tensors)
    typer.echo(f"{len(tensors)} tensors written to {to}")


@app.command("list")
@guarded
def list_(
    kind: Annotated[
        str | None,
        typer.Argument(help="criteria, block-criteria, allocations, budgets, steps, data, devices, exports"),
    ] = None,
) -> None:
    """What can be named in recipes and on the command line, with a line and a source each."""
    registries = _registries()
    if kind is not None and kind not in registries:
        guess = nearest(kind, registries)
        hint = f"did you mean {guess!r}? " if guess else ""
        raise UserError(f"there is no kind {kind!r}", mend=f"{hint}kinds: {', '.join(registries)}")
    for name in [kind] if kind is not None else list(registries):
        typer.echo(f"{name}:")
        entries = registries[name].entries()
        width = max(12, *(len(entry.name) for entry in entries))
        for entry in entries:
            source = f"  [{entry.source}]" if entry.source else ""
            needs = f"{_needs(entry.value):<12} " if name == "criteria" else ""
            typer.echo(f"  {entry.name:<{width}} {needs}{entry.summary}{source}")


def _needs(criterion: Any) -> str:
    """What a criterion looks at beside the model; `paths` is of the weights and the shape of an input alone."""
    return ", ".join(sorted(criterion.needs - {"paths"})) or "weights"


@app.command()
@guarded
def inspect(
    model: Model,
    input_: Inputs,
    arg: Args = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show which units can be removed together, and what stays whole and why."""
    from neuroprune.graph import cost, trace
    from neuroprune.pipeline.arguments import constructor_arguments, made_up_inputs
    from neuroprune.pipeline.structure import trace_lines
    from neuroprune.pruning import provable
    from neuroprune.tasks.models import load_model

    network = load_model(model, kwargs=constructor_arguments(arg))
    inputs = made_up_inputs(input_)
    found = provable(network, trace(network, inputs), inputs)
    counted = cost(network, inputs)
    if as_json:
        groups = [
            {
                "name": g.name, "units": g.size, "kind": g.kind, "statistics": g.statistics,
                "tensors": [[s.tensor, s.dim] for s in g.slices],
            }
            for g in found.groups
        ]  # fmt: skip
        refused = [vars(r) for r in found.refused]
        typer.echo(json.dumps({"cost": vars(counted), "groups": groups, "refused": refused}, indent=2))
        return
    typer.echo("\n".join(trace_lines(found, counted)))


@app.command()
@guarded
def prune(
    model: Model,
    input_: Inputs,
    ratio: Annotated[float, typer.Option(help="Share of the units that goes, 0 to below 1.")] = 0.5,
    out: Out = None,
    weights: Weights = None,
    arg: Args = None,
    criterion: Criterion = "l2",
    scope: Annotated[str, typer.Option(help="local: in every group; global: one threshold for all")] = "local",
    granularity: Annotated[
        str,
        typer.Option(
            help="channel (everything), head, head_dim, conv_group, rows of --round-to channels, or block"
        ),
    ] = "channel",
    round_to: Annotated[int, typer.Option(help="Keep multiples of so many units.")] = 1,
    keep: Keep = None,
    on_refuse: Annotated[str, typer.Option(help="report, or raise: end with exit code 2")] = "report",
    tier: Annotated[
        str, typer.Option(help="module: the network's own class; exported: a graph, literal sizes changed too")
    ] = "module",
    seed: int = 0,
) -> None:
    """Cut a network once, without data: plan.json, model.safetensors (or .pt2), report.json; proven exact."""
    from neuroprune.pipeline.arguments import constructor_arguments, default_out, made_up_inputs, name_of
    from neuroprune.pipeline.structure import prune_into, summary_of
    from neuroprune.tasks.models import load_model

    folder, arguments = out or default_out(name_of(model)), constructor_arguments(arg)
    facts = {"model": model, "arguments": arguments, "weights": weights and str(weights), "inputs": input_}
    network = load_model(model, weights=weights, kwargs=arguments)
    options = {
        "ratio": ratio, "criterion": criterion, "scope": scope, "granularity": granularity, "round_to": round_to,
        "keep": keep or [], "on_refuse": on_refuse, "seed": seed,
        "tier": tier,
    }  # fmt: skip
    done = prune_into(folder, network, made_up_inputs(input_), options, facts)
    typer.echo("\n".join(summary_of(done, folder)))


app.command()(sensitivity)


@app.command()
@guarded
def report(run: Annotated[Path, typer.Argument(help="The folder of a finished run.")]) -> None:
    """Draw report.html again from results.json."""
    from neuroprune.base.files import read_json
    from neuroprune.compression.artifact import add_file
    from neuroprune.report import build_report

    page = run / "report.html"
    build_report(read_json(run / "results.json"), page)
    if (run / "artifact" / "manifest.json").is_file():
        add_file(run / "artifact", page.name, page)
    typer.echo(str(page))


@app.command()
def version() -> None:
    """Print the version."""
    from neuroprune import __version__

    typer.echo(__version__)


def _run(path: Path, overrides: list[str] | None, out: Path | None, resume: bool, replay: Path | None) -> None:
    from neuroprune.pipeline.recipe import load_recipe

    _execute(load_recipe(path, overrides or []), out, resume, replay)


def _execute(recipe: Recipe, out: Path | None, resume: bool, replay: Path | None) -> None:
    """Run, print the table, end with the path of the report; raise for a missed budget after that."""
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


def _registries() -> dict[str, Registry[Any]]:
    import neuroprune.pipeline.steps  # noqa: F401  # fills STEPS
    from neuroprune.budget.allocations import ALLOCATIONS
    from neuroprune.budget.kinds import KINDS
    from neuroprune.devices import DEVICES
    from neuroprune.export import EXPORTS
    from neuroprune.pipeline.step import STEPS
    from neuroprune.pruning import CRITERIA
    from neuroprune.pruning.block_scores import BLOCK_CRITERIA
    from neuroprune.tasks.datasets import DATASETS

    return {
        "criteria": CRITERIA,
        "block-criteria": BLOCK_CRITERIA,
        "allocations": ALLOCATIONS,
        "budgets": KINDS,
        "steps": STEPS,
        "data": DATASETS,
        "devices": DEVICES,
        "exports": EXPORTS,
    }


def main() -> NoReturn:
    """Run the command line. Every error is one message on standard error and an exit code, no traceback."""
    # Threads that wait by spinning take the core from whoever has work: on a busy machine training was ten
    # times slower. The OpenMP runtime reads this once, when torch is first imported.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    debug = "--debug" in sys.argv[1:]
    sys.argv[1:] = [word for word in sys.argv[1:] if word != "--debug"]
    try:
        app()
        sys.exit(0)
    except NeuropruneError as error:
        if debug:
            traceback.print_exc()
        print(error, file=sys.stderr)
        sys.exit(error.exit_code)
    except BrokenPipeError:  # the reader of a pipe (head, less) has seen enough
        sys.stderr.close()
        sys.exit(0)
    except Exception as error:
        if debug:
            traceback.print_exc()
        again = shlex.join(["neuroprune", "--debug", *sys.argv[1:]])
        print(
            f"this is a bug in neuroprune: {type(error).__name__}: {error}\n  see it with: {again}",
            file=sys.stderr,
        )
        sys.exit(1)
