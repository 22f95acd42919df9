"""``neuroprune cascade``."""

from __future__ import annotations

from pathlib import Path

import typer

from neuroprune.base.errors import UserError
from neuroprune.cli.options import (
    Args,
    BatchSize,
    Data,
    EachLevel,
    Examples,
    Int8,
    Keep,
    Labels,
    Levels,
    Limit,
    Lose,
    Model,
    Out,
    Resize,
    ShareOf,
    Threads,
    Weights,
    guarded,
)


@guarded
def cascade(
    model: Model,
    data: Data,
    levels: Levels = "0.15,0.4,1",
    out: Out = None,
    weights: Weights = None,
    arg: Args = None,
    labels: Labels = "use",
    budget: ShareOf = "macs",
    recover: EachLevel = "closed-form",
    lose: Lose = "0,1",
    int8: Int8 = False,
    keep: Keep = None,
    examples: Examples = 2048,
    resize: Resize = None,
    batch_size: BatchSize = 64,
    limit: Limit = None,
    seed: int = 0,
    threads: Threads = 1,
) -> None:
    """Cut nested networks that run as a cascade: the small one first, larger ones where it is not sure."""
    import torch

    from neuroprune.base.progress import RichProgress
    from neuroprune.cascade.build import CascadeOptions, build_cascade
    from neuroprune.cascade.levels import LevelOptions
    from neuroprune.cascade.summary import summary_lines
    from neuroprune.pipeline.arguments import constructor_arguments, default_out, name_of
    from neuroprune.report import build_cascade_page
    from neuroprune.tasks.load import load_task
    from neuroprune.tasks.models import load_model

    if labels not in ("use", "none"):
        raise UserError(f"unknown --labels {labels}", mend="write use, or none for images alone")
    folder: Path = out or default_out(name_of(model))
    options = CascadeOptions(
        levels=_numbers("levels", levels), lose=_numbers("lose", lose), precision="int8" if int8 else "fp32",
        examples=examples, threads=threads,
        cutting=LevelOptions(kind=budget, recover=recover, keep=keep or [], seed=seed),  # type: ignore[arg-type]
    )  # fmt: skip
    network = load_model(model, weights=weights, kwargs=constructor_arguments(arg), seed=seed)
    task = load_task(data, seed=seed, batch_size=batch_size, resize=resize, limit=limit, labels=labels == "use")
    torch.set_num_threads(threads)
    progress = RichProgress()
    try:
        runner = build_cascade(network, task, folder, options, progress=progress)
        progress.finish(f"{len(runner.levels)} levels, {len(runner.points)} operating points")
    finally:
        progress.close()
    build_cascade_page(runner.document, folder / "cascade.html", title=Path(model).name)
    typer.echo(
        "\n".join([*summary_lines(runner.document), str(folder / "cascade.json"), str(folder / "cascade.html")])
    )


def _numbers(option: str, text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(",") if part.strip())
    except ValueError:
        raise UserError(f"cannot read --{option} {text}", mend="write numbers with commas: 0.15,0.4,1") from None
