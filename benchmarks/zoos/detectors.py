"""The part of a torchvision detector that has weights, as one function of an image batch."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F


class DetectorNetwork(nn.Module):
    """Backbone and every head of a torchvision detector, without anchors, box decoding and suppression.

    Those have no weights and depend on the values of their input. Where a two-stage detector crops regions, its
    second stage sees the whole image, pooled to the size a region has. Output: a dictionary of tensors.
    """

    def __init__(self, detector: nn.Module) -> None:
        super().__init__()
        self.backbone = detector.backbone
        self.head = detector.rpn.head if hasattr(detector, "rpn") else detector.head
        roi = getattr(detector, "roi_heads", None)
        self.stages = nn.ModuleDict()
        for part in ("box", "mask", "keypoint"):
            head = getattr(roi, f"{part}_head", None)
            if head is not None:
                self.stages[f"{part}_head"] = head
                self.stages[f"{part}_predictor"] = getattr(roi, f"{part}_predictor")

    def forward(self, images: Tensor) -> dict[str, Any]:
        features = self.backbone(images)
        maps = list(features.values()) if isinstance(features, dict) else [features]
        out: dict[str, Any] = {"dense": self.head(maps)}
        for part, side in (("box", 7), ("mask", 14), ("keypoint", 14)):
            if f"{part}_head" in self.stages:
                region = F.adaptive_avg_pool2d(maps[0], side)
                out[part] = self.stages[f"{part}_predictor"](self.stages[f"{part}_head"](region))
        return out
