"""Runs the command line again and again without importing torch each time: one fork per line of input.

Reads lines of JSON (the arguments), answers each with the process id of the child, and with its exit status when
it has ended. The child leads a process group of its own. A process with threads must not fork (the child may wait
for ever for a lock that a thread held), so what starts some is not imported here: onnxruntime.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import tempfile
from pathlib import Path


def import_everything() -> None:
    import sklearn.datasets  # noqa: F401
    import torch
    import torch._dynamo

    import neuroprune.cli
    import neuroprune.pipeline.run
    import neuroprune.pipeline.steps  # noqa: F401
    from neuroprune.export import EXPORTS

    with contextlib.suppress(ImportError):  # comes with optional parts only
        import tqdm  # type: ignore[import-untyped]

        tqdm.tqdm.monitor_interval = 0  # the exporter's progress bars would start a thread
    with tempfile.TemporaryDirectory() as folder:  # the first export takes seconds to set itself up
        EXPORTS.get("onnx").write(torch.nn.Linear(2, 2), (torch.zeros(1, 2),), Path(folder) / "x.onnx")


def child(arguments: list[str], log: str) -> None:
    os.setsid()
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(file, 1)
    os.dup2(file, 2)
    sys.argv = ["neuroprune", *arguments]
    from neuroprune.cli import main

    main()


def serve() -> None:
    import_everything()
    assert len(os.listdir("/proc/self/task")) == 1, "threads before the fork"
    print("ready", flush=True)
    for line in sys.stdin:
        order = json.loads(line)
        pid = os.fork()
        if pid == 0:
            child(order["arguments"], order["log"])
        print(pid, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)


if __name__ == "__main__":
    serve()
