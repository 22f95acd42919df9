"""Sites of small networks, written out; and what a tap reads of them is what the operators compute."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from neuroprune.base.modes import evaluation
from neuroprune.pruning.design import inputs_of
from neuroprune.recover.refit import tapped
from neuroprune.recover.replay import Enough, Replay
from neuroprune.recover.sites import Site, Tap, find_sites, fixed_in


def conv(inside: int = 4, outside: int = 4) -> Any:
    return nn.Conv2d(inside, outside, 3, padding=1, bias=False)


class Net(nn.Module):
    """Its layers, and a forward given as a function."""

    def __init__(self, forward: Callable[..., Any], **modules: Any) -> None:
        super().__init__()
        for name, module in modules.items():
            if isinstance(module, nn.Parameter):
                self.register_parameter(name, module)
            else:
                self.add_module(name, module)
        self.do = forward

    def forward(self, x: Tensor) -> Any:
        return self.do(self, x)


class Scaled(nn.Module):
    """Layer scale as in ConvNeXt: channels last, a factor, back."""

    def __init__(self) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(4, 4, 3, padding=1, groups=4)
        self.norm = nn.LayerNorm(4)
        self.up, self.down = nn.Linear(4, 8), nn.Linear(8, 4)
        self.gamma = nn.Parameter(torch.rand(4) + 0.1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.depthwise(x).permute(0, 2, 3, 1))
        y = self.gamma * self.down(functional.gelu(self.up(y)))
        return x + y.permute(0, 3, 1, 2)


class Transformer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.LayerNorm(6), nn.LayerNorm(6)
        self.qkv, self.proj = nn.Linear(6, 18), nn.Linear(6, 6)
        self.up, self.down = nn.Linear(6, 12), nn.Linear(12, 6)

    def forward(self, x: Tensor) -> Tensor:
        n, length, _ = x.shape
        q, k, v = self.qkv(self.one(x)).reshape(n, length, 3, 2, 3).permute(2, 0, 3, 1, 4)
        y = functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(n, length, 6)
        x = x + self.proj(y)
        return x + self.down(functional.gelu(self.up(self.two(x))))


class NormAndRelu(nn.BatchNorm2d):
    """One module that norms and then does more, as timm has it."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).relu()


def norm(width: int = 4) -> Any:
    bn = nn.BatchNorm2d(width)
    nn.init.uniform_(bn.weight, 0.5, 1.5)
    nn.init.normal_(bn.bias)
    return bn


def linear_norm(m: Any, x: Tensor) -> Tensor:
    return m.n(m.a(x.flatten(2)))  # type: ignore[no-any-return]  # [N, 4, 16]: the norm's channels are not the layer's


def last(m: Any, x: Tensor) -> Tensor:
    return m.a(x) + m.a(x * 2)  # type: ignore[no-any-return]


def blocks(count: int) -> dict[str, Any]:
    """a, n1, b, n2 and so on."""
    return {name: make() for n in range(count) for name, make in (("ab"[n], conv), (f"n{n + 1}", norm))}


