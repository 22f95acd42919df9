"""Bytes of quantised weights in model.npc against gzip, zstd, Huffman and nncodec (cell E4), and speed both ways.

    python benchmarks/size.py                         # what is not yet measured
    python benchmarks/size.py --networks resnet20 --again all
    python benchmarks/tables.py                       # docs/size.md from the records

nncodec (ISO/IEC 15938-17) needs an environment of its own: `python -m venv ENV`, `ENV/bin/pip install nncodec`,
and here `--nncodec ENV/bin/python`. All coders get the same integers. ``ours`` is the whole file, with names,
directory and checksums; nncodec's is its whole bitstream. CPU time of one thread, the median of three. One line of
JSON per (network, share of weights masked, form) in benchmarks/results/size.jsonl.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from measuring import coders
from measuring.cifar import DATA
from measuring.records import Record, Records, commit, to_do, versions
from measuring.size_subjects import FORMS, NETWORKS, SHARES, SUBJECTS, Tensors, onnx_files
from measuring.size_tables import FILE, KEY

import neuroprune
from neuroprune.devices.facts import machine_facts

_TIMES = 3
#: a network of more bytes is packed and unpacked once
_LARGE = 5_000_000


def seconds(work: Callable[[], Any], size: int) -> float:
    """Median CPU time of ``work`` on so many bytes."""
    found = []
    for _ in range(1 if size > _LARGE else _TIMES):
        begin = time.process_time()
        work()
        found.append(time.process_time() - begin)
    return statistics.median(found)


def coded(tensors: Tensors, path: Path) -> dict[str, float]:
    """Bytes of the coded file, CPU seconds to pack, and decoded megabytes per CPU second."""
    whole = sum(tensor.nbytes for tensor in tensors.values())
    packing = seconds(lambda: neuroprune.pack(tensors, path), whole)
    decoding = seconds(lambda: [array.nbytes for _, array in neuroprune.coded_tensors(path)], whole)
    size = sum(array.nbytes for _, array in neuroprune.coded_tensors(path))
    back = dict(neuroprune.coded_tensors(path))
    if not all(np.array_equal(back[name], tensor) for name, tensor in tensors.items() if name in back):
        raise AssertionError("decoded tensors differ")
    return {"bytes": path.stat().st_size, "encode_cpu_s": packing, "decode_mb_per_s": size / 1e6 / decoding}


def measure(levels: Tensors, values: Tensors, peer: Record | None) -> Record:
    with tempfile.TemporaryDirectory() as folder:
        ours = coded(levels, Path(folder) / "model.npc")
        as_values = coded(values, Path(folder) / "values.npc") if values is not levels else None
    return {
        "weights": sum(tensor.size for tensor in levels.values()),
        "tensors": len(levels),
        "ours": ours,
        "ours_float32": as_values,
        "gzip": coders.gzip_bytes(levels),
        "zstd": coders.zstd_bytes(levels),
        "huffman": coders.huffman_bytes(levels),
        "entropy": coders.entropy_bytes(levels),
        "nncodec": peer,
    }


def measure_file(network: str, form: str) -> Record:
    """A real ONNX file, packed, beside the network's safetensors file."""
    data = onnx_files(network)
    with tempfile.TemporaryDirectory() as folder:
        source, packed = Path(folder) / "model.onnx", Path(folder) / "model.npc"
        source.write_bytes(data[form])
        encode = seconds(lambda: neuroprune.pack(source, packed), len(data[form]))
        again = Path(folder) / "again.onnx"
        decode = seconds(lambda: neuroprune.unpack(packed, again), len(data[form]))
        if again.read_bytes() != data[form]:
            raise AssertionError("the unpacked file differs")
        size = packed.stat().st_size
    checkpoint = (DATA / "models" / f"cifar10_{network}.safetensors").stat().st_size
    return {
        "fp32_onnx": len(data["fp32"]),
        "checkpoint": checkpoint,
        "plain": len(data[form]),
        "ours": {"bytes": size, "encode_cpu_s": encode, "decode_mb_per_s": len(data[form]) / 1e6 / decode},
    }


def sweep(options: argparse.Namespace) -> None:
    records = Records(FILE, KEY)

    def put(key: tuple[Any, ...], record: Record) -> None:
        record |= dict(zip(KEY, key, strict=True))
        record |= {"versions": versions("constriction", "numpy", "zstandard"), "cpu": machine_facts()["cpu"]}
        records.put(record)
        print(*key, record["ours"], record.get("nncodec"), flush=True)

    for network in options.networks:
        keys = [(network, share, form) for share in options.shares for form in options.forms]
        left = to_do(keys, records.by_key(), options.again, commit())
        subjects = [SUBJECTS[key]() for key in left]
        peers: list[Record | None] = [None] * len(left)
        if left and options.nncodec.exists():
            peers = [*coders.nncodec([levels for levels, _ in subjects], options.nncodec)]
        for key, (levels, values), peer in zip(left, subjects, peers, strict=True):
            put(key, measure(levels, values, peer))
        files = [
            (network, None, f"{form} file") for form in ("fp32", "int8", "int4") if network.startswith("resnet")
        ]
        for key in to_do(files, records.by_key(), options.again, commit()):
            put(key, measure_file(network, key[2].split()[0]))


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--shares", nargs="+", type=float, choices=SHARES, default=list(SHARES))
    parser.add_argument("--forms", nargs="+", choices=FORMS, default=list(FORMS))
    parser.add_argument("--again", nargs="*", default=[], help="stale, all")
    parser.add_argument("--nncodec", type=Path, default=Path("/tmp/nncodec-venv/bin/python"))
    return parser.parse_args()


if __name__ == "__main__":
    torch.set_num_threads(1)
    sweep(parsed())
