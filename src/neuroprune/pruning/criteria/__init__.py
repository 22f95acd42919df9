"""Criteria, one file per family; importing this package fills the registry."""

from neuroprune.pruning.criteria import activation, bn_scale, magnitude, random_, taylor
from neuroprune.pruning.criteria._base import CRITERIA, Criterion, WeightView, criterion

__all__ = [
    "CRITERIA",
    "Criterion",
    "WeightView",
    "activation",
    "bn_scale",
    "criterion",
    "magnitude",
    "random_",
    "taylor",
]
