"""``neuroprune sensitivity``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from neuroprune.base.errors import UserError
from neuroprune.cli.options import (
    Args,
    BatchSize,
    Criterion,
    Data,
    Keep,
    Labels,
    Limit,
    Model,
    Out,
    Resize,
    Resume,
    Weights,
    guarded,
)


@guarded
def sensitivity(
    model: Model,
    data: Data,
    out: Out = None,
    weights: Weights = None,
    arg: Args = None,
    labels: Labels = "use",
    ratios: Annotated[
        str, typer.Option(help="Shares of a group that go, one after the other.")
    ] = "0.1,0.2,0.3,0.4,0.5,0.6,0.7,0.8,0.9",
    criterion: Criterion = "l2",
    recover: Annotated[
        bool, typer.Option("--recover", help="Refit what reads a group by least squares each time.")
    ] = False,
    keep: Keep = None,
    resize: Resize = None,
    batch_size: BatchSize = 64,
    limit: Limit = None,
    seed: int = 0,
    threads: Annotated[int, typer.Option(help="Threads.")] = 1,
    resume: Resume = False,
) -> None:
    """Measure what each group of units is worth: cut one alone, at one ratio after another; curves and a page."""
    from neuroprune.base.progress import RichProgress
    from neuroprune.pipeline.arguments import constructor_arguments, default_out, name_of, resume_command
    from neuroprune.pipeline.sensitivity import ratios_of, sensitivity_into, summary_lines
    from neuroprune.tasks.load import load_task
    from neuroprune.tasks.models import load_model

    if labels not in ("use", "none"):
        raise UserError(f"unknown --labels {labels}", mend="write use, or none for images alone")
    folder: Path = out or default_out(name_of(model), resume)
    options = {"ratios": ratios_of(ratios), "criterion": criterion, "recover": recover, "keep": keep or [],
               "seed": seed}  # fmt: skip
    network = load_model(model, weights=weights, kwargs=constructor_arguments(arg), seed=seed)
    task = load_task(data, seed=seed, batch_size=batch_size, resize=resize, limit=limit, labels=labels == "use")
    found = sensitivity_into(
        folder, network, task, options, title=Path(model).name, labels=labels == "use", resume=resume,
        threads=threads, progress=RichProgress(), command=resume_command(folder, given=out is not None),
    )  # fmt: skip
    typer.echo("\n".join(summary_lines(found, folder)))
