"""Damaged model.npc files by the thousand: a clear error each time, or the very same content, and nothing else.

    python benchmarks/fuzz_npc.py [--count 10000] [--seed 0]

Every file is one of a few good ones (all codecs, ONNX and safetensors) with bytes changed, cut out, put in or
repeated. In two thirds of them the checksums are made right again, so that what is behind them is met: the
directory, the codecs, the native coder. Outcomes go to benchmarks/results/fuzz_npc.json after every 1,000 files.
"""

from __future__ import annotations

import argparse
import lzma
import resource
import sys
import tempfile
import time
import zlib
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from measuring.records import RESULTS, versions

from neuroprune.base.errors import UserError
from neuroprune.base.files import write_json
from neuroprune.compression.npc import container, pack, unpack
from neuroprune.devices.facts import machine_facts

OUT = RESULTS / "fuzz_npc.json"
#: bytes that a mutated file may unpack to: some 40 times what the good ones hold
LIMIT = 1 << 24
KINDS = ("bytes", "payload", "header", "number")


def good_files(folder: Path) -> list[tuple[bytes, bytes]]:
    """Packed and plain bytes of small files that take every codec between them."""
    found = []
    for name, source in (("arrays", arrays()), ("onnx", onnx_file(folder / "small.onnx"))):
        packed, plain = folder / f"{name}.npc", folder / name
        pack(source, packed)
        unpack(packed, plain)
        found.append((packed.read_bytes(), plain.read_bytes()))
    return found


def arrays() -> dict[str, np.ndarray]:
    draw = np.random.default_rng(0)
    weights = draw.normal(0, 1, (16, 8, 3, 3)) * np.exp(draw.normal(0, 1, (16, 1, 1, 1)))
    few = np.zeros(6000, np.float32)
    few[draw.integers(0, 6000, 60)] = draw.normal(size=60)
    return {
        "int8": np.clip(np.rint(30 * weights), -127, 127).astype(np.int8),
        "masked": np.where(np.abs(weights) > 1, np.clip(np.rint(40 * weights), -127, 127), 0).astype(np.int8),
        "clustered": (np.rint(2 * weights).clip(-7, 8) / 8).astype(np.float32),
        "float": weights.astype(np.float32),
        "half": weights.astype(np.float16),
        "sparse": few,
        "constant": np.full((20, 20), 3, np.int32),
        "noise": draw.integers(0, 256, 500).astype(np.uint8),
        "long": np.repeat(draw.integers(0, 5, 70000), 1).astype(np.uint8),
    }


