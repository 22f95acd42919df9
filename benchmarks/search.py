"""Per-layer ratios by search (cell F1): every strategy at equal evaluations on ResNet-20, 2.1x fewer MACs.

    python benchmarks/search.py                            # what is not yet measured
    python benchmarks/search.py --strategies tpe random --seeds 0
    python benchmarks/tables.py                            # docs/search.md from the records

Data and weights: ../shared/data. Per seed one set of 2,048 training images to calibrate on, without labels, as in
training_free.py; a point is worth its agreement with the dense network on `JUDGED` other training images, after
least squares on the dense network's inputs and batch norm estimated anew on `NORMED` of the calibration images.
No strategy was tuned: each runs with the constants that its file has. The best point of each run is then recovered
by the whole closed form and looked at once on the test images; so are what is proposed in one shot and, cut
without a refit, a uniform share by L1. One process, one thread; CPU seconds. Finished evaluations are kept in
--folder, so that a run goes on where it was. One line of JSON per (strategy, seed) in results/search.jsonl.
"""

from __future__ import annotations

import argparse
import functools
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from measuring import cifar
from measuring.records import ROOT, Record, Records, to_do, versions
from measuring.search_tables import FILE, KEY
from torch import Tensor, nn
from training_free import EXAMPLES, calibration, control

import neuroprune.search.strategies  # noqa: F401  # fills the registry
from neuroprune.base.modes import copy_of
from neuroprune.base.nouns import Budget
from neuroprune.budget.calibration import example_of
from neuroprune.budget.judge import Judge
from neuroprune.budget.kinds import Setting
from neuroprune.graph import cost
from neuroprune.pruning.surgery import apply
from neuroprune.recover.layout import channels_innermost
from neuroprune.recover.refit import ROWS_PER_COLUMN
from neuroprune.search._base import STRATEGIES
from neuroprune.search.evaluate import Evaluator, Result
from neuroprune.search.run import Found, search
from neuroprune.search.space import Point
from neuroprune.search.subject import Options, Subject
from neuroprune.tasks.task import default_forward

RATIO, EVALUATIONS, SEEDS = 2.1, 200, 3
BUDGET = Budget(macs=1 / RATIO)
#: training images that points are judged on, and those that winners are compared on; none is calibrated on
JUDGED, COMPARED = 512, 4096
#: calibration images for batch norm
NORMED = 256
#: what is looked at without a search: number of the point that each strategy proposes first
ONE_SHOT = {"one-shot dp": ("dp", 0), "one-shot stream": ("dp", 1), "one-shot uniform": ("uniform", 0)}
L1 = "uniform l1, batch norm"


@functools.cache
def others(seed: int) -> Tensor:
    """Training images that ``calibration(seed)`` does not have."""
    images = cifar.lossless()[0]
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))
    return images[order[EXAMPLES:]]


class Case:
    """The network, the data and the space of one seed."""

    def __init__(self, seed: int) -> None:
        self.seed, self.batches = seed, calibration(seed)
        self.dense = copy_of(cifar.resnet(20)).eval()
        channels_innermost(self.dense, default_forward, self.batches[0])
        example = example_of(self.dense, default_forward, self.batches[0])
        began = time.process_time()
        setting = Setting(self.dense, example, default_forward, self.batches)
        self.subject = Subject(setting, options=Options(fitted=NORMED, seed=seed))
        self.judge = Judge(self.dense, default_forward, others(seed)[:JUDGED].split(128), labels=False)
        self.prepared_s = time.process_time() - began

    def searched(self, strategy: str, evaluations: int, folder: Path) -> tuple[Found, Record]:
        path = folder / f"{strategy}-{self.seed}.jsonl"
        evaluator = Evaluator(self.subject, self.judge, BUDGET, path=path)
        began, before = time.process_time(), len(evaluator.history)
        found = search(STRATEGIES.get(strategy)(self.subject.space, BUDGET, self.seed), evaluator, evaluations)
        spent = time.process_time() - began
        # one result each: a network that was known answers at once
        seconds = [result.seconds for result in {id(result): result for _, result in found.history}.values()]
        return found, {
            "evaluations": len(found.history), "distinct": found.distinct, "prepared_s": self.prepared_s,
            "evaluating_s": sum(seconds), "evaluation_s": sum(seconds) / len(seconds),
            # of the strategy itself, where the run was not interrupted
            "asking_s": spent - sum(seconds) if not before else None, "curve": found.curve(),
        }  # fmt: skip

    def finished(self, point: Point) -> nn.Module:
        """The point's network after the whole closed form."""
        form = self.subject.recovered(point, self.batches, ROWS_PER_COLUMN)
        done = form.run(self.subject.consumed, self.subject.counts(point), self.subject.rankings)
        return apply(self.subject.plan(point, done.kept), done.model).eval()


