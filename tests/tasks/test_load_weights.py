"""load_weights: all or nothing, never pickle, and differences are listed."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file, save_model
from torch import nn

from neuroprune.base.errors import UserError
from neuroprune.tasks.models import load_model, load_weights
from neuroprune.tasks.nets import tiny_resnet


class Trap:
    """Unpickling this would run code."""

    def __reduce__(self):  # type: ignore[no-untyped-def]
        return (Path.touch, (Path("trap_was_sprung"),))


def _trained() -> nn.Module:
    model = tiny_resnet()
    model(torch.randn(4, 1, 8, 8))  # moves the statistics
    return model


def _same(one: nn.Module, two: nn.Module) -> bool:
    theirs = two.state_dict()
    return all(torch.equal(v, theirs[k]) for k, v in one.state_dict().items())


def _refused(model: nn.Module, path: Path, *parts: str) -> str:
    before = copy.deepcopy(model)
    with pytest.raises(UserError) as caught:
        load_weights(model, path)
    for part in ("where", "value", "mend"):
        assert getattr(caught.value, part) is not None, f"{part} is missing: {caught.value}"
    assert _same(model, before), "a refused file must not change the model"
    for part in parts:
        assert part in str(caught.value)
    return str(caught.value)


def test_every_way_of_saving_loads(tmp_path: Path) -> None:
    model = _trained()
    state = model.state_dict()
    save_file(state, tmp_path / "a.safetensors")
    torch.save(state, tmp_path / "a.pt")
    torch.save(state, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    torch.save({"epoch": 3, "state_dict": {f"module.{k}": v for k, v in state.items()}}, tmp_path / "b.pt")
    torch.save({"model": {f"_orig_mod.{k}": v for k, v in state.items()}, "optimizer": {}}, tmp_path / "c.pt")
    torch.save({k: v for k, v in state.items() if "num_batches" not in k}, tmp_path / "d.pt")
    for file in ("a.safetensors", "a.pt", "old.pth", "b.pt", "c.pt"):
        other = tiny_resnet()
        load_weights(other, tmp_path / file)
        assert _same(model, other), file
    load_weights(tiny_resnet(), tmp_path / "d.pt")


def test_tied_weights_saved_once(tmp_path: Path) -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.head = nn.Embedding(5, 3), nn.Linear(3, 5, bias=False)
            self.head.weight = self.embed.weight

    model, other = Tied(), Tied()
    save_model(model, str(tmp_path / "tied.safetensors"))
    load_weights(other, tmp_path / "tied.safetensors")
    assert _same(model, other)


def test_half_precision_is_widened(tmp_path: Path) -> None:
    model, other = nn.Linear(3, 2), nn.Linear(3, 2)
    save_file({k: v.half() for k, v in model.state_dict().items()}, tmp_path / "half.safetensors")
    load_weights(other, tmp_path / "half.safetensors")
    assert torch.equal(other.weight, model.weight.half().float())


def test_pickled_objects_are_never_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save(_trained(), tmp_path / "model.pt")
    torch.save({"state_dict": {}, "args": Trap()}, tmp_path / "trap.pt")
    for file in ("model.pt", "trap.pt"):
        _refused(tiny_resnet(), tmp_path / file, "pickled objects", "torch.save(model.state_dict()")
    assert not (tmp_path / "trap_was_sprung").exists()


def test_another_architecture_lists_the_first_five(tmp_path: Path) -> None:
    save_file(tiny_resnet(6).state_dict(), tmp_path / "wide.safetensors")
    text = _refused(tiny_resnet(4), tmp_path / "wide.safetensors", "of another architecture than ResNet")
    assert "shape of stem.0.weight: (6, 1, 3, 3) in the file, (4, 1, 3, 3) in the model" in text
    assert text.count("shape of") == 5
    assert "and " in text.split("shape of")[-1]
    assert " more" in text
    save_file({"fc.weight": torch.zeros(2, 2)}, tmp_path / "other.safetensors")
    _refused(
        nn.Linear(2, 2), tmp_path / "other.safetensors", "missing: weight (2, 2)", "unexpected: fc.weight (2, 2)"
    )


def test_nan_weights_are_refused(tmp_path: Path) -> None:
    model = nn.Linear(3, 2)
    bad = {"weight": torch.full((2, 3), float("nan")), "bias": torch.zeros(2)}
    save_file(bad, tmp_path / "nan.safetensors")
    _refused(model, tmp_path / "nan.safetensors", "NaN or Inf: weight", "6 of 6 values")


def test_files_that_are_no_weights(tmp_path: Path) -> None:
    model = nn.Linear(3, 2)
    _refused(model, tmp_path / "absent.pt", "there is no weights file", str(tmp_path))
    _refused(model, tmp_path / "absent.safetensors", "there is no weights file")
    (tmp_path / "text.pt").write_text("hello")
    _refused(model, tmp_path / "text.pt", "text.pt")
    (tmp_path / "text.safetensors").write_text("hello")
    _refused(model, tmp_path / "text.safetensors", "not a readable safetensors file")
    (tmp_path / "empty.pt").write_bytes(b"")
    _refused(model, tmp_path / "empty.pt", "empty.pt")
    torch.save(torch.zeros(3), tmp_path / "tensor.pt")
    _refused(model, tmp_path / "tensor.pt", "holds no state dict", "Tensor")
    torch.save({"epoch": 3}, tmp_path / "numbers.pt")
    _refused(model, tmp_path / "numbers.pt", "holds no state dict", "epoch")


def test_garbage_folders_and_misspelt_names(tmp_path: Path) -> None:
    model = nn.Linear(3, 2)
    (tmp_path / "garbage.pt").write_bytes(bytes(range(100, 200)))  # torch: KeyError or UnpicklingError("101")
    text = _refused(model, tmp_path / "garbage.pt", "no readable state dict", "100 bytes, which begin with b'def")
    assert "pickled objects" not in text
    (tmp_path / "imgs").mkdir()
    _refused(model, tmp_path / "imgs", "imgs is a folder, not a weights file", "there are no weights files there")
    _refused(model, tmp_path / "garbge.pt", "did you mean 'garbage.pt'?")
    torch.save(nn.Linear(2, 2), tmp_path / "object.pt")
    _refused(model, tmp_path / "object.pt", "pickled objects", "value: torch.nn.modules.linear.Linear")


def test_a_truncated_file(tmp_path: Path) -> None:
    torch.save(_trained().state_dict(), tmp_path / "whole.pt")
    (tmp_path / "half.pt").write_bytes((tmp_path / "whole.pt").read_bytes()[:4000])
    _refused(tiny_resnet(), tmp_path / "half.pt", "half.pt")


def test_load_model_loads_weights(tmp_path: Path) -> None:
    model = _trained()
    save_file(model.state_dict(), tmp_path / "w.safetensors")
    assert _same(model, load_model("neuroprune.tasks.nets:tiny_resnet", weights=tmp_path / "w.safetensors"))


def test_real_pretrained_weights_show_in_the_message(shared_data: Path) -> None:
    file = shared_data / "models" / "cifar10_resnet20.safetensors"
    _refused(tiny_resnet(), file, "missing: stem.0.weight", "tensors in the file")
