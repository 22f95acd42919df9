"""``neuroprune.compress`` for a classifier, a regression and a sequence task."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import neuroprune
from neuroprune import Budget, UserError
from neuroprune.base.files import load_tensors
from neuroprune.compression.artifact import verify_artifact
from neuroprune.tasks.load import load_task
from neuroprune.tasks.nets import tiny_resnet


def trained(model: nn.Module, x: Tensor, y: Tensor, loss: object, steps: int = 150, lr: float = 0.01) -> nn.Module:
    """A few full-batch steps: enough that there is something to lose."""
    torch.manual_seed(0)
    optimizer = torch.optim.AdamW(model.parameters(), lr)
    for _ in range(steps):
        optimizer.zero_grad()
        loss(model(x), y).backward()  # type: ignore[operator]
        optimizer.step()
    return model.eval()


def copy_of(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def same(model: nn.Module, state: dict[str, Tensor]) -> bool:
    return all(torch.equal(state[name], tensor) for name, tensor in model.state_dict().items())


def size_of(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def test_a_classifier(tmp_path: Path) -> None:
    task = load_task("digits")
    (x, y), (vx, vy), (tx, ty) = (
        tuple(torch.cat(part) for part in zip(*split.epoch(None), strict=True))
        for split in (task.train, task.val, task.test)
    )
    model = trained(tiny_resnet(8), x, y, functional.cross_entropy)
    before, generator = copy_of(model), torch.get_rng_state()
    result = neuroprune.compress(
        model,
        train=(x, y),
        val=(vx, vy),
        test=(tx, ty),
        budget=Budget(macs=0.6),
        max_drop=5.0,
        epochs=4,
        lr=0.01,
        out=tmp_path / "out",
    )
    assert torch.equal(generator, torch.get_rng_state())  # the caller's randomness is not ours to seed
    assert result.met, result.text
    assert result.binding is None
    assert type(result.model) is type(model)
    assert not result.model.training
    assert size_of(result.model) < size_of(model)
    assert same(model, before)  # what was given is as it was
    rows = {row["metric"]: row for row in result.measurements}
    assert rows["MACs"]["after"] <= 0.6 * rows["MACs"]["before"]
    accuracy = float((result.model(tx).argmax(1) == ty).float().mean() * 100)
    assert accuracy >= rows["Accuracy (test)"]["before"] - 7
    assert result.report() == tmp_path / "out" / "report.html"
    assert "<html" in result.report().read_text()[:200]
    assert verify_artifact(result.artifact, model=tiny_resnet(8)).ok
    stored = load_tensors(result.artifact / "weights.safetensors")
    assert same(result.model, stored)


def test_a_frozen_model_comes_back_frozen(tmp_path: Path) -> None:
    """Checkpoints for inference have requires_grad off; fine-tuning works on a copy that has it on."""
    x, y = torch.randn(60, 12), torch.arange(60) % 3
    model = nn.Sequential(nn.Linear(12, 32), nn.ReLU(), nn.Linear(32, 3)).requires_grad_(False)
    result = neuroprune.compress(
        model, train=(x, y), val=(x, y), budget=Budget(macs=0.7), max_drop=None, criterion="taylor", epochs=1,
        out=tmp_path / "out",
    )  # fmt: skip
    assert result.met, result.text
    assert not any(p.requires_grad for net in (model, result.model) for p in net.parameters())


def test_a_regression_with_evaluate_and_loss(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(1)
    x = torch.rand(600, 4, generator=generator) * 2 - 1
    y = (torch.sin(3 * x[:, :1]) + x[:, 1:2] * x[:, 2:3]).contiguous()
    model = nn.Sequential(nn.Linear(4, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 1))
    trained(model, x[:400], y[:400], functional.mse_loss, steps=300)

    def evaluate(net: nn.Module) -> float:
        with torch.no_grad():
            return -float(functional.mse_loss(net(x[400:]), y[400:]))

    dense = evaluate(model)
    assert dense > -0.1  # it has learnt something: the variance of y is about 0.6
    result = neuroprune.compress(
        model,
        train=(x[:400], y[:400]),
        val=(x[400:], y[400:]),
        budget=Budget(params=0.5),
        evaluate=evaluate,
        loss=lambda batch, output: functional.mse_loss(output, batch[1]),
        metric="-MSE",
        max_drop=0.1,
        epochs=20,
        out=tmp_path / "out",
    )
    assert result.met, result.text
    assert size_of(result.model) <= 0.5 * size_of(model)
    assert evaluate(result.model) >= dense - 0.1
    row = next(row for row in result.measurements if row["metric"].startswith("-MSE"))
    assert row["before"] == pytest.approx(dense, abs=1e-6)
    assert "(val)" in row["metric"]
    assert verify_artifact(result.artifact, model=model).ok


class Tagger(nn.Module):
    """Token ids [N, T] -> one tag's scores per token [N, T, 3]."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(20, 16)
        self.mix = nn.Conv1d(16, 32, 3, padding=1)
        self.head = nn.Linear(32, 3)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embed(ids).transpose(1, 2)  # [N, 16, T]
        x = torch.relu(self.mix(x)).transpose(1, 2)  # [N, T, 32]
        scores: Tensor = self.head(x)
        return scores


