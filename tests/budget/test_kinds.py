"""Every kind of budget passes the contract, in both precisions; their figures by hand."""

from __future__ import annotations

import gc
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from counting_device import PER_CALL, PER_MAC, counting
from torch import nn

from neuroprune import Budget
from neuroprune.base.errors import UserError
from neuroprune.budget.exported import Variant
from neuroprune.budget.kinds import KINDS, Setting
from neuroprune.budget.problem import Layer, Part, layers_of
from neuroprune.budget.target import Target, multiple_for
from neuroprune.graph import trace
from neuroprune.testing import BudgetKindContract


@pytest.fixture(autouse=True, scope="module")
def _device() -> Iterator[None]:
    with counting():
        yield


_CACHE = Path(tempfile.mkdtemp(prefix="neuroprune-test-"))
for _name in KINDS.names():
    for _precision in ("fp32", "int8"):
        _target = Target(device="counting", precision=_precision, cache=_CACHE)  # type: ignore[arg-type]
        globals()[f"Test_{_name}_{_precision}"] = type(
            f"Test_{_name}_{_precision}", (BudgetKindContract,), {"name": _name, "target": _target}
        )


class Net(nn.Module):
    def __init__(self, width: int = 6) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, width, 3, padding=1), nn.Linear(width, 5)

    def forward(self, x: torch.Tensor, scale: float = 1.0) -> torch.Tensor:
        return self.head(torch.relu(self.conv(x)).mean((2, 3))) * scale


def setting(model: nn.Module, tmp_path: Path, **target: Any) -> Setting:
    x = torch.randn(2, 3, 4, 4)
    chosen = Target(device="counting", cache=tmp_path, **target)
    return Setting(model, (x,), lambda net, batch: net(batch), [x], chosen)


#: of Net(6) on 4x4: multiply-accumulates of its layers, parameters, and values that they write
MACS, PARAMS, WRITTEN = 16 * 6 * 27 + 6 * 5, 6 * 28 + 5 * 7, 6 * 16 + 5


def test_figures_by_hand(tmp_path: Path) -> None:
    model = Net()
    here = setting(model, tmp_path)
    found = {kind: KINDS.get(kind).figures({"x": Variant(model)}, here)["x"] for kind in KINDS.names()}
    size = here.files.path(Variant(model)).stat().st_size
    # Horowitz: 4.6 pJ per operation; 1300 per 8 bytes from DRAM; 100 per 8 bytes of SRAM, written and read
    energy = 1e-6 * (MACS * 4.6 + 4 * PARAMS / 8 * 1300 + 2 * 4 * WRITTEN / 8 * 100)
    assert found == pytest.approx({
        "macs": MACS, "params": PARAMS, "size": size, "memory": 3 * size,
        "latency": PER_CALL + PER_MAC * MACS, "energy": energy,
    })  # fmt: skip


def test_parts_of_layers_by_hand(tmp_path: Path) -> None:
    """Half of the convolution's outputs, which are the linear layer's inputs."""
    model = Net(32)
    here = setting(model, tmp_path)
    layers = layers_of(model, trace(model, torch.randn(1, 3, 4, 4)).groups)
    assert [layer.name for layer in layers] == ["conv.weight", "head.weight"]
    cut = {}
    for kind in KINDS.names():
        first, second = KINDS.get(kind).layers(layers, here)
        cut[kind] = first(1.0, 1.0) - first(0.5, 1.0), second(1.0, 1.0) - second(1.0, 0.5)
    conv, linear = 16 * 27 * 16, 5 * 16
    assert cut["macs"] == pytest.approx((conv, linear))
    assert cut["params"] == pytest.approx((27 * 16, 5 * 16))
    assert cut["latency"] == pytest.approx((PER_MAC * conv, PER_MAC * linear))
    assert cut["size"] == pytest.approx((4 * 27 * 16 + 4 * 16, 4 * 5 * 16))
    energy = conv * 4.6 + 4 * 27 * 16 / 8 * 1300 + 2 * 4 * 16 * 16 / 8 * 100, linear * 4.6 + 4 * 80 / 8 * 1300
    assert cut["energy"] == pytest.approx([1e-6 * e for e in energy])
    live = [4 * (3 * 16 + 32 * 16), 4 * (32 + 5)]  # bytes at once in each layer's step: their 8-norm is the peak
    slope = [(v / sum(w**8 for w in live) ** (1 / 8)) ** 7 for v in live]
    memory = 4 * 27 * 16 + slope[0] * 4 * 16 * 16, 4 * 80 + slope[1] * 4 * 16
    assert cut["memory"] == pytest.approx(memory)


def test_a_layer_that_runs_twice_costs_twice_and_a_functional_one_nothing(tmp_path: Path) -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.weight = nn.Conv2d(16, 16, 1), nn.Parameter(torch.randn(16, 16))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.conv(torch.relu(self.conv(x))).mean((2, 3)) @ self.weight

    model, x = Twice(), torch.randn(2, 16, 4, 4)
    here = Setting(model, (x,), lambda net, b: net(b), [x], Target(device="counting", cache=tmp_path))
    layers = [Layer(name, (Part(0, 1 / 16),), (Part(0, 1 / 16),)) for name in ("conv.weight", "weight")]
    both, none = KINDS.get("latency").layers(layers, here)
    assert both(1.0, 1.0) - both(1.0, 0.5) == pytest.approx(PER_MAC * 16 * 16 * 16)
    assert none(1.0, 1.0) == none(0.5, 0.5)


