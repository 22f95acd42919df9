"""A smaller file that computes in floats: half precision, or weights stored in few bits."""

from __future__ import annotations

from pydantic import field_validator

from neuroprune.base.errors import UserError
from neuroprune.compression.precisions import PRECISIONS
from neuroprune.compression.precisions import store as store_file
from neuroprune.pipeline.context import Context
from neuroprune.pipeline.step import Outcome, StepConfig, step
from neuroprune.pipeline.steps.export import MODEL, STORED


class StoreConfig(StepConfig):
    """``precision``: one of `compression.precisions`, listed by ``neuroprune list``."""

    precision: str = "fp16-weights"

    @field_validator("precision")
    @classmethod
    def _known(cls, value: str) -> str:
        try:
            PRECISIONS.get(value)
        except UserError as error:
            raise ValueError(f"{error.what}; {error.mend}") from None
        return value


@step(
    "store",
    StoreConfig,
    summary="a second, smaller file: half precision, or weights in few bits that are float32 again once loaded",
    source="S2 (precision); Han et al. 2016",
    needs=("onnx",),
)
def store(context: Context, config: StoreConfig) -> Outcome:
    found = store_file(context.files[MODEL], context.step_folder / STORED, config.precision)
    return Outcome(
        f"{found.precision}: {found.source_bytes:,} -> {found.target_bytes:,} bytes",
        facts={"stored": found.to_json()},
        files=(STORED,),
    )
