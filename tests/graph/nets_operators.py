"""All networks of one operator family each, by name: what tests/graph/test_operators.py runs over."""

from __future__ import annotations

from graph.nets_attention import ATTENTION
from graph.nets_blocks import BLOCKS
from graph.nets_calls import CALLS
from graph.nets_case import Case
from graph.nets_conv import CONV
from graph.nets_index import INDEX
from graph.nets_inplace import INPLACE
from graph.nets_layout import LAYOUT
from graph.nets_norms import NORMS
from graph.nets_recurrent import RECURRENT
from graph.nets_sharing import SHARING
from graph.nets_sizes import SIZES

FAMILIES = (CONV, NORMS, RECURRENT, ATTENTION, BLOCKS, LAYOUT, INPLACE, INDEX, SIZES, SHARING, CALLS)
OPERATORS: dict[str, Case] = {name: case for family in FAMILIES for name, case in family.items()}
assert len(OPERATORS) == sum(map(len, FAMILIES)), "two networks have the same name"
