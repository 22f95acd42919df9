"""What masks in force cost a training step: CPU time beside the same step without them, interleaved.

    python benchmarks/mask_overhead.py [--steps 200]

Random weights and inputs of the networks' sizes, half of the weights off, one thread, medians. Results go to
benchmarks/results/mask_overhead.json.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from measuring.cifar import CifarResNet
from measuring.records import RESULTS, versions
from torch import Tensor, nn

from neuroprune.base.files import write_json
from neuroprune.devices.facts import machine_facts
from neuroprune.pruning.masks import Masks
from neuroprune.tasks.nets import lenet5, lenet_300_100

OUT = RESULTS / "mask_overhead.json"


NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "LeNet-300-100": (lenet_300_100, (1, 28, 28)),
    "LeNet-5": (lenet5, (1, 28, 28)),
    "ResNet-20": (lambda: CifarResNet(20), (3, 32, 32)),
}
OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "SGD": lambda p: torch.optim.SGD(p, lr=0.01, momentum=0.9),
    "AdamW": lambda p: torch.optim.AdamW(p, lr=0.001),
}
BATCH = 64


def stepper(model: nn.Module, optimizer: torch.optim.Optimizer, x: Tensor, y: Tensor) -> Callable[[], float]:
    """One training step; CPU seconds."""

    def step() -> float:
        began = time.process_time()
        optimizer.zero_grad(set_to_none=True)
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
        return time.process_time() - began

    return step


def compared(network: str, optimizer: str, steps: int) -> dict[str, Any]:
    make, shape = NETWORKS[network]
    torch.manual_seed(0)
    dense, x, y = make().train(), torch.randn(BATCH, *shape), torch.randint(10, (BATCH,))
    held = copy.deepcopy(dense)
    masks = Masks.for_weights(held)
    masks.switch_weights({name: p.detach().abs() for name, p in held.named_parameters()}, 0.5)
    theirs = OPTIMIZERS[optimizer](held.parameters())
    masks.hold(theirs)
    plain = stepper(dense, OPTIMIZERS[optimizer](dense.parameters()), x, y)
    masked = stepper(held, theirs, x, y)
    for _ in range(10):  # warm up
        plain(), masked()
    pairs = [(plain(), masked()) for _ in range(steps)]
    without, with_masks = (statistics.median(each) for each in zip(*pairs, strict=True))
    return {"network": network, "optimizer": optimizer, "sparsity": masks.sparsity(), "batch": BATCH,
            "dense_ms": 1e3 * without, "masked_ms": 1e3 * with_masks,
            "overhead": with_masks / without - 1}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=200)
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for network in NETWORKS:
        for optimizer in OPTIMIZERS:
            rows.append(compared(network, optimizer, options.steps))
            print({key: round(v, 4) if isinstance(v, float) else v for key, v in rows[-1].items()}, flush=True)
            write_json(OUT, {"rows": rows, "versions": versions(), "machine": machine_facts()})


if __name__ == "__main__":
    main()
