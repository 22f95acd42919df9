"""Writing networks as ONNX: any batch, several inputs, nested outputs, and clear refusals."""

from __future__ import annotations

import contextlib
import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn

from neuroprune import __version__
from neuroprune.base.errors import UserError
from neuroprune.export import EXPORTS, Session, Written
from neuroprune.export.compare import compare_outputs
from neuroprune.tasks.nets import tiny_resnet

ONNX = EXPORTS.get("onnx")


class TwoInputs(nn.Module):
    """Two tensors and a flag in, a dict with a nested tuple out."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Linear(3, 4), nn.Linear(5, 4)

    def forward(self, x: Tensor, y: Tensor, double: bool = False) -> dict[str, Any]:
        total = self.left(x) + self.right(y)
        total = total * 2 if double else total
        return {"sum": total, "parts": (self.left(x), self.right(y)), "note": None}


class FixedBatch(nn.Module):
    """Writes the batch size of its example into the graph."""

    def forward(self, x: Tensor) -> Tensor:
        assert x.shape[0] <= 3
        return x.reshape(int(x.shape[0]) if x.shape[0] == 2 else 3, -1) * 2


class Branching(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * 2 if float(x.sum()) > 0 else x


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.GRU(4, 3, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.cell(x)[0][:, -1]


@pytest.fixture(scope="module")
def resnet() -> nn.Module:
    torch.manual_seed(0)
    model = tiny_resnet()
    with torch.no_grad():
        model(torch.randn(32, 1, 16, 16))  # running statistics other than 0 and 1
    return model


@pytest.fixture(scope="module")
def written(resnet: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Written]:
    path = tmp_path_factory.mktemp("onnx") / "model.onnx"
    metadata = {"mean": json.dumps([0.3]), "layout": '"NCHW"'}
    return path, ONNX.write(resnet, (torch.randn(1, 1, 16, 16),), path, metadata=metadata)


@pytest.fixture(scope="module")
def session(written: tuple[Path, Written]) -> Session:
    return ONNX.load(written[0])


@pytest.mark.parametrize("batch", [1, 2, 5])
def test_outputs_equal_pytorch_at_any_batch(resnet: nn.Module, session: Session, batch: int) -> None:
    found = compare_outputs(resnet, session, (torch.randn(batch, 1, 16, 16),))
    assert found.relative < 1e-5
    assert found.values == batch * 10
    assert found.agreement == 1.0


def test_the_model_is_left_as_it_was(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.Sequential(nn.Dropout(0.5)))
    model[1].eval()  # frozen by its owner
    before = {name: value.clone() for name, value in model.state_dict().items()}
    ONNX.write(model, (torch.randn(2, 2),), tmp_path / "m.onnx")
    assert [m.training for m in model.modules()] == [True, True, False, True, True]
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_metadata_hold_what_was_given_and_what_a_reader_needs(session: Session) -> None:
    assert json.loads(session.metadata["mean"]) == [0.3]
    assert session.metadata["neuroprune"] == __version__
    assert session.metadata["batch"] == "dynamic"
    assert json.loads(session.metadata["outputs"]) == "tensor"


def test_one_small_valid_file_with_a_named_batch(written: tuple[Path, Written], resnet: nn.Module) -> None:
    path, report = written
    assert list(path.parent.iterdir()) == [path]
    assert report.dynamic_batch
    assert report.notes == ()
    assert report.bytes == path.stat().st_size
    parameters = sum(p.numel() for p in resnet.parameters())
    assert report.bytes < 4 * parameters + 5000
    proto = onnx.load(path)
    onnx.checker.check_model(proto, full_check=True)
    (value,) = proto.graph.input
    assert value.type.tensor_type.shape.dim[0].dim_param == "batch"
    assert not any(node.metadata_props or node.doc_string for node in proto.graph.node)
    assert not any(node.op_type == "BatchNormalization" for node in proto.graph.node)


def test_the_same_model_gives_the_same_bytes(
    resnet: nn.Module, written: tuple[Path, Written], tmp_path: Path
) -> None:
    metadata = {"layout": '"NCHW"', "mean": json.dumps([0.3])}
    ONNX.write(resnet, (torch.zeros(2, 1, 16, 16),), tmp_path / "again.onnx", metadata=metadata)
    first, again = onnx.load(written[0]), onnx.load(tmp_path / "again.onnx")
    assert first.graph == again.graph


def test_names_of_parameters_are_kept_on_request(resnet: nn.Module, tmp_path: Path) -> None:
    ONNX.write(resnet, (torch.randn(2, 1, 16, 16),), tmp_path / "m.onnx", keep_names=True)
    names = {tensor.name for tensor in onnx.load(tmp_path / "m.onnx").graph.initializer}
    convolutions = {f"{n}.weight" for n, m in resnet.named_modules() if isinstance(m, nn.Conv2d)}
    assert convolutions <= names


def test_several_inputs_a_flag_and_nested_outputs(tmp_path: Path) -> None:
    model = TwoInputs()
    written = ONNX.write(model, (torch.randn(1, 3), torch.randn(1, 5), True), tmp_path / "two.onnx")
    assert written.dynamic_batch
    session = ONNX.load(tmp_path / "two.onnx")
    assert session.input_names == ("x", "y")
    assert compare_outputs(model, session, (torch.randn(4, 3), torch.randn(4, 5), True)).relative < 1e-5
    described = {"dict": {"sum": "tensor", "parts": {"tuple": ["tensor", "tensor"]}, "note": {"constant": None}}}
    assert json.loads(session.metadata["outputs"]) == described


def test_a_batch_that_cannot_be_free_is_fixed_and_said_so(tmp_path: Path) -> None:
    written = ONNX.write(FixedBatch(), (torch.randn(2, 4, 2),), tmp_path / "fixed.onnx")
    assert not written.dynamic_batch
    assert "batches of 2 only" in written.notes[0]
    session = ONNX.load(tmp_path / "fixed.onnx")
    assert session.batch == 2
    with pytest.raises(UserError, match="refuses the inputs"):
        session.run([np.zeros((3, 4, 2), np.float32)])


def test_a_model_that_cannot_be_traced_is_refused_and_nothing_is_written(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be exported to ONNX") as caught:
        ONNX.write(Branching(), (torch.randn(2, 3),), tmp_path / "m.onnx")
    assert "values of tensors" in str(caught.value)
    assert caught.value.value
    assert "\x1b" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("model", [nn.Linear(4, 2), Recurrent(), Branching()])
def test_exporting_says_nothing(
    model: nn.Module, tmp_path: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    x = torch.randn(2, 3, 4)
    with caplog.at_level(logging.INFO), contextlib.suppress(UserError):
        ONNX.write(model, (x,), tmp_path / "m.onnx")
        assert compare_outputs(model, ONNX.load(tmp_path / "m.onnx"), (torch.randn(5, 3, 4),)).relative < 1e-5
    assert capfd.readouterr() == ("", "")
    assert [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING] == []


def test_loading_what_is_absent_or_no_network(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no file m\.onnx"):
        ONNX.load(tmp_path / "m.onnx")
    (tmp_path / "m.onnx").write_bytes(b"not a network")
    with pytest.raises(UserError, match=r"cannot load m\.onnx"):
        ONNX.load(tmp_path / "m.onnx")


def test_an_operator_without_a_kernel_for_double_names_the_way_out(tmp_path: Path) -> None:
    x = torch.randn(2, 1, 5, 5, dtype=torch.float64)
    ONNX.write(nn.Conv2d(1, 2, 3).double(), (x,), tmp_path / "m.onnx")
    with pytest.raises(UserError, match="cannot load") as caught:
        ONNX.load(tmp_path / "m.onnx")
    assert "model.float()" in str(caught.value.mend)


def test_wrong_inputs_are_named(session: Session) -> None:
    with pytest.raises(UserError, match=r"takes 1 inputs \(x\)"):
        session.run([])
    with pytest.raises(UserError, match="float64"):
        session.run([np.zeros((1, 1, 16, 16))])


def test_an_unwritable_folder_is_a_user_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write"):
        ONNX.write(nn.Linear(2, 2), (torch.randn(1, 2),), tmp_path / "file" / "m.onnx")


def test_the_registry_offers_the_nearest_name() -> None:
    assert ONNX.capabilities.int8
    with pytest.raises(UserError, match="onnx"):
        EXPORTS.get("onyx")
