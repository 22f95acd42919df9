"""Places where a network runs: what it costs there, and what the figures rest on."""

from neuroprune.devices import local as _local  # noqa: F401  (fills the registry)
from neuroprune.devices._base import (
    DEVICES,
    Device,
    Granularity,
    Inputs,
    Latency,
    Memory,
    granularity_of,
    inputs_of,
)

__all__ = ["DEVICES", "Device", "Granularity", "Inputs", "Latency", "Memory", "granularity_of", "inputs_of"]
