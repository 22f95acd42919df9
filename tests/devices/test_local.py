"""Measuring: what is counted, in which order, and in which process. No test asserts a time."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from neuroprune.base.errors import UserError
from neuroprune.devices import DEVICES, runner
from neuroprune.devices.local import peak_memory

LOCAL = DEVICES.get("local")
RUNNER = Path(runner.__file__)
MEGABYTE = 2**20


def _write(path: Path, size: int) -> Path:
    """x [n, 2] @ (constant [2, size]) -> y [n, size], as an ONNX file."""
    weight = np.random.default_rng(0).normal(size=(2, size)).astype(np.float32)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "main",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 2])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", size])],
        [numpy_helper.from_array(weight, "w")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path)
    return path


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _write(tmp_path_factory.mktemp("small") / "small.onnx", 4)


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _write(tmp_path_factory.mktemp("large") / "large.onnx", 8 * MEGABYTE)  # 64 MB of weights


X = [np.ones((1, 2), np.float32)]


def test_every_file_gets_a_latency(small: Path) -> None:
    found = LOCAL.measure({"a": small, "b": small}, [np.ones((3, 2), np.float32)], seconds=0.05)
    assert list(found) == ["a", "b"]
    for latency in found.values():
        assert latency.batch == 3
        assert latency.threads == 1
        assert latency.runs >= runner.MINIMUM_ROUNDS
        assert 0 < latency.wall_p50_ms <= latency.wall_p90_ms
        assert 0 <= latency.cpu_p50_ms <= latency.cpu_p90_ms
        assert json.loads(json.dumps(latency.to_json()))["runs"] == latency.runs


def test_calls_are_interleaved_in_blocks_with_a_rotating_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "WARM_UP_SECONDS", 0.0)
    monkeypatch.setattr(runner, "BLOCK_SECONDS", 0.0)
    order: list[str] = []
    calls: dict[str, Callable[[], object]] = {n: (lambda n=n: order.append(n)) for n in "abc"}  # type: ignore[misc]
    samples = runner.interleave(calls, 0.0)
    warm, rounds = order[:6], order[6:]
    assert warm == list("aabbcc")
    expected = [name for i in range(runner.MINIMUM_ROUNDS) for name in ("abc" * 2)[i % 3 : i % 3 + 3]]
    assert rounds == [name for name in expected for _ in range(2)]  # one uncounted call, one counted
    assert {name: pairs.shape for name, pairs in samples.items()} == dict.fromkeys(
        "abc", (runner.MINIMUM_ROUNDS, 2)
    )


def test_the_clocks_are_cpu_and_wall(monkeypatch: pytest.MonkeyPatch) -> None:
    """With clocks that the test turns: a call costs 7 of CPU time and 11 of wall time."""
    now = {"cpu": 0, "wall": 0}

    def call() -> None:
        now["cpu"] += 7
        now["wall"] += 11

    monkeypatch.setattr(runner.time, "process_time_ns", lambda: now["cpu"])
    monkeypatch.setattr(runner.time, "perf_counter_ns", lambda: now["wall"])
    samples: list[tuple[int, int]] = []
    runner._block(call, 3, samples)
    assert samples == [(7, 11)] * 3


def test_median_and_p90_in_milliseconds() -> None:
    wall = np.arange(1, 12) * 1_000_000  # 1 .. 11 ms
    row = runner.summary(np.stack([wall // 2, wall], axis=1), threads=2, batch=4)
    assert (row["wall_p50_ms"], row["wall_p90_ms"]) == (6.0, 10.0)
    assert (row["cpu_p50_ms"], row["cpu_p90_ms"]) == (3.0, 5.0)
    assert (row["runs"], row["threads"], row["batch"]) == (11, 2, 4)


def test_the_garbage_collector_comes_back_also_after_an_error() -> None:
    def fail() -> None:
        raise RuntimeError("no")

    with pytest.raises(RuntimeError):
        runner.interleave({"a": fail}, 0)
    assert runner.gc.isenabled()


def test_peak_memory_is_that_of_a_process_holding_the_network(small: Path, large: Path) -> None:
    little, much = LOCAL.memory(small, X), LOCAL.memory(large, X)
    assert little.peak >= little.baseline > 10 * MEGABYTE
    assert much.peak - little.peak >= 60 * MEGABYTE  # 64 MB of weights
    assert much.peak < little.peak + 400 * MEGABYTE
    assert peak_memory(small, X) < 200 * MEGABYTE  # this process, which holds torch, takes more
    assert little.source in ("VmHWM", "ru_maxrss")


def test_the_runner_imports_numpy_and_onnxruntime_only() -> None:
    roots = set()
    for node in ast.walk(ast.parse(RUNNER.read_text())):
        if isinstance(node, ast.Import):
            roots |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            roots.add((node.module or "neuroprune").split(".")[0])
    assert roots - sys.stdlib_module_names == {"numpy", "onnxruntime"}


def test_the_runner_works_alone_on_a_device(small: Path, tmp_path: Path) -> None:
    """Copied away from the package, in a folder of its own, without the package on the path."""
    (tmp_path / "runner.py").write_bytes(RUNNER.read_bytes())
    np.savez(tmp_path / "x.npz", first=X[0])
    command = [sys.executable, "runner.py", "latency", "--inputs", "x.npz", "--seconds", "0.01"]
    done = subprocess.run(
        [*command, f"dense={small}", str(small)], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    rows = json.loads(done.stdout)
    assert set(rows) == {"dense", "small.onnx"}
    assert set(rows["dense"]) == set(LOCAL.measure({"a": small}, X, seconds=0)["a"].to_json())


def test_what_cannot_be_measured_is_a_user_error(small: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"no")
    wrong = [np.ones((1, 5), np.float32)]
    for files, inputs in (
        ({}, X),
        ({"a": tmp_path / "absent.onnx"}, X),
        ({"a": broken}, X),
        ({"a": small}, wrong),
    ):
        with pytest.raises(UserError):
            LOCAL.measure(files, inputs, seconds=0)
    with pytest.raises(UserError, match="threads=0"):
        LOCAL.measure({"a": small}, X, threads=0)
    with pytest.raises(UserError, match="no file"):
        LOCAL.memory(tmp_path / "absent.onnx", X)
    with pytest.raises(UserError, match=r"memory of broken\.onnx failed"):
        LOCAL.memory(broken, X)


def test_two_files_with_different_inputs_are_refused_before_the_clock_starts(small: Path) -> None:
    with pytest.raises(UserError, match="takes 1 inputs"):
        LOCAL.measure({"a": small}, [*X, *X])


def test_unknown_device() -> None:
    with pytest.raises(UserError, match="did you mean 'local'"):
        DEVICES.get("lokal")
