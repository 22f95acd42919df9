"""Make torchvision importable beside a CPU-only torch.

torchvision's wheel from the package index is built for a torch with its C++ operators; beside a CPU-only
torch that library does not load, and the Python part then stops with "operator torchvision::nms does not
exist". Declaring the two missing schemas first is enough for models and transforms.
"""

from __future__ import annotations

import functools

import torch

_SCHEMAS = {
    "nms": "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms": "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
}


@functools.cache
def prepare_torchvision() -> tuple[torch.library.Library, ...]:
    """Declare what torchvision expects, once, where nothing has declared it; returns what keeps it alive."""
    libraries = []
    for name, schema in _SCHEMAS.items():
        if not _declared(f"torchvision::{name}"):
            library = torch.library.Library("torchvision", "FRAGMENT")  # type: ignore[no-untyped-call]
            library.define(name + schema)  # type: ignore[no-untyped-call]
            libraries.append(library)
    return tuple(libraries)


def _declared(name: str) -> bool:
    return torch._C._dispatch_has_kernel(name) or name in torch._C._dispatch_get_all_op_names()
