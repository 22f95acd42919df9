"""The file that goes to the device once more, coded into as few bytes as it goes: model.npc."""

from __future__ import annotations

from neuroprune.base.errors import NeuropruneError
from neuroprune.base.files import sha256
from neuroprune.compression.npc import pack, unpack
from neuroprune.pipeline.context import Context
from neuroprune.pipeline.step import Outcome, StepConfig, step
from neuroprune.pipeline.steps.export import DENSE, INT8, MODEL

CODED = "model.npc"


class CodeConfig(StepConfig):
    """Options of `code`: none of its own."""


@step(
    "code",
    CodeConfig,
    summary="the int8 file (else the fp32 one) entropy coded into model.npc, proven to unpack to the same bytes",
    source="Han et al. 2016, Deep compression; Duda 2009",
    needs=("onnx",),
)
def code(context: Context, config: CodeConfig) -> Outcome:
    name = INT8 if INT8 in context.files else MODEL
    source, target, again = context.files[name], context.step_folder / CODED, context.work / name
    report = pack(source, target)
    unpack(target, again)
    if sha256(again) != sha256(source):
        raise NeuropruneError(f"{CODED} does not unpack to {name}: this is a bug in neuroprune")
    again.unlink()
    dense = context.files[DENSE].stat().st_size
    return Outcome(
        f"{name}: {report.source_bytes:,} -> {report.target_bytes:,} bytes, "
        f"{dense / report.target_bytes:.1f} times smaller than the dense network's file",
        facts={"coded": {"file": name, "bytes": report.target_bytes, "dense_bytes": dense}},
        files=(CODED,),
    )
