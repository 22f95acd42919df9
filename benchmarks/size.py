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


def seconds(work: Callable[[], Any]) -> float:
    """Median CPU time of ``work``."""
    found = []
    for _ in range(_TIMES):
        begin = time.process_time()
        work()
        found.append(time.process_time() - begin)
    return statistics.median(found)


def coded(tensors: Tensors, path: Path) -> dict[str, float]:
    """Bytes of the coded file, CPU seconds to pack, and decoded megabytes per CPU second."""
    packing = seconds(lambda: neuroprune.pack(tensors, path))
    decoding = seconds(lambda: [array.nbytes for _, array in neuroprune.coded_tensors(path)])
    size = sum(array.nbytes for _, array in neuroprune.coded_tensors(path))
    back = dict(neuroprune.coded_tensors(path))
    if not all(np.array_equal(back[name], tensor) for name, tensor in tensors.items() if name in back):
        raise AssertionError("decoded tensors differ")
    return {"bytes": path.stat().st_size, "encode_cpu_s": packing, "decode_mb_per_s": size / 1e6 / decoding}


def measure(key: tuple[str, float, str], nncodec: Path) -> Record:
    levels, values = SUBJECTS[key]()
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
        "nncodec": coders.nncodec(levels, nncodec) if nncodec.exists() else None,
    }


def measure_file(network: str, form: str) -> Record:
    """A real ONNX file, packed, beside the network's safetensors file."""
    data = onnx_files(network)
    with tempfile.TemporaryDirectory() as folder:
        source, packed = Path(folder) / "model.onnx", Path(folder) / "model.npc"
        source.write_bytes(data[form])
        encode = seconds(lambda: neuroprune.pack(source, packed))
        again = Path(folder) / "again.onnx"
        decode = seconds(lambda: neuroprune.unpack(packed, again))
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
    keys: list[tuple[Any, ...]] = [
        (n, s, f) for n in options.networks for s in options.shares for f in options.forms
    ]
    resnets = [n for n in options.networks if n.startswith("resnet")]
    keys += [(n, None, f"{f} file") for n in resnets for f in ("fp32", "int8", "int4")]
    for key in to_do(keys, records.by_key(), options.again, commit()):
        is_file = key[1] is None
        record = measure_file(key[0], key[2].split()[0]) if is_file else measure(key, options.nncodec)
        record |= dict(zip(KEY, key, strict=True))
        record |= {"versions": versions("constriction", "numpy", "zstandard"), "cpu": machine_facts()["cpu"]}
        records.put(record)
        print(*key, record["ours"], record.get("nncodec"), flush=True)


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
