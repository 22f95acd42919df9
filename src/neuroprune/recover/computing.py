"""Where training computes, and in which precision: CPU or GPU, bfloat16 beside float32, channels last."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from neuroprune.base.errors import UserError

Device = Literal["auto", "cpu", "cuda"]
Precision = Literal["fp32", "bf16"]
DEVICES, PRECISIONS = get_args(Device), get_args(Precision)


@dataclass(frozen=True)
class Computing:
    """``precision`` of the matrix products (weights and what the optimizer does stay float32: torch.autocast);
    ``channels_last``: images as [N, H, W, C] in memory, whatever their shape says."""

    device: torch.device
    precision: Precision = "fp32"
    channels_last: bool = False

    @classmethod
    def chosen(cls, device: Device, precision: Precision, channels_last: bool) -> Computing:
        """``auto``: a GPU where there is one. Raises UserError for ``cuda`` where there is none."""
        there = torch.cuda.is_available()
        if device == "cuda" and not there:
            raise UserError(
                "there is no GPU that this PyTorch can use",
                value=f"PyTorch {torch.__version__}",
                mend="leave compute out, or give compute: cpu",
            )
        name = "cuda" if there and device != "cpu" else "cpu"
        return cls(torch.device(name), precision, channels_last)

    @contextmanager
    def placed(self, *networks: nn.Module) -> Iterator[None]:
        """The networks' tensors where and as this computes; afterwards in the CPU's memory as they were given."""
        if self.device.type == "cpu" and not self.channels_last:
            yield
            return
        homes = [next((p.device for p in network.parameters()), torch.device("cpu")) for network in networks]
        try:
            for network in networks:
                network.to(self.device)
                if self.channels_last:
                    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
            yield
        finally:
            for network, home in zip(networks, homes, strict=True):
                network.to(home)
                if self.channels_last:
                    network.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]

    def moved(self, batch: Any) -> Any:
        """The batch on the device, images as this wants them."""
        return in_each(batch, self._move)

    def _move(self, tensor: Tensor) -> Tensor:
        if self.channels_last and tensor.dim() == 4:
            return tensor.to(self.device, memory_format=torch.channels_last)
        return tensor.to(self.device)

    def run(self, forward: Callable[[nn.Module, Any], Any], model: nn.Module, batch: Any) -> Any:
        """``forward(model, batch)`` in the precision asked for; floating outputs come back in float32."""
        if self.precision == "fp32":
            return forward(model, batch)
        with torch.autocast(self.device.type, torch.bfloat16):
            output = forward(model, batch)
        return in_each(output, lambda tensor: tensor.float() if tensor.dtype == torch.bfloat16 else tensor)


def in_each(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """``value`` with each tensor in its tuples, lists and mappings changed; what is of another kind stays."""
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, tuple):
        items = [in_each(item, change) for item in value]
        return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)
    if isinstance(value, list):
        return [in_each(item, change) for item in value]
    if isinstance(value, Mapping):
        changed = {key: in_each(item, change) for key, item in value.items()}
        return changed if type(value) is dict else type(value)(**changed)
    return value
