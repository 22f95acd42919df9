"""Small networks with blocks that can be removed, and some that only look it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class PostBlock(nn.Module):
    """A ResNet block: relu(x + f(x)), with a projection where it changes the shape."""

    def __init__(self, ins: int, outs: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(ins, outs, 3, stride, 1, bias=False), nn.BatchNorm2d(outs)
        self.conv2, self.bn2 = nn.Conv2d(outs, outs, 3, 1, 1), nn.BatchNorm2d(outs)
        self.relu = nn.ReLU(inplace=True)
        self.project = nn.Conv2d(ins, outs, 1, stride) if stride > 1 or ins != outs else None

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        return self.relu(y + (x if self.project is None else self.project(x)))


class TinyResNet(nn.Module):
    """Stem, two stages of three blocks (the first of the second one projects), head; input [N, 3, 8, 8]."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.bn = nn.Conv2d(3, 8, 3, 1, 1), nn.BatchNorm2d(8)
        self.layer1 = nn.Sequential(PostBlock(8, 8), PostBlock(8, 8), PostBlock(8, 8))
        self.layer2 = nn.Sequential(PostBlock(8, 12, 2), PostBlock(12, 12), PostBlock(12, 12))
        self.head = nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.bn(self.stem(x)).relu()
        return self.head(self.layer2(self.layer1(x)).mean((2, 3)))


class PreBlock(nn.Module):
    """A pre-activation block; it returns what its ``kind`` says."""

    def __init__(self, width: int = 6, kind: str = "plain") -> None:
        super().__init__()
        self.norm, self.conv = nn.BatchNorm2d(width), nn.Conv2d(width, width, 3, padding=1)
        self.after = nn.BatchNorm2d(width, affine=False) if kind == "statistics" else None
        self.kind = kind

    def forward(self, x: Tensor, extra: Any = None) -> Any:
        y = self.conv(self.norm(x).relu())
        match self.kind:
            case "plain":
                return x + y
            case "scaled":
                return 0.5 * x + y
            case "post-relu":
                return (x + y).relu()
            case "tuple":
                return x + y, None
            case "nested":
                return (x + y, (None, [])), extra
            case "number":
                return x + y, 3
            case "cache":
                extra.append(y)
                return x + y
            case "inplace":
                return x.add_(y)
            case "relu-inplace":  # the shortcut sees what the activation wrote
                return x.relu_() + y
            case "statistics":  # a running mean is no parameter: zero at first, not after training
                return x + self.after(y)
        raise AssertionError(self.kind)


class Around(nn.Module):
    """A convolution, the module under test called by ``how``, and a head; input [N, 3, 5, 5]."""

    def __init__(self, block: nn.Module, how: str = "plain") -> None:
        super().__init__()
        self.stem, self.block, self.head = nn.Conv2d(3, 6, 1), block, nn.Linear(6, 2)
        self.how = how

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        match self.how:
            case "plain":
                x = self.block(x)
            case "twice":
                x = self.block(self.block(x).tanh())
            case "first":
                x = self.block(x)[0]
            case "keyword":
                x = self.block(extra=None, x=x)[0]
            case "mixed":
                x = self.block(x=self.block(x))
            case "extra":
                (x, _), side = self.block(x, extra=x.mean())
                x = x + side
            case "cache":
                cache: list[Tensor] = []
                x = self.block(x, cache) + cache[0]
        return self.head(x.mean((2, 3)))


class Residual(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return x + self.inner(x)


class Attention(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm, self.qkv, self.out = nn.LayerNorm(width), nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(self.norm(x)).chunk(3, -1)
        return self.out((q @ k.transpose(1, 2)).softmax(-1) @ v)


class Layer(nn.Module):
    """A transformer layer written out, with a layer scale that starts at a constant."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.attention, self.norm = Attention(width), nn.LayerNorm(width)
        self.up, self.down = nn.Linear(width, 12), nn.Linear(12, width)
        self.scale = nn.Parameter(torch.full((width,), 1e-5))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(x)
        return x + self.scale * self.down(torch.nn.functional.gelu(self.up(self.norm(x))))


class TinyViT(nn.Module):
    """Tokens [N, T, 8] through four layers; ``parts``: each layer is two residual modules of its own."""

    def __init__(self, *, parts: bool = False) -> None:
        super().__init__()
        self.embed = nn.Linear(4, 8)
        self.blocks = nn.Sequential(*(self._layer(parts) for _ in range(4)))
        self.norm, self.head = nn.LayerNorm(8), nn.Linear(8, 3)

    @staticmethod
    def _layer(parts: bool) -> nn.Module:
        mlp = nn.Sequential(nn.LayerNorm(8), nn.Linear(8, 12), nn.GELU(), nn.Linear(12, 8))
        return nn.Sequential(Residual(Attention(8)), Residual(mlp)) if parts else Layer()

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(self.blocks(self.embed(x))).mean(1))


class TorchEncoder(nn.Module):
    """PyTorch's own encoder; its forward pass reads ``layers[0].self_attn.batch_first``."""

    def __init__(self, *, norm_first: bool = True) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(8, 2, 12, norm_first=norm_first, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 3, enable_nested_tensor=False)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.encoder(x).mean(1))


def trained(model: nn.Module, inputs: Tensor) -> nn.Module:
    """Weights and statistics away from their first values."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
        model.train()
        model(inputs)
    return model.eval()
