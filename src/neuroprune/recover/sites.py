"""Where a layer's values go: the batch norm behind it, and the sum in which its drift can be made good.

A **site** is an affine layer with the batch norm that alone reads it. Where the site's value, unchanged but for
layout and per-channel factors, is one term of a sum (a residual stream), a refit can aim at the dense net's sum
sum and so correct what arrived wrong on the other term. Found by running the model once under a dispatch mode.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils._python_dispatch import TorchDispatchMode

from neuroprune.base.modes import evaluation
from neuroprune.pruning.design import is_affine, weight_of
from neuroprune.tasks.task import tensors_in

Run = Callable[[nn.Module], Any]
Inverse = Callable[[Tensor], Tensor]

_aten = torch.ops.aten
_RELUS = {_aten.relu.default, _aten.relu_.default, _aten.hardtanh.default, _aten.hardtanh_.default}
_SUMS = {_aten.add.Tensor, _aten.add_.Tensor}
_NORMS = {
    _aten._native_batch_norm_legit_no_training.default,
    _aten.native_batch_norm.default,
    _aten._batch_norm_with_update.default,
    _aten.cudnn_batch_norm.default,
}
_LAYOUTS = {_aten.permute.default, _aten.transpose.int, _aten.view.default, _aten._unsafe_view.default,
            _aten.clone.default, _aten.contiguous.default, _aten.alias.default}  # fmt: skip


@dataclass(frozen=True)
class Site:
    """``layer``: module path; ``norm``: path of the batch norm that alone reads it; ``summed``: see above;
    ``rectified``: its value, or the sum, is read by a ReLU alone, so how negative it is makes no difference."""

    layer: str
    norm: str | None = None
    summed: bool = False
    rectified: bool = False


@dataclass(frozen=True)
class Value:
    """A site's value on its way to a sum, and how to take a tensor of this layout back to the site's own."""

    site: str
    tensor: Tensor  # held, so that no other tensor gets its id
    back: tuple[Inverse, ...] = ()
    normed: bool = False
    summed: bool = False

    def home(self, tensor: Tensor) -> Tensor:
        for step in reversed(self.back):
            tensor = step(tensor)
        return tensor


def step_on(
    value: Value, func: Any, args: tuple[Any, ...], out: Tensor, fixed: Mapping[int, Tensor]
) -> Value | None:
    """``value`` after an operator that changes its layout or multiplies it by a parameter; None for any other."""
    if func in _LAYOUTS and args[0] is value.tensor:
        return replace(value, tensor=out, back=(*value.back, _undo(func, args, args[0].shape)))
    if func is _aten.mul.Tensor and isinstance(args[1], Tensor):
        factor = args[1] if args[0] is value.tensor else args[0]
        other = id(factor) in fixed or (factor._base is not None and id(factor._base) in fixed)
        if other and out.shape == value.tensor.shape and bool((factor != 0).all()):
            return replace(value, tensor=out, back=(*value.back, lambda t: t / factor))
    return None


def _undo(func: Any, args: tuple[Any, ...], before: torch.Size) -> Inverse:
    if func is _aten.permute.default:
        inverse = torch.argsort(torch.tensor([d % len(before) for d in args[1]])).tolist()
        return lambda t: t.permute(inverse)
    if func is _aten.transpose.int:
        return lambda t: t.transpose(args[1], args[2])
    return lambda t: t.reshape(before)


def fixed_in(model: nn.Module) -> dict[int, Tensor]:
    return {id(p): p for p in [*model.parameters(), *model.buffers()]}


class _Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch: untyped __init_subclass__
    """Follows the values of sites through the operators of one run."""

    def __init__(self, fixed: Mapping[int, Tensor]) -> None:
        """``fixed``: parameters and buffers, by their ids."""
        super().__init__()  # type: ignore[no-untyped-call]
        self.fixed = fixed
        self.values: dict[int, list[Value]] = {}  # by the id of their tensor: both terms of a sum become the sum
        self.uses: dict[int, int] = {}  # of values, by their id
        self.kept: list[Value] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        read = {
            id(t) for a in (*args, *(kwargs or {}).values()) for t in (a if isinstance(a, (tuple, list)) else (a,))
        }
        met = [value for key in read for value in self.values.get(key, ())]
        for value in met:
            self.uses[id(value)] = self.uses.get(id(value), 0) + 1
        before = self.before(func, args, met)
        result = func(*args, **(kwargs or {}))
        out = result[0] if isinstance(result, (tuple, list)) and result else result
        if met and isinstance(out, Tensor):
            self.after(func, args, kwargs or {}, met, out, before)
        return result

    def start(self, site: str, output: Tensor) -> None:
        self.follow(Value(site, output))

    def follow(self, value: Value) -> None:
        self.values.setdefault(id(value.tensor), []).append(value)
        self.kept.append(value)

    def before(self, func: Any, args: Any, met: list[Value]) -> Any:
        """What must be seen before an operator overwrites it."""

    def after(self, func: Any, args: Any, kwargs: Any, met: list[Value], out: Tensor, before: Any) -> None:
        raise NotImplementedError


class _Finder(_Watch):  # type: ignore[no-untyped-call]
    def __init__(self, model: nn.Module, stack: list[str], norms: Mapping[str, _BatchNorm]) -> None:
        super().__init__(fixed_in(model))
        self.stack, self.norms = stack, norms
        self.found: dict[str, list[tuple[str, Value, str]]] = {}  # site -> (what, value met, norm)
        self.linear = {name for name, m in model.named_modules() if isinstance(m, nn.Linear)}
        self.owners = {
            id(p): name
            for name, m in model.named_modules()
            if is_affine(m)
            for p in m._parameters.values()
            if p is not None
        }
        self.elsewhere: set[str] = set()  # layers whose parameters others read as well

    def before(self, func: Any, args: Any, met: list[Value]) -> None:
        owners = {self.owners.get(id(a)) for a in args} - {None, self.stack[-1] if self.stack else ""}
        self.elsewhere.update(name for name in owners if name is not None)

    def gave(self, output: Any) -> None:
        """The model gives ``output``: whoever gets it reads it."""
        for tensor in tensors_in(output):
            for value in self.values.get(id(tensor), ()):
                self.uses[id(value)] = self.uses.get(id(value), 0) + 1
                self.found.setdefault(value.site, []).append(("end", value, ""))

    def after(self, func: Any, args: Any, kwargs: Any, met: list[Value], out: Tensor, before: Any) -> None:
        if any(out is value.tensor for value in met):  # overwritten: its next reader reads something else
            self.values.pop(id(out), None)
        for value in met:
            self.found.setdefault(value.site, []).append(self._step(value, func, args, kwargs, out))

    def _step(self, value: Value, func: Any, args: Any, kwargs: Any, out: Tensor) -> tuple[str, Value, str]:
        here = self.stack[-1] if self.stack else ""
        if func in _NORMS and self._is_norm_of(value, args) and here in self.norms:
            self.follow(Value(value.site, out, normed=True))
            return "norm", value, here
        if func in _SUMS and not value.summed and is_a_sum(args, kwargs, out):
            if not value.back:  # a factor may have turned its sign
                self.follow(Value(value.site, out, summed=True))
            return "sum", value, ""
        if is_a_relu(func, args) and not value.back:
            return "relu", value, ""
        further = step_on(value, func, args, out, self.fixed)
        if further is not None:
            self.follow(further)
            return "step", value, ""
        return "end", value, ""

    def _is_norm_of(self, value: Value, args: Any) -> bool:
        """The norm reads the site's own value, and its channels are the site's."""
        channels = 1 if value.site not in self.linear else value.tensor.dim() - 1
        return args[0] is value.tensor and channels == 1 and not (value.back or value.normed or value.summed)


def is_a_relu(func: Any, args: Any) -> bool:
    """Whatever is negative gives zero."""
    clipped = func in (_aten.hardtanh.default, _aten.hardtanh_.default)
    return func in _RELUS and (not clipped or (len(args) > 1 and args[1] == 0))


def is_a_sum(args: Any, kwargs: Any, out: Tensor) -> bool:
    """Two different activations of one shape, each once."""
    return (
        len(args) == 2 and isinstance(args[1], Tensor) and kwargs.get("alpha", 1) == 1
        and args[0].shape == args[1].shape == out.shape and args[0] is not args[1]
    )  # fmt: skip


def find_sites(model: nn.Module, run: Run) -> tuple[Site, ...]:
    """Sites in the order in which ``run(model)`` executes them; layers that run twice or never are left out."""
    modules = dict(model.named_modules())
    norms = {n: m for n, m in modules.items() if isinstance(m, _BatchNorm) and m.affine and m.track_running_stats}
    stack: list[str] = []
    finder = _Finder(model, stack, norms)
    calls: dict[str, int] = {}
    plain: set[str] = set()  # layers that gave examples

    def enter(name: str) -> None:
        stack.append(name)
        calls[name] = calls.get(name, 0) + 1

    def leave(name: str, output: Any) -> None:
        stack.pop()
        if is_affine(modules[name]) and isinstance(output, Tensor) and _has_examples(modules[name], output):
            plain.add(name)
            finder.start(name, output)

    handles = []
    for name, module in modules.items():
        handles.append(module.register_forward_pre_hook(lambda *_, name=name: enter(name)))
        handles.append(module.register_forward_hook(lambda _m, _a, out, name=name: leave(name, out)))
    try:
        with evaluation(model), finder:
            finder.gave(run(model))
    finally:
        for handle in handles:
            handle.remove()
    once = [n for n, count in calls.items() if count == 1 and n in plain and n not in finder.elsewhere]
    return tuple(_site(name, finder, calls) for name in once if not _shared(modules, name, "weight"))


def _has_examples(module: nn.Module, output: Tensor) -> bool:
    """Convolutions also take one example without a dimension for it."""
    return isinstance(module, nn.Linear) or output.dim() == weight_of(module).dim()


def _shared(modules: Mapping[str, nn.Module], name: str, key: str) -> bool:
    """The layer's weight belongs to another layer too: it cannot be refitted for one of them."""
    weight = getattr(modules[name], key)
    others = [m for n, m in modules.items() if n != name for p in m._parameters.values() if p is weight]
    return bool(others) or key not in modules[name]._parameters


