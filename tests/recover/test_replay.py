"""Finished modules answer from memory, and the network gives what it gives without."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from neuroprune.base.modes import evaluation
from neuroprune.recover import shelf
from neuroprune.recover.replay import Enough, Replay


class UNet(nn.Module):
    """Skips from early to late."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(2, 3, 3, 2, 1), nn.Conv2d(3, 4, 3, 2, 1), nn.Conv2d(4, 4, 1)
        self.up, self.d, self.e = nn.Upsample(scale_factor=2), nn.Conv2d(7, 3, 1), nn.Conv2d(5, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        a = self.a(x)
        y = self.up(self.c(self.b(a).relu()))
        y = self.up(self.d(torch.cat([y, a], 1)))
        return self.e(torch.cat([y, x], 1))  # type: ignore[no-any-return]


class Dense(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Conv2d(2 + 2 * n, 2, 1) for n in range(4))

    def forward(self, x: Tensor) -> Tensor:
        parts = [x]
        for layer in self.layers:
            parts.append(layer(torch.cat(parts, 1)).relu_())
        return torch.cat(parts, 1)


class Branch(nn.Module):
    """Writes into what it gets: the sum outside reads the rectified input."""

    def __init__(self) -> None:
        super().__init__()
        self.act, self.conv = nn.ReLU(inplace=True), nn.Conv2d(2, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(self.act(x))  # type: ignore[no-any-return]


class InPlace(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.one, self.two = nn.Conv2d(2, 2, 1), Branch(), Branch()

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = x + self.one(x)
        x += self.two(x)
        return x.mul_(2)


class Pair(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(2, 2, 1), nn.Conv2d(2, 3, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        a = self.a(x)
        return a, self.b(a)


class Tuples(nn.Module):
    """Modules that give tuples, and outputs that nobody but the caller reads."""

    def __init__(self) -> None:
        super().__init__()
        self.pair, self.last, self.aside = Pair(), nn.Conv2d(5, 2, 1), nn.Conv2d(2, 1, 1)

    def forward(self, x: Tensor) -> dict[str, Any]:
        a, b = self.pair(x)
        return {"y": self.last(torch.cat([a, b], 1)), "more": [self.aside(a)], "same": b}


class Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.inner = (
            nn.Conv2d(2, 2, 1),
            nn.Sequential(nn.Conv2d(2, 2, 1), nn.Identity(), nn.Conv2d(2, 2, 1)),
        )
        self.bn = nn.BatchNorm2d(2)

    def forward(self, x: Tensor, *, gate: Tensor | None = None) -> Tensor:
        y = self.inner(self.bn(self.a(self.a(x))))
        return y if gate is None else torch.mul(input=y, other=gate)  # type: ignore[no-any-return]


NETS: dict[str, Any] = {"unet": UNet, "dense": Dense, "in place": InPlace, "tuples": Tuples, "twice": Twice}
BATCHES = [torch.randn(n, 2, 8, 8, generator=torch.Generator().manual_seed(n)) for n in (2, 1, 3)]


def forward(net: nn.Module, x: Tensor) -> Any:
    return net(x)


def layers_of(net: nn.Module, x: Tensor) -> list[str]:
    """In the order in which they run first."""
    order: list[str] = []
    names = {m: n for n, m in net.named_modules() if isinstance(m, nn.Conv2d)}
    handles = [m.register_forward_hook(lambda m, *_: order.append(names[m])) for m in names]
    net(x)
    for handle in handles:
        handle.remove()
    return list(dict.fromkeys(order))


def build(name: str) -> tuple[nn.Module, list[str], list[Any]]:
    torch.manual_seed(0)
    net = NETS[name]()
    layers = layers_of(net, BATCHES[0].clone())
    with evaluation(net):
        return net, layers, [net(x.clone()) for x in BATCHES]


@pytest.mark.parametrize("name", NETS)
def test_every_state_gives_the_plain_outputs(name: str) -> None:
    net, layers, wanted = build(name)
    replay = Replay(net, forward, BATCHES)
    for number in range(len(layers) + 1):
        replay.finish(layers[:number], layers)
        for _ in range(3):
            for index in range(len(BATCHES)):
                torch.testing.assert_close(replay.run(index), wanted[index])
    assert not any("forward" in m.__dict__ for m in net.modules())


@given(st.sampled_from(sorted(NETS)), st.lists(st.tuples(st.integers(0, 6), st.integers(0, 2)), max_size=8))
def test_any_order_of_finishing_and_running(name: str, steps: list[tuple[int, int]]) -> None:
    net, layers, wanted = build(name)
    replay, done = Replay(net, forward, BATCHES), 0
    for number, index in steps:
        done = max(done, min(number, len(layers)))
        replay.finish(layers[:done], layers)
        torch.testing.assert_close(replay.run(index), wanted[index])


@pytest.mark.parametrize("name", NETS)
def test_what_is_not_finished_may_change(name: str) -> None:
    """Layer after layer is changed, then finished, with early ends between, as a refit does."""
    net, layers, _ = build(name)
    replay = Replay(net, forward, BATCHES)
    for number, layer in enumerate(layers):
        handle = net.get_submodule(layer).register_forward_hook(lambda *_: (_ for _ in ()).throw(Enough()))
        assert [replay.run(index) for index in range(3)] == [None] * 3
        handle.remove()
        with torch.no_grad():
            net.get_submodule(layer).weight.mul_(1.5)  # type: ignore[operator, union-attr]
        replay.finish(layers[: number + 1], layers)
        if number % 2:
            for index in range(3):
                with evaluation(net):
                    wanted = net(BATCHES[index].clone())
                torch.testing.assert_close(replay.run(index), wanted)


def test_finished_modules_are_not_run_again() -> None:
    net, layers, _ = build("unet")
    ran: list[str] = []
    for layer in layers:
        module: Any = net.get_submodule(layer)
        plain = module._conv_forward
        module._conv_forward = lambda *a, plain=plain, layer=layer: (ran.append(layer), plain(*a))[1]
    replay = Replay(net, forward, BATCHES[:1])
    replay.finish(layers[:3], layers)
    replay.run(0)
    ran.clear()
    replay.run(0)
    assert ran == layers[3:]


def chain(length: int) -> Any:
    return nn.Sequential(*(nn.Sequential(nn.Conv2d(2, 2, 1), nn.BatchNorm2d(2), nn.ReLU()) for _ in range(length)))


def test_memory_is_the_boundary() -> None:
    """A chain keeps one tensor a batch."""
    net = chain(6)
    layers = layers_of(net, BATCHES[0])
    replay = Replay(net, forward, BATCHES)
    for number in range(1, 7):
        replay.finish(layers[:number], layers)
        for index in range(3):
            replay.run(index)
        assert len(replay._store) == 3


def test_what_the_networks_own_code_reads_is_kept() -> None:
    """A relu and concatenations written into ``forward`` run each time, so what they read stays."""
    unet, names, _ = build("unet")
    replay = Replay(unet, forward, BATCHES[:1])
    counts = []
    for number in range(len(names) + 1):
        replay.finish(names[:number], names)
        replay.run(0)
        counts.append(sorted(name for name, _ in replay._store))
    assert counts == [list("abcde"[:n]) for n in range(6)]


def test_without_memory_everything_runs() -> None:
    net, layers, wanted = build("unet")
    replay = Replay(net, forward, BATCHES, remember=False)
    replay.finish(layers, layers)
    torch.testing.assert_close(replay.run(1), wanted[1])
    assert not replay._store
    assert replay.done == []


def test_a_forward_of_ones_own_is_put_back() -> None:
    net, layers, _ = build("unet")
    own = lambda x: nn.Conv2d.forward(net.a, x) * 2  # type: ignore[arg-type]  # noqa: E731
    net.a.forward = own  # type: ignore[assignment, union-attr]
    with evaluation(net):
        wanted = net(BATCHES[0])
    replay = Replay(net, forward, BATCHES)
    replay.finish(layers[:2], layers)
    for _ in range(3):
        torch.testing.assert_close(replay.run(0), wanted)
        assert net.a.__dict__["forward"] is own  # type: ignore[union-attr]
        assert "forward" not in net.b.__dict__  # type: ignore[union-attr]


class Careful(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(2, 2), nn.Linear(2, 2)
        self.went_on = False

    def forward(self, x: Tensor) -> Tensor:
        try:
            x = self.a(x)
        except Exception:
            x = x * 0
        self.went_on = True
        return self.b(x)  # type: ignore[no-any-return]


def test_enough_ends_a_run_that_catches_exceptions() -> None:
    net = Careful()
    replay = Replay(net, forward, [torch.ones(1, 2)])
    net.went_on = False
    handle = net.a.register_forward_pre_hook(lambda *_: (_ for _ in ()).throw(Enough()))
    assert replay.run(0) is None
    assert not net.went_on
    handle.remove()
    assert replay.run(0) is not None


def test_the_models_own_error_leaves_all_as_it_was() -> None:
    net, layers, _ = build("unet")
    net.train()
    replay = Replay(net, forward, [*BATCHES, torch.zeros(1, 5, 8, 8)])
    replay.finish(layers[1:2], layers)
    with pytest.raises(RuntimeError, match="channels"):
        replay.run(3)
    assert all(m.training for m in net.modules())
    assert not any("forward" in m.__dict__ or m._forward_hooks for m in net.modules())


def test_keywords_and_a_double_network() -> None:
    net = Twice().double()
    batches = [{"x": x.double(), "gate": x.double()} for x in BATCHES]
    replay = Replay(net, lambda model, batch: model(**batch), batches)
    layers = ["a", "inner.0", "inner.2"]
    replay.finish(layers, layers)
    for _ in range(3):
        with evaluation(net):
            wanted = net(**batches[0])
        torch.testing.assert_close(replay.run(0), wanted)


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("most", [0, 1000])
def test_outputs_that_lie_in_files_are_the_same(monkeypatch: pytest.MonkeyPatch, name: str, most: int) -> None:
    monkeypatch.setattr(shelf, "MOST", most)
    net, layers, wanted = build(name)
    replay = Replay(net, forward, BATCHES)
    for number in range(len(layers) + 1):
        replay.finish(layers[:number], layers)
        for _ in range(2):
            for index in range(len(BATCHES)):
                torch.testing.assert_close(replay.run(index), wanted[index], rtol=0, atol=0)
