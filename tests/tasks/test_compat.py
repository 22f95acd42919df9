"""The torchvision shim declares what is missing and nothing that is there."""

from __future__ import annotations

import subprocess
import sys

import torch

from neuroprune.tasks.compat import prepare_torchvision


def test_the_schemas_exist_afterwards_and_twice_is_fine() -> None:
    assert prepare_torchvision() is prepare_torchvision()
    for name in ("nms", "qnms"):
        assert "iou_threshold" in str(getattr(torch.ops.torchvision, name).default._schema)


def test_importing_the_room_needs_no_optional_part() -> None:
    """`import neuroprune.tasks...` must stay light: no sklearn, Pillow, torchvision or timm."""
    code = (
        "import sys, neuroprune.tasks.load, neuroprune.tasks.models, neuroprune.recover.fit\n"
        "print([m for m in ('sklearn', 'PIL', 'torchvision', 'timm', 'rich') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