class Test:
    """Looks at networks once each."""

    def __init__(self, dense: nn.Module) -> None:
        self.dense, (self.images, self.labels) = dense, cifar.lossless()[2:]
        self.wanted, self.blurred = (
            cifar.predictions(dense, self.images),
            cifar.predictions(dense, cifar.jpeg_test()),
        )

    def of(self, small: nn.Module, seed: int) -> Record:
        given = cifar.predictions(small, self.images)
        right, now = self.wanted == self.labels, given == self.labels
        unseen = others(seed)[JUDGED : JUDGED + COMPARED]
        return {
            "accuracy": _percent(now), "dense_accuracy": _percent(right),
            "lost": int((right & ~now).sum()), "won": int((now & ~right).sum()),
            "agreement": _percent(given == self.wanted),
            "jpeg_agreement": _percent(cifar.predictions(small, cifar.jpeg_test()) == self.blurred),
            "train_agreement": _percent(
                cifar.predictions(small, unseen) == cifar.predictions(self.dense, unseen)
            ),
            "macs_ratio": cost(self.dense, self.images[:1]).macs / cost(small, self.images[:1]).macs,
        }  # fmt: skip


def _percent(hits: Tensor) -> float:
    return 100.0 * float(hits.float().mean())


def proposed(case: Case, name: str) -> tuple[Point, Result]:
    """What a strategy asks for first (or second)."""
    strategy, number = ONE_SHOT[name]
    asked = STRATEGIES.get(strategy)(case.subject.space, BUDGET, case.seed)
    points = [asked.ask() for _ in range(number + 1)]
    return points[-1], Evaluator(case.subject, case.judge, BUDGET).evaluate(points[-1])


def measure(case: Case, name: str, test: Test, options: argparse.Namespace) -> Record:
    if name == L1:
        return test.of(control(case.dense, "l1+bn", RATIO, case.batches, case.seed), case.seed)
    facts: Record = {}
    if name in ONE_SHOT:
        point, result = proposed(case, name)
    else:
        found, facts = case.searched(name, options.evaluations, options.folder)
        point, result = found.best
    began = time.process_time()
    small = case.finished(point)
    return {
        **facts, "score": result.score, "point": point.to_json(), "counts": list(case.subject.space.counts(point)),
        "closed_form_s": time.process_time() - began, **test.of(small, case.seed),
    }  # fmt: skip


def sweep(options: argparse.Namespace) -> None:
    records = Records(FILE, KEY)
    torch.set_num_threads(1)
    for seed in options.seeds:
        keys = [(name, seed) for name in options.strategies]
        wanted = to_do(keys, records.by_key(), options.again)
        if not wanted:
            continue
        case = Case(seed)
        test = Test(case.dense)
        for name, _ in wanted:
            record = measure(case, name, test, options)
            records.put(
                {"strategy": name, "seed": seed, "status": "done", "versions": versions("optuna"), **record}
            )
            shown = " ".join(f"{key} {record[key]:.2f}" for key in ("score", "accuracy", "agreement",
                             "jpeg_agreement", "train_agreement", "evaluation_s") if key in record)  # fmt: skip
            print(name, seed, shown, flush=True)


def parsed(words: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    every: list[Any] = [*ONE_SHOT, L1, *STRATEGIES.names()]
    parser.add_argument("--strategies", nargs="+", choices=every, default=every)
    parser.add_argument("--seeds", nargs="+", type=int, default=list(range(SEEDS)))
    parser.add_argument("--evaluations", type=int, default=EVALUATIONS)
    parser.add_argument("--folder", type=Path, default=ROOT / "runs" / "benchmark-search")
    parser.add_argument("--again", nargs="*", default=[], help="stale, or all")
    return parser.parse_args(words)


if __name__ == "__main__":
    sweep(parsed())
