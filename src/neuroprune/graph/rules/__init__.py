"""Operator rules, one file per family; importing this package fills the table."""

from neuroprune.graph.rules import composite, contraction, creation, elementwise, movement, normalisation, pooling
from neuroprune.graph.rules._base import RULES, OpCall, Rule, rule

__all__ = [
    "RULES",
    "OpCall",
    "Rule",
    "composite",
    "contraction",
    "creation",
    "elementwise",
    "movement",
    "normalisation",
    "pooling",
    "rule",
]
