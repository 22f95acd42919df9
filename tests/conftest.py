"""Fixtures that every test folder shares."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch: test workers share the cores

import torch
from hypothesis import HealthCheck, settings

# No test may fail because the machine is busy: no deadlines, and the same examples each time (a failing example
# that only one run in a hundred finds stops the wrong change; benchmarks/ is the place for long random searches).
settings.register_profile("house", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("house")

SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture
def shared_data() -> Path:
    """The folder of real data beside the checkout; tests that need it skip where it is absent."""
    if not SHARED_DATA.is_dir():
        pytest.skip("the folder shared/data is not beside this checkout")
    return SHARED_DATA


@pytest.fixture(autouse=True)
def _one_thread_and_seed() -> None:
    """Same numbers on every machine; the test workers share the cores."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