def test_what_the_table_lacks_of_the_network_is_spread_over_its_layers(tmp_path: Path) -> None:
    model = Net(32)
    here = setting(model, tmp_path)
    layers = layers_of(model, trace(model, torch.randn(1, 3, 4, 4)).groups)
    first, second = KINDS.get("latency").layers(layers, here)
    assert first(1.0, 1.0) == pytest.approx(PER_MAC * 16 * 27 * 32 + PER_CALL / 2)
    assert second(1.0, 1.0) == pytest.approx(PER_MAC * 5 * 32 + PER_CALL / 2)


def test_layers_are_scaled_down_to_the_network_that_they_are_part_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A table that says more than the whole network takes (caches, fusion) keeps its proportions."""
    model = Net(32)
    here = setting(model, tmp_path)
    layers = layers_of(model, trace(model, torch.randn(1, 3, 4, 4)).groups)
    plain = [PER_MAC * 16 * 27 * 32, PER_MAC * 5 * 32]
    monkeypatch.setattr(type(KINDS.get("latency")), "figures", lambda *_: {"dense": sum(plain) / 4})
    scaled = [part(1.0, 1.0) for part in KINDS.get("latency").layers(layers, here)]
    assert scaled == pytest.approx([part / 4 for part in plain])


def test_files_are_written_once_per_state_and_go_with_the_network(tmp_path: Path) -> None:
    model, other = Net(), Net()
    files = setting(model, tmp_path).files
    path = files.path(Variant(model))
    assert files.path(Variant(model)) == path
    assert files.path(Variant(other)) != path
    integer = files.path(Variant(model, "int8"))
    assert integer != path
    with torch.no_grad():
        model.head.bias.add_(1)  # trained on
    assert files.path(Variant(model)) != path
    folder = files.folder
    kept = {p.name for p in folder.iterdir()}
    del other
    gc.collect()  # the export may have left a circle
    assert len({p.name for p in folder.iterdir()}) == len(kept) - 1
    del files, model
    gc.collect()
    assert not folder.exists()


def test_int8_files_are_calibrated_on_the_batches_by_the_users_own_forward(tmp_path: Path) -> None:
    model = Net(16)
    x = torch.rand(8, 3, 4, 4)
    here = Setting(
        model, {"x": x[:2], "scale": 2.0}, lambda net, batch: net(batch["image"], scale=2.0), [{"image": x}],
        Target(device="counting", precision="int8", cache=tmp_path),
    )  # fmt: skip
    variants = {"float": Variant(model), "integer": Variant(model, "int8")}
    found = KINDS.get("latency").figures(variants, here)
    macs = 16 * 27 * 16 + 16 * 5
    assert found["float"] == pytest.approx(PER_CALL + PER_MAC * macs)
    assert found["integer"] == pytest.approx(PER_CALL + PER_MAC * macs / 4)


def test_the_batch_of_the_target(tmp_path: Path) -> None:
    model = Net()
    here = setting(model, tmp_path, batch=3)
    assert here.files.inputs(model)[0].shape == (3, 3, 4, 4)
    assert KINDS.get("latency").figures({"x": Variant(model)}, here)["x"] == pytest.approx(
        PER_CALL + 3 * PER_MAC * MACS
    )


class Keyword(Net):
    def forward(self, x: torch.Tensor, *, scale: float = 1.0) -> torch.Tensor:  # type: ignore[override]
        return super().forward(x) * scale


def test_keyword_only_arguments_cannot_be_exported(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="positional arguments only"):
        setting(Keyword(), tmp_path).files.path(Variant(Keyword()))


@pytest.mark.parametrize(
    ("options", "word"),
    [({"device": "locl"}, "locl"), ({"precision": "int4"}, "int4"), ({"threads": 0}, "threads"),
     ({"batch": 0}, "batch"), ({"calibration": 0}, "calibration"), ({"seconds": -1.0}, "seconds")],
)  # fmt: skip
def test_targets_that_make_no_sense(options: dict[str, Any], word: str) -> None:
    with pytest.raises(UserError, match=word):
        Target(**options).check()


def test_multiples_of_channels() -> None:
    """Blocks of the runtime, in units; units of several channels fill them sooner; small groups: small ones."""
    net: Any = nn.Sequential(
        nn.Conv2d(3, 64, 3, padding=1), nn.ReLU(), nn.Conv2d(64, 8, 1), nn.ReLU(), nn.Conv2d(8, 5, 1), nn.ReLU(),
        nn.Flatten(), nn.Linear(5 * 16, 3),
    )  # fmt: skip
    wide, small, five = trace(net, torch.randn(1, 3, 4, 4)).groups
    assert [g.size for g in (wide, small, five)] == [64, 8, 5]
    assert [multiple_for(g, {"latency"}, "fp32") for g in (wide, small, five)] == [4, 4, 2]
    assert [multiple_for(g, {"latency", "macs"}, "int8") for g in (wide, small, five)] == [8, 4, 2]
    assert [multiple_for(g, {"macs"}, "int8") for g in (wide, small, five)] == [1, 1, 1]
    pairs = nn.Sequential(nn.Conv2d(3, 32, 1), nn.ReLU(), nn.PixelShuffle(2), nn.Conv2d(8, 3, 1))
    (group,) = trace(pairs, torch.randn(1, 3, 4, 4)).groups
    assert (group.size, multiple_for(group, {"latency"}, "fp32")) == (8, 4)  # 4 rows here, 1 column there


def test_units_of_energy() -> None:
    assert Budget(energy="2mJ").limits[0].absolute(1.0) == 2000
    assert str(Budget(energy="1J").limits[0]) == "energy=1e+06uJ"
    assert [limit.unit for limit in Budget(latency=0.5, size=0.5, memory=0.5, macs=0.5).limits] == [
        "ms", "B", "B", "",
    ]  # fmt: skip
