"""What is typed on the command line, as values: constructor arguments, input shapes, names of runs."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Any

import torch
import yaml

from neuroprune.base.errors import UserError


def name_of(model: str) -> str:
    """The last word of a model's spec, as a name for the run."""
    word = model.rpartition(":")[2] or "model"
    return "".join(c if c.isalnum() or c in "._-" else "-" for c in word).strip("._-") or "model"


def constructor_arguments(texts: list[str] | None) -> dict[str, Any]:
    """``NAME=VALUE`` texts as keyword arguments; values are read as YAML (8, true, [1, 2], text)."""
    found: dict[str, Any] = {}
    for text in texts or []:
        name, sign, value = text.partition("=")
        if not sign or not name.isidentifier():
            raise UserError(f"cannot read --arg {text}", mend="write --arg NAME=VALUE, e.g. --arg num_classes=10")
        try:
            found[name] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise UserError(f"cannot read the value of --arg {text}", mend="quote it as in YAML") from error
    return found


def default_out(name: str, resume: bool = False) -> Path:
    """runs/NAME, runs/NAME-2, ...: the first that is free, or, to resume, the last that is there."""
    number = 1
    folder = Path("runs") / name
    while folder.exists():
        number += 1
        following = Path("runs") / f"{name}-{number}"
        if resume and not following.exists():
            break
        folder = following
    return folder


def resume_command(folder: Path, *, given: bool) -> str:
    """What to type to go on with the run in ``folder``, which the user named or not."""
    words = [word for word in sys.argv[1:] if word != "--resume"]
    where = [] if given else ["--out", str(folder)]
    return shlex.join(["neuroprune", *words, *where, "--resume"])


def made_up_inputs(texts: list[str]) -> Any:
    """One ``--input`` per positional argument, or each as ``NAME=SHAPE`` for keyword arguments."""
    named = [text.partition("=") for text in texts if "=" in text]
    if named and len(named) < len(texts):
        raise UserError(
            "some --input have a name and some have none",
            value=" ".join(texts),
            mend="name all of them (--input ids=1,16:int64 --input mask=1,16) or none",
        )
    return {name: made_up_input(shape) for name, _, shape in named} or tuple(map(made_up_input, texts))


def made_up_input(text: str) -> Any:
    """An input tensor of a shape like ``1,3,32,32`` or ``1,16:int64``."""
    shape, _, kind = text.replace("x", ",").partition(":")
    dtype = getattr(torch, kind or "float32", None)
    try:
        sizes = [int(size) for size in shape.split(",")]
        if not isinstance(dtype, torch.dtype) or min(sizes) < 0:
            raise ValueError
    except ValueError:
        raise UserError(
            f"cannot read --input {text}", mend="write a shape: 1,3,32,32 or 1,16:int64 or ids=1,16:int64"
        ) from None
    return torch.rand(sizes, dtype=dtype) if dtype.is_floating_point else torch.zeros(sizes, dtype=dtype)
