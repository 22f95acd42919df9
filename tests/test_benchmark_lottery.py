"""The tables of lottery tickets on records written out here."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).resolve().parents[1] / "benchmarks"))

from measuring.lottery_tables import by_sparsity, chosen, differences


def record(
    kind: str, number: int, test: float, *, seed: int, sparsity: float = 0.0, **more: Any
) -> dict[str, Any]:
    return {"data": "mnist", "rewind": "init", "seed": seed, "kind": kind, "round": number, "sparsity": sparsity,
            "test": test, "chosen": False, "reached": True, **more}  # fmt: skip


RECORDS = [
    record("dense", 0, 98.0, seed=0),
    record("ticket", 2, 98.5, seed=0, sparsity=0.8),
    record("ticket", 3, 97.5, seed=0, sparsity=0.91, chosen=True),
    record("reinit", 3, 96.0, seed=0, sparsity=0.91),
    record("dense", 0, 97.0, seed=1),
    record("ticket", 2, 97.5, seed=1, sparsity=0.8, chosen=True, reached=False),
    record("ticket", 3, 97.0, seed=1, sparsity=0.91),
    record("reinit", 3, 96.0, seed=1, sparsity=0.91),
]


def test_mean_and_deviation_over_the_seeds_and_how_many_there_are() -> None:
    lines = by_sparsity("mnist", RECORDS).splitlines()
    assert lines[0].startswith("Dense: 97.50 ± 0.71 (2 of 3 seeds) %")
    assert lines[2] == "| off | to the beginning | other initial weights |"
    assert lines[5] == "| 80.0 % | 98.00 ± 0.71 (2 of 3 seeds) |  |"
    assert lines[6] == "| 91.0 % | 97.25 ± 0.35 (2 of 3 seeds) | 96.00 ± 0.00 (2 of 3 seeds) |"
    assert by_sparsity("digits", RECORDS) == "Not measured yet."


def test_what_validation_chose_is_compared_with_the_dense_network_of_its_seed() -> None:
    row = "| mnist | to the beginning | 91.0 %, 80.0 % | 1 of 2 | 97.50 ± 0.00 (2 of 3 seeds) "
    assert chosen(RECORDS).splitlines()[2] == row + "| +0.00 (-0.50, +0.50) |"


def test_a_gap_beyond_the_deviation_of_the_dense_network_does_not_reach_it() -> None:
    worse = [{**r, "test": r["test"] - 0.5} if r["kind"] == "ticket" else r for r in RECORDS]
    assert "| 91.0 % | no | -0.75 (-1.00, -0.50)" in differences(worse)  # the dense ones deviate by 0.71


def test_differences_at_ninety_per_cent_are_paired() -> None:
    assert differences(RECORDS).splitlines()[2] == (
        "| mnist | to the beginning | 91.0 % | yes | -0.25 (-0.50, +0.00) |  | +1.25 (+1.50, +1.00) |  |"
    )
