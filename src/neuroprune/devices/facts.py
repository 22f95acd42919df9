"""What a measurement was made on."""

from __future__ import annotations

import os
import platform
from pathlib import Path

from neuroprune.base.versions import versions


def machine_facts() -> dict[str, str | int | None]:
    """Plain JSON: ``cpu``, ``cores`` (usable by this process), ``memory_bytes``, ``os``, ``python``, and the
    version of each package that shapes the figures (None where it is not installed)."""
    facts: dict[str, str | int | None] = {
        "cpu": _cpu(),
        "cores": _cores(),
        "memory_bytes": _memory(),
        "os": platform.platform(),
        "python": platform.python_version(),
    }
    return facts | versions()


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    for key in ("model name", "Hardware", "Model"):  # x86, older ARM kernels, Raspberry Pi
        for line in lines:
            name, _, value = line.partition(":")
            if name.strip() == key:
                return value.strip()
    return platform.processor() or platform.machine()


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _memory() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):  # not on Windows
        return None
