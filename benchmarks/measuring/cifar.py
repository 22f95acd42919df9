"""The pretrained CIFAR-10 networks and images of ../shared/data, as the benchmarks use them."""

from __future__ import annotations

import functools
import io
import os
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional

from neuroprune.base.files import write_bytes

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
#: of the pretrained networks: see README.md of the data
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


class Shortcut(nn.Module):
    """Option A of He et al. 2015: every second pixel, zero channels around."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.padding = channels // 4

    def forward(self, x: Tensor) -> Tensor:
        return functional.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.padding, self.padding))


class Block(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.shortcut = nn.Sequential() if stride == 1 and inputs == outputs else Shortcut(outputs)

    def forward(self, x: Tensor) -> Tensor:
        out = functional.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        out += self.shortcut(x)
        return functional.relu(out)


class CifarResNet(nn.Module):
    """He et al. 2015, section 4.2; names as in akamaster/pytorch_resnet_cifar10, whose weights fit."""

    def __init__(self, depth: int) -> None:
        super().__init__()
        blocks = (depth - 2) // 6
        self.conv1, self.bn1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16)
        self.layer1 = self._stage(16, 16, blocks, 1)
        self.layer2 = self._stage(16, 32, blocks, 2)
        self.layer3 = self._stage(32, 64, blocks, 2)
        self.linear = nn.Linear(64, 10)

    @staticmethod
    def _stage(inputs: int, outputs: int, blocks: int, stride: int) -> nn.Sequential:
        first = Block(inputs, outputs, stride)
        return nn.Sequential(first, *(Block(outputs, outputs, 1) for _ in range(blocks - 1)))

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.linear(x.mean((2, 3)))


def resnet(depth: int) -> nn.Module:
    model = CifarResNet(depth)
    model.load_state_dict(load_file(DATA / "models" / f"cifar10_resnet{depth}.safetensors"))
    return model.eval()


def normalised(images: np.ndarray) -> Tensor:
    """uint8 [n, 32, 32, 3] -> float32 [n, 3, 32, 32] as the networks were trained."""
    x = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255
    return (x - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)


@functools.cache
def lossless() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Training images and labels (8,068), test images and labels (1,017)."""
    held = np.load(DATA / "cifar10" / "cifar10_lossless.npz")
    labels = (torch.from_numpy(held[key].astype(np.int64)) for key in ("train_y", "test_y"))
    train_y, test_y = labels
    return normalised(held["train_x"]), train_y, normalised(held["test_x"]), test_y


@functools.cache
def jpeg_test() -> Tensor:
    """The 10,000 test images as JPEG files of quality 75."""
    return normalised(jpeg("test")[0])


def jpeg(split: str) -> tuple[np.ndarray, np.ndarray]:
    """Images as JPEG files of quality 75, uint8 [n, 32, 32, 3], and classes [n]; decoded once per machine."""
    kept = Path(tempfile.gettempdir()) / f"neuroprune-cifar10-jpeg-{split}-{os.getuid()}.npz"
    if not kept.exists():
        images, labels = _decoded(split)
        buffer = io.BytesIO()
        np.savez(buffer, images=images, labels=labels)
        write_bytes(kept, buffer.getvalue())
    held = np.load(kept)
    return held["images"], held["labels"]


def _decoded(split: str) -> tuple[np.ndarray, np.ndarray]:
    """Folders are named after the classes, whose numbers are their places in the alphabet."""
    from PIL import Image

    with zipfile.ZipFile(DATA / "cifar10" / "cifar10_jpeg_q75.zip") as archive:
        names = [name for name in archive.namelist() if f"{split}/" in name and name.endswith(".jpg")]
        names.sort()
        classes = sorted({name.split("/")[-2] for name in names})
        images = [np.asarray(Image.open(io.BytesIO(archive.read(name))).convert("RGB")) for name in names]
    return np.stack(images), np.array([classes.index(name.split("/")[-2]) for name in names], dtype=np.int64)


def every_training_image() -> tuple[np.ndarray, np.ndarray]:
    """The 8,068 lossless ones and the JPEG copies of all 50,000, uint8 [n, 32, 32, 3], and classes [n]."""
    held, (copies, classes) = np.load(DATA / "cifar10" / "cifar10_lossless.npz"), jpeg("train")
    return np.concatenate([held["train_x"], copies]), np.concatenate([held["train_y"].astype(np.int64), classes])


class Mirrored(Sequence[Tensor]):
    """Batches of images and their mirror images in an order of ``seed``, made when asked for."""

    def __init__(self, images: Tensor, batch: int, seed: int) -> None:
        self.images = images
        generator = torch.Generator().manual_seed(seed)
        self.batches = torch.randperm(2 * len(images), generator=generator).split(batch)

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, index: Any) -> Any:
        numbers = self.batches[index]
        chosen = self.images[numbers % len(self.images)]
        return torch.where((numbers >= len(self.images)).view(-1, 1, 1, 1), chosen.flip(3), chosen)


@torch.no_grad()
def predictions(model: nn.Module, images: Tensor) -> Tensor:
    """[n] classes."""
    model.eval()
    return torch.cat([model(part).argmax(1) for part in images.split(256)])
