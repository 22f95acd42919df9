"""One file per step; importing this package files all of them in ``STEPS``."""

from neuroprune.pipeline.steps import (
    cluster,
    cut,
    document,
    export,
    finetune,
    fit_budget,
    initialise,
    measure,
    quantize,
    report,
    rounds,
    score,
    select,
    train,
    validate,
)

__all__ = [
    "cluster",
    "cut",
    "document",
    "export",
    "finetune",
    "fit_budget",
    "initialise",
    "measure",
    "quantize",
    "report",
    "rounds",
    "score",
    "select",
    "train",
    "validate",
]
