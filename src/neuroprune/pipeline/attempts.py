"""Measured again after fine-tuning and a limit is missed: what to try next, and which attempt to keep."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from neuroprune.pipeline.context import Context, Correction


@dataclass(frozen=True)
class Attempt:
    """How one pass from fit_budget to measure ended. ``missed``: as `verdict.misses`."""

    ratio: float
    variant: str  # the network whose figures fit_budget searched by: fp32, int8
    has_int8: bool
    int8_tried: bool
    max_ratio: float
    epochs_factor: int
    missed: dict[str, float]
    latency: float

    @classmethod
    def of(cls, facts: dict[str, Any]) -> Attempt:
        """From the facts after `measure`."""
        fit = facts["fit"]
        return cls(
            fit["ratio"],
            fit["variant"],
            fit["has_int8"],
            fit["int8_tried"],
            fit["max_ratio"],
            fit["epochs_factor"],
            facts["missed"],
            facts["chosen_latency_ms"],
        )


def next_correction(history: Sequence[Attempt], allowed: int) -> Correction | None:
    """What to do otherwise in another attempt; None where all limits hold or nothing is left to try.

    Too dear: a larger ratio. Too inaccurate: let int8 carry its share of the budget, if less must be cut then;
    where that was tried, train twice as long. Both at once: the same as too inaccurate, since a larger ratio
    would only lose more.
    """
    last = history[-1]
    if not last.missed or len(history) >= allowed:
        return None
    if "max_drop" not in last.missed:
        if last.ratio >= last.max_ratio:
            return None
        more = min(last.max_ratio, round(last.ratio + max(0.05, 0.2 * (1 - last.ratio)), 4))
        return Correction(last.variant, more, last.epochs_factor, int8_tried=last.int8_tried)
    if last.has_int8 and not last.int8_tried:
        return Correction(last.variant, last.ratio, last.epochs_factor, lighter=True)
    return Correction(last.variant, last.ratio, 2 * last.epochs_factor, int8_tried=last.int8_tried)


def best_attempt(history: Sequence[Attempt]) -> int:
    """Index of the attempt that breaks its limits least; the earliest among equals."""
    return min(range(len(history)), key=lambda i: (sum(history[i].missed.values()), i))


def candidates_of(context: Context, number: int) -> list[dict[str, Any]]:
    """Rows of ``candidates`` in results.json for an attempt that is not kept: what it tried and where it ended."""
    tried = [{**row, "chosen": False} for row in context.pieces.get("candidates", [])]
    ended = ended_as(context, f"attempt {number}: ")
    return tried + [{**row, "chosen": False} for row in ended]


def ended_as(context: Context, prefix: str = "") -> list[dict[str, Any]]:
    """The measured files of a finished attempt as rows of ``candidates``; the dense control is not one."""
    fit = context.facts.get("fit")
    trained = any(record["name"].endswith("-finetune") for record in context.finished)
    stage = "after fine-tuning" if trained else "as measured at the end"
    return [
        {
            "label": prefix + variant["name"],
            "ratio": fit["ratio"] if fit else None,
            "params": variant["params"],
            "macs": variant["macs"],
            "size_bytes": variant["size_bytes"],
            "latency_ms": variant["latency"]["cpu_p50_ms"],
            "metric": variant["metric"],
            "chosen": variant["chosen"],
            "stage": stage,
        }
        for variant in context.facts["variants"]
        if variant["role"] != "control"
    ]
