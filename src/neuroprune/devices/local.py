"""This machine: ONNX Runtime on the CPU."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from neuroprune.base.errors import UserError
from neuroprune.devices._base import DEVICES, Granularity, Inputs, Latency, Memory, inputs_of
from neuroprune.devices.facts import machine_facts
from neuroprune.export.onnx import OnnxExport

_RUNNER = Path(__file__).with_name("runner.py")
_TIMEOUT_SECONDS = 600
_LEAVE_OUT = "free some memory and try again, or leave memory out (step measure: memory: false)"


class LocalDevice:
    """Times in this process, all files interleaved; measures memory in a fresh process per file."""

    name = "local"
    granularity = Granularity()

    def facts(self) -> dict[str, str | int | None]:
        """See ``Device.facts``."""
        facts = machine_facts()
        return {key: facts[key] for key in ("cpu", "onnxruntime")}

    def measure(
        self,
        files: Mapping[str, Path],
        inputs: Inputs,
        *,
        threads: int = 1,
        seconds: float = 3.0,
    ) -> dict[str, Latency]:
        """See ``Device.measure``; at least ten rounds, however short ``seconds`` is."""
        from neuroprune.devices import runner  # imports onnxruntime

        if not files:
            raise UserError("there is no file to measure", value="files={}", mend="give files={name: path}")
        if threads < 1 or seconds < 0:
            raise UserError(
                "cannot measure so",
                value=f"threads={threads}, seconds={seconds}",
                mend="give at least one thread, and seconds that are not negative",
            )
        for name, path in files.items():
            OnnxExport().load(path, threads).run(inputs_of(inputs, name))  # clear errors before the clock starts
        paths = {name: str(path) for name, path in files.items()}
        rows = runner.measure_latency(paths, inputs, threads, seconds)
        return {name: _latency(row) for name, row in rows.items()}

    def memory(self, file: Path, inputs: Sequence[np.ndarray], *, threads: int = 1) -> Memory:
        """See ``Device.memory``."""
        if not file.is_file():
            raise UserError(
                f"there is no file {file.name}", where=str(file.parent), value=str(file), mend="check the path"
            )
        try:
            done = _run_alone(file.absolute(), inputs, threads)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise UserError(
                f"measuring the memory of {file.name} failed: {error}",
                where=str(file.parent),
                value=type(error).__name__,
                mend=_LEAVE_OUT,
            ) from error
        if done.returncode != 0:
            lines = [line for line in done.stderr.splitlines() if line.strip()]
            raise UserError(
                f"measuring the memory of {file.name} failed: {lines[-1] if lines else 'no message'}",
                where=str(file.parent),
                value=f"exit code {done.returncode}",
                mend=_LEAVE_OUT,
            )
        row = json.loads(done.stdout.splitlines()[-1])
        return Memory(peak=int(row["peak"]), baseline=int(row["baseline"]), source=str(row["source"]))


def _run_alone(file: Path, inputs: Sequence[np.ndarray], threads: int) -> subprocess.CompletedProcess[str]:
    """``runner.py memory`` in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        arrays = Path(folder) / "inputs.npz"
        np.savez(arrays, **{f"{i:03d}": array for i, array in enumerate(inputs)})  # type: ignore[arg-type]
        command = [sys.executable, str(_RUNNER), "memory", str(file)]
        command += ["--inputs", str(arrays), "--threads", str(threads)]
        return subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT_SECONDS, check=False)


def _latency(row: Mapping[str, float | int]) -> Latency:
    times = {key: float(row[key]) for key in ("cpu_p50_ms", "cpu_p90_ms", "wall_p50_ms", "wall_p90_ms")}
    return Latency(**times, runs=int(row["runs"]), threads=int(row["threads"]), batch=int(row["batch"]))


def peak_memory(path: Path, inputs: Sequence[np.ndarray], *, threads: int = 1) -> int:
    """Bytes: the largest resident set of a process that holds only Python, numpy, the runtime and the network."""
    return LocalDevice().memory(path, inputs, threads=threads).peak


DEVICES.register("local", summary="this machine's CPU, through ONNX Runtime", source="onnxruntime.ai")(
    LocalDevice()
)
