"""Runtimes: one file per format that a network can be written to and run from."""

from neuroprune.export import onnx as _onnx  # noqa: F401  (fills the registry)
from neuroprune.export._base import EXPORTS, Export, Session, Written

__all__ = ["EXPORTS", "Export", "Session", "Written"]
