"""Quantisation-aware training: what is computed in it, what stays of it, and interrupted training."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import Tensor, nn

from neuroprune.base.errors import UserError
from neuroprune.compression.cluster import cluster_weights
from neuroprune.compression.quantize import quantize_onnx
from neuroprune.export import EXPORTS
from neuroprune.pruning.masks import Masks
from neuroprune.recover.fit import FitConfig, fit
from neuroprune.recover.held_clusters import HeldClusters
from neuroprune.recover.hooks import HeldMasks
from neuroprune.recover.on_grid import weights_on_grid
from neuroprune.recover.qat import InputRange, Quantization, quantized
from neuroprune.tasks.batches import TensorBatches
from neuroprune.tasks.task import Task

CONFIG = FitConfig(epochs=3, lr=0.05, seed=1)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.head = nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(torch.relu(self.norm(self.conv(x))).mean((2, 3)))
        return out


@pytest.fixture
def task() -> Task:
    generator = torch.Generator().manual_seed(0)
    y = torch.randint(3, (96,), generator=generator)
    x = torch.randn(96, 1, 8, 8, generator=generator) + y.view(-1, 1, 1, 1).float()
    train = TensorBatches((x[:64], y[:64]), 16, shuffle=True, seed=0)
    val = TensorBatches((x[64:], y[64:]), 16, shuffle=False, seed=0)
    return Task("blobs", train, val, val, (x[:2],))


def net() -> Net:
    torch.manual_seed(0)
    return Net()


def masked(model: nn.Module) -> Masks:
    masks = Masks.for_weights(model)
    masks.switch_weights({n: p.detach().abs() for n, p in masks.parameters().items()}, 0.5)
    return masks


def test_inputs_are_rounded_to_256_steps_of_the_moving_extremes() -> None:
    one = InputRange(symmetric=False, momentum=0.5, like=torch.zeros(1))
    one(torch.tensor([-1.0, 3.0]))
    assert (one.low, one.high) == (-1, 3)
    one(torch.tensor([1.0, 5.0]))
    assert (one.low, one.high) == (-0.5, 4)  # zero is in every range: the second's low is 0
    one.eval()
    x = torch.linspace(-2, 6, 101)
    scale, zero = 4.5 / 255, round(0.5 * 255 / 4.5)
    expected = (torch.clamp(torch.round(x / scale) + zero, 0, 255) - zero) * scale
    assert torch.allclose(one(x), expected, atol=1e-6)
    assert (one.low, one.high) == (-0.5, 4)
    one.frozen = True
    one.train()
    one(torch.tensor([-100.0, 100.0]))
    assert (one.low, one.high) == (-0.5, 4)


def test_symmetric_steps_and_gradients_inside_only() -> None:
    one = InputRange(symmetric=True, momentum=0.0, like=torch.zeros(1))
    one(torch.tensor([-2.54, 1.0]))
    x = torch.tensor([0.029, -3.0, 3.0], requires_grad=True)
    one.eval()
    y = one(x)
    y.sum().backward()
    assert torch.allclose(y, torch.tensor([0.02, -2.54, 2.54]))
    assert x.grad is not None
    assert x.grad.tolist() == [1, 0, 0]


def test_what_is_no_number_and_what_is_dead_passes() -> None:
    one = InputRange(symmetric=False, momentum=0.9, like=torch.zeros(1))
    assert one(torch.zeros(3)).tolist() == [0, 0, 0]
    assert one(torch.tensor([1, 2])).tolist() == [1, 2]
    assert one(torch.zeros(0)).numel() == 0


def test_the_network_is_whole_again_and_its_weights_are_on_the_grid(task: Task) -> None:
    model = net()
    before = set(model.state_dict())
    with quantized(model) as hook:
        fit(model, task, CONFIG, hook=hook)
    assert set(model.state_dict()) == before
    assert not any(m._forward_pre_hooks for m in model.modules())
    assert hook.learned().keys() == {"conv", "head"}
    for weight in (model.conv.weight, model.head.weight):
        steps = weight.detach().flatten(1) / (weight.detach().abs().flatten(1).amax(1, keepdim=True) / 127)
        assert torch.allclose(steps, steps.round(), atol=1e-3)


def test_an_error_inside_leaves_the_network_whole(task: Task) -> None:
    model = net()
    with pytest.raises(RuntimeError), quantized(model):
        raise RuntimeError
    assert set(model.state_dict()) == set(net().state_dict())


def test_ranges_and_batch_norm_stand_still_late(task: Task) -> None:
    model = net()
    seen: list[tuple[float, ...]] = []

    def watch() -> None:
        low, high = hook.ranges["head"].low, hook.ranges["head"].high
        assert model.norm.running_mean is not None
        seen.append((float(low), float(high), float(model.norm.running_mean[0])))

    with quantized(model, Quantization(freeze=0.5, momentum=0.9)) as hook:
        fit(model, task, CONFIG, hook=hook, after_step=watch)
    steps = 3 * len(task.train)
    assert len(seen) == steps
    assert len(set(seen[: steps // 2])) == steps // 2
    assert len(set(seen[steps // 2 :])) == 1


@pytest.mark.parametrize("until", [1, 2])
def test_interrupted_training_ends_in_the_same_bits(task: Task, tmp_path: Path, until: int) -> None:
    def run(
        folder: Path | None, stops: Iterable[int | None]
    ) -> tuple[dict[str, Tensor], dict[str, tuple[float, float]]]:
        for stop in stops:
            model = net()
            masks = masked(model)
            with quantized(model, hooks=[HeldMasks(masks)]) as hook:
                fit(model, task, CONFIG, hook=hook, checkpoint=folder, until=stop)
        return model.state_dict(), hook.learned()

    whole, parts = run(None, [None]), run(tmp_path / "parts", [until, None])
    assert whole[1] == parts[1]
    assert all(torch.equal(a, b) for a, b in zip(whole[0].values(), parts[0].values(), strict=True))


def test_masks_stay_in_force_to_the_integers_of_the_file(task: Task, tmp_path: Path) -> None:
    model = net()
    masks = masked(model)
    off = {name: mask == 0 for name, mask in masks.masks.items()}
    with quantized(model) as hook:
        fit(model, task, CONFIG, hook=hook, after_step=masks.apply)
    parameters = dict(model.named_parameters())
    assert all((parameters[name][where] == 0).all() for name, where in off.items())
    trained = {name: parameters[name].detach().clone() for name in off}
    path = write(model, task, tmp_path, learned=hook.learned())
    held = [numpy_helper.to_array(t) for t in onnx.load(path).graph.initializer]
    integers = {a.shape: a for a in held if a.dtype == np.int8 and a.ndim > 1}
    for name, weight in trained.items():
        factor = weight.abs().flatten(1).amax(1).view(-1, *[1] * (weight.dim() - 1)) / 127
        expected = (weight / factor.clamp_min(1e-30)).round().numpy()
        found = integers[weight.shape]
        signs = np.sign((expected * found).reshape(len(found), -1).sum(1)).reshape(-1, *[1] * (weight.dim() - 1))
        assert (found == expected * np.where(signs == 0, 1, signs)).all(), name
        assert (found[off[name].numpy()] == 0).all()


def write(model: nn.Module, task: Task, folder: Path, **options: object) -> Path:
    onnx_export = EXPORTS.get("onnx")
    onnx_export.write(model.eval(), task.example_inputs, folder / "m.onnx", keep_names=True)
    data = [(batch[0].numpy(),) for batch in task.train.epoch(None)]
    quantize_onnx(folder / "m.onnx", folder / "q.onnx", data, **options)  # type: ignore[arg-type]
    return folder / "q.onnx"


def test_the_file_has_the_learned_ranges(task: Task, tmp_path: Path) -> None:
    model = net()
    with quantized(model) as hook:
        fit(model, task, CONFIG, hook=hook)
    learned = hook.learned()
    path = write(model, task, tmp_path, learned=learned)
    scales = [
        float(numpy_helper.to_array(t))
        for t in onnx.load(path).graph.initializer
        if not t.dims and t.data_type == 1
    ]
    for low, high in learned.values():
        assert any(scale == pytest.approx((high - low) / 255, rel=1e-5) for scale in scales)
    x = task.example_inputs[0]
    twin = copy.deepcopy(model).eval()
    with quantized(twin) as again, torch.no_grad():
        for name, (low, high) in learned.items():
            again.ranges[name].low.fill_(low)
            again.ranges[name].high.fill_(high)
            again.ranges[name].seen.fill_(1)
        expected = twin(x).numpy()
    (found,) = EXPORTS.get("onnx").load(path).run([x.numpy()])
    assert np.abs(found - expected).max() < 0.05 * np.abs(expected).max()  # what is between them is rounded too
    with pytest.raises(UserError, match="other layers"):
        write(model, task, tmp_path, learned={"nobody": (0.0, 1.0)})
    with pytest.raises(UserError, match="equalised"):
        write(model, task, tmp_path, learned=learned, equalize=True)


def test_clusters_are_kept(task: Task, tmp_path: Path) -> None:
    model = net()
    names = ("conv.weight",)
    with torch.no_grad():
        model.conv.weight[model.conv.weight.abs() < 0.1] = 0
    cluster_weights(model, k=5)
    before = model.conv.weight.detach().clone()
    assert before.unique().numel() == 5
    with quantized(model, Quantization(clustered=names), hooks=[HeldClusters(model, [names])]) as hook:
        fit(model, task, CONFIG, hook=hook)
    after = model.conv.weight.detach()
    assert not torch.equal(before, after)
    assert after.unique().numel() <= 5
    assert ((before == 0) == (after == 0)).all()
    assert (before == 0).any()
    path = write(model, task, tmp_path, originals=[after.numpy().copy()])
    held = [numpy_helper.to_array(t) for t in onnx.load(path).graph.initializer]
    conv = next(a for a in held if a.dtype == np.int8 and a.shape == after.shape)
    assert len(np.unique(np.abs(conv))) <= 5


@pytest.mark.parametrize("options", [{"momentum": 1.0}, {"momentum": -0.1}, {"freeze": 0.0}, {"freeze": 1.5}])
def test_options_out_of_range(options: dict[str, float]) -> None:
    with pytest.raises(UserError):
        Quantization(**options)  # type: ignore[arg-type]


def test_networks_and_names_that_do_not_fit() -> None:
    with pytest.raises(UserError, match="no linear layer"), quantized(nn.ReLU()):
        pass
    with pytest.raises(UserError, match="no weight"), weights_on_grid(net(), whole=["norm.weight"]):
        pass
    with pytest.raises(UserError, match="2 to 8"), quantized(net(), Quantization(bits=1)):
        pass
