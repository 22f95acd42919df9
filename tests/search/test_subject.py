"""The network of a point: against masking, against least squares by hand, and its cost against a count."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from neuroprune.base.errors import UserError
from neuroprune.budget.kinds import Setting
from neuroprune.graph.cost import cost
from neuroprune.pruning.surgery import apply
from neuroprune.pruning.verify import verify
from neuroprune.search.kernels import shrinkable, taps, with_kernels
from neuroprune.search.space import Point
from neuroprune.search.subject import Options, Subject
from neuroprune.tasks.task import default_forward


class Block(nn.Module):
    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(width, inner, 3, padding=1, bias=False), nn.BatchNorm2d(inner)
        self.conv2, self.bn2 = nn.Conv2d(inner, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = (x + self.bn2(self.conv2(self.bn1(self.conv1(x)).relu()))).relu()
        return out


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(2, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6)
        self.blocks = nn.Sequential(Block(6, 8), Block(6, 5))
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks(self.norm(self.stem(x)).relu())
        out: Tensor = self.head(x.mean((2, 3)))
        return out


def net() -> nn.Module:
    torch.manual_seed(0)
    made = Net()
    for module in made.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias)
    return made.eval()


def batches() -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(16, 2, 5, 5, generator=generator) for _ in range(3)]


def subject(**options: Any) -> Subject:
    data = batches()
    setting = Setting(net(), (data[0][:2],), default_forward, data)
    return Subject(setting, options=Options(**options))


def test_costs_are_what_is_counted_of_the_cut_network() -> None:
    ours = subject(depth=True, kernels=True)
    generator = np.random.default_rng(0)
    assert set(ours.space.blocks) == {"blocks.0", "blocks.1"}
    points = [ours.space.random(generator) for _ in range(6)]
    points += [Point(ours.space.whole().shares, ("blocks.1",), ("blocks.0.conv1", "stem"))]
    for point in points:
        counted = cost(ours.network(point), batches()[0][:1])
        told = ours.space.cost(point)
        assert told["macs"] == pytest.approx(counted.macs)
        vectors = sum(p.numel() for p in ours.dense.parameters() if p.dim() == 1)
        assert (
            counted.params <= told["params"] <= counted.params + vectors
        )  # biases and norms count as if they stayed


@pytest.mark.parametrize("recover", ["none", "refit", "closed-form"])
def test_plans_with_blocks_and_kernels_are_proven(recover: str) -> None:
    ours = subject(depth=True, kernels=True, recover=recover)
    point = ours.space.round(Point((0.5,) * len(ours.space.widths), ("blocks.1",), ("blocks.0.conv1", "stem")))
    proof = verify(ours.dense, ours.plan(point, ours.kept(point)), ours.setting.example)
    assert proof.exact, proof.problem
    small: Any = ours.network(point)
    assert small.blocks[0].conv1.kernel_size == (1, 1)
    assert tuple(small.stem.weight.shape[2:]) == (1, 1)
    assert small(batches()[0]).isfinite().all()


def test_a_smaller_kernel_computes_what_the_large_one_does_with_zeros_around_its_centre() -> None:
    dense = net()
    x = torch.randn(2, 2, 5, 5)
    masked: Any = copy.deepcopy(dense)
    with torch.no_grad():
        kept = masked.stem.weight[:, :, 1, 1].clone()
        masked.stem.weight.zero_()
        masked.stem.weight[:, :, 1, 1] = kept
    from neuroprune.pruning.plan import Plan

    small = apply(with_kernels(Plan.identity(dense), dense, ["stem"]), copy.deepcopy(dense))
    torch.testing.assert_close(small(x), masked(x))


def test_only_kernels_whose_centre_meets_every_position_may_shrink() -> None:
    net = nn.Sequential(
        nn.Conv2d(1, 2, 3, padding=1), nn.Conv2d(2, 2, 3), nn.Conv2d(2, 2, 5, padding=4, dilation=2, stride=2),
        nn.Conv2d(2, 2, 1), nn.Conv2d(2, 2, 2, padding=1), nn.Conv2d(2, 2, 3, padding=1, padding_mode="reflect"),
        nn.Conv2d(2, 2, (3, 1), padding=(1, 0)), nn.Conv2d(2, 2, 3, padding="same"),
    )  # fmt: skip
    assert shrinkable(net) == {"0": 1 / 9, "2": 1 / 25, "6": 1 / 3}
    assert taps(net, "6").tolist() == [True, False, True] * 2


def test_a_refit_is_the_least_squares_by_hand() -> None:
    torch.manual_seed(0)
    dense = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)).eval()
    data = [torch.randn(40, 4) for _ in range(2)]
    ours = Subject(Setting(dense, (data[0][:2],), default_forward, data), options=Options())
    point = Point((0.5,))
    small: Any = ours.network(point)
    kept = list(ours.kept(point)["0"])
    x = torch.cat(data)
    with torch.no_grad():
        hidden, wanted = dense[:2](x).double(), dense(x).double()
        known = torch.cat([hidden[:, kept], torch.ones(len(x), 1)], dim=1)
        by_hand = torch.linalg.lstsq(known, wanted).solution.T
    torch.testing.assert_close(small[0].weight, dense[0].weight[kept])
    torch.testing.assert_close(small[2].weight.double(), by_hand[:, :-1], atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(small[2].bias.double(), by_hand[:, -1], atol=1e-4, rtol=1e-3)


def test_a_refit_comes_nearer_to_the_dense_network_than_a_cut() -> None:
    x = torch.cat(batches())
    wanted, errors = net()(x).detach(), {}
    for recover in ("none", "batch-norm", "refit", "closed-form"):
        ours = subject(recover=recover)
        point = ours.space.round(Point((0.6,) * len(ours.space.widths)))
        errors[recover] = float((ours.network(point)(x).detach() - wanted).square().sum())
    assert errors["closed-form"] < errors["refit"] < errors["none"]
    assert errors["batch-norm"] < errors["none"]


def test_the_dense_network_is_never_written_to_and_networks_repeat() -> None:
    ours = subject(depth=True, kernels=True)
    before = {name: tensor.clone() for name, tensor in ours.dense.state_dict().items()}
    point = Point((0.5,) * len(ours.space.widths), (), ("blocks.0.conv2",))
    x = batches()[0]
    first, second = ours.network(point)(x), ours.network(point)(x)
    assert torch.equal(first, second)
    assert all(torch.equal(before[name], tensor) for name, tensor in ours.dense.state_dict().items())


def test_the_whole_point_is_the_dense_network() -> None:
    ours = subject(recover="refit")
    x = batches()[0]
    plain = subject(recover="none")
    torch.testing.assert_close(plain.network(plain.space.whole())(x), net()(x))
    assert ours.space.cost(ours.space.whole())["macs"] == cost(net(), x[:1]).macs


def test_what_is_kept_is_no_part_of_the_space() -> None:
    ours = subject(keep=("blocks.0.*",), kernels=True)
    assert all(not width.name.startswith("blocks.0") for width in ours.space.widths)
    with pytest.raises(UserError, match="matches nothing"):
        subject(keep=("blcks.*",))


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"recover": "refitt"}, "did you mean 'refit'"),
        ({"round_to": 0}, "at least 1"),
        ({"minimum": 0}, "at least 1"),
        ({"fitted": 0}, "at least 1"),
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, Any], says: str) -> None:
    with pytest.raises(UserError, match=says):
        Options(**options)
