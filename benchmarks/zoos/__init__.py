"""Collections of models that nobody adapted to neuroprune: what `benchmarks/coverage.py` measures.

A zoo is a module with ``SETS`` (the first is the default), ``names(chosen)``, ``build(name, lazy=False)`` ->
(model in evaluation mode, example inputs), ``classes(name)`` (how many the output layer tells apart, or None),
``sets_of(name)`` (for the summary; works without the package) and ``PACKAGE``, whose release is written beside
every figure. Weights are random, from a fixed seed.
"""

from __future__ import annotations

import importlib
from typing import Any

ZOOS = ("timm", "torchvision", "transformers")


def zoo(name: str) -> Any:
    """The module of the zoo; imports its package only when a model is built."""
    return importlib.import_module(f"zoos.{name}_zoo")
