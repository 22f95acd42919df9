"""What a trace and a plan cost as a decoder grows from ten million to seven billion parameters.

    python benchmarks/scale.py [--sizes 10M 100M 1B 7B]

The decoder is of Llama's shape, written here in plain PyTorch, on the meta device: no weight exists, so what is
measured is the engine alone. Each size is a process of its own; results go to benchmarks/results/scale.json.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from measuring.children import Report, run_child
from measuring.records import RESULTS, versions
from torch import Tensor, nn
from torch.nn import functional as F

from neuroprune.base.files import read_json, write_json

OUT = RESULTS / "scale.json"
TARGET = {"seconds": 60, "peak_mb": 4000, "size": "7B"}
TOKENS = 16
SHOWN = ("status", "params", "trace_s", "plan_s", "engine_peak_mb", "problem")


@dataclass(frozen=True)
class Shape:
    """Widths and counts of a decoder; ``kv_heads`` key and value heads serve ``heads`` query heads."""

    width: int
    layers: int
    heads: int
    kv_heads: int
    hidden: int
    vocabulary: int
    tied: bool = False


#: 7B is Llama-7B; 7B-gqa is Mistral-7B, whose query heads share keys and values
SIZES = {
    "10M": Shape(256, 8, 8, 2, 704, 8_000, tied=True),
    "100M": Shape(768, 12, 12, 4, 2_048, 16_000, tied=True),
    "1B": Shape(2_048, 20, 16, 4, 5_632, 32_000),
    "7B": Shape(4_096, 32, 32, 32, 11_008, 32_000),
    "7B-gqa": Shape(4_096, 32, 32, 8, 14_336, 32_000),
}


class RMSNorm(nn.Module):
    """Zhang and Sennrich 2019, as Llama writes it."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return self.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-5))


def rotated(x: Tensor) -> Tensor:
    """Rotary positions (Su 2021) on [batch, heads, tokens, head_dim], halves paired as in Llama."""
    half = x.shape[-1] // 2
    rates = 10_000.0 ** (-torch.arange(half, device=x.device, dtype=x.dtype) / half)
    angles = torch.outer(torch.arange(x.shape[-2], device=x.device, dtype=x.dtype), rates)  # [tokens, half]
    a, b = x[..., :half], x[..., half:]
    return torch.cat([a * angles.cos() - b * angles.sin(), b * angles.cos() + a * angles.sin()], -1)


class Attention(nn.Module):
    """Grouped queries (Ainslie 2023), causal."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.heads, self.kv_heads = shape.heads, shape.kv_heads
        self.head_dim = shape.width // shape.heads
        self.q = nn.Linear(shape.width, shape.heads * self.head_dim, bias=False)
        self.k = nn.Linear(shape.width, shape.kv_heads * self.head_dim, bias=False)
        self.v = nn.Linear(shape.width, shape.kv_heads * self.head_dim, bias=False)
        self.o = nn.Linear(shape.heads * self.head_dim, shape.width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        n, t, _ = x.shape
        q = rotated(self.q(x).view(n, t, self.heads, self.head_dim).transpose(1, 2))
        k = rotated(self.k(x).view(n, t, self.kv_heads, self.head_dim).transpose(1, 2))
        v = self.v(x).view(n, t, self.kv_heads, self.head_dim).transpose(1, 2)
        k, v = (self._shared(z) for z in (k, v))
        out = F.scaled_dot_product_attention(q, k, v, is_causal=True)  # [n, heads, t, head_dim]
        return self.o(out.transpose(1, 2).reshape(n, t, self.heads * self.head_dim))

    def _shared(self, x: Tensor) -> Tensor:
        """Every key and value head once for each query head that reads it."""
        n, kv, t, d = x.shape
        times = self.heads // self.kv_heads
        return x[:, :, None].expand(n, kv, times, t, d).reshape(n, kv * times, t, d)


class Block(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.before, self.after = RMSNorm(shape.width), RMSNorm(shape.width)
        self.attention = Attention(shape)
        self.gate = nn.Linear(shape.width, shape.hidden, bias=False)
        self.up = nn.Linear(shape.width, shape.hidden, bias=False)
        self.down = nn.Linear(shape.hidden, shape.width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.before(x))
        y = self.after(x)
        return x + self.down(F.silu(self.gate(y)) * self.up(y))


class Decoder(nn.Module):
    """Tokens [batch, tokens] -> scores [batch, tokens, vocabulary]."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.embedding = nn.Embedding(shape.vocabulary, shape.width)
        self.blocks = nn.ModuleList(Block(shape) for _ in range(shape.layers))
        self.norm = RMSNorm(shape.width)
        self.head = nn.Linear(shape.width, shape.vocabulary, bias=False)
        if shape.tied:
            self.head.weight = self.embedding.weight

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embedding(tokens)
        for block in self.blocks:
            x = block(x)
        scores: Tensor = self.head(self.norm(x))
        return scores


def child(options: argparse.Namespace) -> None:
    """``--one``: build, trace and plan one size here."""
    torch.set_num_threads(1)
    from measuring.race import plan_of_first
    from measuring.shares import achieved, facts, removable_places

    import neuroprune

    report = Report(options.out)
    with torch.device("meta"):
        model = Decoder(SIZES[options.one]).eval()
        tokens = torch.zeros(1, TOKENS, dtype=torch.long)
    report.tell(stage="trace", before_mb=_told(report))
    began, cpu = time.perf_counter(), time.process_time()
    found = neuroprune.trace(model, tokens)
    report.tell(stage="plan", trace_s=_since(began), trace_cpu_s=round(time.process_time() - cpu, 3))
    middle = time.perf_counter()
    plan = plan_of_first(model, found, 0.5)
    report.tell(stage="facts", plan_s=_since(middle), total_s=_since(began))
    peak = report.record["peak_mb"]
    units = sum(group.size for group in found.groups)
    places = removable_places(found.groups)
    report.tell(**facts(model, found), units=units, achieved=achieved(places, plan.removed))
    report.tell(status="done", engine_peak_mb=peak)  # what counting the shares took is not the engine's


def _told(report: Report) -> float:
    report.tell(stage="built")
    return float(report.record["peak_mb"])


def _since(began: float) -> float:
    return round(time.perf_counter() - began, 3)


def parsed(words: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=list(SIZES))
    parser.add_argument("--limit-s", type=float, default=600)
    parser.add_argument("--limit-gb", type=float, default=12)
    parser.add_argument("--one", choices=SIZES, help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args(words)


def main() -> None:
    options = parsed()
    if options.one:
        child(options)
        return
    runs: dict[str, Any] = read_json(OUT)["runs"] if OUT.exists() else {}
    for size in options.sizes:
        record = run_child([__file__, "--one", size], options.limit_s, options.limit_gb * 1e3)
        record.pop("stage", None)
        runs[size] = {**record, "shape": asdict(SIZES[size]), "versions": versions()}
        write_json(OUT, {"target": TARGET, "tokens": TOKENS, "runs": runs})
        print(size, {key: record.get(key) for key in SHOWN})


if __name__ == "__main__":
    main()
