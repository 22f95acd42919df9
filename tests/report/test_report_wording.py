"""How numbers and texts read, with written-out answers."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from neuroprune.report import wording
from neuroprune.report.wording import (
    MINUS,
    TIMES,
    count,
    milliseconds,
    moment,
    percent,
    plain,
    quantity,
    seconds,
    shorten,
    size,
    typeset,
)


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (0.03124, "0.03124"), (98.6111, "98.61"), (1234.5, "1,234"), (12345.6, "12,346"), (-2.5, "-2.5"),
     (1.25e-7, f"1.25{TIMES}10⁻⁷"), (6.02e23, f"6.02{TIMES}10²³"), (None, "—"), (math.nan, "NaN"), (math.inf, "∞"),
     (-math.inf, "-∞")],
)  # fmt: skip
def test_plain(value: float | None, text: str) -> None:
    assert plain(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(746_314, "746,314"), (26_214_400, "26.2 M"), (999_999, "999,999"), (999_990_000, "1,000 M"),
     (1.2e9, "1.2 G"), (3e20, f"3{TIMES}10²⁰")],
)  # fmt: skip
def test_count(value: float, text: str) -> None:
    assert count(value) == text


@pytest.mark.parametrize(
    ("value", "text"), [(0, "0 B"), (999, "999 B"), (91_180, "91.2 KB"), (2_823_412, "2.82 MB"), (None, "—")]
)
def test_size(value: float | None, text: str) -> None:
    assert size(value) == text


def test_units_and_times() -> None:
    assert quantity(98.6111, "%") == "98.61 %"
    assert quantity(1500, "bytes") == "1.5 KB"
    assert quantity(2e7, "MACs") == "20 M"
    assert quantity(0.3821, "ms") == "0.3821 ms"
    assert milliseconds(0.38214) == "0.382 ms"
    assert milliseconds(None) == "—"
    assert (seconds(9.71), seconds(125.4)) == ("9.71 s", "2 min 05 s")
    assert (percent(0.1234), percent(None)) == ("12.3 %", "—")


def test_typeset_and_moment() -> None:
    assert typeset("7.9x smaller") == f"7.9{TIMES} smaller"
    assert typeset("<= 8 ms, -0.28 points") == f"≤ 8 ms, {MINUS}0.28 points"
    assert typeset("resnet-18 on 0x10 and e-5") == "resnet-18 on 0x10 and e-5"
    assert moment("2026-03-14T09:26:53+00:00") == "14 March 2026, 09:26 UTC"
    assert moment("yesterday") == "yesterday"


def test_shorten_keeps_both_ends() -> None:
    assert shorten("short") == "short"
    text = shorten("features.denseblock4.denselayer16.conv2.weight", 21)
    assert len(text) == 21
    assert text.startswith("features.d")
    assert text.endswith("v2.weight")


@given(st.one_of(st.none(), st.floats()), st.sampled_from(["", "%", "B", "ms", "MACs", "µJ"]))
def test_every_number_has_a_short_reading(value: float | None, unit: str) -> None:
    for text in (quantity(value, unit), plain(value), count(value), size(value), seconds(value), percent(value)):
        assert 0 < len(text) < 26


@pytest.mark.parametrize(
    ("before", "after", "text"),
    [
        (4.0, 1.0, "4.00x faster"),
        (1.0, 1.27, "1.27x slower"),
        (1.0, 1.001, "as fast"),
        (None, 1.0, ""),
        (0.0, 1.0, ""),
    ],
)
def test_a_slowdown_is_not_called_faster(before: float | None, after: float, text: str) -> None:
    assert wording.speed(before, after) == text


def test_change_shortens_large_factors() -> None:
    assert wording.change(272.0, 10.0, "less", "more") == "27.2x less"
