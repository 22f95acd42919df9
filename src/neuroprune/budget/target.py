"""What a measured budget is about: which device, how many threads, which file."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np

from neuroprune.base.errors import UserError
from neuroprune.devices import DEVICES, granularity_of
from neuroprune.devices.single_layer import Precision
from neuroprune.graph.units import Group

#: kept counts are multiples of it; ``auto``: see ``multiple_for``
RoundTo = int | Literal["auto"]


@dataclass(frozen=True)
class Target:
    """Where the pruned network will run, and as what.

    ``precision``: of the file that the budget is about; ``int8`` is static int8, calibrated on ``calibration``
    examples of the batches. Relative limits are shares of the dense network in fp32. ``batch``: examples per call.
    ``seconds``: of each measurement of latency. ``cache``: folder of latency tables (default: see
    ``base.cache.cache_folder``).
    """

    device: str = "local"
    threads: int = 1
    precision: Precision = "fp32"
    batch: int = 1
    seconds: float = 2.0
    calibration: int = 64
    cache: Path | None = None

    def check(self) -> None:
        """Raises UserError for a device that is not there, and options that make no sense."""
        DEVICES.get(self.device)
        if self.precision not in get_args(Precision):
            raise UserError(
                f"unknown precision {self.precision!r}", mend=f"use one of {', '.join(get_args(Precision))}"
            )
        for name, least in (("threads", 1), ("batch", 1), ("calibration", 1), ("seconds", 0)):
            if getattr(self, name) < least:
                raise UserError(
                    f"{name} is too small", where="Target", value=getattr(self, name), mend=f"at least {least}"
                )


def multiple_for(group: Group, kinds: set[str], precision: str, device: str = "local") -> int:
    """Of which kept counts are multiples, where the user leaves it open: what the device's kernels compute in
    blocks, in units of ``group`` (each may hold several channels); smaller where the group is small, and 1 where
    no latency is limited: counts of parameters, operations and bytes have no blocks."""
    if "latency" not in kinds:
        return 1
    block = granularity_of(device).multiple(precision)
    widths = [part.indices.shape[1] for part in group.slices] or [1]
    block //= math.gcd(block, int(np.gcd.reduce(widths)))
    while block > 1 and block > group.size // 2:
        block //= 2
    return block
