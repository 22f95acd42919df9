"""One file per step; importing this package files all of them in ``STEPS``."""

from neuroprune.pipeline.steps import (
    cut,
    finetune,
    initialise,
    rounds,
    score,
    select,
    train,
)

__all__ = ["cut", "finetune", "initialise", "rounds", "score", "select", "train"]
