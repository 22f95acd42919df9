"""The command line: each command is one verb. Heavy imports happen inside the commands, so that help is fast."""

from __future__ import annotations

import os
import shlex
import sys
import traceback
from typing import Annotated, NoReturn

import typer

from neuroprune.base.errors import NeuropruneError
from neuroprune.cli.analysis import sensitivity
from neuroprune.cli.artifacts import report, restore, verify
from neuroprune.cli.cascade import cascade
from neuroprune.cli.coding import pack, unpack
from neuroprune.cli.cutting import inspect, prune
from neuroprune.cli.listing import list_
from neuroprune.cli.running import compress, demo, run
from neuroprune.cli.searching import search

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


def version() -> None:
    """Print the version."""
    from neuroprune import __version__

    typer.echo(__version__)


#: in the order in which help shows them
for _command in (
    demo,
    run,
    compress,
    inspect,
    prune,
    sensitivity,
    search,
    cascade,
    verify,
    restore,
    pack,
    unpack,
    report,
    version,
):
    app.command()(_command)
app.command("list")(list_)


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
