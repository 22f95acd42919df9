"""Static int8, mixed precision, stored precisions and quantisation-aware training beside fp32.

    python benchmarks/quantize.py                          # what is not yet measured
    python benchmarks/quantize.py --networks ds-cnn --again all
    python benchmarks/tables.py                            # docs/quantize.md from the records

Networks: the pretrained ResNet-20 and ResNet-56 (CIFAR-10, tested on the 1,017 lossless test images) and MLPerf
Tiny's DS-CNN (tested on the 700 keyword samples that do not calibrate). 256 examples without labels calibrate (for
CIFAR training images); what `auto` and mixed precision choose, they choose on these. ``qat`` trains ResNet-20 for
one epoch on 4,096 of the lossless training images, with the fp32 network as its teacher; ``control`` is the same
training without integers. The last epoch counts. Agreement: the share of test examples with fp32's prediction.
Latency: ONNX Runtime, one thread, batch 1, CPU time, the fp32 file interleaved. One line of JSON each in
benchmarks/results/quantize.jsonl.
"""

from __future__ import annotations

import argparse
import copy
import functools
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from measuring import cifar, mlperf
from measuring.finetuning import augmented
from measuring.quantize_tables import FEW, FILE, KEY, NETWORKS, QAT, WAYS
from measuring.records import Record, Records, commit, to_do, versions
from torch import Tensor, nn

from neuroprune.compression.cluster import cluster_weights
from neuroprune.compression.distinct import is_clustered
from neuroprune.compression.mixed import mixed_precision
from neuroprune.compression.precisions import store
from neuroprune.compression.quantize import quantize_onnx
from neuroprune.compression.runtime import kernels_of
from neuroprune.devices import DEVICES
from neuroprune.devices.facts import machine_facts
from neuroprune.export import EXPORTS
from neuroprune.recover.fit import Distill, FitConfig, fit
from neuroprune.recover.qat import Quantization, SharedValues, quantized
from neuroprune.tasks.batches import TensorBatches
from neuroprune.tasks.task import Task

EXAMPLES, TRAINING, SECONDS = 256, 4096, 2.0
CONFIG = FitConfig(epochs=1, lr=0.005, weight_decay=1e-4, distill=Distill(4.0, 0.9))


@dataclass(frozen=True)
class Subject:
    model: nn.Module
    calibration: Tensor
    test: Tensor
    labels: Tensor


def resnet(depth: int) -> Subject:
    train, _, test, labels = cifar.lossless()
    return Subject(cifar.resnet(depth), train[:EXAMPLES], test, labels)


def keywords() -> Subject:
    data = mlperf.keyword_data(0)
    return Subject(mlperf.keyword_net(), data.calibration[:EXAMPLES], data.test, data.labels)


SUBJECTS: dict[str, Callable[[], Subject]] = {
    "resnet20": functools.partial(resnet, 20),
    "resnet56": functools.partial(resnet, 56),
    "ds-cnn": keywords,
}


def predictions(path: Path, images: Tensor) -> np.ndarray:
    session = EXPORTS.get("onnx").load(path)
    return np.concatenate([session.run([part.numpy()])[0].argmax(1) for part in images.split(64)])


def write(model: nn.Module, subject: Subject, path: Path) -> None:
    EXPORTS.get("onnx").write(model.eval(), (subject.test[:1],), path, keep_names=True)


def make(way: str, subject: Subject, source: Path, target: Path) -> dict[str, Any]:
    """Write ``target`` in one of `WAYS`; figures of its own."""
    data = [(subject.calibration.numpy(),)]
    kind, options = WAYS[way]
    if kind == "stored":
        return store(source, target, **options).to_json()
    if kind == "mixed":
        found = mixed_precision(source, target, data, auto=True, **options)
        kinds = [layer.precision for layer in found.layers]
        worst = [[layer.layer, layer.int8] for layer in found.layers[:5]]
        return {"precisions": {k: kinds.count(k) for k in kinds}, "missed": found.missed, "worst": worst,
                "settings": found.report.settings.words}  # fmt: skip
    report = quantize_onnx(source, target, data, **options)
    tried = [[t.settings.words, t.error] for t in report.tried]
    return {"settings": report.settings.words, "tried": tried, "floating": report.floating}


