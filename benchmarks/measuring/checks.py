"""Is the cut model right? Checks that share no code with the engine: masks, forward passes, a training step."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

#: relative error that counts as equal in float64; models that compute in float32 inside get LOOSE
TIGHT, LOOSE = 1e-9, 1e-4


def run(model: nn.Module, inputs: Any) -> list[Tensor]:
    """All tensors that ``model`` returns for a tensor, a tuple or a dictionary of arguments; from one seed."""
    inputs = tree_map(lambda x: x.clone() if isinstance(x, Tensor) else x, inputs)
    torch.manual_seed(0)
    if isinstance(inputs, dict):
        out = model(**inputs)
    else:
        out = model(*inputs) if isinstance(inputs, (tuple, list)) else model(inputs)
    return [leaf for leaf in tree_leaves(out) if isinstance(leaf, Tensor)]


def wider(inputs: Any) -> Any:
    """The same inputs with one example more."""
    return tree_map(lambda x: torch.cat([x, x[:1]]) if isinstance(x, Tensor) and x.dim() else x, inputs)


def doubled(inputs: Any) -> Any:
    return tree_map(lambda x: x.double() if isinstance(x, Tensor) and x.is_floating_point() else x, inputs)


def _as_float(inputs: Any) -> Any:
    return tree_map(lambda x: x.float() if isinstance(x, Tensor) and x.is_floating_point() else x, inputs)


def stir(model: nn.Module) -> nn.Module:
    """Make every weight matter, in place.

    A fresh network is full of zero biases, unit scales, branches multiplied by zero, and matrices so small that
    all attention is uniform: there equal outputs say nothing. Constant parameters and running statistics get
    noise; matrices and kernels whose spread is below 1 / sqrt(inputs) are scaled up to it.
    """
    generator = torch.Generator().manual_seed(1)
    statistics = [t for n, t in model.named_buffers() if n.endswith(("running_mean", "running_var"))]
    for tensor in [*model.parameters(), *statistics]:
        data = tensor.data
        if not data.is_floating_point() or not data.numel():
            continue
        if bool((data == data.flatten()[0]).all()):
            noise = torch.rand(data.shape, generator=generator, dtype=data.dtype) + 0.5
            data = noise * (data.flatten()[0].abs() or 0.1)
        elif data.dim() > 1:
            wanted = data[0].numel() ** -0.5
            data = data * max(1.0, wanted / max(float(data.std()), 1e-12))
        tensor.data = data
    return model


def masked_error(
    dense: nn.Module, cut: nn.Module, removed: Mapping[str, Mapping[int, Any]], inputs: Any
) -> tuple[float, float]:
    """Largest relative difference of ``cut`` from ``dense`` with the removed indices at zero, and what is allowed.

    In float64; in float32 where the dense model cannot compute in anything else.
    """
    with torch.no_grad():
        try:
            reference, inputs, allowed = copy.deepcopy(dense).double(), doubled(inputs), TIGHT
            expected = _masked(reference, removed, inputs)
        except RuntimeError:  # it makes tensors of its own, in float32
            reference, allowed = copy.deepcopy(dense), LOOSE
            expected = _masked(reference, removed, _as_float(inputs))
        kind = next(p.dtype for p in reference.parameters() if p.is_floating_point())
        del reference
        got = run(copy.deepcopy(cut).to(kind).eval(), inputs if allowed == TIGHT else _as_float(inputs))
    if [t.shape for t in expected] != [t.shape for t in got]:
        return float("inf"), allowed
    return max((difference(a, b) for a, b in zip(expected, got, strict=True)), default=float("inf")), allowed


def _masked(model: nn.Module, removed: Mapping[str, Mapping[int, Any]], inputs: Any) -> list[Tensor]:
    """What ``model`` returns with the removed indices at zero; in place, and without its caches of evaluation."""
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        for dim, indices in removed.get(name, {}).items():
            tensor.index_fill_(dim, torch.tensor(sorted(indices), dtype=torch.int64), 0)
    return run(model.train().eval(), inputs)


def difference(expected: Tensor, got: Tensor) -> float:
    """max |expected - got| / max |expected| over finite values; infinite where finiteness or integers differ."""
    if not expected.is_floating_point():
        return 0.0 if torch.equal(expected, got) else float("inf")
    finite = expected.isfinite()
    if not torch.equal(finite, got.isfinite()):
        return float("inf")
    a, b = expected[finite], got[finite]
    return float((a - b).abs().max()) / max(float(a.abs().max()), 1e-30) if a.numel() else 0.0


def runs_like(dense: nn.Module, cut: nn.Module, inputs: Any) -> tuple[bool | None, str]:
    """Does ``cut`` return what ``dense`` returns, in shape and finite, for one example and for two?

    None where the dense model itself takes no second example.
    """
    with torch.no_grad():
        for example in (inputs, wider(inputs)):
            try:
                expected = run(dense, example)
            except Exception:
                return None, "the dense model takes one batch size only"
            try:
                got = run(cut, example)
            except Exception as error:
                return False, said(error)
            if [t.shape for t in got] != [t.shape for t in expected]:
                return False, "the shapes of the outputs change"
            if any(
                bool(a.isfinite().all()) and not bool(b.isfinite().all())
                for a, b in zip(expected, got, strict=True)
            ):
                return False, "values that were finite are not"
    return True, ""


def trains(
    cut: nn.Module, dense: nn.Module, fresh: Callable[[], nn.Module], inputs: Any
) -> tuple[bool | None, str]:
    """One training step of ``cut``, and its state dict into ``fresh()`` (the plan on a new model).

    None where the dense model cannot be trained on such inputs either.
    """
    try:
        _step(cut, wider(inputs))
        copy_of = fresh()
        copy_of.load_state_dict(cut.state_dict())
        with torch.no_grad():
            one, other = run(cut.eval(), inputs), run(copy_of.eval(), inputs)
    except Exception as error:
        return (
            (False, said(error)) if _can_step(dense, inputs) else (None, "the dense model does not train either")
        )
    same = all(difference(a, b) <= LOOSE for a, b in zip(one, other, strict=True))
    return same, "" if same else "the state dict in a fresh model gives other outputs"


def _step(model: nn.Module, inputs: Any) -> None:
    """Forward and backward in training mode. Raises ValueError where gradients are missing or not finite."""
    outputs = [out for out in run(model.train(), inputs) if out.requires_grad]
    torch.stack([out.float().square().mean() for out in outputs]).sum().backward()
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    model.zero_grad()
    if not gradients or not all(bool(g.isfinite().all()) for g in gradients):
        raise ValueError("no gradients, or gradients that are not finite")


def _can_step(model: nn.Module, inputs: Any) -> bool:
    try:
        _step(copy.deepcopy(model), wider(inputs))
    except Exception:
        return False
    return True


def left_alone(model: nn.Module, inputs: Any, before: list[Tensor]) -> str:
    """Empty where ``model`` still returns what it returned ``before``; otherwise what is different."""
    try:
        with torch.no_grad():
            now = run(model, inputs)
        if any(type(t) is not Tensor for t in now):
            return f"it returns {type(now[0]).__name__}"
        same = len(now) == len(before) and all(torch.equal(a, b) for a, b in zip(now, before, strict=True))
    except Exception as error:
        return said(error)
    return "" if same else "it returns other values"


def checksum(model: nn.Module) -> list[Any]:
    """Changes when any tensor of the model does (nearly always): to see that a model was left alone."""
    state = [(name, tuple(t.shape), str(t.sum().item())) for name, t in model.state_dict().items()]
    return [state, repr(model), model.training]


def said(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"[:400]
