"""What every measurement imports, imported once: the server that children are forked off loads this module."""

from __future__ import annotations

import contextlib
import importlib.util

import neuroprune  # noqa: F401
from neuroprune.tasks.compat import prepare_torchvision

if importlib.util.find_spec("torchvision") is not None:
    with contextlib.suppress(Exception):  # a measurement that needs it says what is wrong with it
        prepare_torchvision()
        import torchvision  # noqa: F401
if importlib.util.find_spec("timm") is not None:
    with contextlib.suppress(Exception):
        import timm  # noqa: F401
