"""Random networks by the thousand: cut exactly, or refused with a reason, and never an exception of ours.

    python benchmarks/fuzz.py [--count 20000] [--seed 0] [--workers 2]

The networks are those of `neuroprune.testing.networks`, from random genes. They are drawn in chunks, each a
process of its own, whose outcomes are in benchmarks/results/fuzz.json as soon as the chunk ends: the same command
goes on where it was stopped, and each chunk names the commit that it ran on (``--again`` forgets them all).
The genes of every failure are written there, to be put into a test as they are.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from measuring.checks import run, said
from measuring.children import STOP, Report, Stopped, run_child
from measuring.records import RESULTS, Record, versions, without_paths

import neuroprune
from neuroprune.base.files import read_json, write_json
from neuroprune.testing import assert_exact
from neuroprune.testing.networks import RandomNetwork

OUT = RESULTS / "fuzz.json"
CHUNK = 100
RATIOS = (0.25, 0.3, 0.5, 0.75)
#: outcomes that must not be; ``refused`` networks (a group that only the oracle stopped) are allowed, but few
FAILURES = ("wrong", "exception", "crashed")
#: refused networks whose genes are kept, to look at
KEEP_REFUSED = 200


def drawn(seed: int, number: int) -> tuple[list[int], float, int]:
    """Genes, ratio and weight seed of network ``number``: the same for ever, in whatever chunk it is drawn."""
    generator = np.random.default_rng([seed, number])
    length = int(generator.integers(5, 41))
    genes = generator.integers(0, 1 << 16, length).tolist()
    return genes, float(generator.choice(RATIOS)), int(generator.integers(0, 1 << 16))


def outcome(genes: Sequence[int], ratio: float, seed: int) -> tuple[str, str]:
    """``exact``, ``statistics``, ``whole`` (nothing could go), ``refused``, ``wrong`` or ``exception``, and why.

    A network that cannot be built or does not run is the drawing's mistake: ``invalid``.
    """
    try:
        model = RandomNetwork(genes, seed=seed).eval()
        inputs = example(model)
        run(model, inputs)
    except Exception as error:
        return "invalid", said(error)
    try:
        result = neuroprune.prune(model, inputs, ratio=ratio, criterion="random", seed=seed)
        statistics = bool(getattr(result.verification, "statistics", False))
        if not statistics:
            assert_exact(model, result.model, result.plan, inputs)
    except AssertionError as error:
        return "wrong", said(error)
    except Exception as error:
        return "exception", said(error)
    if statistics and not result.verification.exact:
        return "wrong", f"returned without proof: {result.verification.problem}"
    stopped = next((r for r in result.refused if r.operator == "verify"), None)
    if stopped:
        return "refused", f"{stopped.parameter}: {stopped.reason}"
    if not result.plan.removed:
        return "whole", ""
    return ("statistics" if statistics else "exact"), ""


def example(model: Any) -> Any:
    """What the network takes: it says so itself, or it takes small images."""
    own = getattr(model, "example_inputs", None)
    if own is not None:
        return own() if callable(own) else own
    return torch.randn(2, 3, 5, 5, generator=torch.Generator().manual_seed(0))


def child(options: argparse.Namespace) -> None:
    """``--numbers FIRST LAST``: the networks of one chunk; what is known so far is told after each."""
    torch.set_num_threads(1)
    report, counts, kept = Report(options.out), Counter(), []
    for number in range(*options.numbers):
        genes, ratio, seed = drawn(options.seed, number)
        report.tell(stage=f"network {number}", number=number)
        status, problem = outcome(genes, ratio, seed)
        counts[status] += 1
        if status in (*FAILURES, "refused", "invalid"):
            kept.append(noted(number, status, problem, options.seed))
        report.tell(counts=dict(counts), kept=kept)
    report.tell(status="done")


def noted(number: int, status: str, problem: str, seed: int) -> Record:
    """A network to look at: `RandomNetwork([int(g) for g in genes.split()], seed=weights)`, cut at ``ratio``."""
    genes, ratio, weights = drawn(seed, number)
    problem = without_paths(problem)
    return {"number": number, "status": status, "problem": problem, "genes": " ".join(map(str, genes)),
            "ratio": ratio, "weights": weights}  # fmt: skip


def chunk(options: argparse.Namespace, first: int) -> Record:
    """One chunk in a process of its own; a network that ends or stops its process is counted, and passed over."""
    last = first + CHUNK
    total: Counter[str] = Counter()
    kept: list[Record] = []
    began, at = time.perf_counter(), first
    while at < last:
        words = [__file__, "--seed", str(options.seed), "--numbers", str(at), str(last)]
        record = run_child(words, options.limit_s, 8e3)
        total.update(record.get("counts", {}))
        kept += record.get("kept", [])
        if record["status"] == "done":
            break
        if "number" not in record:
            raise SystemExit(f"the networks {at} to {last} cannot be drawn: {record['problem']}")
        number = int(record["number"])
        slow = record["status"] == "timeout" and number > at  # the chunk was, this network need not be
        if not slow:
            total["crashed"] += 1
            kept.append(noted(number, "crashed", record["problem"], options.seed))
        at = number if slow else number + 1
    return {"counts": dict(total), "kept": kept, "seconds": round(time.perf_counter() - began, 1)}


def gathered(chunks: Mapping[str, Record], facts: Mapping[str, Any], seed: int) -> Record:
    """The document: outcomes over all chunks, every failure, and what each chunk counted (to go on from)."""
    counts: Counter[str] = Counter()
    commits: Counter[str] = Counter()
    for record in chunks.values():
        counts.update(record["counts"])
        commits[record["commit"]] += sum(record["counts"].values())
    return {
        "seed": seed,
        "chunk": CHUNK,
        "versions": dict(facts),
        "networks": sum(counts.values()),
        "networks_by_commit": dict(commits),
        "counts": dict(counts),
        "refused_share": counts["refused"] / max(1, sum(counts.values()) - counts["invalid"]),
        "failed": sum(counts[status] for status in FAILURES),
        "seconds": round(sum(record["seconds"] for record in chunks.values()), 1),
        "chunks": dict(chunks),
    }


def trimmed(chunks: Mapping[str, Record], record: Record) -> Record:
    """``record`` without the genes of refused networks once enough of them are kept."""
    room = KEEP_REFUSED - sum(k["status"] in ("refused", "invalid") for c in chunks.values() for k in c["kept"])
    kept = []
    for item in record["kept"]:
        if item["status"] in FAILURES or room > 0:
            kept.append(item)
            room -= item["status"] not in FAILURES
    return {**record, "kept": kept}


def fuzz(options: argparse.Namespace) -> None:
    facts = versions()
    before = read_json(OUT) if OUT.exists() and not options.again else {}
    same = before.get("seed") == options.seed and before.get("chunk") == CHUNK
    chunks: dict[str, Record] = before["chunks"] if same else {}
    firsts = [n for n in range(0, options.count, CHUNK) if str(n) not in chunks]
    print(f"{len(firsts)} chunks of {CHUNK} to run, {len(chunks)} done before")
    with ThreadPoolExecutor(options.workers) as pool:
        waiting = {first: pool.submit(chunk, options, first) for first in firsts}
        try:
            for first, future in waiting.items():
                chunks[str(first)] = {**trimmed(chunks, future.result()), "commit": facts["commit"]}
                document = gathered(chunks, facts, options.seed)
                write_json(OUT, document)
                print(f"{document['networks']:6} networks  {document['counts']}", flush=True)
        except BaseException:
            STOP.set()
            pool.shutdown(wait=True, cancel_futures=True)
            raise


def parsed(words: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--limit-s", type=float, default=900, help="time of one chunk")
    parser.add_argument("--again", action="store_true", help="forget what was measured")
    parser.add_argument("--numbers", type=int, nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args(words)


def main() -> None:
    options = parsed()
    if options.numbers:
        child(options)
        return
    try:
        fuzz(options)
    except (KeyboardInterrupt, Stopped):
        sys.exit("stopped; the chunks that ended are kept, the same command goes on")


if __name__ == "__main__":
    main()
