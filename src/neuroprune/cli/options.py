"""Options and arguments that several commands share, and what surrounds every command."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, ParamSpec

import typer

from neuroprune.base.errors import Interrupted

P = ParamSpec("P")

Out = Annotated[Path | None, typer.Option("--out", help="Folder of the run (default: runs/NAME).")]
Resume = Annotated[bool, typer.Option("--resume", help="Go on with the interrupted run in --out.")]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Change the recipe: seed=1, steps.train.epochs=3."),
]
Profile = Annotated[
    str | None, typer.Option("--profile", help="A set of changes that the recipe has a name for, e.g. fast.")
]
Args = Annotated[
    list[str] | None, typer.Option("--arg", metavar="NAME=VALUE", help="Argument of the model's constructor.")
]
Model = Annotated[str, typer.Argument(help="package.module:callable, file.py:callable, timm:X, torchvision:X")]
Weights = Annotated[Path | None, typer.Option(help="safetensors or state dict with the trained weights.")]
Inputs = Annotated[
    list[str],
    typer.Option("--input", metavar="SHAPE", help="1,3,32,32 or 1,16:int64 or NAME=SHAPE; one per input"),
]
Data = Annotated[str, typer.Option(help="digits, mnist:F.npz, cifar10:DIR, folder:DIR, npz:F, module:callable")]
Labels = Annotated[
    str, typer.Option(help="use; or none: the data need have none, outputs are compared with the dense network's")
]
Resize = Annotated[int | None, typer.Option(help="Scale images to this many pixels.")]
Limit = Annotated[int | None, typer.Option(help="Use only so many examples.")]
BatchSize = Annotated[int, typer.Option(help="Examples per batch.")]
Keep = Annotated[list[str] | None, typer.Option(help="Leave layers whole, e.g. 'layer1.*'; repeatable")]
Criterion = Annotated[str, typer.Option(help="See: neuroprune list criteria")]
Budgets = Annotated[
    list[str], typer.Option(help="latency=0.5, latency=8ms, size=500KB, macs=0.3, params=0.3; repeatable")
]
MaxDrop = Annotated[
    float | None, typer.Option(help="Points of accuracy that may be lost (default: 1; without labels: no limit).")
]
NoTrain = Annotated[
    bool, typer.Option("--no-train", help="No training: layers are refitted from the inputs alone.")
]
Recover = Annotated[
    str | None,
    typer.Option(help="Recover without labels: closed-form, reconstruct (--no-train's default) or distill."),
]
Epochs = Annotated[
    int | None, typer.Option(help="Epochs of fine-tuning (default: 10; after --no-train or --recover: 0).")
]
TrainEpochs = Annotated[int, typer.Option(help="Train the dense network first (0: it is trained).")]
Rate = Annotated[float, typer.Option(help="Learning rate (AdamW).")]
Threads = Annotated[int, typer.Option(help="Threads for training.")]
RecipeOnly = Annotated[bool, typer.Option("--recipe-only", help="Write the recipe and stop.")]
Levels = Annotated[
    str, typer.Option(help="Shares of the dense network's cost, ascending; 1: the dense network itself.")
]
ShareOf = Annotated[str, typer.Option(help="What the shares are of. See: neuroprune list budgets")]
EachLevel = Annotated[
    str, typer.Option(help="How far each level is recovered: none, closed-form, reconstruct, distill")
]
Lose = Annotated[str, typer.Option(help="Points of accuracy that operating points may lose.")]
Int8 = Annotated[bool, typer.Option("--int8", help="Levels in static int8.")]
Examples = Annotated[int, typer.Option(help="Training examples that calibrate, without labels.")]
Replay = Annotated[
    Path | None, typer.Option("--replay", help="Take the measurements of another run: its journal.jsonl.")
]


def guarded(command: Callable[P, None]) -> Callable[P, None]:
    """Ctrl-C before or after the run itself (imports, printing) also ends with a message and exit code 130."""

    @functools.wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            command(*args, **kwargs)
        except KeyboardInterrupt as stop:
            raise Interrupted("stopped", mend="type the same command again") from stop

    return run
