"""``auto`` takes masks and cuts to what the recipe's device says of its kernels."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from neuroprune.base.files import load_tensors
from neuroprune.devices import DEVICES, Granularity, granularity_of
from neuroprune.devices.local import LocalDevice
from neuroprune.pipeline.recipe import parse_recipe
from neuroprune.pipeline.run import RunResult, run_recipe
from neuroprune.pruning.patterns import matrix_of


class Board(LocalDevice):
    """Two channels at a time; skips blocks of four outputs."""

    name = "board"
    granularity = Granularity({"fp32": 2, "int8": 4}, "4x1")


@pytest.fixture
def board() -> Iterator[str]:
    DEVICES.register("board", summary="a test's")(Board())
    yield "board"
    DEVICES.unregister("board")


def run(folder: Path, device: str, steps: str) -> RunResult:
    head = (
        f"name: x\ndevice: {device}\nmodel: {{spec: 'neuroprune.tasks.nets:tiny_resnet', kwargs: {{width: 8}}}}\n"
    )
    return run_recipe(parse_recipe(f"{head}data: {{spec: digits, limit: 150}}\nsteps:\n{steps}"), folder)


def test_devices_say_what_their_kernels_see(board: str) -> None:
    assert granularity_of("local") == Granularity({"fp32": 4, "int8": 8}, "")
    assert granularity_of(board).multiple("int8") == 4


def test_cuts_keep_multiples_of_the_devices_channels(board: str, tmp_path: Path) -> None:
    steps = "  - initialise\n  - score: {criterion: l1}\n  - select: {ratio: 0.3, round_to: ROUND}\n  - cut\n"
    free = run(tmp_path / "free", board, steps.replace("ROUND", "1")).model
    even = run(tmp_path / "auto", board, steps.replace("ROUND", "auto")).model
    assert any(m.out_channels % 2 for m in free.modules() if isinstance(m, torch.nn.Conv2d))
    assert all(m.out_channels % 2 == 0 for m in even.modules() if isinstance(m, torch.nn.Conv2d))


@pytest.mark.parametrize(
    "steps",
    [
        "  - initialise: {granularity: weight}\n"
        "  - rounds: {granularity: weight, shape: auto, rounds: 1, fraction: 0.5, epochs: 0, lambda_weight: 99}\n",
        "  - initialise\n  - score: {criterion: l1}\n  - select: {granularity: weight, ratio: 0.5, shape: auto}\n",
        "  - technique: {name: group, density: 0.5, epochs: 0, options: {shape: auto}}\n",
    ],
)
def test_masks_take_the_devices_blocks(board: str, tmp_path: Path, steps: str) -> None:
    run(tmp_path / "out", board, steps)
    for name, mask in load_tensors(sorted(tmp_path.rglob("masks.safetensors"))[-1]).items():
        blocks = [rows.mean(0) for rows in torch.split(matrix_of(mask), 4)]
        assert all(bool(((block == 0) | (block == 1)).all()) for block in blocks), name
