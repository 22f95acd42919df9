"""``neuroprune pack`` and ``unpack``: a network's file in as few bytes as it goes, and back."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from neuroprune.cli.options import guarded


@guarded
def pack(
    source: Annotated[Path, typer.Argument(help="An ONNX or safetensors file.")],
    to: Annotated[Path, typer.Option(help="The coded file.")] = Path("model.npc"),
    smallest: Annotated[bool, typer.Option("--smallest", help="Up to 1 % smaller, slower to decode.")] = False,
) -> None:
    """Code a network's file; nothing is lost."""
    from neuroprune.compression import npc

    report = npc.pack(source, to, smallest=smallest)
    taken = ", ".join(f"{count} {name}" for name, count in report.codecs.items()) or "none"
    typer.echo(
        f"{to}: {report.source_bytes:,} -> {report.target_bytes:,} bytes, {report.ratio:.2f} times smaller\n"
        f"tensors by codec: {taken}"
    )


@guarded
def unpack(
    source: Annotated[Path, typer.Argument(help="A file that `neuroprune pack` wrote.")],
    to: Annotated[Path, typer.Option(help="Where the ONNX or safetensors file goes.")],
    limit: Annotated[int, typer.Option(help="Refuse a file that unpacks to more bytes.", min=1)] = 1 << 31,
) -> None:
    """Write the file that was packed, byte for byte."""
    from neuroprune.compression import npc

    typer.echo(f"{to}: {npc.unpack(source, to, limit=limit):,} bytes, the same as were packed")
