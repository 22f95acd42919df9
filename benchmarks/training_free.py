"""Pruned networks without training: accuracy and agreement of every method and every rung of ours.

    python benchmarks/training_free.py                     # what is not yet measured
    python benchmarks/training_free.py --models resnet20 --ratios 2.1 --methods closed-form --subsets 0
    python benchmarks/tables.py                            # docs/training_free.md from the records

Data and weights: ../shared/data (see README.md there). Calibration on training images without labels, nothing is
chosen on test images; accuracy on the lossless test images, agreement (the dense network's own prediction) on
those and on the 10,000 JPEG test images. ``ratio``: dense MACs over pruned MACs. One process, one thread for each
(model, ratio, subset): its rungs are one chain, each looked at when it is done, and CPU seconds count from the
chain's start without the looking. One line of JSON per method in benchmarks/results/training_free.jsonl.
"""

from __future__ import annotations

import argparse
import copy
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from measuring import cifar
from measuring.children import Report, add_sweep_options, peak_mb, run_child, sweep_or_one
from measuring.free_summary import CONTROLS, FILE, KEY, RUNGS
from measuring.records import Record, Records, commit, to_do, versions
from torch import Tensor, nn

from neuroprune.base.nouns import Budget
from neuroprune.budget.to_budget import prune_to_budget
from neuroprune.graph import cost, trace
from neuroprune.pruning import allocate, apply, score
from neuroprune.recover.distill import DistillConfig
from neuroprune.recover.reconstruct import ReconstructConfig
from neuroprune.recover.statistics import reestimate_batch_norm

RATIOS = (1.2, 1.37, 2.1, 3.0, 4.0)
SUBSETS, EXAMPLES, BATCH = 5, 2048, 64
#: of the rungs with gradients; rates and losses were chosen on training images that were not calibrated on.
#: ResNet-56 is to be done in four minutes and in two epochs; ResNet-20 may take longer (its epochs were raised
#: after its first subset had been seen on the test images)
RECONSTRUCT: dict[str, dict[str, Any]] = {
    "resnet20": {"steps": 1000, "lr": 3e-3, "batch": 64}, "resnet56": {"steps": 375, "lr": 3e-3, "batch": 64},
}  # fmt: skip
DISTILL: dict[str, dict[str, Any]] = {
    "resnet20": {"epochs": 6, "lr": 5e-4, "features": 1.0}, "resnet56": {"epochs": 2, "lr": 3e-4, "features": 1.0},
}  # fmt: skip
#: how counts are chosen: measured curves take two minutes more for ResNet-56, and their choice is no better there
CHOICE = {"resnet20": {"allocation": ("stream", "sensitivity")}, "resnet56": {"allocation": "stream"}}


@dataclass(frozen=True)
class Subject:
    """One trained network and its data. ``calibration(subset)``: unlabelled batches; ``more(subset)``: unlabelled
    batches for distillation; ``test()``: inputs and labels; ``blurred()``: inputs for agreement alone, if any."""

    load: Callable[[], nn.Module]
    calibration: Callable[[int], list[Tensor]]
    more: Callable[[int], Sequence[Tensor]]
    test: Callable[[], tuple[Tensor, Tensor]]
    blurred: Callable[[], Tensor] | None = None


def calibration(subset: int) -> list[Tensor]:
    """``EXAMPLES`` training images, half of them mirrored; no labels."""
    generator = torch.Generator().manual_seed(subset)
    images = cifar.lossless()[0]
    chosen = images[torch.randperm(len(images), generator=generator)[:EXAMPLES]]
    mirrored = torch.rand(EXAMPLES, generator=generator) < 0.5
    chosen = torch.where(mirrored.view(-1, 1, 1, 1), chosen.flip(3), chosen)
    return list(chosen.split(BATCH))


def every_training_image(subset: int) -> Sequence[Tensor]:
    """All lossless training images and their mirror images, without labels."""
    return cifar.Mirrored(cifar.lossless()[0], BATCH, subset)


def resnet(depth: int) -> Subject:
    return Subject(
        load=lambda: cifar.resnet(depth), calibration=calibration, more=every_training_image,
        test=lambda: cifar.lossless()[2:], blurred=cifar.jpeg_test,
    )  # fmt: skip


MODELS = {"resnet20": resnet(20), "resnet56": resnet(56)}


def control(model: nn.Module, method: str, ratio: float, batches: list[Tensor], seed: int) -> nn.Module:
    """A uniform share of every group by random, L1, or L1 and batch norm estimated anew, at the same MACs."""
    inputs = batches[0][:2]
    found, dense = trace(model, inputs), cost(model, inputs).macs
    scores = score(model, found, method.split("+")[0], seed=seed)
    low, high = 0.0, 0.98
    for _ in range(12):
        middle = (low + high) / 2
        plan = allocate(model, found, scores, middle)
        small = apply(plan, copy.deepcopy(model))
        low, high = (middle, high) if cost(small, inputs).macs * ratio > dense else (low, middle)
    small = apply(allocate(model, found, scores, high), copy.deepcopy(model))
    if method.endswith("+bn"):
        reestimate_batch_norm(small, batches)
    return small.eval()


