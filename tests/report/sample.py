"""A realistic results document: a small residual net on digits, compressed by the demo recipe. Deterministic."""

from __future__ import annotations

import math
import random
from typing import Any

HOSTILE = "</script><img src=x onerror=alert(1)>"

RECIPE = """\
name: demo
seed: 0
threads: 1
model: {spec: "neuroprune.tasks.nets:digits_resnet", kwargs: {width: 32}}
data: {spec: digits, resize: 24, batch_size: 64}
budget: {latency: 0.33, size: 0.05}
max_drop: 1.0
steps:
  - train: {epochs: 12, lr: 0.1}
  - rounds: {criterion: activation, rounds: 8, fraction: 0.12}
  - cut: {}
  - finetune: {epochs: 8, distill: {temperature: 4.0, alpha: 0.9}}
  - cluster: {k: 32}
  - export: {runtime: onnx}
  - quantize: {calibration: 256}
  - validate: {}
  - measure: {seconds: 3.0}
  - report: {}
"""

_GROUPS = (
    ("conv1.weight", 32), ("layer1.0.conv1.weight", 32), ("layer1.1.conv1.weight", 32),
    ("layer2.0.conv1.weight", 64), ("layer2.0.conv2.weight", 64), ("layer2.1.conv1.weight", 64),
    ("layer3.0.conv1.weight", 128), ("layer3.0.conv2.weight", 128), ("layer3.1.conv1.weight", 128),
)  # fmt: skip


def missed_results() -> dict[str, Any]:
    """The same run against a memory target that it does not reach."""
    document = sample_results()
    row = next(row for row in document["table"] if row["metric"] == "Peak memory")
    row.update(target="<= 50 MB", met=False)
    text = "The best network that was reached needs 58.7 MB; the budget allows 50 MB."
    return {**document, "verdict": {"ok": False, "text": text, "binding": "memory at most 50 MB"}}


def sample_results(*, units: int | None = None, hostile: bool = False) -> dict[str, Any]:
    """The document of one run. ``units`` scales the groups to that many units in all (default 672);
    ``hostile`` puts markup where names and texts stand."""
    rng = random.Random(7)
    groups = _scaled_groups(units)
    document = {
        "schema": 1,
        "title": "Digits, residual net: three times faster at the same accuracy",
        "recipe": RECIPE,
        "versions": {"neuroprune": "0.1.0", "torch": "2.13.0", "onnxruntime": "1.24.1", "python": "3.11.9"},
        "machine": {"cpu": "Example CPU @ 2.10GHz", "cores": 2, "memory_bytes": 8_331_419_648, "os": "Debian 12"},
        "seed": 0,
        "created": "2026-03-14T09:26:53Z",
        "verdict": {
            "ok": True,
            "text": "4.9 times faster and 31 times smaller than the dense network, at 0.28 points less accuracy.",
            "binding": "latency at most 0.33 of dense",
        },
        "table": _table(),
        "curves": [
            _curve(rng, "train", "dense training", 12, 2.1, 0.05, 62.0, 98.6),
            *(_curve(rng, "rounds", f"retraining, round {i}", 1, 0.3, 0.1, 96.0, 98.0) for i in range(1, 9)),
            _curve(rng, "finetune", "fine-tuning with distillation", 8, 0.9, 0.09, 91.0, 98.3),
        ],
        "rounds": _rounds(rng),
        "layers": _layers(),
        "clusters": [_clusters()],
        "variants": _variants(),
        "candidates": _candidates(rng),
        "units": [unit for name, size in groups for unit in _units(rng, name, size)],
        "refused": _refused(),
        "steps": _steps(),
        "notes": ["Energy is modelled: no sensor was found.", "One thread, batch 1, all variants interleaved."],
        "document": _document(),
    }
    return _poisoned(document) if hostile else document


