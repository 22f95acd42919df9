"""The README is true: its table is what the committed results say, its files exist, its Python runs."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import torch
from commands import neuroprune
from safetensors.torch import save_file
from torch import Tensor, nn

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()


def test_the_table_is_generated_from_the_committed_results() -> None:
    command = [sys.executable, str(ROOT / "benchmarks" / "tables.py"), "--check"]
    assert subprocess.run(command, check=False, timeout=120).returncode == 0


def test_every_link_points_to_a_file() -> None:
    for document in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")):
        for target in re.findall(r"\]\((?!https:)([^)#]+)\)", document.read_text()):
            assert (document.parent / target).exists(), f"{document.name} points to {target}"


def test_every_command_and_option_exists() -> None:
    helps = {}
    block = "\n".join(re.findall(r"```sh\n(.*?)```", README, flags=re.S)).replace("\\\n", " ")
    commands = re.findall(r"^neuroprune (\w+)(.*?)(?:#.*)?$", block, flags=re.M)
    assert len(commands) >= 6
    for verb, rest in commands:
        if verb not in helps:
            words = [sys.executable, "-m", "neuroprune", verb, "--help"]
            helps[verb] = subprocess.run(words, check=True, capture_output=True, text=True, timeout=60).stdout
        for option in re.findall(r"--[a-z-]+", rest):
            assert option in helps[verb], f"neuroprune {verb} has no {option}"


def build() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 2))


class Attention(nn.Module):
    """Four heads of 8, their number an attribute."""

    def __init__(self) -> None:
        super().__init__()
        self.num_heads, self.head_dim = 4, 8
        self.qkv, self.out = nn.Linear(6, 96), nn.Linear(32, 6)

    def forward(self, x: Tensor) -> Tensor:
        n, t, _ = x.shape
        q, k, v = self.qkv(x).view(n, t, 3, self.num_heads, self.head_dim).permute(2, 0, 3, 1, 4)
        y = nn.functional.scaled_dot_product_attention(q, k, v)
        return self.out(y.transpose(1, 2).reshape(n, t, self.num_heads * self.head_dim))


def test_the_python_blocks_run(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    trained = build()
    save_file(trained.state_dict(), "trained.safetensors")
    words = ("--input", "2,4", "--weights", "trained.safetensors", "--out", "runs/small")
    done = neuroprune("prune", f"{__file__}:build", *words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    x, val_x = torch.randn(128, 4), torch.randn(64, 4)
    names = {
        "torch": torch,
        "build": build,
        "model": build(),
        "fresh_model": build(),
        "x": x,
        "y": (x[:, 0] > 0).long(),
        "val_x": val_x,
        "val_y": (val_x[:, 0] > 0).long(),
        "example_inputs": x[:2],
        "attention": Attention(),
        "tokens": torch.randn(2, 5, 6),
    }
    blocks = re.findall(r"```python\n(.*?)```", README, flags=re.S)
    assert len(blocks) == 10
    for block in blocks:
        exec(block, names)  # the documents' own code, not somebody's input
    assert names["result"].verification.exact
    assert Path("runs/exported/model.pt2").is_file()
    assert names["fresh_model"][0].out_features == 16
    assert names["report"].after < names["report"].before
    assert names["thin"].model[0].out_features < names["model"][0].out_features
    assert (names["fewer"].num_heads, names["fewer"].qkv.out_features) == (2, 48)
    assert names["model"][0].out_features == names["ema"].module[0].out_features == 22
    assert all(torch.equal(names["small"].state_dict()[k], v) for k, v in trained.state_dict().items())
