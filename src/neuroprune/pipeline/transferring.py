"""Options of the step `transfer`, which the runner reads before anything else runs."""

from __future__ import annotations

from pydantic import Field

from neuroprune.pipeline.recipe import DataSpec
from neuroprune.pipeline.training import FitOptions


class TransferConfig(FitOptions):
    """``data``: where to go, as the recipe's own ``data``; its classes are those of the new head. ``freeze``: the
    head alone is trained, and nothing else of the networks changes. The dense network is trained in the same way:
    it stays control and teacher."""

    data: DataSpec
    freeze: bool = False
    lr: float = Field(0.02, gt=0)
