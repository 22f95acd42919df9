"""Figures that somebody published for the same pipeline, beside those of this run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict

if TYPE_CHECKING:  # a context holds a recipe, and a recipe holds what is defined here
    from neuroprune.pipeline.context import Context

Figure = Literal["dense_train", "dense", "pruned", "final", "fewer_distinct"]

_WORDS: dict[str, str] = {
    "dense_train": "dense, on training data",
    "dense": "dense",
    "pruned": "pruned and retrained",
    "final": "shipped",
    "fewer_distinct": "times fewer distinct weights",
}


class Published(BaseModel):
    """``source``: where they stand; ``figures``: of the metric (on validation data, as far as the source says),
    and of the distinct weights before over after."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    source: str
    figures: dict[Figure, float]


def published_rows(context: Context, weights: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One row per published figure; ``val`` and ``test`` are this run's, None where it has none."""
    published = context.recipe.header.published
    if published is None:
        return []
    ours = _ours(context, weights)
    metric, unit = context.task.metric, context.task.metric_unit
    return [
        {
            "source": published.source,
            "what": _WORDS[name] if name == "fewer_distinct" else f"{metric}, {_WORDS[name]}",
            "unit": "x" if name == "fewer_distinct" else unit,
            "published": value,
            "val": ours[name][0],
            "test": ours[name][1],
        }
        for name, value in published.figures.items()
    ]


def _ours(context: Context, weights: list[dict[str, Any]]) -> dict[str, tuple[float | None, float | None]]:
    """On validation data, on test data."""
    facts = context.facts
    final = next(v for v in facts["variants"] if v["role"] == "final")
    whole = weights[0] if weights else None
    ratio = whole["dense_distinct"] / whole["final_distinct"] if whole and whole["final_distinct"] else None
    return {
        "dense_train": (_last(context, "train", "train_metric"), None),
        "dense": (facts["variants"][0]["metric"], facts["test"]["before"]),
        "pruned": (_last(context, "finetune", "val_metric"), None),
        "final": (final["metric"], facts["test"]["after"]),
        "fewer_distinct": (ratio, None),
    }


def _last(context: Context, step: str, key: str) -> float | None:
    """Of the last epoch of the last training that the step made."""
    curves = [c for c in context.pieces.get("curves", []) if str(c["step"]).partition("-")[2] == step]
    value = curves[-1]["epochs"][-1][key] if curves else None
    return None if value is None else float(value)
