"""A training run that is killed and goes on ends with the same bits as one that was left alone."""

from __future__ import annotations

import random
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from interrupting import Stop
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from neuroprune.base import files
from neuroprune.base.errors import UserError
from neuroprune.pruning.tensors import named_tensors
from neuroprune.recover.fit import EpochRecord, FitConfig, fit
from neuroprune.tasks.load import load_task
from neuroprune.tasks.make import make_task
from neuroprune.tasks.nets import tiny_resnet
from neuroprune.tasks.task import Task

EPOCHS = 4


class Noisy(Dataset[tuple[Tensor, int]]):
    """Augments with all three global generators."""

    def __len__(self) -> int:
        return 18

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        x = torch.randn(6, generator=torch.Generator().manual_seed(index))
        return x + random.random() + np.random.rand() + torch.rand(()), index % 3


class Net(nn.Module):
    """Dropout, batch norm, a frozen layer and a buffer that a state dict leaves out."""

    calls: Tensor

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Dropout(0.3), nn.Linear(8, 3))
        self.frozen = nn.Linear(3, 3).requires_grad_(False)
        self.register_buffer("calls", torch.zeros(()), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.calls += 1
        y: Tensor = self.frozen(self.body(x))
        return y


def _loader_task() -> Task:
    return make_task(train=DataLoader(Noisy(), batch_size=6, shuffle=True), val=DataLoader(Noisy(), batch_size=6))


def _bytes(model: nn.Module) -> dict[str, bytes]:
    return {name: tensor.detach().numpy().tobytes() for name, tensor in named_tensors(model).items()}


def _figures(records: list[EpochRecord]) -> list[tuple[Any, ...]]:
    return [(r.epoch, r.train_loss, r.val_loss, r.val_metric, r.train_metric) for r in records]


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("batches", [0, 2, 3, 4, 6, 7, 9, 11])
def test_interrupted_anywhere_the_bits_are_the_same(tmp_path: Path, optimizer: Any, batches: int) -> None:
    config = FitConfig(epochs=EPOCHS, optimizer=optimizer, lr=0.02)
    whole = Net()
    expected = fit(whole, _loader_task(), config)
    with pytest.raises(KeyboardInterrupt):
        fit(Net(), _loader_task(), config, checkpoint=tmp_path / "c", progress=Stop(batches))
    torch.manual_seed(random.randrange(10**6))  # the world has moved on
    resumed = Net()
    records = fit(resumed, _loader_task(), config, checkpoint=tmp_path / "c")
    assert _bytes(resumed) == _bytes(whole)
    assert _figures(records) == _figures(expected)


def test_a_convolutional_network_stopped_after_each_epoch(tmp_path: Path) -> None:
    task = load_task("digits", limit=120, batch_size=32)
    config = FitConfig(epochs=3, lr=0.1)
    whole, resumed = tiny_resnet(), tiny_resnet()
    resumed.load_state_dict(whole.state_dict())
    start = {name: tensor.clone() for name, tensor in whole.state_dict().items()}
    fit(whole, task, config)
    for epoch in range(1, 4):
        resumed.load_state_dict(start)  # a new process starts from the same weights
        try:
            fit(resumed, task, config, checkpoint=tmp_path / "c", progress=Stop(len(task.train)))
        except KeyboardInterrupt:
            assert len(files.read_json(tmp_path / "c" / "checkpoint.json")["records"]) == epoch
    assert _bytes(resumed) == _bytes(whole)


def test_a_finished_run_is_not_trained_again(tmp_path: Path) -> None:
    config = FitConfig(epochs=2)
    model, again = Net(), Net()
    records = fit(model, _loader_task(), config, checkpoint=tmp_path)
    assert fit(again, _loader_task(), config, checkpoint=tmp_path, progress=Stop(0)) == records
    assert _bytes(again) == _bytes(model)


def test_one_checkpoint_is_kept_and_it_holds_no_pickle(tmp_path: Path) -> None:
    fit(Net(), _loader_task(), FitConfig(epochs=3, optimizer="adamw"), checkpoint=tmp_path)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["checkpoint.json", "epoch-00003.safetensors"]
    names = files.load_tensors(tmp_path / "epoch-00003.safetensors")
    assert "model/calls" in names
    assert "model/body.1.running_var" in names
    assert "optimizer/body.0.weight/exp_avg_sq" in names
    assert not [name for name in names if name.startswith("optimizer/frozen")]


def test_killed_between_the_two_files_the_older_checkpoint_is_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = FitConfig(epochs=3)
    whole = Net()
    fit(whole, _loader_task(), config)
    real = files.write_json

    def killed(path: Path, value: Any) -> None:
        if len(value["records"]) == 2:
            raise KeyboardInterrupt
        real(path, value)

    monkeypatch.setattr("neuroprune.recover.checkpoint.write_json", killed)
    with pytest.raises(KeyboardInterrupt):
        fit(Net(), _loader_task(), config, checkpoint=tmp_path)
    assert len(list(tmp_path.glob("*.safetensors"))) == 2
    (tmp_path / ".epoch-00002.safetensors.0.tmp").write_bytes(b"half a file")
    monkeypatch.setattr("neuroprune.recover.checkpoint.write_json", real)
    resumed = Net()
    fit(resumed, _loader_task(), config, checkpoint=tmp_path)
    assert _bytes(resumed) == _bytes(whole)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["checkpoint.json", "epoch-00003.safetensors"]


def test_a_full_disk_is_a_user_error_and_the_older_checkpoint_stays(tmp_path: Path) -> None:
    config = FitConfig(epochs=2)
    with pytest.raises(KeyboardInterrupt):
        fit(Net(), _loader_task(), config, checkpoint=tmp_path, progress=Stop(3))
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (500, hard))
        with pytest.raises(UserError, match="cannot write") as caught:
            fit(Net(), _loader_task(), config, checkpoint=tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "mend:" in str(caught.value)
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before


def test_a_checkpoint_of_another_run_is_refused(tmp_path: Path) -> None:
    x, y = torch.randn(18, 6), torch.arange(18) % 3
    task = make_task(train=(x, y), val=(x, y))
    fit(Net(), task, FitConfig(epochs=1), checkpoint=tmp_path)
    cases: list[tuple[nn.Module, Task, FitConfig, nn.Module | None, str]] = [
        (Net(), task, FitConfig(epochs=2), None, "changed: settings"),
        (Net(), make_task(train=(x + 1, y), val=(x, y)), FitConfig(epochs=1), None, "changed: data"),
        (nn.Linear(6, 3), task, FitConfig(epochs=1), None, "changed: architecture"),
        (Net(), task, FitConfig(epochs=1), Net(), "changed: teacher"),
    ]
    for model, data, config, teacher, part in cases:
        with pytest.raises(UserError, match="another training run") as caught:
            fit(model, data, config, teacher=teacher, checkpoint=tmp_path)
        assert part in str(caught.value)


def test_a_damaged_checkpoint_is_refused(tmp_path: Path) -> None:
    fit(Net(), _loader_task(), FitConfig(epochs=1), checkpoint=tmp_path)
    file = next(tmp_path.glob("*.safetensors"))
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(UserError, match="missing or damaged"):
        fit(Net(), _loader_task(), FitConfig(epochs=1), checkpoint=tmp_path)
    file.unlink()
    with pytest.raises(UserError, match="missing or damaged"):
        fit(Net(), _loader_task(), FitConfig(epochs=1), checkpoint=tmp_path)
    (tmp_path / "checkpoint.json").write_text("{")
    with pytest.raises(UserError, match="not valid JSON"):
        fit(Net(), _loader_task(), FitConfig(epochs=1), checkpoint=tmp_path)
    (tmp_path / "checkpoint.json").write_text("[]")
    with pytest.raises(UserError, match="another training run"):
        fit(Net(), _loader_task(), FitConfig(epochs=1), checkpoint=tmp_path)


_PROGRAM = """
import sys
from pathlib import Path
import torch
torch.set_num_threads(1)
from neuroprune.base.files import save_tensors
from neuroprune.recover.fit import FitConfig, fit
from neuroprune.tasks.load import load_task
from neuroprune.tasks.models import load_model

out = Path(sys.argv[1])
model = load_model("neuroprune.tasks.nets:tiny_resnet")
fit(model, load_task("digits", limit=600, batch_size=16), FitConfig(epochs=12), checkpoint=out / "c")
save_tensors(out / "weights.safetensors", model.state_dict())
"""


def test_kill_nine_and_again(tmp_path: Path) -> None:
    """A real process, killed once its third checkpoint is there; the next one finishes its work."""
    command = [sys.executable, "-c", _PROGRAM]
    subprocess.run([*command, str(tmp_path / "whole")], check=True)
    process = subprocess.Popen([*command, str(tmp_path / "killed")])
    try:
        deadline = time.monotonic() + 120
        while not list((tmp_path / "killed" / "c").glob("epoch-0000[3-9]*")) and process.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.002)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == -signal.SIGKILL, "it must not have finished before it was killed"
    assert not (tmp_path / "killed" / "weights.safetensors").exists()
    subprocess.run([*command, str(tmp_path / "killed")], check=True)
    whole, killed = (tmp_path / name / "weights.safetensors" for name in ("whole", "killed"))
    assert killed.read_bytes() == whole.read_bytes()


def test_until_stops_after_an_epoch_and_the_rest_ends_in_the_same_bits(tmp_path: Path) -> None:
    config = FitConfig(epochs=3)
    whole, parts = Net(), Net()
    expected = fit(whole, _loader_task(), config)
    for until, epochs in ((0, 0), (2, 2), (1, 2), (9, 3)):
        records = fit(parts, _loader_task(), config, checkpoint=tmp_path, until=until)
        assert len(records) == epochs, "what is finished stays finished"
    assert _figures(records) == _figures(expected)
    assert _bytes(parts) == _bytes(whole)
