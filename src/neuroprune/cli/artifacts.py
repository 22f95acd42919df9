"""``neuroprune verify``, ``restore`` and ``report``: what a finished run left."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from neuroprune.base.errors import UserError
from neuroprune.cli.options import (
    Args,
    guarded,
)

if TYPE_CHECKING:
    from neuroprune.compression.artifact import VerifyReport


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
