"""Tracing, operator rules, coupled groups, cost model. Knows no criteria."""

from neuroprune.graph.cost import cost
from neuroprune.graph.trace import Trace, trace
from neuroprune.graph.units import Group, Refusal, Slice

__all__ = ["Group", "Refusal", "Slice", "Trace", "cost", "trace"]
