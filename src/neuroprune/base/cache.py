"""Where results that belong to a machine, not to a run, are kept."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder(chosen: Path | None = None) -> Path:
    """``chosen``, else NEUROPRUNE_CACHE, else ``neuroprune`` in XDG_CACHE_HOME or ~/.cache; not created here."""
    if chosen is not None:
        return chosen
    if own := os.environ.get("NEUROPRUNE_CACHE"):
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "neuroprune"
