"""What a runtime must offer: write a network to a file, load that file, run it on arrays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from torch import nn

from neuroprune.base.registry import Registry


class Session(Protocol):
    """A loaded network. ``batch`` is the only batch size that it takes, None where it takes any."""

    @property
    def input_names(self) -> tuple[str, ...]: ...

    @property
    def output_names(self) -> tuple[str, ...]: ...

    @property
    def metadata(self) -> Mapping[str, str]: ...

    @property
    def batch(self) -> int | None: ...

    def run(self, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        """One array per input name in that order; one array per output name. Raises UserError."""
        ...


@dataclass(frozen=True)
class Written:
    """What was written: bytes on disk, whether any batch size fits, and what the user should know."""

    bytes: int
    dynamic_batch: bool
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Capabilities:
    """What a runtime profits from: integer kernels, and kernels that skip zeros."""

    int8: bool
    sparse: bool


class Export(Protocol):
    """One runtime."""

    @property
    def name(self) -> str: ...

    @property
    def suffix(self) -> str: ...

    @property
    def capabilities(self) -> Capabilities: ...

    def write(
        self,
        model: nn.Module,
        example_inputs: tuple[Any, ...],
        path: Path,
        *,
        metadata: Mapping[str, str] | None = None,
        keep_names: bool = False,
    ) -> Written:
        """Write ``model`` (as in eval mode; left as it was) to ``path``, whole or not at all.

        ``keep_names`` keeps the parameters' own names in the file (longer; lets ``quantize_onnx`` exclude
        layers by name). Raises UserError when the runtime cannot express the model.
        """
        ...

    def load(self, path: Path, threads: int = 1) -> Session:
        """Raises UserError when ``path`` is absent or is no network of this runtime."""
        ...


EXPORTS: Registry[Export] = Registry("export")