def test_a_sequence_task_with_its_own_forward(tmp_path: Path) -> None:
    """Tag each token by whether its right neighbour is smaller, equal or larger, in thirds of the vocabulary."""
    generator = torch.Generator().manual_seed(2)
    ids = torch.randint(0, 20, (300, 12), generator=generator)
    thirds = (ids // 7).roll(-1, dims=1)
    thirds[:, -1] = 0
    batches = [{"ids": ids[i : i + 50], "tags": thirds[i : i + 50]} for i in range(0, 300, 50)]

    def forward(net: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        output: Tensor = net(batch["ids"])
        return output

    def loss(batch: dict[str, Tensor], output: Tensor) -> Tensor:
        return functional.cross_entropy(output.flatten(0, 1), batch["tags"].flatten())

    def evaluate(net: nn.Module) -> float:
        with torch.no_grad():
            right = [(forward(net, batch).argmax(-1) == batch["tags"]).float().mean() for batch in batches[4:]]
        return 100 * float(torch.stack(right).mean())

    model = trained(
        Tagger(), ids[:200], thirds[:200], lambda out, y: functional.cross_entropy(out.flatten(0, 1), y.flatten())
    )
    dense = evaluate(model)
    assert dense > 80
    result = neuroprune.compress(
        model,
        train=batches[:4],
        val=batches[4:],
        example_inputs=(ids[:2],),
        budget=Budget(params=0.6, size=0.9),
        forward=forward,
        loss=loss,
        evaluate=evaluate,
        metric="token accuracy",
        max_drop=5.0,
        epochs=20,
        lr=0.01,
        out=tmp_path / "out",
    )
    assert result.met, result.text
    assert isinstance(result.model, Tagger)
    assert size_of(result.model) <= 0.6 * size_of(model)
    assert evaluate(result.model) >= dense - 5
    assert verify_artifact(result.artifact, model=Tagger()).ok


def test_a_budget_that_cannot_be_met_is_told_not_raised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    task = load_task("digits", limit=200)
    result = neuroprune.compress(
        tiny_resnet(), train=task.train, val=task.val, budget=Budget(size="1KB"), max_drop=None, epochs=0
    )
    assert result.met is False
    assert result.binding == "size"
    assert "size" in result.text
    assert result.folder.parent == tmp_path  # out was not given
    assert (result.artifact / "model.onnx").is_file()


def test_resume_gives_the_same_network(tmp_path: Path) -> None:
    model, task = tiny_resnet(), load_task("digits", limit=200)

    def compress(resume: bool) -> nn.Module:
        return neuroprune.compress(
            model,
            train=task.train,
            val=task.val,
            budget=Budget(macs=0.7),
            max_drop=None,
            epochs=1,
            out=tmp_path / "out",
            resume=resume,
        ).model

    first = compress(False)
    with pytest.raises(UserError, match="holds another run"):
        compress(False)
    for folder in sorted((tmp_path / "out" / "steps").iterdir())[4:]:  # as if it had been killed while it cut
        shutil.rmtree(folder)
    assert same(compress(True), copy_of(first))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"train": (torch.rand(0, 1, 8, 8), torch.zeros(0, dtype=torch.long))}, "train data is empty"),
        ({"val": (torch.rand(4, 1, 8, 8), torch.tensor([1, 2, 3, 10]))}, "label is out of range"),
        ({"val": (torch.full((4, 1, 8, 8), float("nan")), torch.arange(4))}, "NaN"),
        ({"train": (np.random.rand(4, 3, 8, 8), np.arange(4))}, "refuses the example inputs"),
        ({"criterion": "l3"}, "did you mean 'l2'"),
        ({"keep": ["layer9.*"]}, "layer9"),
        ({"optimizer": "adam"}, "optimizer"),
        ({"budget": Budget()}, "needs a budget"),
        ({"budget": Budget(memory=0.5)}, "memory budget"),
        ({"train": iter([1, 2])}, "only once"),
    ],
)
def test_bad_arguments(change: dict[str, object], says: str, tmp_path: Path) -> None:
    good = (torch.rand(8, 1, 8, 8), torch.arange(8))
    options: dict[str, object] = {"train": good, "val": good, "epochs": 0, "out": tmp_path / "out", **change}
    with pytest.raises(UserError, match=says):
        neuroprune.compress(tiny_resnet(), **options)  # type: ignore[arg-type]


def test_nan_weights_are_named(tmp_path: Path) -> None:
    model = tiny_resnet()
    with torch.no_grad():
        model.get_parameter("head.bias")[0] = float("nan")
    good = (torch.rand(8, 1, 8, 8), torch.arange(8))
    with pytest.raises(UserError, match=r"head\.bias"):
        neuroprune.compress(model, train=good, val=good, out=tmp_path / "out")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model": lambda x: x}, "no torch.nn.Module"),
        ({"budget": {"macs": 0.5}}, "is no Budget"),
        ({"keep": ["blokcs.*"]}, r"keep='blokcs.\*' matches nothing"),
    ],
)
def test_misuse_is_named_before_the_folder_is_taken(
    tmp_path: Path, options: dict[str, object], message: str
) -> None:
    x, y = torch.randn(32, 1, 8, 8), torch.arange(32) % 10
    model = options.pop("model", tiny_resnet())
    with pytest.raises(UserError, match=message):
        neuroprune.compress(model, train=(x, y), val=(x, y), out=tmp_path / "run", **options)  # type: ignore[arg-type]
    assert not (tmp_path / "run" / "state.json").exists()
