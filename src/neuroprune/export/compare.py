"""Compare a network with its exported file, and evaluate a file as if it were the network."""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from neuroprune.base.errors import UserError
from neuroprune.base.modes import evaluation
from neuroprune.export._base import Session
from neuroprune.export.structure import Structure, count, rebuild
from neuroprune.tasks.task import tensors_in


class _Forward(Protocol):
    """The part of a Task that capturing inputs needs."""

    @property
    def forward(self) -> Any: ...


@dataclass(frozen=True)
class Difference:
    """How far a file is from its network over all outputs.

    ``absolute``: largest difference; ``relative``: it over the network's largest absolute output; ``agreement``:
    share of positions with the same arg-max over dimension 1 of the first output (None where that has fewer
    than two entries); ``values``: how many numbers were compared.
    """

    absolute: float
    relative: float
    agreement: float | None
    values: int


def compare_outputs(model: nn.Module, session: Session, inputs: Sequence[Any]) -> Difference:
    """Run both on ``inputs`` (the model's positional arguments, tensors or arrays).

    Raises UserError when the number or the shapes of the outputs differ, or one of them is not finite.
    """
    arguments = tuple(torch.from_numpy(x) if isinstance(x, np.ndarray) else x for x in inputs)
    with evaluation(model):
        expected = [t.detach().cpu().numpy() for t in tensors_in(model(*arguments))]
    return difference(expected, run_on_tensors(session, tuple(tensors_in(arguments))))


def difference(expected: Sequence[np.ndarray], actual: Sequence[np.ndarray]) -> Difference:
    """As ``compare_outputs``, from outputs at hand."""
    if [a.shape for a in expected] != [a.shape for a in actual]:
        raise UserError(
            "the file's outputs have other shapes than the network's",
            value=f"{[a.shape for a in actual]} instead of {[a.shape for a in expected]}",
            mend="export the network again: the file is of another one",
        )
    for name, arrays in (("network", expected), ("file", actual)):
        if not all(np.isfinite(a).all() for a in arrays if a.dtype.kind == "f"):
            raise UserError(
                f"the {name}'s outputs are not finite",
                value=f"{sum(int((~np.isfinite(a)).sum()) for a in arrays if a.dtype.kind == 'f')} values",
                mend="check the weights and the scale of the inputs (preprocessing)",
            )
    gaps = [np.abs(e.astype(np.float64) - a) for e, a in zip(expected, actual, strict=True)]
    absolute = max((float(g.max()) for g in gaps if g.size), default=0.0)
    scale = max((float(np.abs(e.astype(np.float64)).max()) for e in expected if e.size), default=0.0)
    return Difference(
        absolute=absolute,
        relative=absolute / scale if scale else absolute,
        agreement=_agreement(expected[0], actual[0]) if expected else None,
        values=sum(e.size for e in expected),
    )


def _agreement(expected: np.ndarray, actual: np.ndarray) -> float | None:
    if expected.ndim < 2 or expected.shape[1] < 2 or expected.size == 0:
        return None
    return float((expected.argmax(1) == actual.argmax(1)).mean())


def run_on_tensors(session: Session, inputs: Sequence[Tensor]) -> list[np.ndarray]:
    """Run arrays through ``session``; where it takes one batch size only, in slices, the last one padded."""
    arrays = [t.detach().cpu().contiguous().numpy() for t in inputs]
    size = next((a.shape[0] for a in arrays if a.ndim), 0)
    if session.batch is None or size in (0, session.batch):
        return session.run(arrays)
    step, parts = session.batch, []
    for start in range(0, size, step):
        slices = [a[start : start + step] if a.ndim and a.shape[0] == size else a for a in arrays]
        missing = step - min(step, size - start)
        padded = [
            np.concatenate([s, np.repeat(s[-1:], missing, axis=0)]) if s.ndim and missing else s for s in slices
        ]
        parts.append(session.run(padded))
    return [np.concatenate(pieces)[:size] for pieces in zip(*parts, strict=True)]


class OnnxModule(nn.Module):
    """A loaded file that is called like the network: tensors in, the network's output structure out.

    >>> task.evaluate(OnnxModule(EXPORTS.get("onnx").load(path)), task.val)

    Gradients do not flow through it. Positional arguments come in the network's order; keyword arguments are
    matched by the network's own parameter names. Arguments that are no tensors were fixed at export.
    """

    def __init__(self, session: Session) -> None:
        super().__init__()
        self.session = session
        text = session.metadata.get("outputs")
        several: Structure = {"tuple": ["tensor"] * len(session.output_names)}
        plain: Structure = "tensor" if len(session.output_names) == 1 else several
        self.structure: Structure = json.loads(text) if text else plain
        if count(self.structure) != len(session.output_names):
            outputs = len(session.output_names)
            raise UserError(
                f"the file has {outputs} outputs, its metadata describes {count(self.structure)}",
                value=text,
                mend="export the network again: the metadata is of another one",
            )

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Shapes as in the network: [batch, ...] in, [batch, ...] out."""
        given = list(tensors_in(args))
        for name in self.session.input_names[len(given) :]:
            given += list(tensors_in(kwargs.get(name)))
        return rebuild(self.structure, (torch.from_numpy(a) for a in run_on_tensors(self.session, given)))


def capture_inputs(
    model: nn.Module, task: _Forward, batches: Iterable[Any], n: int
) -> list[tuple[np.ndarray, ...]]:
    """What ``task.forward`` really feeds the model for the first ``n`` examples, one tuple per batch.

    ``batches`` is an iterable of batches or a ``Batches`` (its fixed order is taken). Each tuple holds one
    array [batch, ...] per tensor argument, in the order of the file's inputs. The last batch is cut so that no
    more than ``n`` examples come back. Raises UserError when the model was never called.
    """
    caught: list[tuple[np.ndarray, ...]] = []

    def catch(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        values = inspect.signature(module.forward).bind(*args, **kwargs).arguments if kwargs else args
        caught.append(tuple(t.detach().cpu().numpy().copy() for t in tensors_in(values)))

    epoch = getattr(batches, "epoch", None)
    handle = model.register_forward_pre_hook(catch, with_kwargs=True)
    try:
        with evaluation(model):
            for batch in epoch(None) if epoch else batches:
                if _examples(caught) >= n:
                    break
                task.forward(model, batch)
    finally:
        handle.remove()
    if not caught:
        raise UserError(
            "no inputs were captured: the data are empty, or forward never calls the model",
            where=f"forward of {type(model).__name__}",
            value=f"{n} examples were wanted",
            mend="give data, and a forward= that calls the model it is given",
        )
    return _first(caught, n)


def _examples(caught: Sequence[tuple[np.ndarray, ...]]) -> int:
    return sum(len(arrays[0]) if arrays and arrays[0].ndim else 1 for arrays in caught)


def _first(caught: list[tuple[np.ndarray, ...]], n: int) -> list[tuple[np.ndarray, ...]]:
    surplus = _examples(caught) - n
    if surplus <= 0:
        return caught
    size = len(caught[-1][0])
    last = tuple(a[: size - surplus] if a.ndim and len(a) == size else a for a in caught[-1])
    return [*caught[:-1], last]