R = functional.relu
S = Site
NETS: dict[str, tuple[Callable[[], nn.Module], list[Site]]] = {
    "residual": (
        lambda: Net(lambda m, x: R(x + m.n2(m.b(R(m.n1(m.a(x)))))), **blocks(2)),
        [S("a", "n1", rectified=True), S("b", "n2", summed=True, rectified=True)],
    ),
    "in place": (
        lambda: Net(
            lambda m, x: R(m.n2(m.b(R(m.n1(m.a(x)), True))).add_(x), True), **blocks(2)
        ),
        [S("a", "n1", rectified=True), S("b", "n2", summed=True, rectified=True)],
    ),
    "added in place to the other": (
        lambda: Net(lambda m, x: R((x * 2).add_(m.n(m.a(x)))), a=conv(), n=norm()),
        [S("a", "n", summed=True, rectified=True)],
    ),
    "two terms": (
        lambda: Net(lambda m, x: R(m.n1(m.a(x)) + m.n2(m.b(x))), **blocks(2)),
        [S("a", "n1", summed=True, rectified=True), S("b", "n2", summed=True, rectified=True)],
    ),
    "sum read twice": (
        lambda: Net(lambda m, x: (lambda y: R(y) + y)(x + m.a(x)), a=conv()),
        [S("a", summed=True)],
    ),
    "value read twice": (lambda: Net(lambda m, x: (lambda y: R(y) * y)(m.a(x)), a=conv()), [S("a")]),
    "norm read beside": (lambda: Net(lambda m, x: (lambda y: m.n(y) * y)(m.a(x)), a=conv(), n=norm()), [S("a")]),
    "norm and concat": (
        lambda: Net(lambda m, x: (lambda y: torch.cat([m.n(y), y], 1))(m.a(x)), a=conv(), n=norm()),
        [S("a")],
    ),
    "relu and concat": (
        lambda: Net(lambda m, x: (lambda y: torch.cat([R(y), x, y], 1))(m.a(x)), a=conv()),
        [S("a")],
    ),
    "concat alone": (
        lambda: Net(lambda m, x: R(m.n(torch.cat([m.a(x), x], 1))), a=conv(), n=norm(8)),
        [S("a")],
    ),
    "given as well": (lambda: Net(lambda m, x: (lambda y: (m.n(y), y))(m.a(x)), a=conv(), n=norm()), [S("a")]),
    "sum given as well": (
        lambda: Net(lambda m, x: (lambda y: {"y": R(y), "features": [y]})(x + m.a(x)), a=conv()),
        [S("a", summed=True)],
    ),
    "no norm": (
        lambda: Net(lambda m, x: R(x + m.b(R(m.a(x)))), a=conv(), b=conv()),
        [S("a", rectified=True), S("b", summed=True, rectified=True)],
    ),
    "pre-activation": (  # the last norm reads the sum: it is nobody's
        lambda: Net(
            lambda m, x: m.n3(x + m.b(R(m.n2(m.a(R(m.n1(x))))))), **blocks(2), n3=norm()
        ),
        [S("a", "n2", rectified=True), S("b", summed=True)],
    ),
    "subtracted and broadcast": (
        lambda: Net(lambda m, x: (x - m.a(x)) + (x + m.b(x).mean((2, 3), keepdim=True)), a=conv(), b=conv()),
        [S("a"), S("b")],
    ),
    "with alpha": (lambda: Net(lambda m, x: torch.add(x, m.a(x), alpha=2), a=conv()), [S("a")]),
    "to itself": (lambda: Net(lambda m, x: (lambda y: y + y)(m.a(x)), a=conv()), [S("a")]),
    "relu6": (lambda: Net(lambda m, x: functional.relu6(m.a(x)), a=conv()), [S("a", rectified=True)]),
    "hardtanh": (lambda: Net(lambda m, x: functional.hardtanh(m.a(x)), a=conv()), [S("a")]),
    "called twice": (lambda: Net(last, a=conv()), []),
    "one norm for two": (
        lambda: Net(lambda m, x: m.n(m.a(x)) + m.n(m.b(x)), a=conv(), b=conv(), n=norm()),
        [S("a"), S("b")],
    ),
    "weight read elsewhere": (
        lambda: Net(lambda m, x: m.a(functional.conv2d(x, m.a.weight, padding=1)), a=conv()),
        [],
    ),
    "norm that does more": (
        lambda: Net(lambda m, x: m.b(m.n(m.a(x))), a=conv(), n=NormAndRelu(4), b=conv()),
        [S("a", "n", rectified=True), S("b")],
    ),
    "scale of either sign": (
        lambda: Net(
            lambda m, x: R(x + m.g * m.a(x)), a=conv(), g=nn.Parameter(torch.linspace(-1, 1, 4).view(4, 1, 1))
        ),
        [S("a", summed=True)],
    ),
    "scale of zero": (
        lambda: Net(lambda m, x: x + m.g * m.a(x), a=conv(), g=nn.Parameter(torch.zeros(4, 1, 1))),
        [S("a")],
    ),
    "ConvNeXt": (
        lambda: Net(lambda m, x: m.block(x), block=Scaled()),
        [S("block.depthwise"), S("block.up"), S("block.down", summed=True)],
    ),
    "transformer": (
        lambda: Net(lambda m, x: m.block(m.stem(x.flatten(2))), stem=nn.Linear(16, 6), block=Transformer()),
        [S("stem"), S("block.qkv"), S("block.proj", summed=True), S("block.up"), S("block.down", summed=True)],
    ),
    "windows": (  # the sum is taken in another layout, with another first dimension
        lambda: Net(lambda m, x: x.reshape(-1, 4) + m.a(x.reshape(-1, 16, 4)).view(-1, 4), a=nn.Linear(4, 4)),
        [S("a", summed=True)],
    ),
    "linear, then a norm of other channels": (
        lambda: Net(linear_norm, a=nn.Linear(16, 4), n=nn.BatchNorm1d(4)),
        [S("a")],
    ),
    "linear and its norm": (
        lambda: Net(lambda m, x: R(m.n(m.a(x.flatten(1)))), a=nn.Linear(64, 3), n=nn.BatchNorm1d(3)),
        [S("a", "n", rectified=True)],
    ),
    "one example without its dimension": (
        lambda: Net(lambda m, x: m.a(x[0])[None] + m.b(x), a=conv(), b=conv()),
        [S("b")],
    ),
    "never run, transposed; padded by reflection": (
        lambda: Net(
            lambda m, x: m.c(m.b(x)),
            a=conv(),
            b=nn.ConvTranspose2d(4, 4, 1),
            c=nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect"),
        ),
        [S("c")],
    ),
    "by keyword": (lambda: Net(lambda m, x: x + m.a(input=x), a=conv()), [S("a", summed=True)]),
}  # fmt: skip

