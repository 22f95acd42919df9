"""From Python: a regression network through ``compress`` with its own loss and metric.

python examples/own_loop.py [folder]
"""

from __future__ import annotations

import sys

import torch
from torch import Tensor, nn

import neuroprune


def noisy_peaks(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Points in the plane [count, 2] and the height of a bumpy surface there [count, 1]."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(count, 2, generator=generator) * 4 - 2
    return x, (x[:, :1] * x[:, 1:]).sin() + 0.02 * torch.randn(count, 1, generator=generator)


def main(out: str | None = None) -> neuroprune.CompressResult:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(2, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 1))
    train, val = noisy_peaks(2000, 0), noisy_peaks(500, 1)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(300):
        optimizer.zero_grad()
        nn.functional.mse_loss(model(train[0]), train[1]).backward()
        optimizer.step()

    def score(network: nn.Module) -> float:
        """Minus the root mean squared error, so that higher is better."""
        with torch.no_grad():
            return -float((network(val[0]) - val[1]).square().mean().sqrt())

    result = neuroprune.compress(
        model,
        train=train,
        val=val,
        budget=neuroprune.Budget(params=0.4),
        max_drop=0.05,  # the error may grow by 0.05
        loss=lambda batch, output: nn.functional.mse_loss(output, batch[1]),
        evaluate=score,
        out=out,
    )
    print(result.text)
    print(result.report())
    return result


if __name__ == "__main__":
    main(*sys.argv[1:2])
