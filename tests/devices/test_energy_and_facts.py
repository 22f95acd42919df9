"""Modelled energy against arithmetic written out by hand, and what is said about the machine."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from neuroprune.base.errors import UserError
from neuroprune.base.nouns import Cost
from neuroprune.devices.energy import energy_measurement, modelled_energy
from neuroprune.devices.facts import machine_facts

#: 1 million MACs, 100,000 parameters
COST = Cost(params=100_000, macs=1_000_000, weight_bytes=400_000)


def test_fp32_by_hand() -> None:
    """1e6 MACs x (3.7 + 0.9) pJ = 4.6 uJ; 400,000 B = 50,000 words of 64 bit:
    x 100 pJ = 5 uJ (SRAM), x 1300 pJ = 65 uJ (DRAM), x 2600 pJ = 130 uJ."""
    assert modelled_energy(COST) == pytest.approx((4.6 + 5, 4.6 + 65, 4.6 + 130))


def test_int8_by_hand() -> None:
    """1e6 MACs x (0.2 + 0.1) pJ = 0.3 uJ; 100,000 B = 12,500 words: 1.25, 16.25, 32.5 uJ.
    Activations 8,000 B, written and read = 2,000 words: 0.2 uJ from SRAM (low, mid), 5.2 uJ from DRAM (high)."""
    found = modelled_energy(COST, weight_bytes=100_000, activation_bytes=8_000, dtype="int8")
    assert found == pytest.approx((0.3 + 1.25 + 0.2, 0.3 + 16.25 + 0.2, 0.3 + 32.5 + 5.2))


def test_int8_weights_default_to_a_quarter() -> None:
    assert modelled_energy(COST, dtype="int8") == modelled_energy(COST, weight_bytes=100_000, dtype="int8")


def test_nothing_costs_nothing() -> None:
    assert modelled_energy(Cost(0, 0, 0)) == (0, 0, 0)


@given(st.integers(0, 10**12), st.integers(0, 10**10), st.integers(0, 10**10), st.sampled_from(["fp32", "int8"]))
def test_the_band_is_ordered_and_grows_with_every_count(macs: int, weights: int, moved: int, dtype: str) -> None:
    low, mid, high = modelled_energy(Cost(1, macs, 4), weight_bytes=weights, activation_bytes=moved, dtype=dtype)
    assert 0 <= low <= mid <= high
    more = modelled_energy(Cost(1, macs + 8, 4), weight_bytes=weights + 8, activation_bytes=moved + 8, dtype=dtype)
    assert all(b > a for a, b in zip((low, mid, high), more, strict=True))


def test_the_row_names_kind_band_and_table() -> None:
    row = energy_measurement(COST)
    assert (row.kind, row.unit, row.metric) == ("modelled", "uJ", "energy")
    assert row.value == pytest.approx(69.6)
    assert "Horowitz" in row.detail
    assert "9.6 to 135" in row.detail
    assert "activations not counted" in row.detail


def test_bad_counts_and_types_are_refused() -> None:
    with pytest.raises(UserError, match="int4"):
        modelled_energy(COST, dtype="int4")
    with pytest.raises(UserError, match="not negative"):
        modelled_energy(COST, weight_bytes=-1)


def test_facts_are_plain_json_about_this_machine() -> None:
    facts = machine_facts()
    assert json.loads(json.dumps(facts)) == facts
    assert isinstance(facts["cores"], int)
    assert facts["cores"] >= 1
    assert facts["cpu"]
    assert facts["torch"]
    assert facts["onnxruntime"]
