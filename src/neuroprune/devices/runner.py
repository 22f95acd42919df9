"""The measuring program. It imports numpy and onnxruntime only, so that one copied file measures any device.

    python runner.py memory  --inputs x.npz model.onnx
    python runner.py latency --inputs x.npz --seconds 3 dense=model.onnx int8=model.int8.onnx

prints one line of JSON. ``x.npz`` holds the input arrays in the network's order; ``--threads`` defaults to 1.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import json
import os
import time
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import onnxruntime

WARM_UP_SECONDS = 0.1
BLOCK_SECONDS = 0.005  # calls of one network in a row: long enough for its caches, short against slow drift
MINIMUM_ROUNDS = 10


def session(path: str, threads: int) -> onnxruntime.InferenceSession:
    """One thread pool, no spinning: waiting threads would be counted as CPU time of the other networks."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def caller(path: str, inputs: Sequence[np.ndarray], threads: int) -> Callable[[], object]:
    """A function that runs the network once on ``inputs``."""
    loaded = session(path, threads)
    names = [value.name for value in loaded.get_inputs()]
    if len(names) != len(inputs):
        raise ValueError(f"{path} takes {len(names)} inputs, got {len(inputs)} arrays")
    feed = dict(zip(names, inputs))  # noqa: B905  (lengths are checked; runs on old Pythons too)
    outputs = [value.name for value in loaded.get_outputs()]
    return lambda: loaded.run(outputs, feed)


def interleave(calls: Mapping[str, Callable[[], object]], seconds: float) -> dict[str, np.ndarray]:
    """Time several functions against each other: name -> array [runs, 2] of (CPU, wall) nanoseconds per call.

    Round robin in small blocks, each round starting with another function, so that drift of the machine (clock,
    heat, neighbours) and what a predecessor leaves in the caches meet all of them alike.
    """
    share = seconds / max(len(calls), 1)
    blocks = {name: _warm_up(call, share) for name, call in calls.items()}
    samples: dict[str, list[tuple[int, int]]] = {name: [] for name in calls}
    order = list(calls)
    collecting = gc.isenabled()
    gc.disable()
    try:
        deadline = time.perf_counter() + seconds
        rounds = 0
        while rounds < MINIMUM_ROUNDS or time.perf_counter() < deadline:
            for name in order:
                _block(calls[name], blocks[name], samples[name])
            order.append(order.pop(0))
            rounds += 1
    finally:
        if collecting:
            gc.enable()
    return {name: np.array(pairs, dtype=np.int64) for name, pairs in samples.items()}


def _warm_up(call: Callable[[], object], share: float) -> int:
    """Run until caches and memory pools are filled; return how many calls make one block.

    ``share``: seconds that there are for this function: many files in little time are not warmed up longer than
    they are timed, nor in blocks that would make the rounds longer than that.
    """
    runs, start = 0, time.perf_counter()
    while runs < 2 or time.perf_counter() - start < min(WARM_UP_SECONDS, share):
        call()
        runs += 1
    block = min(BLOCK_SECONDS, share / MINIMUM_ROUNDS)
    return max(1, int(block * runs / (time.perf_counter() - start)))


def _block(call: Callable[[], object], runs: int, samples: list[tuple[int, int]]) -> None:
    call()  # the first call after another network finds its caches cold: not counted
    for _ in range(runs):
        wall, cpu = time.perf_counter_ns(), time.process_time_ns()
        call()
        samples.append((time.process_time_ns() - cpu, time.perf_counter_ns() - wall))


def summary(samples: np.ndarray, threads: int, batch: int) -> dict[str, float | int]:
    """Median and 90th percentile in milliseconds."""
    (cpu50, wall50), (cpu90, wall90) = np.percentile(samples, [50, 90], axis=0) / 1e6
    return {
        "cpu_p50_ms": float(cpu50),
        "cpu_p90_ms": float(cpu90),
        "wall_p50_ms": float(wall50),
        "wall_p90_ms": float(wall90),
        "runs": len(samples),
        "threads": threads,
        "batch": batch,
    }


def reset_peak() -> None:
    """Let the peak start from now, so that what the imports needed for a moment does not hide the network."""
    with contextlib.suppress(OSError), open("/proc/self/clear_refs", "w") as file:
        file.write("5")


def peak_bytes() -> tuple[int, str]:
    """The process's largest resident set so far, and the counter that said so."""
    with contextlib.suppress(OSError), open("/proc/self/status") as file:
        for line in file:
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024, "VmHWM"
    import resource  # not on Windows, where the import error says so
    import sys

    unit = 1 if sys.platform == "darwin" else 1024  # macOS counts bytes, the others KiB
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit, "ru_maxrss"


def measure_memory(path: str, inputs: Sequence[np.ndarray], threads: int) -> dict[str, object]:
    reset_peak()
    baseline, _ = peak_bytes()
    call = caller(path, inputs, threads)
    for _ in range(5):
        call()
    peak, source = peak_bytes()
    return {"peak": peak, "baseline": baseline, "source": source}


def measure_latency(
    files: Mapping[str, str],
    inputs: Sequence[np.ndarray] | Mapping[str, Sequence[np.ndarray]],
    threads: int,
    seconds: float,
) -> dict[str, dict[str, float | int]]:
    """``inputs``: of all files, or of each by its name."""
    given = inputs if isinstance(inputs, Mapping) else dict.fromkeys(files, inputs)
    calls = {name: caller(path, given[name], threads) for name, path in files.items()}
    batches = {name: len(x[0]) if len(x) and np.ndim(x[0]) else 1 for name, x in given.items()}
    return {name: summary(pairs, threads, batches[name]) for name, pairs in interleave(calls, seconds).items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["memory", "latency"])
    parser.add_argument("files", nargs="+", help="model.onnx, or NAME=model.onnx")
    parser.add_argument("--inputs", required=True, help="an .npz file with the input arrays in order")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=3.0)
    options = parser.parse_args()
    with np.load(options.inputs) as arrays:
        inputs = [arrays[name] for name in arrays.files]
    if options.what == "memory":
        result: object = measure_memory(options.files[0], inputs, options.threads)
    else:
        named = {os.path.basename(f): f for f in options.files if "=" not in f}
        named.update(f.split("=", 1) for f in options.files if "=" in f)
        result = measure_latency(named, inputs, options.threads, options.seconds)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
