"""Tables of docs/size.md out of the records; nothing is measured here."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from measuring.records import RESULTS, Record, Records
from measuring.summary import NOTHING, table
from neuroprune.base.files import read_json
from neuroprune.report.wording import percent

FILE = RESULTS / "size.jsonl"
KEY = ("network", "share", "form")
#: as they stand in a table
NAMES = {
    "resnet20": "ResNet-20",
    "resnet56": "ResNet-56",
    "dscnn": "DS-CNN",
    "vgg16-shape": "VGG-16's shape, drawn",
}


def _records(files: bool) -> list[Record]:
    found = [record for record in Records(FILE, KEY).all() if (record["share"] is None) == files]
    return sorted(found, key=lambda r: (list(NAMES).index(r["network"]), r["form"], r["share"] or 0))


def coders() -> str:
    found = [record for record in _records(files=False) if record["nncodec"]]
    if not found:
        return NOTHING
    head = ("network", "masked", "form", "weights", "gzip", "zstd", "Huffman", "nncodec", "model.npc",
            "bits per weight", "over nncodec")  # fmt: skip
    rows = [
        [
            NAMES[r["network"]], percent(r["share"], 0), r["form"], f"{r['weights']:,}",
            *(f"{r[name]:,}" for name in ("gzip", "zstd", "huffman")), f"{r['nncodec']['bytes']:,}",
            f"{r['ours']['bytes']:,}", f"{8 * r['ours']['bytes'] / r['weights']:.2f}",
            f"{r['ours']['bytes'] / r['nncodec']['bytes']:.3f}",
        ]
        for r in found
    ]  # fmt: skip
    ratios = [r["ours"]["bytes"] / r["nncodec"]["bytes"] for r in found]
    closing = f"Over nncodec: from {min(ratios):.3f} to {max(ratios):.3f} times its bytes. {_made_with(found)}"
    return table(head, rows) + "\n\n" + closing


def speed() -> str:
    found = _records(files=False)
    if not found:
        return NOTHING
    head = ("network", "masked", "form", "pack", "decoded as int8", "decoded as float32",
            "nncodec packs", "nncodec decodes")  # fmt: skip
    rows = [
        [
            NAMES[r["network"]], percent(r["share"], 0), r["form"], f"{r['ours']['encode_cpu_s']:.2f} s",
            f"{r['ours']['decode_mb_per_s']:.0f} MB/s",
            f"{r['ours_float32']['decode_mb_per_s']:.0f} MB/s" if r["ours_float32"] else "",
            *([f"{r['nncodec']['encode_cpu_s']:.2f} s",
               f"{r['weights'] / 1e6 / r['nncodec']['decode_cpu_s']:.1f} MB/s"] if r["nncodec"] else ["", ""]),
        ]
        for r in found
    ]  # fmt: skip
    return table(head, rows) + "\n\n" + _made_with(found)


def files() -> str:
    found = _records(files=True)
    if not found:
        return NOTHING
    head = ("network", "file", "bytes", "model.npc", "smaller than the file", "smaller than the fp32 ONNX file",
            "smaller than the checkpoint", "decoded")  # fmt: skip
    rows = [
        [
            NAMES[r["network"]], r["form"].split()[0], f"{r['plain']:,}", f"{r['ours']['bytes']:,}",
            *(f"{r[name] / r['ours']['bytes']:.2f}x" for name in ("plain", "fp32_onnx", "checkpoint")),
            f"{r['ours']['decode_mb_per_s']:.0f} MB/s",
        ]
        for r in found
    ]  # fmt: skip
    return table(head, rows) + "\n\n" + _made_with(found)


def fuzz() -> str:
    if not (RESULTS / "fuzz_npc.json").exists():
        return NOTHING
    found: dict[str, Any] = read_json(RESULTS / "fuzz_npc.json")
    outcomes = found["outcomes"]
    kinds = sorted({key.split(": ")[0] for key in outcomes})
    rows = [[kind, *(outcomes.get(f"{kind}: {end}", 0) for end in ("refused", "same"))] for kind in kinds]
    closing = (
        f"{found['files']:,} files, {len(found['failures'])} with any other outcome; the slowest took "
        f"{found['slowest_cpu_s']:.2f} s of CPU time, memory peaked at {found['peak_memory_mb']} MB (before: "
        f"{found['memory_before_mb']} MB) with a limit of {found['limit_bytes'] >> 20} MiB; neuroprune at "
        f"{found['versions']['commit']}."
    )
    return table(("changed", "refused with a message", "the same content"), rows) + "\n\n" + closing


def _made_with(found: Sequence[Record]) -> str:
    cpus = ", ".join(sorted({record["cpu"] for record in found}))
    commits = ", ".join(sorted({str(record["versions"]["commit"]) for record in found}))
    releases = sorted({r["nncodec"]["version"] for r in found if r.get("nncodec")})
    peer = f"nncodec {', '.join(releases)}; " if releases else ""
    return f"CPU time of one thread ({cpus}), which other work shared; {peer}neuroprune at {commits}."


TABLES = {"size-coders": coders, "size-speed": speed, "size-files": files, "size-fuzz": fuzz}
