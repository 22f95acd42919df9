"""Closed-form recovery of small networks: what must be exact is, and what is lost is less than without."""

from __future__ import annotations

import copy
import gc
import math
import weakref
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from neuroprune.base.errors import UserError
from neuroprune.base.modes import evaluation
from neuroprune.graph.trace import trace
from neuroprune.pruning.allocate import build_plan
from neuroprune.pruning.plan import GroupDecision
from neuroprune.pruning.surgery import apply
from neuroprune.recover import refit
from neuroprune.recover.refit import ClosedForm, Recovery, consumptions, dense_moments, rank_groups
from neuroprune.recover.replay import Replay
from neuroprune.recover.sites import Site, find_sites


class Block(nn.Module):
    def __init__(self, width: int, *, norm: bool = True) -> None:
        super().__init__()
        self.a, self.b = (nn.Conv2d(width, width, 3, padding=1, bias=not norm) for _ in range(2))
        self.n, self.m = (nn.BatchNorm2d(width) if norm else nn.Identity() for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        return functional.relu(x + self.m(self.b(functional.relu(self.n(self.a(x))))))


def residual(width: int = 8) -> Any:
    return nn.Sequential(
        nn.Conv2d(3, width, 3, padding=1), *(Block(width) for _ in range(3)), nn.AdaptiveAvgPool2d(1),
        nn.Flatten(), nn.Linear(width, 5),
    )  # fmt: skip


def mlp() -> Any:
    return nn.Sequential(nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 10), nn.GELU(), nn.Linear(10, 3))


def conv1d() -> Any:
    return nn.Sequential(
        nn.Conv1d(3, 8, 3, padding=1, bias=False), nn.BatchNorm1d(8), nn.ReLU(), nn.Conv1d(8, 6, 3, stride=2),
        nn.Sigmoid(), nn.Flatten(), nn.Linear(6 * 4, 3),
    )  # fmt: skip


def depthwise() -> Any:
    return nn.Sequential(
        nn.Conv2d(3, 8, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU6(),
        nn.Conv2d(8, 8, 3, padding=1, groups=8, bias=False), nn.BatchNorm2d(8), nn.ReLU6(),
        nn.Conv2d(8, 6, 1, bias=False), nn.BatchNorm2d(6), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 3),
    )  # fmt: skip


def grouped() -> Any:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, groups=2, bias=False), nn.ReLU(),
        nn.Conv2d(8, 4, 1, bias=False), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3),
    )  # fmt: skip


class Attention(nn.Module):
    def __init__(self, heads: int = 4, each: int = 3) -> None:
        super().__init__()
        self.heads, self.each = heads, each
        self.stem, self.norm = nn.Linear(5, 8), nn.LayerNorm(8)
        self.q, self.k, self.v = (nn.Linear(8, heads * each) for _ in range(3))
        self.proj, self.up, self.down = nn.Linear(heads * each, 8), nn.Linear(8, 16), nn.Linear(16, 8)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        n, length, _ = x.shape
        y = self.norm(x)
        q, k, v = (m(y).view(n, length, self.heads, self.each).transpose(1, 2) for m in (self.q, self.k, self.v))
        y = functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(n, length, -1)
        x = x + self.proj(y)
        x = x + self.down(functional.gelu(self.up(x)))
        return self.head(x.mean(1))  # type: ignore[no-any-return]


class Concat(nn.Module):
    """One layer that consumes two groups."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(3, 5, 3, padding=1), nn.Conv2d(3, 6, 1), nn.Conv2d(11, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.c(torch.cat([self.a(x).relu(), self.b(x).relu()], 1))  # type: ignore[no-any-return]


class Stream(nn.Module):
    """One group that two layers consume."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.one, self.two = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 4, 3, padding=1), nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).relu()
        return torch.cat([self.one(x), self.two(x)], 1)


IMAGES: tuple[int, ...] = (3, 6, 6)


def padded() -> nn.Module:
    """No padding with zeros."""
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1, padding_mode="circular"), nn.ReLU(),
        nn.Conv2d(8, 5, 3, padding=1, padding_mode="reflect"), nn.AdaptiveAvgPool2d(2), nn.Flatten(),
        nn.Linear(20, 3),
    )  # fmt: skip


NETS: dict[str, tuple[Any, tuple[int, ...]]] = {
    "residual": (residual, IMAGES), "mlp": (mlp, (6,)), "conv1d": (conv1d, (3, 10)),
    "depthwise": (depthwise, IMAGES), "grouped": (grouped, IMAGES),
    "attention": (Attention, (7, 5)), "concat": (Concat, IMAGES),
    "stream": (Stream, IMAGES), "padded": (padded, IMAGES),
}  # fmt: skip


def forward(net: nn.Module, x: Tensor) -> Any:
    return net(x)


