"""load_model: what is named is constructed, the same each time; what goes wrong is said."""

from __future__ import annotations

import importlib.util
import sys
import types
from pathlib import Path

import pytest
import torch
from torch import nn

from neuroprune.base.errors import UserError
from neuroprune.tasks.models import load_model

_SOURCE = """
import torch
from torch import nn
from neighbour import WIDTH

def network(width=WIDTH):
    from late_neighbour import DEPTH
    return nn.Sequential(*[nn.Linear(width, width) for _ in range(DEPTH)])

class Net(nn.Module):
    def __init__(self, width=2):
        super().__init__()
        self.layer = nn.Linear(width, width)

ready = nn.Linear(3, 3)
number = 3

def text():
    return "no network"

def broken():
    raise RuntimeError("the width 7 is odd")
"""


@pytest.fixture
def source(tmp_path: Path) -> Path:
    (tmp_path / "neighbour.py").write_text("WIDTH = 4\n")
    (tmp_path / "late_neighbour.py").write_text("DEPTH = 2\n")
    (tmp_path / "model.py").write_text(_SOURCE)
    return tmp_path / "model.py"


@pytest.fixture(autouse=True)
def _forget_modules():  # type: ignore[no-untyped-def]
    known, path = set(sys.modules), list(sys.path)
    yield
    assert sys.path == path, "loading must not leave folders on the import path"
    for name in set(sys.modules) - known:
        if "neighbour" in name or "_user_" in name:
            del sys.modules[name]


def _refused(spec: str, *parts: str, **options: object) -> None:
    with pytest.raises(UserError) as caught:
        load_model(spec, **options)  # type: ignore[arg-type]
    for part in parts:
        assert part in str(caught.value)


def test_a_file_with_neighbours(source: Path) -> None:
    model = load_model(f"{source}:network", kwargs={"width": 5})
    assert [tuple(p.shape) for p in model.parameters()] == [(5, 5), (5,), (5, 5), (5,)]
    assert type(load_model(f"{source}:Net")).__name__ == "Net"


def test_a_relative_path_and_a_module_of_the_current_folder(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(source.parent)
    assert isinstance(load_model("model.py:network"), nn.Sequential)
    (source.parent / "my_own_user_nets.py").write_text("from torch import nn\nnet = lambda: nn.Linear(1, 1)\n")
    assert isinstance(load_model("my_own_user_nets:net"), nn.Linear)


def test_two_files_of_one_name_do_not_meet(source: Path, tmp_path: Path) -> None:
    other = tmp_path / "other" / "model.py"
    other.parent.mkdir()
    other.write_text("from torch import nn\ndef network():\n    return nn.Linear(1, 1)\n")
    assert isinstance(load_model(f"{source}:network"), nn.Sequential)
    assert isinstance(load_model(f"{other}:network"), nn.Linear)
    assert "model" not in sys.modules


def test_an_edited_file_is_read_again(source: Path) -> None:
    load_model(f"{source}:network")
    source.write_text("from torch import nn\ndef network():\n    return nn.Linear(1, 1, bias=False)  # edited\n")
    assert isinstance(load_model(f"{source}:network"), nn.Linear)


def test_a_ready_made_network_is_copied(source: Path) -> None:
    model = load_model(f"{source}:ready")
    assert isinstance(model, nn.Linear)
    modules = [vars(module) for module in list(sys.modules.values())]
    original = next(names["ready"] for names in modules if "ready" in names and "broken" in names)
    assert model is not original
    assert torch.equal(model.weight, original.weight)


def test_the_seed_makes_the_weights_and_the_callers_stream_goes_on() -> None:
    spec = "neuroprune.tasks.nets:tiny_resnet"
    torch.manual_seed(4)
    expected = torch.rand(3)
    torch.manual_seed(4)
    one, two, three = (load_model(spec, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(torch.rand(3), expected)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))
    assert not torch.equal(next(one.parameters()), next(three.parameters()))


def test_missing_things_offer_the_nearest(source: Path) -> None:
    _refused(f"{source.parent}/modle.py:network", "there is no file", "did you mean", "model.py")
    _refused(f"{source}:netwrok", "has no 'netwrok'", "did you mean 'network'?", "callables there:", "Net")
    _refused(f"{source}:zzzzzz", "has no 'zzzzzz'", "network")
    _refused("neuroprune.tasks.nets:digit_resnet", "did you mean 'digits_resnet'?")
    _refused("no_such_package.models:net", "no module 'no_such_package'", "install it")
    _refused("neuroprune.tasks.no_such:net", "no module 'neuroprune.tasks.no_such'")
    _refused("just_a_name", "cannot read the model 'just_a_name'", "package.module:callable")


def test_what_is_called_must_be_a_network(source: Path) -> None:
    _refused(f"{source}:text", "returned str, not a torch.nn.Module")
    _refused(f"{source}:number", "cannot be called", "int")


def test_what_raises_is_quoted_with_its_line(source: Path) -> None:
    line = _SOURCE.splitlines().index('    raise RuntimeError("the width 7 is odd")') + 1
    _refused(f"{source}:broken", "RuntimeError: the width 7 is odd", f"model.py:{line}")
    _refused(f"{source}:network", "unexpected keyword argument 'depth'", "arguments", kwargs={"depth": 3})


def test_files_that_do_not_import_are_quoted(tmp_path: Path) -> None:
    file = tmp_path / "bad.py"
    file.write_text("x = (1,\n")
    _refused(f"{file}:net", "SyntaxError", "bad.py:1")
    file.write_text("import torch\nimport no_such_thing_at_all\n")
    _refused(f"{file}:net", "No module named 'no_such_thing_at_all'", "bad.py:2")
    assert not [name for name in sys.modules if name.endswith("_bad")]


def test_zoos_that_are_absent_say_how_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    for zoo in ("timm", "torchvision"):
        monkeypatch.setitem(sys.modules, zoo, None)
        _refused(f"{zoo}:resnet18", f"{zoo} cannot be imported", "pip install")


def _zoo(monkeypatch: pytest.MonkeyPatch) -> None:
    timm = types.ModuleType("timm")
    timm.list_models = lambda: ["resnet18", "mobilenetv3_small_050"]  # type: ignore[attr-defined]
    timm.create_model = lambda name, width=2: nn.Linear(width, width)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "timm", timm)


def test_zoo_names_are_looked_up(monkeypatch: pytest.MonkeyPatch) -> None:
    _zoo(monkeypatch)
    assert next(load_model("timm:resnet18", kwargs={"width": 3}).parameters()).shape == (3, 3)
    assert isinstance(load_model("timm:resnet18.a1_in1k"), nn.Linear)
    _refused("timm:resnet81", "timm has no model 'resnet81'", "did you mean 'resnet18'?")
    _refused("timm:resnet18", "timm:resnet18 raised TypeError", "'depth'", kwargs={"depth": 3})


@pytest.mark.extras
def test_real_zoos_construct() -> None:
    if importlib.util.find_spec("timm") is None:  # importing timm here would import torchvision without our shim
        pytest.skip("the optional part zoo is not installed")
    assert sum(p.numel() for p in load_model("timm:mobilenetv3_small_050").parameters()) > 1e6
    few = load_model("torchvision:resnet18", kwargs={"num_classes": 10})
    assert list(few.parameters())[-1].shape == (10,)
    _refused("torchvision:resnet81", "did you mean 'resnet18'?")
