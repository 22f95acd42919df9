"""The file that goes to the device once more, coded into as few bytes as it goes: model.npc."""

from __future__ import annotations

from neuroprune.compression.artifact import CODED
from neuroprune.compression.npc import pack, unpack
from neuroprune.pipeline.context import Context
from neuroprune.pipeline.step import Outcome, StepConfig, step
from neuroprune.pipeline.steps.export import DENSE, INT8, MODEL


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
    unpack(target, again)  # which compares with the SHA-256 of what was packed
    again.unlink()
    dense = context.files[DENSE].stat().st_size
    return Outcome(
        f"{name}: {report.source_bytes:,} -> {report.target_bytes:,} bytes, "
        f"{dense / report.target_bytes:.1f} times smaller than the dense network's file",
        facts={"coded": {"file": name, "bytes": report.target_bytes, "dense_bytes": dense}},
        files=(CODED,),
    )
