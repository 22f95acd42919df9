"""A transformer, cut in half in the middle of its training, saved as plan and weights, and loaded again.

python examples/prune_any_model.py [folder]

Nothing below is told to neuroprune: which layers are heads, what ``num_heads`` must become, what the output is.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

import neuroprune

LETTERS, LENGTH = 12, 8


class Attention(nn.Module):
    """[N, T, width] -> [N, T, width], with the number of heads and their width as attributes."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads, self.head_dim = num_heads, width // num_heads
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        n, t, _ = x.shape
        qkv = self.qkv(x).view(n, t, 3, self.num_heads, self.head_dim)  # [N, T, 3, heads, head_dim]
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # each [N, heads, T, head_dim]
        y = F.scaled_dot_product_attention(q, k, v)
        return self.out(y.transpose(1, 2).reshape(n, t, self.num_heads * self.head_dim))


class Layer(nn.Module):
    """A pre-norm transformer layer."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.before, self.between = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = Attention(width, num_heads)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.before(x))
        return x + self.mlp(self.between(x))


class Sorter(nn.Module):
    """Letters [N, T] -> the same letters sorted, as logits [N, T, LETTERS]."""

    def __init__(self, width: int = 64, num_heads: int = 8, depth: int = 2) -> None:
        super().__init__()
        self.embed = nn.Embedding(LETTERS, width)
        self.place = nn.Parameter(torch.randn(1, LENGTH, width) * 0.1)
        self.layers = nn.Sequential(*(Layer(width, num_heads) for _ in range(depth)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, LETTERS)

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.head(self.norm(self.layers(self.embed(x) + self.place)))
        return scores


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int) -> float:
    """An ordinary loop; returns the share of letters that stand where they belong, in a batch of its own."""
    for _ in range(steps):
        x = torch.randint(LETTERS, (32, LENGTH))
        optimizer.zero_grad()
        F.cross_entropy(model(x).transpose(1, 2), x.sort(dim=1).values).backward()
        optimizer.step()
    with torch.no_grad():
        x = torch.randint(LETTERS, (512, LENGTH))
        return float((model(x).argmax(-1) == x.sort(dim=1).values).float().mean())


def table(model: nn.Module, result: neuroprune.PruneResult, example: Tensor) -> str:
    """One line per group: how many of its units stay, of which kind they are, and what was proven."""
    kinds = {group.name: group.kind for group in neuroprune.trace(model, example).groups}
    lines = [f"{'group':<28}{'kind':<10}{'units':>12}  proof"]
    for d in result.plan.decisions:
        units = f"{len(d.kept) + len(d.removed)} -> {len(d.kept)}"
        lines.append(
            f"{d.group:<28}{kinds[d.group]:<10}{units:>12}  {result.verification.groups.get(d.group, '')}"
        )
    return "\n".join(lines)


def main(out: str | None = None) -> neuroprune.PruneResult:
    folder = Path(out or tempfile.mkdtemp())
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    model, example = Sorter(), torch.randint(LETTERS, (2, LENGTH))
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    print(f"dense: {train(model, optimizer, 120):.0%} of the letters in place")

    result = neuroprune.prune(model, example, ratio=0.5)  # a cut copy, proven; model itself is as it was
    print(table(model, result, example))
    before = neuroprune.cost(model, example)
    neuroprune.apply(result.plan, model, optimizer=optimizer)  # now model, with AdamW's moments
    after = neuroprune.cost(model, example)
    print(f"{before.params:,} -> {after.params:,} parameters, {before.macs:,} -> {after.macs:,} MACs per example")
    print(f"{model.layers[0].attention.num_heads} heads of {model.layers[0].attention.head_dim} in each layer")
    print(f"cut: {train(model, optimizer, 0):.0%}, and 80 steps later: {train(model, optimizer, 80):.0%}")

    result.plan.save(folder / "plan.json")
    save_file(model.state_dict(), folder / "model.safetensors")
    again = neuroprune.apply(neuroprune.Plan.load(folder / "plan.json"), Sorter())  # no tracing, no example
    again.load_state_dict(load_file(folder / "model.safetensors"))
    with torch.no_grad():
        print("loaded again, same outputs:", torch.equal(again(example), model(example)))
    return result


if __name__ == "__main__":
    main(*sys.argv[1:2])