def _scaled_groups(units: int | None) -> list[tuple[str, int]]:
    total = sum(size for _, size in _GROUPS)
    if units is None:
        return list(_GROUPS)
    sizes = [(name, max(1, units * size // total)) for name, size in _GROUPS]
    name, size = sizes[-1]
    return [*sizes[:-1], (name, size + units - sum(s for _, s in sizes))]


def _row(
    metric: str, unit: str, before: float | None, after: float | None, change: str, **more: Any
) -> dict[str, Any]:
    row = {
        "metric": metric,
        "unit": unit,
        "kind": "measured",
        "before": before,
        "after": after,
        "change": change,
        "target": None,
        "met": None,
        "detail": "",
    }
    return {**row, **more}


def _table() -> list[dict[str, Any]]:
    return _sizes() + _speeds()


def _sizes() -> list[dict[str, Any]]:
    return [
        _row("Parameters", "", 701_466, 88_234, "7.9x smaller"),
        _row("MACs per example", "MACs", 26_214_400, 3_612_480, "7.3x fewer"),
        _row(
            "File size",
            "B",
            2_823_412,
            91_180,
            "31x smaller",
            target="<= 141 KB",
            met=True,
            detail="pruned int8 against dense fp32 ONNX",
        ),
        _row(
            "Accuracy",
            "%",
            98.61,
            98.33,
            "-0.28 points",
            target=">= 97.61 %",
            met=True,
            detail="360 test images",
        ),
    ]


def _speeds() -> list[dict[str, Any]]:
    return [
        _row(
            "Latency, CPU p50",
            "ms",
            1.874,
            0.3821,
            "4.9x faster",
            target="<= 0.618 ms",
            met=True,
            detail="best variant: pruned int8",
        ),
        _row("Latency, CPU p90", "ms", 1.962, 0.4108, "4.8x faster"),
        _row("Latency, wall p50", "ms", 1.881, 0.3834, "4.9x faster"),
        _row("Latency, wall p90", "ms", 2.013, 0.4192, "4.8x faster"),
        _row(
            "Peak memory",
            "B",
            71_303_168,
            58_720_256,
            "1.2x smaller",
            target="<= 64 MB",
            met=True,
            detail="of the whole process, read from the operating system",
        ),
        _row(
            "Energy per inference",
            "µJ",
            142.3,
            6.91,
            "21x less",
            kind="modelled",
            detail="Horowitz 2014, 45 nm; band 4.1 to 11.6 µJ",
        ),
        _row("Energy at the socket", "mJ", None, None, "", kind="unavailable", detail="no power sensor found"),
    ]


def _curve(
    rng: random.Random, step: str, label: str, epochs: int, high: float, low: float, start: float, end: float
) -> dict[str, Any]:
    def at(epoch: int, a: float, b: float, noise: float) -> float:
        return b + (a - b) * math.exp(-3.5 * epoch / epochs) + rng.uniform(-noise, noise)

    points = [
        {
            "epoch": e,
            "train_loss": at(e, high, low, 0.01),
            "val_loss": at(e, high * 1.02, low * 1.8, 0.02),
            "val_metric": at(e, start, end, 0.3),
            "train_metric": min(100.0, at(e, start + 2, end + 1.2, 0.2)),
        }
        for e in range(1, epochs + 1)
    ]
    return {"step": step, "label": label, "metric": "accuracy", "epochs": points}


def _rounds(rng: random.Random) -> list[dict[str, Any]]:
    rounds = []
    sparsity = 0.0
    for i in range(1, 9):
        accepted = i not in (6,)
        tried = sparsity + 0.11 if accepted else sparsity + 0.2
        metric = 98.4 - 9 * tried**4 + rng.uniform(-0.2, 0.2) - (0 if accepted else 5)
        rounds.append(
            {
                "round": i,
                "fraction": 0.12,
                "sparsity": tried,
                "metric": metric,
                "reward": metric / 100 + 0.3 * tried,
                "cost": 1 - 0.8 * tried,
                "cost_kind": "latency",
                "cost_reward": metric / 100 + 0.24 * tried,
                "accepted": accepted,
                "note": "" if accepted else "accuracy fell below the limit; the masks were taken back",
            }
        )
        sparsity = tried if accepted else sparsity
    return rounds


def _layers() -> list[dict[str, Any]]:
    kept = (0.5, 0.28, 0.34, 0.41, 0.375, 0.31, 0.25, 0.22, 0.19)
    return [
        {
            "name": name,
            "before": size,
            "after": round(size * share),
            "params_before": size * size * 9,
            "params_after": round(size * share) ** 2 * 9,
        }
        for (name, size), share in zip(_GROUPS, kept, strict=True)
    ] + [{"name": "fc.weight", "before": 10, "after": 10, "params_before": 1280, "params_after": 240}]


def _clusters() -> dict[str, Any]:
    layers = [
        {"name": row["name"].removesuffix(".weight"), "entries": row["params_after"],
         "before": row["params_after"] - 3, "after": 32, "error": 0.0009}
        for row in _layers()
    ]  # fmt: skip
    return {
        "step": "cluster", "k": 32, "distortion": None, "scope": "tensor", "entries": 88_234, "before": 87_911,
        "after": 318, "layers": layers,
    }  # fmt: skip


def _variants() -> list[dict[str, Any]]:
    rows = (
        ("dense fp32", "control", 2_823_412, 1.874, 71_303_168, 98.61, 701_466, 26_214_400),
        ("dense int8", "candidate", 742_118, 0.921, 62_914_560, 98.61, 701_466, 26_214_400),
        ("pruned fp32", "candidate", 366_904, 0.544, 60_817_408, 98.33, 88_234, 3_612_480),
        ("pruned int8", "final", 91_180, 0.3821, 58_720_256, 98.33, 88_234, 3_612_480),
    )
    return [
        {
            "name": name,
            "role": role,
            "chosen": role == "final",
            "size_bytes": size,
            "latency": {
                "cpu_p50_ms": ms,
                "cpu_p90_ms": ms * 1.06,
                "wall_p50_ms": ms * 1.01,
                "wall_p90_ms": ms * 1.14,
                "threads": 1,
                "batch": 1,
                "runs": 1200,
            },
            "peak_memory_bytes": memory,
            "metric": metric,
            "params": params,
            "macs": macs,
        }
        for name, role, size, ms, memory, metric, params, macs in rows
    ]


def _candidates(rng: random.Random) -> list[dict[str, Any]]:
    found = []
    for stage, drop, wobble in (("before fine-tuning", 42.0, 6.0), ("after fine-tuning", 3.2, 0.5)):
        for i in range(9):
            ratio = 0.1 + 0.09 * i
            left = (1 - ratio) ** 1.6
            found.append(
                {
                    "label": f"ratio {ratio:.2f}",
                    "ratio": ratio,
                    "params": round(701_466 * left),
                    "macs": round(26_214_400 * left),
                    "size_bytes": None,
                    "latency_ms": 1.874 * (0.12 + 0.88 * left) * rng.uniform(0.95, 1.06),
                    "metric": 98.6
                    - drop * ratio**3
                    - rng.uniform(0, wobble) * ratio
                    - (1.5 if i in (3, 6) else 0),
                    "chosen": False,
                    "stage": stage,
                }
            )
    found[-2]["chosen"] = True
    found.append(
        {
            "label": "ratio 0.95, diverged",
            "ratio": 0.95,
            "params": 2_104,
            "macs": None,
            "size_bytes": None,
            "latency_ms": None,
            "metric": float("nan"),
            "chosen": False,
            "stage": "after fine-tuning",
        }
    )
    return found


def _units(rng: random.Random, group: str, size: int) -> list[dict[str, Any]]:
    threshold = 0.62
    units = []
    for i in range(size):
        score = rng.lognormvariate(-0.9, 0.75)
        kept, reason, constraint = score >= threshold, "score at or above the threshold", "latency <= 0.33"
        if not kept:
            reason = "score below the threshold"
        if not kept and score > 0.58:
            kept, reason, constraint = True, "kept to round the group to a multiple of 8", "alignment 8"
        units.append(
            {
                "group": group,
                "unit": i,
                "score": score,
                "threshold": threshold,
                "kept": kept,
                "reason": reason,
                "constraint": constraint,
            }
        )
    return units


def _refused() -> list[dict[str, Any]]:
    return [
        {
            "parameter": "fc.weight",
            "operator": "aten.addmm",
            "module": "fc",
            "where": "nets.py:88",
            "reason": "its outputs are the outputs of the model",
        },
        {
            "parameter": "pos_embed",
            "operator": "aten.cumsum",
            "module": "embed",
            "where": "nets.py:41",
            "reason": "no rule for this operator; its inputs stay whole",
        },
    ]


def _steps() -> list[dict[str, Any]]:
    rows = (
        ("train", "Train the dense network", 31.4, "98.61 % on the test images after 12 epochs"),
        ("rounds", "Prune by masks in rounds", 22.8, "8 rounds, 1 taken back, 77 % of the units masked"),
        ("cut", "Remove the masked filters", 1.2, "701,466 to 88,234 parameters; exact to 3.1e-15"),
        ("finetune", "Fine-tune with distillation", 17.6, "98.33 % after 8 epochs"),
        ("cluster", "Cluster the weights", 2.1, "32 values per tensor, mean squared error 1.1e-5"),
        ("export", "Export to ONNX", 6.3, "model.onnx, 366,904 bytes"),
        ("quantize", "Quantize to int8", 4.4, "model.int8.onnx, 91,180 bytes"),
        ("measure", "Measure dense and compressed", 9.7, "1,200 runs each, interleaved"),
        ("report", "Write the report", 0.4, "report.html"),
    )
    return [{"name": n, "title": t, "seconds": s, "summary": x} for n, t, s, x in rows]


def _document() -> dict[str, Any]:
    return {
        "strategy": {
            "system": "S1, rounds of masks with a reward",
            "criterion": "mean activation",
            "granularity": "filters",
            "scope": "global",
        },
        "hyper_parameters": {
            "rounds": 8,
            "fraction": 0.12,
            "reward": {"accuracy weight": 1.0, "sparsity weight": 0.3},
            "distillation": {"temperature": 4.0, "alpha": 0.9},
        },
        "compression": {
            "parameters": "7.9 times fewer",
            "file": "31 times smaller",
            "steps": ["cut", "cluster", "int8"],
        },
        "accuracy": {"dense": 98.61, "compressed": 98.33, "drop": 0.28},
        "efficiency": {"latency": "4.9 times faster", "energy": "21 times less (modelled)"},
    }


def _poisoned(value: Any, key: str = "") -> Any:
    """The same document with markup in front of every name and text that a model or a user may choose."""
    if isinstance(value, dict):
        return {
            (f"{HOSTILE}{k}" if key in ("document", "machine", "versions") else k): _poisoned(v, k)
            for k, v in value.items()
        }
    if isinstance(value, list):
        return [_poisoned(item, key) for item in value]
    if isinstance(value, str) and key not in ("kind", "role", "created"):
        return HOSTILE + value
    return value
