"""Ranges of activations: against brute force on the values themselves, in bounded memory, and constant or dead
tensors."""

from __future__ import annotations

import itertools
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import ModelProto, TensorProto, helper, numpy_helper

from neuroprune.base.errors import UserError
from neuroprune.compression.ranges import _SHARES, BINS, RANGES, Histogram, Observed, quantized
from neuroprune.compression.watch import CHUNK

METHODS = RANGES.names()


def histogram_of(values: np.ndarray) -> Histogram:
    low, high = float(values.min()), float(values.max())
    held = values[values != 0]
    counts = np.histogram(held, BINS, (low, high))[0] if high > low else np.zeros(BINS)
    return Histogram(low, high, counts.astype(float), float(values.size - held.size))


def error(values: np.ndarray, low: float, high: float, symmetric: bool) -> float:
    return float(((quantized(values, low, high, symmetric) - values) ** 2).sum())


def doubler(batch: str | int = "batch") -> ModelProto:
    graph = helper.make_graph(
        [helper.make_node("Mul", ["x", "two"], ["y"]), helper.make_node("Relu", ["y"], ["z"])],
        "main",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, 1000])],
        [helper.make_tensor_value_info("z", TensorProto.FLOAT, [batch, 1000])],
        [numpy_helper.from_array(np.array(2, np.float32), "two")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def test_quantized_is_what_quantize_and_dequantize_linear_do() -> None:
    """By hand: 0..2.55 in steps of 0.01; -1.27..1.27 around zero."""
    assert quantized(np.array([0.004, 0.006, 9.0, -1.0]), 0, 2.55, False) == pytest.approx([0, 0.01, 2.55, 0])
    assert quantized(np.array([0.004, -0.006, 9.0]), -1.27, 0.3, True) == pytest.approx([0, -0.01, 1.27])
    # -1..1.55: the zero point is 100
    assert quantized(np.array([-1.0, -2.0, 1.55]), -1, 1.55, False) == pytest.approx([-1, -1, 1.55])


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("kind", ["normal", "relu", "outlier", "negative"])
def test_mse_is_the_best_of_all_candidates(kind: str, symmetric: bool) -> None:
    rng = np.random.default_rng(1)
    values = rng.normal(size=400_000 if kind == "outlier" else 4000)
    if kind == "relu":
        values = np.maximum(values, 0)
    if kind == "outlier":
        values[0] = 40
    if kind == "negative":
        values = -np.abs(values)
    found = RANGES.get("mse")(histogram_of(values), symmetric)
    low, high = min(values.min(), 0), max(values.max(), 0)
    if symmetric:
        low, high = -max(-low, high), max(-low, high)
        ways = [(low * share, high * share) for share in _SHARES]
    else:
        ways = list(itertools.product(low * _SHARES, high * _SHARES))
    least = min(error(values, a, b, symmetric) for a, b in ways)
    assert error(values, *found, symmetric) <= 1.02 * least  # the histogram knows values to half a bin
    if kind == "outlier":  # one rare value is not worth the resolution of all others
        assert error(values, *found, symmetric) < 0.7 * error(values, low, high, symmetric)


def test_percentile_cuts_off_a_single_outlier_in_two_hundred_thousand() -> None:
    values = np.random.default_rng(0).uniform(0, 1, 300_000)
    values[0] = 1000
    low, high = RANGES.get("percentile")(histogram_of(values), False)
    assert low == 0 or low == pytest.approx(values.min())
    assert high == pytest.approx(3 * 1000 / BINS, rel=0.01)  # three bins hold all others


def test_entropy_gives_up_outliers_and_keeps_what_fits() -> None:
    values = np.random.default_rng(0).normal(size=100_000)
    inside = RANGES.get("entropy")(histogram_of(values), False)
    assert inside[0] < -2
    assert inside[1] > 2
    values[0] = 60
    assert RANGES.get("entropy")(histogram_of(values), False)[1] < 30


@pytest.mark.parametrize("method", METHODS)
@settings(max_examples=15, deadline=None)
@given(
    values=st.lists(st.floats(-1e3, 1e3, width=32), min_size=1, max_size=30),
    symmetric=st.booleans(),
)
def test_every_method_stays_within_the_extremes_and_gives_numbers(
    method: str, values: list[float], symmetric: bool
) -> None:
    array = np.array(values, np.float64)
    low, high = RANGES.get(method)(histogram_of(array), symmetric)
    end = np.abs(array).max()
    assert -end - 1e-6 <= low <= high <= end + 1e-6
    if symmetric is False and array.min() == array.max():
        assert (low, high) == (array[0], array[0])


def test_extremes_and_histograms_are_those_of_all_examples() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(3 * CHUNK + 5, 1000)).astype(np.float32)
    observed = Observed(doubler(), ["x", "y", "z"], [(x[:7],), (x[7:],)])
    assert observed.ranges("minmax")["y"] == (float((2 * x).min()), float((2 * x).max()))
    assert observed.ranges("minmax")["z"] == (0.0, float((2 * x).max()))
    held = observed._histogram()["z"]
    assert held.counts.sum() + held.zeros == x.size
    assert held.zeros == (x <= 0).sum()
    for method in METHODS:
        assert observed.ranges(method).keys() == {"x", "y", "z"}


def test_memory_does_not_grow_with_the_number_of_examples() -> None:
    def peak(examples: int) -> int:
        x = np.random.default_rng(0).normal(size=(examples, 1000)).astype(np.float32)
        tracemalloc.start()
        Observed(doubler(), ["x", "y", "z"], [(x,)]).ranges("percentile")
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found

    peak(CHUNK)
    assert peak(40 * CHUNK) < 1.5 * peak(2 * CHUNK)


def test_a_tensor_that_overflows_is_named() -> None:
    x = np.full((2, 1000), 3e38, np.float32)
    with pytest.raises(UserError, match="not finite") as caught:
        Observed(doubler(), ["x", "y"], [(x,)])
    assert "'y'" in str(caught.value)