X = torch.randn(3, 4, 4, 4, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", NETS)
def test_sites(name: str) -> None:
    make, expected = NETS[name]
    assert list(find_sites(make(), lambda net: net(X))) == expected


def tied() -> nn.Module:
    net = Net(lambda m, x: m.b(R(m.a(x))), a=conv(), b=conv())
    net.b.weight = net.a.weight  # type: ignore[union-attr]
    return net


def twice() -> nn.Module:
    shared = conv()
    return Net(lambda m, x: m.b(R(m.a(x))), a=shared, b=shared)


@pytest.mark.parametrize("make", [tied, twice])
def test_shared_layers_are_no_sites(make: Callable[[], nn.Module]) -> None:
    assert find_sites(make(), lambda net: net(X)) == ()


def test_modes_hooks_and_state_stay() -> None:
    net = NETS["in place"][0]().train()
    net.n1.eval()  # type: ignore[union-attr]
    before = {k: v.clone() for k, v in net.state_dict().items()}
    find_sites(net, lambda net: net(X))
    assert [m.training for m in net.modules()] == [True, True, False, True, True]
    assert all(torch.equal(before[k], v) for k, v in net.state_dict().items())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in net.modules())
    with pytest.raises(ZeroDivisionError):
        find_sites(net, lambda net: 1 / 0)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in net.modules())


def read(net: nn.Module, sites: list[Site], *, early: bool) -> Tap:
    tap = Tap(dict(net.named_modules()), sites, fixed_in(net))

    def told() -> None:
        if early and not tap.missing():
            raise Enough

    tap.told = told
    with evaluation(net), tap.hooked():
        try:
            net(X)
        except Enough:
            assert early
    return tap


@pytest.mark.parametrize("together", [False, True])
@pytest.mark.parametrize("name", [n for n, (_, sites) in NETS.items() if sites])
def test_a_tap_reads_what_the_operators_compute(name: str, together: bool) -> None:
    make, sites = NETS[name]
    net = make()
    taps = [read(net, sites, early=False)] if together else [read(net, [s], early=True) for s in sites]
    for tap in taps:
        for site in tap.sites.values():
            layer: Any = net.get_submodule(site.layer)
            bn: Any = net.get_submodule(site.norm) if site.norm else nn.Identity()
            with evaluation(net):
                value = layer(tap.inputs[site.layer])
                value = nn.BatchNorm2d.forward(bn, value) if isinstance(bn, nn.BatchNorm2d) else bn(value)
            torch.testing.assert_close(tap.outputs[site.layer], value)
            assert (site.layer in tap.sums) == site.summed
            assert inputs_of(layer, tap.inputs[site.layer], None).shape[1]
            if site.summed:
                other, total = tap.sums[site.layer]
                torch.testing.assert_close(other + value, total, rtol=1e-4, atol=1e-5)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in net.modules())


@pytest.mark.parametrize("name", ["residual", "in place", "no norm", "two terms", "relu6", "norm that does more"])
def test_how_negative_a_rectified_value_is_makes_no_difference(name: str) -> None:
    """The slow truth of ``rectified``: push what is negative before the ReLU further down."""
    make, sites = NETS[name]
    net = make().eval()
    site = [s for s in sites if s.rectified][-1]
    tap = read(net, [site], early=False)
    other = tap.sums[site.layer][0] if site.summed else torch.zeros(())
    push = ((tap.outputs[site.layer] + other) <= 0).float() * 7
    layer: Any = net.get_submodule(site.layer)
    if site.norm:  # undo the norm's factor
        bn: Any = net.get_submodule(site.norm)
        push = push * ((bn.running_var + bn.eps).sqrt() / bn.weight).detach().view(1, -1, 1, 1)
    with torch.no_grad():
        wanted = net(X)
        handle = layer.register_forward_hook(lambda _m, _a, out: out - push)
        torch.testing.assert_close(net(X), wanted, rtol=1e-4, atol=1e-5)
        handle.remove()


def test_a_tap_that_forgets_holds_what_it_read_alone() -> None:
    """The same values before and after; the network's other values are let go of at once, without a collector."""
    net, x = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 2)), torch.randn(5, 3)
    replay = Replay(net.eval(), lambda model, batch: model(batch), [x])
    sites = find_sites(net, lambda model: model(x))
    gc.disable()
    try:
        tap = tapped(replay, sites, 0)
        assert not tap.values
        assert not tap.kept
        assert set(tap.inputs) == set(tap.outputs) == {"0", "3"}
        torch.testing.assert_close(tap.outputs["3"], net(x))
        gone = weakref.ref(tap)
        del tap
        assert gone() is None
    finally:
        gc.enable()
