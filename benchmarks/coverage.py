"""How many architectures are pruned, exactly, without hints; and what the peer makes of the same ones.

    python benchmarks/coverage.py --zoo timm                        # the smallest model of each of timm's modules
    python benchmarks/coverage.py --zoo torchvision --set peer85 --peer torch-pruning
    python benchmarks/coverage.py --zoo timm --set all --trace-only # all of timm, traced, nothing computed
    python benchmarks/coverage.py --zoo timm --race                 # CPU seconds to a plan, ours and the peer's
    python benchmarks/coverage.py --zoo timm --sizes                # make the table of the smallest models again
    python benchmarks/coverage.py --summary                         # docs/coverage.md from all committed results

Every measurement is a process of its own with a time and a memory limit. One line per model and ratio goes to
benchmarks/results/coverage/ZOO.jsonl (ZOO.peer.jsonl, ZOO.trace.jsonl, ZOO.race.jsonl) as soon as it is known; a
sweep that is started again goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from measuring.children import STOP, Report, Stopped, run_child
from measuring.records import RESULTS, Records, commit, to_do, versions
from zoos import ZOOS, zoo

from neuroprune.base.errors import NeuropruneError
from neuroprune.base.files import write_json

MODES = ("prune", "peer", "trace", "race")
PEERS = ("torch-pruning",)
FOLDER = RESULTS / "coverage"


def records_of(zoo_name: str, mode: str) -> Records:
    return Records(FOLDER / (f"{zoo_name}.jsonl" if mode == "prune" else f"{zoo_name}.{mode}.jsonl"))


def modes(options: argparse.Namespace) -> list[str]:
    if options.trace_only or options.race:
        return [mode for mode, on in (("trace", options.trace_only), ("race", options.race)) if on]
    return ["prune", *(["peer"] if options.peer else [])] if not options.peer_only else ["peer"]


def sweep(options: argparse.Namespace) -> None:
    """Measure what is not yet measured, smallest decision first: one mode after the other, model by model."""
    there = zoo(options.zoo)
    names = options.models or there.names(options.set or there.SETS[0])
    for mode in modes(options):
        records = records_of(options.zoo, mode)
        ratios: list[float | None] = [None] if mode == "trace" else options.ratio
        packages = (there.PACKAGE, *(PEERS if mode in ("peer", "race") else ()))
        keys = to_do([(n, r) for n in names for r in ratios], records.by_key(), options.again, commit())
        print(f"{options.zoo} {mode}: {len(keys)} to measure, {len(names) * len(ratios) - len(keys)} done before")
        facts = versions(*packages)
        _in_parallel(lambda key, m=mode, r=records, f=facts: _one(options, m, key, r, f), keys, options.workers)


def _in_parallel(work: Any, keys: Sequence[Any], workers: int) -> None:
    with ThreadPoolExecutor(workers) as pool:
        waiting = [pool.submit(work, key) for key in keys]
        try:
            for future in waiting:
                future.result()
        except BaseException:
            STOP.set()
            pool.shutdown(wait=True, cancel_futures=True)
            raise


def _one(
    options: argparse.Namespace, mode: str, key: tuple[str, float | None], records: Records, facts: dict[str, Any]
) -> None:
    name, ratio = key
    words = [__file__, "--zoo", options.zoo, "--one", mode, "--models", name]
    if ratio is not None:
        words += ["--ratio", str(ratio)]
    limit = options.peer_limit_s if mode == "peer" else options.limit_s
    record = run_child(words, limit, options.limit_gb * 1e3)
    record = {**record, "model": name, "ratio": ratio, "versions": facts}
    record.pop("stage", None)
    records.put(record)
    shown = f"{record['seconds']:.0f} s  {record.get('problem', '')}"
    print(f"{name:45} {ratio if ratio is not None else '':4} {record['status']:10} {shown}"[:200], flush=True)


def child(options: argparse.Namespace) -> None:
    """``--one``: measure one model here, and tell ``--out`` at every stage."""
    torch.set_num_threads(1)
    from measuring import ours, peer, race

    measures = {
        "prune": ours.measure_prune,
        "trace": ours.measure_trace,
        "peer": peer.measure_peer,
        "race": race.measure_race,
    }
    ratio = None if options.one == "trace" else options.ratio[0]
    measures[options.one](zoo(options.zoo), options.models[0], ratio, Report(options.out))


def sizes(options: argparse.Namespace) -> None:
    """``--sizes``: the table of the smallest timm models."""
    from zoos.timm_zoo import SMALLEST, smallest

    rows = smallest()
    command = "python benchmarks/coverage.py --zoo timm --sizes"
    write_json(SMALLEST, {"command": command, "versions": versions("timm"), "models": rows})
    print(f"{len(rows)} modules, {sum(row['members'] for row in rows)} models")


def parsed(words: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--zoo", choices=ZOOS)
    chosen = parser.add_mutually_exclusive_group()
    chosen.add_argument("--models", type=lambda text: text.split(","), help="names, separated by commas")
    chosen.add_argument("--set", help="a set of the zoo; its first by default: see benchmarks/zoos")
    parser.add_argument("--ratio", type=float, nargs="+", default=[0.5])
    parser.add_argument("--peer", choices=PEERS, help="measure the peer on the same models as well")
    parser.add_argument("--peer-only", action="store_true")
    parser.add_argument("--trace-only", action="store_true", help="what can be removed, on fake tensors")
    parser.add_argument("--race", action="store_true", help="CPU seconds to a plan, ours and the peer's")
    parser.add_argument("--limit-s", type=float, default=300)
    parser.add_argument("--peer-limit-s", type=float, default=150)
    parser.add_argument("--limit-gb", type=float, default=16, help="memory of one process")
    parser.add_argument("--workers", type=int, default=1, help="processes at the same time")
    parser.add_argument(
        "--again", type=lambda text: text.split(","), nargs="?", const=["all"], default=[],
        help="measure again: all (default), stale (another commit), or statuses such as timeout,error",
    )  # fmt: skip
    parser.add_argument("--sizes", action="store_true")
    parser.add_argument("--summary", action="store_true", help="write docs/coverage.md and leave")
    parser.add_argument("--one", choices=MODES, help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(words)
    if not (options.zoo or options.summary):
        parser.error("say which --zoo, or --summary")
    return options


def main() -> None:
    options = parsed()
    try:
        if options.summary:
            import tables

            tables.write()
        elif options.one:
            child(options)
        elif options.sizes:
            sizes(options)
        else:
            sweep(options)
    except (KeyboardInterrupt, Stopped):
        sys.exit("stopped; what was measured is kept, the same command goes on")
    except NeuropruneError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