@functools.cache
def train(
    bits: int | None, clusters: int | None
) -> tuple[nn.Module, tuple[str, ...], dict[str, tuple[float, float]]]:
    """ResNet-20 after `CONFIG`, the names of its clustered weights, and the ranges that it learned."""
    images, labels = (data[:TRAINING] for data in cifar.lossless()[:2])
    few = TensorBatches((images[:256], labels[:256]), 256, shuffle=False, seed=0)
    batches = TensorBatches((images, labels), 64, shuffle=True, seed=0, augment=augmented)
    task = Task("images", batches, few, few, (images[:2],))
    dense = cifar.resnet(20)
    model, names = copy.deepcopy(dense), ()
    if clusters is not None:
        cluster_weights(model, k=clusters)
        weights = {name: p.detach().numpy() for name, p in model.named_parameters() if p.dim() > 1}
        names = tuple(name for name, weight in weights.items() if is_clustered(weight))
    if bits is None:
        fit(model, task, CONFIG, teacher=dense)
        return model, names, {}
    with quantized(model, Quantization(bits, clustered=names), hooks=[SharedValues(model, names)]) as hook:
        fit(model, task, CONFIG, teacher=dense, hook=hook)
    return model, names, hook.learned()


def make_trained(way: str, subject: Subject, target: Path) -> dict[str, Any]:
    options = QAT[way]
    model, names, learned = train(options["bits"], options.get("clusters"))
    path = target.with_name("trained.onnx")
    write(model, subject, path)
    report = quantize_onnx(
        path,
        target,
        [(subject.calibration.numpy(),)],
        weight_bits=options["weight_bits"],
        originals=[p.detach().numpy() for name, p in model.named_parameters() if name in names],
        learned=learned if options.get("learned") else None,
    )
    return {"settings": report.settings.words, "clusters": len(report.clusters)}


@functools.cache
def fp32_file(network: str) -> tuple[Subject, bytes]:
    subject = SUBJECTS[network]()
    with tempfile.TemporaryDirectory() as folder:
        write(subject.model, subject, Path(folder) / "m.onnx")
        return subject, (Path(folder) / "m.onnx").read_bytes()


def measure(network: str, way: str, folder: Path) -> Record:
    subject, fp32_bytes = fp32_file(network)
    source, target = folder / "fp32.onnx", folder / "target.onnx"
    source.write_bytes(fp32_bytes)
    began = time.process_time()
    if way == "fp32":
        target, facts = source, {}
    else:
        facts = make_trained(way, subject, target) if way in QAT else make(way, subject, source, target)
    seconds = time.process_time() - began
    fp32, mine = predictions(source, subject.test), predictions(target, subject.test)
    right = subject.labels.numpy()
    times = DEVICES.get("local").measure(
        {"fp32": source, "this": target}, (subject.test[:1].numpy(),), seconds=SECONDS
    )
    return {
        "network": network,
        "way": way,
        "accuracy": 100 * float((mine == right).mean()),
        "fp32_accuracy": 100 * float((fp32 == right).mean()),
        "agreement": 100 * float((mine == fp32).mean()),
        "bytes": target.stat().st_size,
        "fp32_bytes": source.stat().st_size,
        "latency_ms": times["this"].cpu_p50_ms,
        "fp32_latency_ms": times["fp32"].cpu_p50_ms,
        "cpu_seconds": seconds,
        "kernels": kernels_of(target).to_json(),
        "facts": facts,
        "machine": machine_facts()["cpu"],
        "date": time.strftime("%Y-%m-%d"),
        "versions": versions("onnxruntime", "onnx"),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=NETWORKS)
    parser.add_argument("--ways", nargs="+", choices=["fp32", *WAYS, *QAT], default=["fp32", *WAYS, *QAT])
    parser.add_argument("--again", nargs="+", default=[], help="stale or all")
    words = parser.parse_args()
    torch.set_num_threads(1)
    records = Records(FILE, KEY)
    wanted = [(n, w) for n in words.networks for w in words.ways if w in FEW or (n != "resnet56" and w not in QAT)]
    wanted += [("resnet20", w) for w in words.ways if w in QAT and "resnet20" in words.networks]
    for network, way in to_do(wanted, records.by_key(), words.again, commit()):
        with tempfile.TemporaryDirectory() as folder:
            found = measure(network, way, Path(folder))
        records.put(found)
        print(f"{network} {way}: {found['accuracy']:.2f} %, agreement {found['agreement']:.2f} %, "
              f"{found['bytes']:,} bytes, {found['cpu_seconds']:.0f} s", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