def onnx_file(path: Path) -> Path:
    """A graph that only holds 8-bit and packed 4-bit weights, as ``codebook.pack_weights`` leaves them."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    from neuroprune.compression.codebook import pack_weights

    draw = np.random.default_rng(1)
    weights = np.clip(np.rint(30 * draw.normal(size=(12, 10, 3, 3))), -127, 127).astype(np.int8)
    nodes = [
        helper.make_node("DequantizeLinear", ["w", "s"], ["d"], axis=0),
        helper.make_node("Conv", ["x", "d"], ["y"]),
    ]
    scale = numpy_helper.from_array(np.full(12, 0.01, np.float32), "s")
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in "xy")
    graph = helper.make_graph(nodes, "g", [x], [y], [numpy_helper.from_array(weights, "w"), scale])
    model = helper.make_model(graph)
    pack_weights(model)
    onnx.save(model, path)
    return path


def mutated(packed: bytes, kind: str, draw: np.random.Generator) -> bytes:
    """``bytes``: anything anywhere. The others make the checksums right again: of changed payloads, of a changed
    header, of a header in which one byte or number became an extreme one."""
    if kind == "bytes":
        return scrambled(packed, draw)
    packed_header, plain_header, _ = (
        int.from_bytes(packed[at : at + 4], "little") for at in range(len(container.MAGIC) + 1, container.LEAD, 4)
    )
    body = packed[container.LEAD + packed_header : -4]
    header = lzma.LZMADecompressor(lzma.FORMAT_RAW, filters=container.READING).decompress(
        packed[container.LEAD : container.LEAD + packed_header], plain_header
    )
    if kind == "payload":
        return sealed(header, scrambled(body, draw, same_length=bool(draw.random() < 0.8)))
    return sealed(scrambled(header, draw) if kind == "header" else extreme(header, draw), body)


def scrambled(data: bytes, draw: np.random.Generator, same_length: bool = False) -> bytes:
    changed = bytearray(data)
    for _ in range(int(draw.integers(1, 5))):
        start = int(draw.integers(0, max(1, len(changed))))
        length = int(draw.integers(1, 9))
        noise = draw.bytes(length)
        action = 0 if same_length else int(draw.integers(0, 6))
        if action <= 1:
            changed[start : start + length] = noise[: len(changed[start : start + length])]
        elif action == 2:
            del changed[start : start + length]
        elif action == 3:
            changed[start:start] = noise
        elif action == 4:
            del changed[start:]
        else:
            changed += changed[: int(draw.integers(0, 4096))]
    return bytes(changed)


def extreme(header: bytes, draw: np.random.Generator) -> bytes:
    """One byte becomes the beginning of a huge number, or 0, 1, 127, 128, 255."""
    changed = bytearray(header)
    start = int(draw.integers(0, min(len(changed), 400)))
    numbers = [bytes([n]) for n in (0, 1, 5, 127, 128, 255)]
    numbers += [b"\xff" * 8 + b"\x7f", b"\xff\xff\xff\xff\x07", b"\x80\x80\x80\x08", b"\xff\x7f"]
    changed[start : start + 1] = numbers[int(draw.integers(0, len(numbers)))]
    return bytes(changed)


def sealed(header: bytes, body: bytes) -> bytes:
    """A file with right checksums around this header and these payloads."""
    packed = lzma.compress(
        header, format=lzma.FORMAT_RAW, filters=[{"id": lzma.FILTER_LZMA2, "preset": 0, "dict_size": 1 << 16}]
    )
    numbers = (len(packed), len(header), zlib.crc32(header))
    lead = container.MAGIC + bytes([container.VERSION]) + b"".join(n.to_bytes(4, "little") for n in numbers)
    whole = lead + packed + body
    return whole + zlib.crc32(whole).to_bytes(4, "little")


def outcome(data: bytes, plain: bytes, folder: Path) -> tuple[str, str]:
    """``refused`` with the message's first line, ``same``, or what must not be: ``wrong``, ``exception``."""
    source, target = folder / "mutated.npc", folder / "rebuilt"
    source.write_bytes(data)
    target.unlink(missing_ok=True)
    try:
        unpack(source, target, limit=LIMIT)
    except UserError as error:
        return (
            ("wrong", "an error, and a file was left")
            if target.exists()
            else ("refused", str(error).split("\n")[0])
        )
    except BaseException as error:  # a panic of the native coder is no Exception
        return "exception", f"{type(error).__name__}: {error}"
    return ("same", "") if target.read_bytes() == plain else ("wrong", "other content, and no error")


def fuzz(count: int, seed: int, folder: Path, save: Any = None) -> dict[str, Any]:
    """Outcomes of ``count`` files: how many of each by kind, messages, the slowest, the failures to look at."""
    good = good_files(folder)
    outcomes, messages = Counter[str](), Counter[str]()
    failures: list[dict[str, Any]] = []
    slowest = 0.0
    for number in range(count):
        draw = np.random.default_rng([seed, number])
        kind = KINDS[number % len(KINDS)]
        packed, plain = good[int(draw.integers(0, len(good)))]
        started = time.process_time()
        found, message = outcome(mutated(packed, kind, draw), plain, folder)
        slowest = max(slowest, time.process_time() - started)
        outcomes[f"{kind}: {found}"] += 1
        messages[plainly(message)] += 1
        if found not in ("refused", "same"):
            failures.append({"seed": seed, "number": number, "outcome": found, "message": message})
        if save and (number + 1) % 1000 == 0:
            save(number + 1, outcomes, messages, failures, slowest)
    return {"outcomes": dict(sorted(outcomes.items())), "failures": failures, "slowest_cpu_s": slowest}


def plainly(message: str) -> str:
    """A message without its numbers and names, so that equal ones can be counted."""
    words = ["N" if any(c.isdigit() for c in word) else word for word in message.split()]
    return " ".join("NAME" if word.startswith(("'", '"')) else word for word in words)[:120]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    def save(done: int, outcomes: Any, messages: Any, failures: Any, slowest: float) -> None:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        found = {
            "files": done, "seed": arguments.seed, "outcomes": dict(sorted(outcomes.items())),
            "messages": dict(messages.most_common(40)), "failures": failures,
            "slowest_cpu_s": round(slowest, 3), "limit_bytes": LIMIT,
            "peak_memory_mb": round(peak / 1024), "memory_before_mb": round(before / 1024),
            "cpu": machine_facts()["cpu"], "versions": versions("constriction", "numpy"),
        }  # fmt: skip
        write_json(OUT, found)
        print(done, dict(outcomes), f"peak {peak / 1024:.0f} MB", flush=True)

    with tempfile.TemporaryDirectory() as name:
        found = fuzz(arguments.count, arguments.seed, Path(name), save)
    if found["failures"]:
        sys.exit(f"{len(found['failures'])} files were neither refused nor the same")


if __name__ == "__main__":
    main()
