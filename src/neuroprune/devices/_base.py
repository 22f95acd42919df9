"""What a device must offer: time several files against each other, and say what memory one of them takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from neuroprune.base.registry import Registry


@dataclass(frozen=True)
class Latency:
    """Milliseconds per call: median and 90th percentile of ``runs`` calls, CPU time and wall time."""

    cpu_p50_ms: float
    cpu_p90_ms: float
    wall_p50_ms: float
    wall_p90_ms: float
    runs: int
    threads: int
    batch: int

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Memory:
    """Resident bytes as the operating system counts them: ``peak`` of the whole process, and what it held
    before the network was loaded (``baseline``: interpreter, numpy, runtime); ``source`` names the counter."""

    peak: int
    baseline: int
    source: str


#: counts of channels that ONNX Runtime's kernels take well on x86 (fp32: others leave the blocked layout)
CHANNEL_MULTIPLE: Mapping[str, int] = {"fp32": 4, "int8": 8}


@dataclass(frozen=True)
class Granularity:
    """What a device's kernels see. ``channels``: by precision, the number they compute at a time. ``block``: the
    pattern of zeros that its sparse kernels skip (`patterns.pattern`: 4x1, say); empty where zeros give no
    speed."""

    channels: Mapping[str, int] = field(default_factory=lambda: CHANNEL_MULTIPLE)
    block: str = ""

    def multiple(self, precision: str) -> int:
        """1 where nothing is known."""
        return self.channels.get("int8" if precision == "int8" else "fp32", 1)


Inputs = Sequence[np.ndarray] | Mapping[str, Sequence[np.ndarray]]


def inputs_of(inputs: Inputs, name: str) -> Sequence[np.ndarray]:
    """The arrays of one file: its own where ``inputs`` tells files apart, else the ones of all."""
    return inputs[name] if isinstance(inputs, Mapping) else inputs


class Device(Protocol):
    """One place to run."""

    @property
    def name(self) -> str: ...

    def facts(self) -> dict[str, str | int | None]:
        """What its figures rest on (processor, runtime and its version): figures taken under other facts say
        nothing about it. Plain JSON."""
        ...

    def measure(
        self,
        files: Mapping[str, Path],
        inputs: Inputs,
        *,
        threads: int = 1,
        seconds: float = 3.0,
    ) -> dict[str, Latency]:
        """Time all ``files``, interleaved, for ``seconds`` in all, on the same ``inputs`` or each on its own.

        The figures of one call may be compared with each other; those of two calls may not. Raises UserError
        when a file cannot be loaded or refuses the inputs.
        """
        ...

    def memory(self, file: Path, inputs: Sequence[np.ndarray], *, threads: int = 1) -> Memory:
        """Load and run one file in a process of its own. Raises UserError as ``measure``."""
        ...


DEVICES: Registry[Device] = Registry("device")


def granularity_of(name: str) -> Granularity:
    """Of the device called ``name``: its attribute ``granularity``, or ONNX Runtime's on CPUs where it has none.

    Raises UserError for an unknown name.
    """
    found = getattr(DEVICES.get(name), "granularity", None)
    return found if isinstance(found, Granularity) else Granularity()
