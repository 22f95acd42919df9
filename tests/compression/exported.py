"""What the tests of this folder share: inputs, and a network with its files (made by conftest.py)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import nn

from neuroprune.compression.quantize import QuantizeReport
from neuroprune.pruning import Plan

X = np.random.default_rng(0).normal(size=(64, 1, 16, 16)).astype(np.float32)


@dataclass(frozen=True)
class Exported:
    """``dense`` as its constructor makes it (with other weights), ``model`` cut from it, and ``model``'s files."""

    dense: nn.Module
    model: nn.Module
    plan: Plan
    fp32: Path
    int8: Path
    report: QuantizeReport