def _site(name: str, finder: _Finder, calls: Mapping[str, int]) -> Site:
    site = Site(name)
    for what, value, where in finder.found.get(name, []):
        if finder.uses[id(value)] > 1 or what == "end" or (what == "norm" and calls[where] != 1):
            break
        if what == "norm":
            site = replace(site, norm=where)
        elif what == "sum":
            site = replace(site, summed=True)
        elif what == "relu":
            return replace(site, rectified=True)
    return site


class Tap(_Watch):  # type: ignore[no-untyped-call]
    """Reads, in one run, what a refit of some sites needs.

    ``inputs[layer]``: what the layer gets; ``outputs[layer]``: the site's value; ``sums[layer]``: the other term
    of its sum and the sum, both in the layout of the site's value. ``told`` is asked after each; it may end a run.
    """

    def __init__(
        self, modules: Mapping[str, nn.Module], sites: Iterable[Site], fixed: Mapping[int, Tensor]
    ) -> None:
        """``modules``: of the network, by name; ``fixed``: what `fixed_in` says of it."""
        super().__init__(fixed)
        self.modules, self.sites = modules, {site.layer: site for site in sites}
        self.inputs: dict[str, Tensor] = {}
        self.outputs: dict[str, Tensor] = {}
        self.sums: dict[str, tuple[Tensor, Tensor]] = {}
        self.told: Callable[[], None] = lambda: None

    def missing(self) -> bool:
        """Something of a site has not been seen yet."""
        return any(
            name not in self.outputs or (site.summed and name not in self.sums)
            for name, site in self.sites.items()
        )

    def forget(self) -> None:
        """Keep what was read, no more: ``told`` may know this tap, and a cycle waits long for the collector."""
        self.told = lambda: None
        self.values.clear()
        self.uses.clear()
        self.kept.clear()

    def before(self, func: Any, args: Any, met: list[Value]) -> dict[int, Tensor]:
        """The other term of each value that meets a sum, before it is overwritten."""
        if func not in _SUMS or len(args) != 2 or not isinstance(args[1], Tensor):
            return {}
        return {id(value): (args[1] if args[0] is value.tensor else args[0]).clone() for value in met}

    def after(self, func: Any, args: Any, kwargs: Any, met: list[Value], out: Tensor, before: Any) -> None:
        for value in met:
            self.values.pop(id(value.tensor), None)
        for value in met:
            site = self.sites[value.site]
            if site.norm is not None and not value.normed:
                self._saw(site, out)
            elif id(value) in before:
                self.sums[value.site] = (value.home(before[id(value)]), value.home(out.clone()))
                self.told()
            elif (further := step_on(value, func, args, out, self.fixed)) is not None:
                self.follow(further)

    def _saw(self, site: Site, output: Tensor) -> None:
        # clones: what the model later writes into its tensors must not reach them
        self.outputs[site.layer] = output.clone()
        if site.summed:
            self.follow(Value(site.layer, output, normed=True))
        self.told()

    def _gave(self, site: Site, output: Tensor) -> None:
        """A batch norm is met as an operator: its module may do more than norm."""
        if site.norm is None:
            self._saw(site, output)
        else:
            self.start(site.layer, output)

    @contextmanager
    def hooked(self) -> Iterator[None]:
        """Active."""
        handles = []

        def got(site: Site, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
            self.inputs[site.layer] = (args[0] if args else kwargs["input"]).clone()

        for site in self.sites.values():
            layer = self.modules[site.layer]
            handles += [
                layer.register_forward_pre_hook(lambda _m, a, k, s=site: got(s, a, k), with_kwargs=True),
                layer.register_forward_hook(lambda _m, _a, out, s=site: self._gave(s, out)),
            ]
        try:
            with self:
                yield
        finally:
            for handle in handles:
                handle.remove()