class Judge:
    """Compares networks with the dense one; the time that takes is nobody's."""

    def __init__(self, subject: Subject, dense: nn.Module, *, blurred: bool) -> None:
        self.dense, (self.images, self.labels) = dense, subject.test()
        self.blurred = subject.blurred() if subject.blurred and blurred else None
        self.wanted = cifar.predictions(dense, self.images)
        self.wanted_blurred = None if self.blurred is None else cifar.predictions(dense, self.blurred)
        self.start()

    def start(self) -> None:
        self.began, self.wall = time.process_time(), time.perf_counter()

    def of(self, small: nn.Module) -> dict[str, Any]:
        """The figures of ``small``, and the seconds since the start without this."""
        cpu, wall = time.process_time(), time.perf_counter()
        facts = {"cpu_s": cpu - self.began, "wall_s": wall - self.wall, "peak_mb": peak_mb()}
        facts |= self._figures(small)
        self.began += time.process_time() - cpu
        self.wall += time.perf_counter() - wall
        return facts

    def _figures(self, small: nn.Module) -> dict[str, Any]:
        given = cifar.predictions(small, self.images)
        right, dense_right = given == self.labels, self.wanted == self.labels
        facts: dict[str, Any] = {
            "dense_accuracy": _percent(dense_right), "accuracy": _percent(right), "examples": len(right),
            "lost": int((dense_right & ~right).sum()), "won": int((right & ~dense_right).sum()),
            "agreement": _percent(given == self.wanted),
            "macs_ratio": cost(self.dense, self.images[:1]).macs / cost(small, self.images[:1]).macs,
        }  # fmt: skip
        if self.blurred is not None:
            same = cifar.predictions(small, self.blurred) == self.wanted_blurred
            facts |= {"jpeg_agreement": _percent(same), "jpeg_examples": len(same)}
        return facts


def _percent(hits: Tensor) -> float:
    return 100.0 * float(hits.float().mean())


def measured(options: argparse.Namespace) -> Iterator[tuple[str, dict[str, Any]]]:
    """(method, its figures), as they come."""
    subject, ratio, subset = MODELS[options.models[0]], options.ratios[0], options.subsets[0]
    model, batches = subject.load(), subject.calibration(subset)
    judge = Judge(subject, model, blurred=not options.no_jpeg)
    for method in (m for m in CONTROLS if m in options.methods):
        judge.start()
        yield method, judge.of(control(model, method, ratio, batches, subset))
    rungs = [rung for rung in RUNGS if rung in options.methods]
    if "none" in rungs:
        judge.start()
        yield "none", judge.of(prune_to_budget(model, batches, Budget(macs=1 / ratio), recover="none").model)
    if rungs and rungs[-1] != "none":
        rows: list[tuple[str, dict[str, Any]]] = []
        judge.start()
        result = prune_to_budget(
            model, batches, Budget(macs=1 / ratio), recover=rungs[-1], seed=subset, **CHOICE[options.models[0]],
            reconstruction=ReconstructConfig(seed=subset, **RECONSTRUCT[options.models[0]]),
            distillation=DistillConfig(seed=subset, **DISTILL[options.models[0]]), more=subject.more(subset),
            after=lambda rung, network: rows.append((rung, judge.of(network))),
        )  # fmt: skip
        facts = {"exact": result.verification.exact, "stages_s": result.seconds}
        yield from ((rung, row | facts) for rung, row in rows)


def measure(options: argparse.Namespace, report: Report) -> None:
    torch.set_num_threads(1)
    rows: dict[str, dict[str, Any]] = {}
    for method, row in measured(options):
        rows[method] = row
        report.tell(rows=rows, stage=method)
    report.tell(status="done")


def jobs(options: argparse.Namespace, records: Records) -> Iterator[tuple[str, float, int, list[str]]]:
    """(model, ratio, subset, methods to measure) of each process."""
    for subset in options.subsets:
        for model in options.models:
            for ratio in options.ratios:
                keys = [(model, method, ratio, subset) for method in options.methods]
                wanted = to_do(keys, records.by_key(), options.again, commit())
                if wanted:
                    yield model, ratio, subset, [method for _, method, _, _ in wanted]


def split(record: Record, model: str, ratio: float, subset: int, methods: Iterable[str]) -> Iterator[Record]:
    """One record per method that was asked for; what the process did not come to has its status."""
    rows = record.get("rows", {})
    for method in methods:
        one = dict(zip(KEY, (model, method, ratio, subset), strict=True)) | {"versions": versions()}
        if method in rows:
            yield one | {"status": "done"} | rows[method]
        else:
            yield one | {key: record[key] for key in ("status", "problem", "seconds") if key in record}


def sweep(options: argparse.Namespace) -> None:
    records = Records(FILE, KEY)
    for model, ratio, subset, methods in jobs(options, records):
        words = [__file__, "--one", "--models", model, "--ratios", str(ratio), "--subsets", str(subset)]
        words += ["--methods", *methods, *(["--no-jpeg"] if options.no_jpeg else [])]
        for record in split(run_child(words, options.limit_s), model, ratio, subset, methods):
            records.put(record)
            shown = " ".join(f"{k} {record[k]:.2f}" for k in ("accuracy", "agreement", "cpu_s") if k in record)
            print(model, record["method"], ratio, subset, record["status"], shown, record.get("problem", ""),
                  flush=True)  # fmt: skip


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--methods", nargs="+", choices=(*CONTROLS, *RUNGS), default=[*CONTROLS, *RUNGS])
    parser.add_argument("--ratios", nargs="+", type=float, default=list(RATIOS))
    parser.add_argument("--subsets", nargs="+", type=int, default=list(range(SUBSETS)))
    parser.add_argument("--no-jpeg", action="store_true", help="no agreement on the JPEG test images")
    add_sweep_options(parser, limit_s=7200)
    return parser.parse_args()


def main() -> None:
    sweep_or_one(parsed(), sweep, measure, cifar.DATA)


if __name__ == "__main__":
    main()
