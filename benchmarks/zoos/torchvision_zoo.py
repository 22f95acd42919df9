"""torchvision: classifiers, segmentation, video, optical flow, and detectors without their box arithmetic."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from neuroprune.tasks.compat import prepare_torchvision
from zoos.detectors import DetectorNetwork
from zoos.lazy import unwritten

PACKAGE = "torchvision"
SETS = ("classification", "segmentation", "video", "detection", "peer85", "all")
CLASSES = {"classification": 1000, "segmentation": 21, "video": 400, "detection": 91}

#: the 85 models that Torch-Pruning reports on (its benchmarks/prunability/readme.md: 81 pruned, 4 not), as
#: name fragments: "FAMILY: member member"
_PEER = """
detection/: ssdlite320_mobilenet_v3_large ssd300_vgg16 fasterrcnn_resnet50_fpn fasterrcnn_resnet50_fpn_v2
detection/: fasterrcnn_mobilenet_v3_large_320_fpn fasterrcnn_mobilenet_v3_large_fpn fcos_resnet50_fpn
detection/: keypointrcnn_resnet50_fpn maskrcnn_resnet50_fpn_v2 retinanet_resnet50_fpn_v2
alexnet:
vit_: b_16 b_32 l_16 l_32 h_14
convnext_: tiny small base large
densenet: 121 169 201 161
efficientnet_: b0 b1 b2 b3 b4 b5 b6 b7 v2_s v2_m v2_l
googlenet:
inception_v3:
mnasnet: 0_5 0_75 1_0 1_3
mobilenet_: v2 v3_large v3_small
regnet_y_: 400mf 800mf 1_6gf 3_2gf 8gf 16gf 32gf 128gf
resnet: 18 34 50 101 152
resnext: 50_32x4d 101_32x8d
wide_resnet: 50_2 101_2
segmentation/: fcn_resnet50 fcn_resnet101 deeplabv3_resnet50 deeplabv3_resnet101 deeplabv3_mobilenet_v3_large
segmentation/: lraspp_mobilenet_v3_large
squeezenet: 1_0 1_1
vgg: 11 13 16 19 11_bn 13_bn 16_bn 19_bn
shufflenet_v2_: x0_5 x1_0 x1_5 x2_0
swin_: t s b
optical_flow/: raft_large
"""


def peer_names() -> list[str]:
    found = []
    for line in _PEER.split("\n"):
        family, _, members = line.partition(":")
        found += [family.strip() + member for member in members.split() or ([""] if family else [])]
    return found


def names(chosen: str) -> list[str]:
    """Classifiers by their plain name, everything else as ``task/name``."""
    if chosen == "peer85":
        return peer_names()
    models = _models()
    tasks = ("classification", "segmentation", "video", "detection") if chosen == "all" else (chosen,)
    found = [name for task in tasks for name in _of_task(models, task)]
    return found + [n for n in peer_names() if n not in found] if chosen == "all" else found


def _of_task(models: Any, task: str) -> list[str]:
    if task == "classification":
        return list(models.list_models(module=models))
    return [f"{task}/{name}" for name in models.list_models(module=getattr(models, task))]


def sets_of(name: str) -> list[tuple[str, int | None]]:
    """The sets of the summary that ``name`` belongs to, and how many models each has where that is known."""
    own: list[tuple[str, int | None]] = [(name.rpartition("/")[0] or "classification", None)]
    return [*own, ("the peer's own list", len(peer_names()))] if name in peer_names() else own


def build(name: str, lazy: bool = False) -> tuple[nn.Module, Any]:
    models = _models()
    task, _, plain = name.rpartition("/")
    options: dict[str, Any] = {"weights": None}
    if task in ("segmentation", "detection"):
        options["weights_backbone"] = None
    if plain in ("googlenet", "inception_v3"):
        options["init_weights"] = True  # its default, which warns unless it is said
    torch.manual_seed(0)
    with unwritten(lazy):
        model = models.get_model(plain, **options)
        model = DetectorNetwork(model) if task == "detection" else model
    return model.eval(), _inputs(task, plain)


def classes(name: str) -> int | None:
    return CLASSES.get(name.rpartition("/")[0] or "classification")


def _inputs(task: str, plain: str) -> Any:
    if task == "video":
        frames, side = (16, 224) if plain.startswith(("mvit", "s3d")) else (8, 112)
        return torch.randn(1, 3, frames, side, side)
    if task == "optical_flow":  # 128 is the smallest image it takes
        pair = {"image1": torch.randn(1, 3, 128, 128), "image2": torch.randn(1, 3, 128, 128)}
        return {**pair, "num_flow_updates": 2}
    side = 320 if task == "detection" else 299 if plain == "inception_v3" else 224
    return torch.randn(1, 3, side, side)


def _models() -> Any:
    prepare_torchvision()
    from torchvision import models

    return models
