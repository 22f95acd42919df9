"""``auto`` in recipes: what the device's kernels compute, or skip, at a time."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field

from neuroprune.budget.target import multiple_for
from neuroprune.devices import granularity_of
from neuroprune.pipeline.context import Context

RoundTo = Annotated[int, Field(ge=1)] | Literal["auto"]


def round_to_of(context: Context, asked: RoundTo, precision: str = "fp32") -> int:
    """``auto``: the multiple of channels of the recipe's device, smaller where the network's groups are small."""
    if asked != "auto":
        return asked
    device = context.recipe.header.device
    return min((multiple_for(group, {"latency"}, precision, device) for group in context.trace.groups), default=1)


def shape_of(context: Context, asked: str) -> str:
    """``auto``: the blocks of zeros that the recipe's device skips; single weights where it skips none."""
    return (granularity_of(context.recipe.header.device).block or "weight") if asked == "auto" else asked


def resolved(context: Context, options: Mapping[str, Any]) -> dict[str, Any]:
    """A technique's options with ``auto`` replaced."""
    found = dict(options)
    if found.get("round_to") == "auto":
        found["round_to"] = round_to_of(context, "auto")
    if found.get("shape") == "auto":
        found["shape"] = shape_of(context, "auto")
    return found
