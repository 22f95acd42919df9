"""Modelled energy: operation and byte counts times a published table. For ranking, never a measurement."""

from __future__ import annotations

from typing import Literal

from neuroprune.base.errors import UserError
from neuroprune.base.nouns import Cost, Measurement

SOURCE = "M. Horowitz, Computing's energy problem, ISSCC 2014, 45 nm, 0.9 V"

#: picojoule per operation
ADD = {"int8": 0.03, "int32": 0.1, "fp16": 0.4, "fp32": 0.9}
MULTIPLY = {"int8": 0.2, "int32": 3.1, "fp16": 1.1, "fp32": 3.7}
#: picojoule per 64 bit moved
SRAM_8KB, SRAM_32KB, SRAM_1MB = 10.0, 20.0, 100.0
DRAM_LOW, DRAM_HIGH = 1300.0, 2600.0

#: one multiply-accumulate; integer products are summed in 32 bit
_MAC = {"fp32": MULTIPLY["fp32"] + ADD["fp32"], "int8": MULTIPLY["int8"] + ADD["int32"]}
_MICRO = 1e-6  # picojoule -> microjoule


def modelled_energy(
    cost: Cost,
    *,
    weight_bytes: int | None = None,
    activation_bytes: int | None = None,
    dtype: Literal["fp32", "int8"] = "fp32",
) -> tuple[float, float, float]:
    """Microjoule per inference: (low, mid, high).

    All three count ``cost.macs`` operations of ``dtype``; they differ in where the bytes come from. Weights move
    once, activations twice (written, read).
    low: everything lies in a 1 MB SRAM; mid: weights come from DRAM at its lower price, activations from SRAM;
    high: all of it from DRAM at its upper price. ``weight_bytes`` defaults to ``cost.weight_bytes`` (fp32), a
    quarter of it for int8; without ``activation_bytes`` activations are not counted. Not counted: control,
    caches between, leakage. Raises UserError on negative counts or an unknown ``dtype``.
    """
    if dtype not in _MAC:
        raise UserError(f"no energy table for {dtype!r}", value=dtype, mend=f"valid: {', '.join(_MAC)}")
    weights = weight_bytes if weight_bytes is not None else cost.weight_bytes // (4 if dtype == "int8" else 1)
    moved = 2 * (activation_bytes or 0)
    if min(cost.macs, weights, moved) < 0:
        raise UserError(
            "energy needs counts that are not negative",
            where="MACs, bytes of weights, bytes of activations",
            value=f"{cost.macs}, {weights}, {moved}",
            mend="count them with neuroprune.graph.cost",
        )
    compute = cost.macs * _MAC[dtype]
    low = compute + (weights + moved) / 8 * SRAM_1MB
    mid = compute + weights / 8 * DRAM_LOW + moved / 8 * SRAM_1MB
    high = compute + (weights + moved) / 8 * DRAM_HIGH
    return low * _MICRO, mid * _MICRO, high * _MICRO


def energy_measurement(
    cost: Cost,
    *,
    weight_bytes: int | None = None,
    activation_bytes: int | None = None,
    dtype: Literal["fp32", "int8"] = "fp32",
) -> Measurement:
    """``modelled_energy`` as a row for the report: the middle value, the band and the table in the detail."""
    low, mid, high = modelled_energy(
        cost, weight_bytes=weight_bytes, activation_bytes=activation_bytes, dtype=dtype
    )
    counted = "activations counted" if activation_bytes is not None else "activations not counted"
    detail = f"{dtype}, band {low:.3g} to {high:.3g} uJ (SRAM to DRAM), {counted}; table: {SOURCE}"
    return Measurement("energy", mid, "uJ", "modelled", detail)
