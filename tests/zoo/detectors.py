"""Object detectors as people write them, small: YOLO v5 and v8, SSD, RetinaNet/FCOS, DETR. Random weights.

Nothing here was written for the engine: chunks, growing concatenations, anchor heads viewed with five
dimensions, a convolution over a softmax, heads shared by all levels, queries that are parameters.
"""

from __future__ import annotations

import itertools

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Conv(nn.Module):
    """Convolution, batch norm, SiLU: the brick of every YOLO."""

    def __init__(self, c1: int, c2: int, k: int = 1, s: int = 1, groups: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(c1, c2, k, s, k // 2, groups=groups, bias=False)
        self.bn, self.act = nn.BatchNorm2d(c2), nn.SiLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.bn(self.conv(x)))


class Bottleneck(nn.Module):
    def __init__(self, c1: int, c2: int, shortcut: bool = True) -> None:
        super().__init__()
        self.cv1, self.cv2 = Conv(c1, c2, 3), Conv(c2, c2, 3)
        self.add = shortcut and c1 == c2

    def forward(self, x: Tensor) -> Tensor:
        return x + self.cv2(self.cv1(x)) if self.add else self.cv2(self.cv1(x))


class C2f(nn.Module):
    """Halves of one convolution; the second feeds a chain whose every result is joined."""

    def __init__(self, c1: int, c2: int, n: int = 1, shortcut: bool = True, *, by_split: bool = False) -> None:
        super().__init__()
        self.c, self.by_split = c2 // 2, by_split
        self.cv1, self.cv2 = Conv(c1, 2 * self.c), Conv((2 + n) * self.c, c2)
        self.m = nn.ModuleList(Bottleneck(self.c, self.c, shortcut) for _ in range(n))

    def forward(self, x: Tensor) -> Tensor:
        y = list(self.cv1(x).split((self.c, self.c), 1) if self.by_split else self.cv1(x).chunk(2, 1))
        y.extend(m(y[-1]) for m in self.m)
        return self.cv2(torch.cat(y, 1))


class C3(nn.Module):
    """YOLO v5: two branches joined."""

    def __init__(self, c1: int, c2: int, n: int = 1, shortcut: bool = True) -> None:
        super().__init__()
        self.cv1, self.cv2, self.cv3 = Conv(c1, c2 // 2), Conv(c1, c2 // 2), Conv(c2, c2)
        self.m = nn.Sequential(*(Bottleneck(c2 // 2, c2 // 2, shortcut) for _ in range(n)))

    def forward(self, x: Tensor) -> Tensor:
        return self.cv3(torch.cat((self.m(self.cv1(x)), self.cv2(x)), 1))


class SPPF(nn.Module):
    """Three poolings in a row, all joined."""

    def __init__(self, c1: int, c2: int, k: int = 5) -> None:
        super().__init__()
        self.cv1, self.cv2 = Conv(c1, c1 // 2), Conv(c1 // 2 * 4, c2)
        self.m = nn.MaxPool2d(k, 1, k // 2)

    def forward(self, x: Tensor) -> Tensor:
        y = [self.cv1(x)]
        y.extend(self.m(y[-1]) for _ in range(3))
        return self.cv2(torch.cat(y, 1))


class Focus(nn.Module):
    """Space to depth in front of the first convolution."""

    def __init__(self, c2: int) -> None:
        super().__init__()
        self.conv = Conv(12, c2, 3)

    def forward(self, x: Tensor) -> Tensor:
        parts = (x[..., ::2, ::2], x[..., 1::2, ::2], x[..., ::2, 1::2], x[..., 1::2, 1::2])
        return self.conv(torch.cat(parts, 1))


class DFL(nn.Module):
    """The mean of a distribution over bins, as a frozen convolution over its softmax."""

    def __init__(self, bins: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(bins, 1, 1, bias=False).requires_grad_(False)
        self.conv.weight.data[:] = torch.arange(bins, dtype=torch.float).view(1, bins, 1, 1)
        self.bins = bins

    def forward(self, x: Tensor) -> Tensor:
        b, _, a = x.shape
        return self.conv(x.view(b, 4, self.bins, a).transpose(2, 1).softmax(1)).view(b, 4, a)


class DetectV8(nn.Module):
    """Anchor-free heads: boxes as distributions, classes beside them, decoded at every place of three levels."""

    def __init__(self, classes: int, channels: tuple[int, ...], bins: int = 4) -> None:
        super().__init__()
        self.nc, self.reg_max, self.no = classes, bins, classes + 4 * bins
        self.strides = [8.0, 16.0, 32.0]
        c2, c3 = max(16, channels[0] // 4, bins * 4), max(channels[0], classes)
        self.cv2 = nn.ModuleList(
            nn.Sequential(Conv(c, c2, 3), Conv(c2, c2, 3), nn.Conv2d(c2, 4 * bins, 1)) for c in channels
        )
        self.cv3 = nn.ModuleList(
            nn.Sequential(
                nn.Sequential(Conv(c, c, 3, groups=c), Conv(c, c3)), Conv(c3, c3, 3), nn.Conv2d(c3, classes, 1)
            )
            for c in channels
        )
        self.dfl = DFL(bins)

    def forward(self, x: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        maps = [torch.cat((box(f), cls(f)), 1) for box, cls, f in zip(self.cv2, self.cv3, x, strict=True)]
        flat = torch.cat([m.view(m.shape[0], self.no, -1) for m in maps], 2)
        box, scores = flat.split((self.reg_max * 4, self.nc), 1)
        anchors, strides = anchor_points(maps, self.strides)
        left, right = self.dfl(box).chunk(2, 1)
        corner, far = anchors.unsqueeze(0) - left, anchors.unsqueeze(0) + right
        boxes = torch.cat(((corner + far) / 2, far - corner), 1) * strides
        return torch.cat((boxes, scores.sigmoid()), 1), maps


def anchor_points(maps: list[Tensor], strides: list[float]) -> tuple[Tensor, Tensor]:
    """Centres [2, places] and strides [1, places] of all levels."""
    points, steps = [], []
    for feature, stride in zip(maps, strides, strict=True):
        _, _, h, w = feature.shape
        sy, sx = (torch.arange(n, dtype=feature.dtype, device=feature.device) + 0.5 for n in (h, w))
        grid_y, grid_x = torch.meshgrid(sy, sx, indexing="ij")
        points.append(torch.stack((grid_x, grid_y), -1).view(-1, 2))
        steps.append(torch.full((h * w, 1), stride, dtype=feature.dtype))
    return torch.cat(points).transpose(0, 1), torch.cat(steps).transpose(0, 1)


class YoloV8(nn.Module):
    """Backbone, path-aggregation neck (up and down again), three levels of heads. ``classes``: 5."""

    def __init__(self, width: int = 8, classes: int = 5, *, by_split: bool = False) -> None:
        super().__init__()
        w = [width, 2 * width, 3 * width, 4 * width]
        self.stem, self.down1 = Conv(3, w[0], 3, 2), Conv(w[0], w[1], 3, 2)
        self.c1 = C2f(w[1], w[1], 1, by_split=by_split)
        self.down2, self.c2 = Conv(w[1], w[2], 3, 2), C2f(w[2], w[2], 2, by_split=by_split)
        self.down3, self.c3 = Conv(w[2], w[3], 3, 2), C2f(w[3], w[3], 2, by_split=by_split)
        self.down4, self.c4, self.sppf = Conv(w[3], w[3], 3, 2), C2f(w[3], w[3]), SPPF(w[3], w[3])
        self.up = nn.Upsample(scale_factor=2, mode="nearest")
        self.n1, self.n2 = C2f(2 * w[3], w[3], 1, False), C2f(w[3] + w[2], w[2], 1, False)
        self.d1, self.n3 = Conv(w[2], w[2], 3, 2), C2f(w[2] + w[3], w[3], 1, False)
        self.d2, self.n4 = Conv(w[3], w[3], 3, 2), C2f(2 * w[3], w[3], 1, False)
        self.detect = DetectV8(classes, (w[2], w[3], w[3]))

    def forward(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        p3 = self.c2(self.down2(self.c1(self.down1(self.stem(x)))))
        p4 = self.c3(self.down3(p3))
        p5 = self.sppf(self.c4(self.down4(p4)))
        up4 = self.n1(torch.cat([self.up(p5), p4], 1))
        up3 = self.n2(torch.cat([self.up(up4), p3], 1))
        down4 = self.n3(torch.cat([self.d1(up3), up4], 1))
        down5 = self.n4(torch.cat([self.d2(down4), p5], 1))
        return self.detect([up3, down4, down5])


class DetectV5(nn.Module):
    """Anchor heads: channels viewed as anchors x (box, objectness, classes), decoded with constant anchors."""

    def __init__(self, classes: int, channels: tuple[int, ...]) -> None:
        super().__init__()
        self.nc, self.no, self.nl, self.na = classes, classes + 5, len(channels), 3
        anchors = torch.arange(1, 2 * self.nl * self.na + 1).float().view(self.nl, -1, 2)
        self.register_buffer("anchors", anchors)
        self.strides = [8.0, 16.0]
        self.m = nn.ModuleList(nn.Conv2d(c, self.no * self.na, 1) for c in channels)

    def forward(self, x: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        maps, decoded = [], []
        for i in range(self.nl):
            y = self.m[i](x[i])
            bs, _, ny, nx = y.shape
            y = y.view(bs, self.na, self.no, ny, nx).permute(0, 1, 3, 4, 2).contiguous()
            maps.append(y)
            yv, xv = torch.meshgrid(torch.arange(ny), torch.arange(nx), indexing="ij")
            grid = torch.stack((xv, yv), 2).expand(1, self.na, ny, nx, 2).to(y) - 0.5
            xy, wh, conf = y.sigmoid().split((2, 2, self.nc + 1), 4)
            xy = (xy * 2 + grid) * self.strides[i]
            wh = (wh * 2) ** 2 * self.anchors[i].view(1, self.na, 1, 1, 2)
            decoded.append(torch.cat((xy, wh, conf), 4).view(bs, self.na * nx * ny, self.no))
        return torch.cat(decoded, 1), maps


class YoloV5(nn.Module):
    def __init__(self, width: int = 8, classes: int = 5) -> None:
        super().__init__()
        w = [width, 2 * width, 3 * width, 4 * width]
        self.focus, self.down1, self.c1 = Focus(w[0]), Conv(w[0], w[1], 3, 2), C3(w[1], w[1])
        self.down2, self.c2 = Conv(w[1], w[2], 3, 2), C3(w[2], w[2], 2)
        self.down3, self.sppf, self.c3 = Conv(w[2], w[3], 3, 2), SPPF(w[3], w[3]), C3(w[3], w[3], 1, False)
        self.lateral, self.up = Conv(w[3], w[2]), nn.Upsample(None, 2, "nearest")
        self.n1 = C3(2 * w[2], w[2], 1, False)
        self.d1, self.n2 = Conv(w[2], w[2], 3, 2), C3(2 * w[2], w[3], 1, False)
        self.detect = DetectV5(classes, (w[2], w[3]))

    def forward(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        p3 = self.c2(self.down2(self.c1(self.down1(self.focus(x)))))
        lateral = self.lateral(self.c3(self.sppf(self.down3(p3))))
        up = self.n1(torch.cat([self.up(lateral), p3], 1))
        down = self.n2(torch.cat([self.d1(up), lateral], 1))
        return self.detect([up, down])


class L2Norm(nn.Module):
    """SSD's scale on one feature map: unit length over the channels, a weight per channel."""

    def __init__(self, channels: int, scale: float = 20.0) -> None:
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.full((channels,), scale)), 1e-10

    def forward(self, x: Tensor) -> Tensor:
        norm = x.pow(2).sum(dim=1, keepdim=True).sqrt() + self.eps
        return self.weight.unsqueeze(0).unsqueeze(2).unsqueeze(3).expand_as(x) * torch.div(x, norm)


class SSD(nn.Module):
    """A VGG-like column, heads on three maps, permuted, flattened and joined; the class count is a literal."""

    def __init__(self, width: int = 12) -> None:
        super().__init__()
        w = [width, 2 * width, 3 * width]
        self.column = nn.ModuleList(
            [
                nn.Conv2d(3, w[0], 3, padding=1), nn.ReLU(inplace=True), nn.MaxPool2d(2, 2),
                nn.Conv2d(w[0], w[1], 3, padding=1), nn.ReLU(inplace=True), nn.MaxPool2d(2, 2, ceil_mode=True),
                nn.Conv2d(w[1], w[2], 3, padding=1), nn.ReLU(inplace=True),
                nn.MaxPool2d(3, 1, 1), nn.Conv2d(w[2], w[2], 3, padding=2, dilation=2), nn.ReLU(inplace=True),
            ]
        )  # fmt: skip
        self.norm = L2Norm(w[1])
        self.extras = nn.ModuleList([nn.Conv2d(w[2], w[0], 1), nn.Conv2d(w[0], w[1], 3, 2, 1)])
        self.loc = nn.ModuleList(nn.Conv2d(c, 3 * 4, 3, padding=1) for c in (w[1], w[2], w[1]))
        self.conf = nn.ModuleList(nn.Conv2d(c, 3 * 6, 3, padding=1) for c in (w[1], w[2], w[1]))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        sources, loc, conf = [], [], []
        for index, layer in enumerate(self.column):
            x = layer(x)
            if index == 4:
                sources.append(self.norm(x))
        sources.append(x)
        for index, layer in enumerate(self.extras):
            x = F.relu(layer(x), inplace=True)
            if index % 2 == 1:
                sources.append(x)
        for source, to_loc, to_conf in zip(sources, self.loc, self.conf, strict=True):
            loc.append(to_loc(source).permute(0, 2, 3, 1).contiguous())
            conf.append(to_conf(source).permute(0, 2, 3, 1).contiguous())
        flat_loc = torch.cat([o.view(o.size(0), -1) for o in loc], 1)
        flat_conf = torch.cat([o.view(o.size(0), -1) for o in conf], 1)
        boxes = flat_loc.view(flat_loc.size(0), -1, 4)
        return boxes, flat_conf.view(flat_conf.size(0), -1, 6).softmax(-1), self.priors(sources)

    @staticmethod
    def priors(sources: list[Tensor]) -> Tensor:
        """Centres and sizes [places * 3, 4], from the sizes of the maps alone."""
        found = []
        for source in sources:
            h, w = source.shape[-2:]
            for i in range(h):
                for j in range(w):
                    found += [[(j + 0.5) / w, (i + 0.5) / h, s / h, s / w] for s in (1.0, 1.5, 2.0)]
        return torch.tensor(found, dtype=sources[0].dtype)


class Scale(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(1.3))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale


class Retina(nn.Module):
    """Residual backbone, feature pyramid, one head shared by all levels; a dict of lists comes out (FCOS)."""

    def __init__(self, width: int = 8, classes: int = 5) -> None:
        super().__init__()
        w = [width, 2 * width, 4 * width]
        self.stem = nn.Sequential(nn.Conv2d(3, w[0], 3, 2, 1), nn.BatchNorm2d(w[0]), nn.ReLU())
        self.downs = nn.ModuleList(nn.Conv2d(a, b, 3, 2, 1) for a, b in itertools.pairwise(w))
        self.blocks = nn.ModuleList(Bottleneck(c, c) for c in w)
        self.lateral = nn.ModuleList(nn.Conv2d(c, w[1], 1) for c in w)
        self.smooth = nn.ModuleList(nn.Conv2d(w[1], w[1], 3, padding=1) for _ in w)
        self.towers = nn.ModuleList(
            nn.Sequential(nn.Conv2d(w[1], w[1], 3, padding=1), nn.ReLU(), nn.Conv2d(w[1], w[1], 3, padding=1))
            for _ in range(2)
        )
        self.scores, self.boxes = nn.Conv2d(w[1], classes, 3, padding=1), nn.Conv2d(w[1], 4, 3, padding=1)
        self.centre, self.scales = nn.Conv2d(w[1], 1, 1), nn.ModuleList(Scale() for _ in w)

    def pyramid(self, x: Tensor) -> list[Tensor]:
        x, maps = self.stem(x), []
        for index, block in enumerate(self.blocks):
            x = block(x if index == 0 else self.downs[index - 1](x))
            maps.append(x)
        merged = [lateral(m) for lateral, m in zip(self.lateral, maps, strict=True)]
        for i in range(len(merged) - 1, 0, -1):
            merged[i - 1] = merged[i - 1] + F.interpolate(merged[i], size=merged[i - 1].shape[-2:])
        return [smooth(m) for smooth, m in zip(self.smooth, merged, strict=True)]

    def forward(self, x: Tensor) -> dict[str, list[Tensor]]:
        found: dict[str, list[Tensor]] = {"scores": [], "boxes": [], "centre": []}
        for scale, level in zip(self.scales, self.pyramid(x), strict=True):
            seen, placed = (tower(level) for tower in self.towers)
            found["scores"].append(self.scores(seen).permute(0, 2, 3, 1).flatten(1, 2))
            found["boxes"].append(F.relu(scale(self.boxes(placed))).permute(0, 2, 3, 1).flatten(1, 2))
            found["centre"].append(self.centre(placed).flatten(2).transpose(1, 2))
        return found


class Detr(nn.Module):
    """Backbone, transformer, learned queries; rows and columns have learned positions of half the width each."""

    def __init__(self, hidden: int = 16, classes: int = 5) -> None:
        super().__init__()
        self.backbone = nn.Sequential(Conv(3, 12, 3, 2), Conv(12, 24, 3, 2), Bottleneck(24, 24))
        self.conv = nn.Conv2d(24, hidden, 1)
        self.transformer = nn.Transformer(hidden, 4, 1, 1, dim_feedforward=32, dropout=0.0)
        self.query = nn.Parameter(torch.rand(6, hidden))
        self.rows, self.columns = (nn.Parameter(torch.rand(8, hidden // 2)) for _ in range(2))
        self.scores, self.boxes = nn.Linear(hidden, classes + 1), nn.Linear(hidden, 4)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        h = self.conv(self.backbone(x))
        height, width = h.shape[-2:]
        position = torch.cat(
            [
                self.columns[:width].unsqueeze(0).repeat(height, 1, 1),
                self.rows[:height].unsqueeze(1).repeat(1, width, 1),
            ],
            dim=-1,
        ).flatten(0, 1)
        source = position.unsqueeze(1) + 0.1 * h.flatten(2).permute(2, 0, 1)
        target = self.query.unsqueeze(1).expand(-1, h.shape[0], -1)
        h = self.transformer(source, target).transpose(0, 1)
        return {"logits": self.scores(h), "boxes": self.boxes(h).sigmoid()}


def wake(model: nn.Module) -> nn.Module:
    """Batch norms of a fresh network are identities, which would hide mistakes."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.weight, module.bias, module.running_mean, module.running_var):
                tensor.data.uniform_(0.5, 1.5)
    return model


#: name -> (network, side of its images, whether the cut changes statistics; None: either is right)
DETECTORS = {
    "yolo_v8": (lambda: wake(YoloV8()), 64, False),
    "yolo_v8_split": (lambda: wake(YoloV8(by_split=True)), 64, False),
    "yolo_v5": (lambda: wake(YoloV5()), 32, False),
    "ssd": (SSD, 24, None),
    "retina": (lambda: wake(Retina()), 32, False),
    "detr": (lambda: wake(Detr()), 32, True),
}