def build(name: str, examples: int = 48, seed: int = 1) -> tuple[Any, list[Tensor]]:
    """A network in evaluation mode whose norms have true statistics, and three batches."""
    torch.manual_seed(seed)
    make, shape = NETS[name]
    net = make()
    x = torch.randn(examples, *shape)
    with torch.no_grad():
        for module in net.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.momentum = None
                nn.init.uniform_(module.weight, 0.5, 1.5)
                nn.init.normal_(module.bias, 0.2, 0.5)
        net(x)
    return net.eval(), list(x.split(max(1, math.ceil(examples / 3))))


def recover(
    net: nn.Module, batches: Sequence[Tensor], share: float | dict[str, int], **options: Any
) -> tuple[Recovery, Any]:
    """The recovery that keeps ``1 - share`` of each group (or so many of those named), and the trace."""
    found = trace(net, batches[0][:2])
    examples = sum(len(b) for b in batches)
    form = ClosedForm(net, forward, batches, examples, **options)
    ours = consumptions(net, found.groups, form.sites)
    moments = dense_moments(Replay(net, forward, batches, remember=False), form.sites, examples, 0)
    rankings = rank_groups(net, ours, form.sites, moments)
    if isinstance(share, dict):
        count = share
    else:
        count = {one.group.name: one.group.size - int(one.group.size * share) for one in ours}
    return form.run(ours, count, rankings), found


def cut(net: nn.Module, recovery: Recovery, found: Any) -> nn.Module:
    decisions = []
    for group in found.groups:
        kept = recovery.kept.get(group.name, tuple(range(group.size)))
        gone = tuple(i for i in range(group.size) if i not in set(kept))
        decisions.append(GroupDecision(group.name, "", kept, gone, (0.0,) * group.size, 0.0, "", ""))
    plan = build_plan(net, found, decisions)
    assert plan.removed or all(len(recovery.kept[g]) == found.group(g).size for g in recovery.kept)
    return apply(plan, copy.deepcopy(recovery.model))


def output(net: nn.Module, batches: Sequence[Tensor]) -> Tensor:
    with evaluation(net):
        return torch.cat([net(b) for b in batches])


def distance(net: nn.Module, other: nn.Module, batches: Sequence[Tensor]) -> float:
    """Squared error over the variance of the first."""
    wanted = output(net, batches)
    return float((output(other, batches) - wanted).square().mean() / wanted.var(0).mean())


def state(net: nn.Module) -> dict[str, Tensor]:
    return {k: v.clone() for k, v in net.state_dict().items()}


def same(one: dict[str, Tensor], two: dict[str, Tensor]) -> bool:
    return one.keys() == two.keys() and all(torch.equal(v, two[k]) for k, v in one.items())


@pytest.mark.parametrize("name", NETS)
def test_with_nothing_removed_nothing_changes(name: str) -> None:
    net, batches = build(name)
    recovery, _ = recover(net, batches, 0.0)
    assert same(state(recovery.model), state(net))
    assert recovery.fitted == []
    assert all(kept == tuple(range(len(kept))) for kept in recovery.kept.values())


@pytest.mark.parametrize("name", NETS)
def test_the_masked_network_is_the_cut_one_and_the_dense_stays(name: str) -> None:
    net, batches = build(name)
    net.train()
    list(net.modules())[-1].eval()
    modes, before = [m.training for m in net.modules()], state(net)
    recovery, found = recover(net, batches, 0.4)
    assert same(state(net), before)
    assert [m.training for m in net.modules()] == modes
    assert not any("forward" in m.__dict__ or m._forward_hooks or m._forward_pre_hooks for m in net.modules())
    assert recovery.kept
    for group, kept in recovery.kept.items():
        size = found.group(group).size
        assert len(kept) == size - int(size * 0.4)
    small = cut(net, recovery, found)
    assert sum(p.numel() for p in small.parameters()) < sum(p.numel() for p in net.parameters())
    torch.testing.assert_close(output(small, batches), output(recovery.model, batches), rtol=1e-4, atol=1e-4)
    assert distance(net, recovery.model, batches) < 1
    again, _ = recover(net, batches, 0.4)
    assert same(state(again.model), state(recovery.model))
    assert again.kept == recovery.kept
    assert all(math.isfinite(f.before) and math.isfinite(f.after) for f in recovery.fitted)


def test_attention_removes_heads() -> None:
    net, batches = build("attention")
    recovery, found = recover(net, batches, {"q": 2})
    assert found.group("q").kind == "head"
    assert len(recovery.kept["q"]) == 2
    assert int((recovery.model.proj.weight.abs().sum(0) == 0).sum()) == 6  # type: ignore[operator, union-attr]


