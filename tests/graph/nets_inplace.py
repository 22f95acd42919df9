"""Writing into tensors: in place, through views, into buffers. A write through a view changes what it views."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from graph.nets_case import IMAGE, SEQUENCE, Case
from torch import Tensor, nn


class Collected(nn.Module):
    """A recurrence by hand that writes its steps into a tensor made beforehand."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden = 8
        self.enter, self.keep = nn.Linear(4, self.hidden), nn.Linear(self.hidden, self.hidden)
        self.out = nn.Linear(self.hidden, 2)

    def forward(self, x: Tensor) -> Tensor:
        b, n, _ = x.shape
        steps, state = x.new_zeros(b, n, self.hidden), x.new_zeros(b, self.hidden)
        for t in range(n):
            state = torch.tanh(self.enter(x[:, t]) + self.keep(state))
            steps[:, t] = state
        return self.out(steps)


class InPlace(nn.Module):
    """Every in-place operator on a residual stream; ``x`` and ``y`` are one tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.out = nn.Conv2d(3, 8, 1), nn.Conv2d(3, 8, 1), nn.Conv2d(8, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        x, y = self.a(x), self.b(x)
        x += y
        y = x
        y.mul_(x.mean((2, 3), keepdim=True).sigmoid_()).sub_(0.5)
        F.leaky_relu(y, 0.1, inplace=True)
        return self.out(x)


class SpaceWritten(nn.Module):
    """Rows and columns of the image are overwritten; the channels have nothing to do with it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.out = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        y = torch.zeros_like(x)
        y[..., 1:, :] = x[..., :-1, :]
        y[:, :, 0] = 0.25
        y[..., ::2] *= 2
        y[0] = y[0] + 1
        return self.out(y)


class Meeting(nn.Module):
    """One branch is written over the other's left half: they are the same channels from then on."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 1), nn.Conv2d(3, 8, 1)
        self.left, self.out = nn.Conv2d(8, 2, 1), nn.Conv2d(8, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        x, y = self.a(x), self.b(x)
        left = y[..., :3].clone()
        x[..., :3] = left
        return self.out(x) + self.left(y)


class MovingMean(nn.Module):
    """Keeps a moving mean per channel and a counter, also in evaluation: state that a trace must leave alone."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.out = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 2, 1)
        self.register_buffer("mean", torch.rand(8))
        self.register_buffer("seen", torch.tensor(0))

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        self.seen += 1
        self.mean.mul_(0.9).add_(x.detach().mean((0, 2, 3)), alpha=0.1)
        return self.out(x - self.mean.view(1, -1, 1, 1))


class Replaced(nn.Module):
    """Assigns a new tensor to its buffer at every call."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.out = nn.Linear(4, 8), nn.Linear(8, 2)
        self.register_buffer("last", torch.zeros(8))

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        self.last = x.detach().mean((0, 1))
        return self.out(x * self.last)


class Shifted(nn.Module):
    """Temporal shift: an eighth of the channels from the step before, an eighth from the one after."""

    def __init__(self) -> None:
        super().__init__()
        self.share = 4
        self.conv, self.out = nn.Conv1d(4, 8, 1), nn.Conv1d(8, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x.transpose(1, 2))
        fold, y = x.shape[1] // self.share, torch.zeros_like(x)
        y[:, :fold, :-1] = x[:, :fold, 1:]
        y[:, fold : 2 * fold, 1:] = x[:, fold : 2 * fold, :-1]
        y[:, 2 * fold :] = x[:, 2 * fold :]
        return self.out(y)


class Written(nn.Module):
    """A concatenation written by hand into a tensor made beforehand."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.b, self.out = nn.Conv2d(3, 5, 1), nn.Conv2d(3, 3, 1), nn.Conv2d(8, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.conv(x), self.b(x)
        y = x.new_empty(x.shape[0], a.shape[1] + b.shape[1], *x.shape[2:])
        y[:, : a.shape[1]] = a
        y[:, a.shape[1] :].copy_(b)
        return self.out(y)


class HalfChanged(nn.Module):
    """Half of the channels is changed through a view of it."""

    def __init__(self, change: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.conv, self.out, self.change = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 2, 1), change

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        self.change(x)
        return self.out(x)


def flattened(x: Tensor) -> None:
    """[N, 8, H, W] as [N, 2, 4 * H * W]: a view over half of the channels at once."""
    x.view(x.shape[0], 2, -1)[:, 0].relu_()


SAME = {"conv.weight.0": 8, "out.weight.1": 8}

INPLACE = {
    "collected_steps": Case(
        Collected, SEQUENCE,
        {"enter.weight.0": 8, "keep.weight.0": 8, "keep.weight.1": 8, "out.weight.1": 8},
    ),
    "in_place": Case(InPlace, IMAGE, {"a.weight.0": 8, "b.weight.0": 8, "out.weight.1": 8}),
    "space_written": Case(SpaceWritten, IMAGE, SAME),
    "written_over": Case(
        Meeting, IMAGE, {"a.weight.0": 8, "b.weight.0": 8, "left.weight.1": 8, "out.weight.1": 8}),
    "moving_mean": Case(MovingMean, IMAGE, SAME | {"mean.0": 8}),
    "replaced_buffer": Case(Replaced, SEQUENCE, {"embed.weight.0": 8, "out.weight.1": 8}),
}  # fmt: skip

#: as in nets_hostile.OPEN: an exact cut and a refusal are both right
OPEN_INPLACE: dict[str, tuple[Callable[[], nn.Module], Callable[[], Any]]] = {
    "temporal_shift": (Shifted, SEQUENCE),
    "written_concatenation": (Written, IMAGE),
    "half_changed_by_narrow": (lambda: HalfChanged(lambda x: x.narrow(1, 0, x.shape[1] // 2).relu_()), IMAGE),
    "half_changed_by_slice": (lambda: HalfChanged(lambda x: x[:, 4:].mul_(2)), IMAGE),
    "half_changed_by_view": (lambda: HalfChanged(flattened), IMAGE),
    "half_zeroed": (lambda: HalfChanged(lambda x: x[:, : x.shape[1] // 2].zero_()), IMAGE),
    "one_channel_written": (lambda: HalfChanged(lambda x: x[:, 3].fill_(1.0)), IMAGE),
    "strided_channels_written": (lambda: HalfChanged(lambda x: x[:, ::2].neg_()), IMAGE),
    "channels_swapped": (lambda: HalfChanged(lambda x: x[:, :2].copy_(x[:, 2:4].clone())), IMAGE),
    "transposed_view": (lambda: HalfChanged(lambda x: x.transpose(1, 3)[..., :3].add_(1)), IMAGE),
}  # fmt: skip
