"""Tables of docs/lottery.md out of the records."""

from __future__ import annotations

from measuring.records import RESULTS

DATA = ("digits", "mnist")
SEEDS = (0, 1, 2)
#: the rounds whose sparsities are shown, and at which tickets have controls
ROUNDS = {"digits": (2, 4, 6, 8, 10), "mnist": (1, 2, 3, 4, 5)}
KEY = ("data", "rewind", "seed", "kind", "round")
FILE = RESULTS / "lottery.jsonl"
