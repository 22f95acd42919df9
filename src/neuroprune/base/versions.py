"""Which releases of the packages that shape a result are installed."""

from __future__ import annotations

import importlib.metadata

_PACKAGES = ("neuroprune", "torch", "onnx", "onnxruntime", "numpy", "safetensors")


def versions() -> dict[str, str | None]:
    """Package -> version; None where it is not installed."""
    found: dict[str, str | None] = {}
    for package in _PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = None
    return found