def test_two_groups_of_one_layer_are_both_cut() -> None:
    net, batches = build("concat")
    recovery, _ = recover(net, batches, {"a": 3, "b": 2})
    assert (len(recovery.kept["a"]), len(recovery.kept["b"])) == (3, 2)
    assert int((recovery.model.c.weight.abs().sum((0, 2, 3)) == 0).sum()) == 6  # type: ignore[operator, union-attr]


@pytest.mark.parametrize("name", ["residual", "depthwise", "conv1d", "mlp", "padded"])
def test_duplicates_go_and_the_outputs_stay(name: str) -> None:
    """The first layer's second half repeats the first: half of it is enough."""
    net, batches = build(name)
    layers = [m for m in net.modules() if isinstance(m, (nn.Conv1d, nn.Conv2d, nn.Linear))]
    first = layers[1] if name == "residual" else layers[0]
    norm = {"residual": lambda: net[1].n, "depthwise": lambda: net[1], "conv1d": lambda: net[1]}.get(
        name, lambda: None
    )()
    half = first.weight.shape[0] // 2
    parts = [*first.parameters(), *(norm.state_dict().values() if norm else ())]
    if name == "depthwise":
        parts += [net[3].weight, *net[4].state_dict().values()]
    with torch.no_grad():
        for tensor in parts:
            if tensor.dim():
                tensor[half:] = tensor[:half]
    group = {"residual": "1.a"}.get(name, "0")
    recovery, found = recover(net, batches, {group: half})
    assert len(recovery.kept[group]) == half
    assert {k % half for k in recovery.kept[group]} == set(range(half))
    torch.testing.assert_close(output(recovery.model, batches), output(net, batches), rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(
        output(cut(net, recovery, found), batches), output(net, batches), rtol=1e-3, atol=1e-3
    )


def test_a_linear_combination_is_recovered_exactly() -> None:
    """The last hidden unit is a sum of two others and a constant (no ReLU between)."""
    torch.manual_seed(0)
    net: Any = nn.Sequential(nn.Linear(4, 5), nn.Linear(5, 3))
    with torch.no_grad():
        net[0].weight[:4] = torch.eye(4)
        net[0].weight[4] = net[0].weight[0] - 2 * net[0].weight[1]
        net[0].bias[4] = 7
    batches = [torch.randn(30, 4) for _ in range(2)]
    recovery, _ = recover(net, batches, {"0": 4})
    torch.testing.assert_close(output(recovery.model, batches), output(net, batches), rtol=1e-3, atol=1e-3)
    assert recovery.fitted[-1].after < 1e-6 < recovery.fitted[-1].before


def alone(sites: Sequence[Site]) -> tuple[Site, ...]:
    """Each layer aims at its own dense value only."""
    return tuple(replace(s, summed=False, rectified=s.rectified and not s.summed) for s in sites)


def test_drift_on_the_residual_stream_is_corrected(monkeypatch: pytest.MonkeyPatch) -> None:
    """Against refits of each layer by itself, on average over networks."""
    find = refit.find_sites
    with_sums = without = 0.0
    for seed in range(4):
        net, batches = build("residual", 96, seed)
        count = {"1.a": 4, "2.a": 6, "3.a": 6}
        with_sums += distance(net, recover(net, batches, count)[0].model, batches)
        with monkeypatch.context() as patch:
            patch.setattr(refit, "find_sites", lambda *args: alone(find(*args)))
            without += distance(net, recover(net, batches, count)[0].model, batches)
    assert with_sums < 0.96 * without


def test_memory_changes_nothing() -> None:
    for name in ("residual", "attention", "concat"):
        net, batches = build(name)
        one, _ = recover(net, batches, 0.4)
        two, _ = recover(net, batches, 0.4, remember=False)
        for key, value in one.model.state_dict().items():
            torch.testing.assert_close(value, two.model.state_dict()[key])


@pytest.mark.parametrize("name", NETS)
def test_one_example(name: str) -> None:
    net, batches = build(name)
    recovery, found = recover(net, [batches[0][:1]], 0.4)
    assert all(bool(v.isfinite().all()) for v in recovery.model.state_dict().values())
    small = cut(net, recovery, found)
    assert bool(output(small, batches).isfinite().all())


@pytest.mark.parametrize("value", [0.0, 1.0])
@pytest.mark.parametrize("name", NETS)
def test_inputs_that_never_vary(name: str, value: float) -> None:
    net, batches = build(name)
    constant = [torch.full_like(b, value) for b in batches]
    recovery, _ = recover(net, constant, 0.4)
    assert all(bool(v.isfinite().all()) for v in recovery.model.state_dict().values())
    torch.testing.assert_close(output(recovery.model, constant), output(net, constant), rtol=1e-2, atol=5e-2)


@pytest.mark.parametrize("name", ["residual", "mlp", "attention"])
def test_double_networks(name: str) -> None:
    net, batches = build(name)
    recovery, _ = recover(net.double(), [b.double() for b in batches], 0.4)
    assert all(v.dtype != torch.float32 for v in recovery.model.state_dict().values())
    assert distance(net, recovery.model, [b.double() for b in batches]) < 1


def test_a_dead_filter_with_a_bias_keeps_its_constant() -> None:
    """Its weights are zero because it was trained so; nothing was removed there."""
    net, batches = build("residual")
    with torch.no_grad():
        net[2].a.weight[3] = 0
        net[2].n.running_mean[3], net[2].n.running_var[3], net[2].n.bias[3] = 0, 1, 2
    recovery, _ = recover(net, batches, {"1.a": 5})
    with evaluation(recovery.model):
        hidden = recovery.model[2].n(recovery.model[2].a(torch.randn(4, 8, 6, 6)))  # type: ignore[index]
    torch.testing.assert_close(hidden[:, 3], torch.full_like(hidden[:, 3], 2.0), rtol=0.2, atol=0.2)


def test_what_a_transposed_convolution_reads_as_well_is_not_ours() -> None:
    class Up(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Conv2d(3, 6, 1), nn.ConvTranspose2d(6, 5, 2), nn.Conv2d(6, 4, 1)
            self.d = nn.Conv2d(5, 2, 1)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            x = self.a(x).relu()
            return self.d(self.b(x).relu()), self.c(x)

    net, x = Up(), torch.randn(6, *IMAGES)
    form = ClosedForm(net, forward, [x], 6)
    found = {one.group.name for one in consumptions(net, trace(net, x[:2]).groups, form.sites)}
    assert found == {"b"}  # what the transposed convolution gives, d alone consumes


@pytest.mark.parametrize("where", ["data", "weights"])
def test_what_is_not_finite_names_the_layer_and_leaves_the_model(where: str) -> None:
    net, batches = build("residual")
    found = trace(net, batches[0][:2])
    form = ClosedForm(net, forward, batches, 48)
    ours = consumptions(net, found.groups, form.sites)
    moments = dense_moments(Replay(net, forward, batches, remember=False), form.sites, 48, 0)
    rankings = rank_groups(net, ours, form.sites, moments)
    if where == "data":
        batches[1][2, 0, 3, 3] = float("nan")
    else:
        net[2].a.weight.data[0, 0] = float("inf")
    before = state(net)
    form = ClosedForm(net, forward, batches, 48)
    with pytest.raises(UserError, match="not finite") as caught:
        form.run(ours, {"1.a": 4, "2.a": 4}, rankings)
    assert f"where: {'1.b' if where == 'data' else '2.a'}" in str(caught.value)
    assert all(torch.equal(v.nan_to_num(), before[k].nan_to_num()) for k, v in net.state_dict().items())
    assert not any("forward" in m.__dict__ or m._forward_hooks for m in net.modules())
    bad = dense_moments(Replay(net, forward, batches, remember=False), form.sites, 48, 0)
    with pytest.raises(UserError, match="not finite"):
        rank_groups(net, ours, form.sites, bad)


def test_errors_of_late_layers_count_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of one consumer alone the order stays, and its errors grow by a factor of its place."""
    net = residual().eval()
    batches = list(torch.randn(48, 3, 6, 6).split(16))
    form = ClosedForm(net, forward, batches, 48)
    moments = dense_moments(Replay(net, forward, batches, remember=False), form.sites, 48, 0)
    alone = [
        one for one in consumptions(net, trace(net, batches[0][:2]).groups, form.sites) if len(one.columns) == 1
    ]
    weighted = rank_groups(net, alone, form.sites, moments)
    monkeypatch.setattr(refit, "LATE", 0.0)
    plain = rank_groups(net, alone, form.sites, moments)
    assert [one.first for one in alone] == [2, 4, 6]
    for one in alone:
        a, b = plain[one.group.name], weighted[one.group.name]
        assert a.order.tolist() == b.order.tolist()
        assert b.errors == pytest.approx(a.errors * math.exp(one.first / 8 - 0.5), rel=1e-9)


def test_what_a_run_saw_is_gone_with_the_tap() -> None:
    """Without Python's search for circles, which may come many batches later."""
    net = residual().eval()
    sites = find_sites(net, lambda model: model(torch.ones(2, 3, 6, 6)))
    replay = Replay(net, lambda model, batch: model(batch), [torch.ones(2, 3, 6, 6)], remember=False)
    gc.collect()
    gc.disable()
    try:
        tap = refit.tapped(replay, sites, 0)
        seen = [weakref.ref(value) for value in (*tap.inputs.values(), *tap.outputs.values())]
        assert len(seen) == 2 * len(sites)
        assert all(ref() is not None for ref in seen)
        del tap
        assert all(ref() is None for ref in seen)
    finally:
        gc.enable()
