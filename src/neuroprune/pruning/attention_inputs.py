"""What enters the projections of `nn.MultiheadAttention`, which computes with weights and calls no modules."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from neuroprune.pruning.statistics import Statistics

_SEPARATE = ("q_proj_weight", "k_proj_weight", "v_proj_weight")


class AttentionSums:
    """Sums over the inputs of query, key, value and output projections, by the names of their weights.

    What enters the output projection is what the module gives when that projection is the identity: each module
    computes twice while it is watched.
    """

    def __init__(self, model: nn.Module) -> None:
        self.modules = {
            name: module for name, module in model.named_modules() if isinstance(module, nn.MultiheadAttention)
        }
        #: by module and projection (0, 1, 2: query, key, value; 3: output): [|x|, x^2, x != 0] and how many rows
        self.sums: dict[tuple[str, int], Tensor] = {}
        self.counts: dict[tuple[str, int], int] = {}

    @contextmanager
    def hooked(self) -> Iterator[None]:
        """Watching."""
        hooks = [
            module.register_forward_pre_hook(lambda m, args, kwargs, name=name: self._record(name, m, args,
            kwargs),
                                             with_kwargs=True)
            for name, module in self.modules.items()
        ]  # fmt: skip
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    @torch.no_grad()
    def _record(self, name: str, module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        inputs = [*args[:3], *(kwargs[key] for key in ("query", "key", "value")[len(args) :])]
        for place, x in enumerate((*inputs, self._mixed(module, args, kwargs))):
            self._add((name, place), x)

    @staticmethod
    def _mixed(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
        """The heads' outputs side by side."""
        projection = module.out_proj
        weight, bias = projection._parameters["weight"], projection._parameters["bias"]
        size = {"device": weight.device, "dtype": weight.dtype}
        try:
            projection._parameters["weight"] = nn.Parameter(torch.eye(len(weight), **size), requires_grad=False)
            if bias is not None:
                projection._parameters["bias"] = nn.Parameter(torch.zeros_like(bias), requires_grad=False)
            mixed: Tensor = module.forward(*args, **kwargs)[0]
        finally:
            projection._parameters["weight"], projection._parameters["bias"] = weight, bias
        return mixed

    def _add(self, key: tuple[str, int], x: Tensor) -> None:
        rows = x.detach().double().reshape(-1, x.shape[-1])
        sums = torch.stack([rows.abs().sum(0), rows.square().sum(0), (rows != 0).double().sum(0)])
        self.sums[key] = self.sums[key] + sums if key in self.sums else sums
        self.counts[key] = self.counts.get(key, 0) + len(rows)

    def write(self, statistics: Statistics) -> None:
        """A joint query, key and value weight [3 E, E] has its own statistic for each third of its rows."""
        for name in sorted({name for name, _ in self.sums}):
            module, prefix = self.modules[name], f"{name}." if name else ""
            if module.in_proj_weight is not None:
                thirds = [self._of((name, place)) for place in range(3)]
                rows = [torch.stack([third] * module.embed_dim, 1) for third in thirds]  # each [3, E, E]
                self._put(statistics, f"{prefix}in_proj_weight", torch.cat(rows, 1))
            else:
                for place, key in enumerate(_SEPARATE):
                    self._put(statistics, prefix + key, self._of((name, place)))
            self._put(statistics, f"{prefix}out_proj.weight", self._of((name, 3)))

    def _of(self, key: tuple[str, int]) -> Tensor:
        """Mean magnitude, norm and active share: [3, channels]."""
        (magnitude, squares, active), count = self.sums[key], self.counts[key]
        return torch.stack([magnitude / count, squares.sqrt(), active / count])

    @staticmethod
    def _put(statistics: Statistics, name: str, found: Tensor) -> None:
        statistics.input_magnitude[name] = found[0].float()
        statistics.input_norm[name] = found[1].float()
        statistics.input_active[name] = found[2].float()
