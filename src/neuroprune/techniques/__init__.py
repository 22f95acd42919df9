"""Pruning techniques behind one interface, one file each; importing this package fills the registry."""

from neuroprune.techniques import (
    before_training,
    dynamic,
    filter_,
    group_wise,
    l1_regularised,
    layer_wise,
    magnitude,
    neuron,
    neuroprune_,
    quantization_aware,
    structured,
    two_level,
    weight,
)
from neuroprune.techniques._base import (
    TECHNIQUES,
    Setting,
    Technique,
    Thinned,
    Training,
    check_options,
    run_technique,
)

__all__ = [
    "TECHNIQUES",
    "Setting",
    "Technique",
    "Thinned",
    "Training",
    "before_training",
    "check_options",
    "dynamic",
    "filter_",
    "group_wise",
    "l1_regularised",
    "layer_wise",
    "magnitude",
    "neuron",
    "neuroprune_",
    "quantization_aware",
    "run_technique",
    "structured",
    "two_level",
    "weight",
]
