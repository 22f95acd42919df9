"""k-means of all weights of a network: ours, scikit-learn's and the kmeans1d package.

    python benchmarks/cluster.py [--weights vgg16 resnet56] [--k 16 256] [--methods ours ...] [--again timeout]

``vgg16``: 14.7 million numbers in the shapes of VGG-16 for CIFAR-10 (13 convolutions, a linear layer 512 -> 10).
They are not trained: each layer is drawn from Student's t distribution with 5 degrees of freedom, whose tails are
heavy as trained weights' are, times the layer's own scale (He et al. 2015: the root of 2 over its fan-in).
``resnet56``: the 0.85 million trained weights of ../shared/data. All numbers of a network are one set of float32
values, and every method gives centroids and the cluster of every value. One process and one thread per figure;
memory is the most that the process held meanwhile less what it held before (Linux). The sum of squares is computed
here, in float64, from the centroids that a method gives and each value's nearest one. A method that takes longer
than ``--limit-s`` is stopped, and what it had taken until then is recorded. kmeans1d is measured where it is
installed (``pip install kmeans1d``).

One record per figure in benchmarks/results/cluster.jsonl; the same command goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import datetime
import importlib.util
import itertools
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from measuring.children import Report, run_child, sweep_or_one
from measuring.cifar import DATA
from measuring.records import RESULTS, Records, to_do, versions

from neuroprune.compression.kmeans import SortedValues, nearest
from neuroprune.devices.facts import machine_facts

OUT = RESULTS / "cluster.jsonl"
KEY = ("weights", "k", "method")
CHANNELS = (3, 64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512)


def vgg16() -> np.ndarray:
    rng = np.random.default_rng(0)
    shapes = [(out, into, 3, 3) for into, out in itertools.pairwise(CHANNELS)] + [(10, 512)]
    return np.concatenate([_layer(rng, shape) for shape in shapes])


def _layer(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    freedom, count = 5, int(np.prod(shape))
    unit = rng.standard_t(freedom, count) / np.sqrt(freedom / (freedom - 2))
    return (unit * np.sqrt(2 * shape[0] / count)).astype(np.float32)


def resnet56() -> np.ndarray:
    from safetensors.numpy import load_file

    tensors = load_file(DATA / "models" / "cifar10_resnet56.safetensors")
    return np.concatenate([t.astype(np.float32).ravel() for t in tensors.values() if t.ndim >= 2])


WEIGHTS: dict[str, Callable[[], np.ndarray]] = {"vgg16": vgg16, "resnet56": resnet56}


def ours(values: np.ndarray, k: int) -> np.ndarray:
    centroids = SortedValues(values).centroids(k)
    nearest(values, centroids)
    return centroids


def full(values: np.ndarray, k: int) -> np.ndarray:
    """As users call it; ``n_init="auto"`` is 1 with k-means++ too."""
    from sklearn.cluster import KMeans

    return np.asarray(KMeans(k, n_init=1, random_state=0).fit(values[:, None]).cluster_centers_)


def mini_batch(values: np.ndarray, k: int) -> np.ndarray:
    from sklearn.cluster import MiniBatchKMeans

    return np.asarray(MiniBatchKMeans(k, n_init=1, random_state=0).fit(values[:, None]).cluster_centers_)


def optimal(values: np.ndarray, k: int) -> np.ndarray:
    import kmeans1d

    return np.array(kmeans1d.cluster(values, k).centroids)


METHODS: dict[str, Callable[[np.ndarray, int], np.ndarray]] = {
    "ours": ours, "KMeans": full, "MiniBatchKMeans": mini_batch, "kmeans1d": optimal,
}  # fmt: skip


def one(options: argparse.Namespace, report: Report) -> None:
    weights, k, method = options.one[0], int(options.one[1]), options.one[2]
    values = WEIGHTS[weights]()
    METHODS[method](np.linspace(0, 1, 100, dtype=np.float32), 3)  # imports and first calls are not counted
    before, began, wall = fresh_peak(), time.process_time(), time.perf_counter()
    report.tell(stage="clustering", values=len(values), cpu_s=0.0, wall_s=0.0)
    done = threading.Event()

    def tell() -> None:
        while not done.wait(2.0):
            report.tell(
                more_mb=round(held_mb("VmHWM") - before, 1),
                cpu_s=time.process_time() - began,
                wall_s=time.perf_counter() - wall,
            )

    watch = threading.Thread(target=tell)
    watch.start()
    centroids = METHODS[method](values, k)
    cpu, wall = time.process_time() - began, time.perf_counter() - wall
    done.set()
    watch.join()
    report.tell(stage="judging", cpu_s=cpu, wall_s=wall, more_mb=round(held_mb("VmHWM") - before, 1))
    report.tell(status="done", inertia=inertia(values, centroids), centroids=centroids.size)


def fresh_peak() -> float:
    """What this process holds now, in MB, and from now on the peak counts anew (Linux)."""
    Path("/proc/self/clear_refs").write_text("5")
    return held_mb("VmRSS")


def held_mb(key: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 / 1e6 for line in lines if line.startswith(f"{key}:"))


def inertia(values: np.ndarray, centroids: np.ndarray) -> float:
    """The sum of squares about each value's nearest centroid, in float64."""
    own = np.sort(centroids.astype(np.float64).ravel())
    parts = np.array_split(values, max(1, len(values) >> 20))
    return sum(float(np.square(part - own[nearest(part, own)]).sum()) for part in parts)


def sweep(options: argparse.Namespace) -> None:
    records, state = Records(OUT, KEY), versions("numpy", "scikit-learn", "kmeans1d")
    keys = [(w, k, m) for w in options.weights for k in options.k for m in options.methods]
    for weights, k, method in to_do(keys, records.by_key(), options.again, state["commit"]):
        if method == "kmeans1d" and importlib.util.find_spec("kmeans1d") is None:
            print("kmeans1d is not installed: left out (pip install kmeans1d)")
            continue
        words = [__file__, "--one", weights, str(k), method]
        record = run_child(words, options.limit_s, options.limit_mb)
        record |= {"weights": weights, "k": k, "method": method, "limit_s": options.limit_s, "threads": 1}
        record |= {"limit_mb": options.limit_mb, "versions": state, "cpu": machine_facts()["cpu"]}
        records.put(record | {"date": datetime.date.today().isoformat()})
        shown = ("status", "cpu_s", "wall_s", "more_mb", "inertia", "problem")
        print(weights, k, method, {key: record[key] for key in shown if key in record}, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", nargs="+", choices=WEIGHTS, default=list(WEIGHTS))
    parser.add_argument("--k", nargs="+", type=int, default=[16, 256])
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--limit-s", type=float, default=1800)
    parser.add_argument("--limit-mb", type=float, default=6000)
    parser.add_argument("--again", nargs="*", default=[], help="timeout, error, stale or all: measured once more")
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, help=argparse.SUPPRESS)
    sweep_or_one(parser.parse_args(), sweep, one)


if __name__ == "__main__":
    main()
