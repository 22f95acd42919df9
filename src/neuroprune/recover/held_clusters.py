"""Weights that are trained as the values of a code book: which value a weight has stays, the value is learned."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from neuroprune.base.errors import UserError
from neuroprune.pruning.masks import Hold

#: what a value's gradient is of its members' gradients
Shared = Literal["sum", "mean"]


class HeldClusters:
    """A hook for `fit` that trains the distinct values of ``model``'s weights (Han, Mao, Dally 2016, "Deep
    compression", section 3.3): weights that are equal now stay equal, weights at zero stay at zero.

    >>> report = cluster_weights(model, k=16)                                            # doctest: +SKIP
    >>> fit(model, task, config, hook=HeldClusters(model, [b.tensors for b in report.books]))  # doctest: +SKIP

    ``books``: names of parameters that share their values. A value's gradient is the ``sum`` of its members'
    gradients, as in the paper, or their ``mean``; a mean is a rate of its own for each value, lower by its number
    of members. One member of each value stands for all of them: it alone has the gradient, the others have zero
    and are set to it after the step, so the optimizer, its momentum, its weight decay and the clipping of the
    gradient's norm act as if the values were the parameters.

    Masks may be in force as well: apply them before this is made, so that what they hold is at zero. Raises
    UserError for names that are no parameters, and for books that are trained in part only.
    """

    goes_back = True

    def __init__(self, model: nn.Module, books: Sequence[Sequence[str]], gradient: Shared = "sum") -> None:
        if gradient not in ("sum", "mean"):
            raise UserError(
                "gradients are shared as their sum or mean", value=gradient, mend='give gradient="sum"'
            )
        parameters = dict(model.named_parameters(remove_duplicate=False))
        names = [name for book in books for name in book]
        for name in names:
            if name not in parameters or names.count(name) > 1:
                problem = "there is no such parameter" if name not in parameters else "a tensor has one book"
                raise UserError(problem, where=name, mend="give the books of a ClusterReport")
        self.gradient = gradient
        self.books = [_Book(book, [parameters[name] for name in book], gradient) for book in books if book]

    def start(self, steps: int) -> None:
        pass

    def after_backward(self) -> None:
        """Each value's gradient to the member that stands for it."""
        for book in self.books:
            book.share_gradients()

    def after_step(self, optimizer: torch.optim.Optimizer, step: int, steps: int) -> None:
        self.apply()

    def apply(self) -> None:
        """Every weight is again what the member is that stands for its value."""
        for book in self.books:
            book.spread()

    def hold(self, optimizer: torch.optim.Optimizer) -> Hold:
        """The same in a training loop of your own, until ``remove`` or the end of a ``with``. One that clips the
        gradient's norm calls `after_backward` before that and `apply` after the step instead."""
        before = optimizer.register_step_pre_hook(lambda *_: self.after_backward())
        return Hold([before, optimizer.register_step_post_hook(lambda *_: self.apply())])

    def state(self) -> dict[str, Tensor]:
        pairs = (pair for book in self.books for pair in zip(book.names, book.codes, strict=True))
        return {f"codes/{name}": codes for name, codes in pairs}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Raises UserError where ``state`` is of other clusters."""
        for name, codes in self.state().items():
            if name not in state or not torch.equal(state[name].to(codes), codes):
                raise UserError(
                    "the checkpoint is of a training with other clusters",
                    where=name.removeprefix("codes/"),
                    mend="start with the weights that training started with, or in another folder",
                )

    def identity(self) -> str:
        digest = hashlib.sha256()
        for name, codes in self.state().items():
            digest.update(name.encode())
            digest.update(codes.cpu().numpy().tobytes())
        books = "; ".join(", ".join(book.names) for book in self.books)
        return f"held clusters {self.gradient} {books} {digest.hexdigest()}"


class _Book:
    """Tensors that share values. ``codes``: of each tensor, flat, which value each entry has. The first entry that
    has a value stands for it: ``owned`` lists for each tensor the values that stand in it, ``places`` where.
    """

    def __init__(self, names: Sequence[str], parameters: Sequence[nn.Parameter], gradient: Shared) -> None:
        self.names, self.parameters = tuple(names), list(parameters)
        if len({p.requires_grad for p in parameters}) > 1:
            raise UserError(
                "tensors that share their values must be trained or frozen together",
                where=", ".join(n for n, p in zip(names, parameters, strict=True) if not p.requires_grad),
                mend="unfreeze these, or cluster with a smaller scope",
            )
        flat = [p.detach().cpu().to(torch.float64).reshape(-1).numpy() for p in parameters]
        values, first, codes, members = np.unique(
            np.concatenate(flat), return_index=True, return_inverse=True, return_counts=True
        )
        ends = np.cumsum([len(array) for array in flat])
        owner = np.searchsorted(ends, first, side="right")
        kind = np.uint8 if len(values) <= 256 else np.int32
        self.codes = [torch.from_numpy(part.copy()) for part in np.split(codes.astype(kind), ends[:-1])]
        self.owned = [torch.from_numpy(np.flatnonzero(owner == t)) for t in range(len(flat))]
        self.places = [torch.from_numpy(first[owner == t] - end + len(f)) for t, (f, end) in
                       enumerate(zip(flat, ends, strict=True))]  # fmt: skip
        share = 1 if gradient == "sum" else 1 / members
        self.factor = torch.from_numpy((values != 0) * share).to(torch.float64)  # [values], of the gradients' sum

    def _parts(self) -> Iterator[tuple[nn.Parameter, Tensor, Tensor, Tensor]]:
        """Each parameter with its codes, and the values that stand in it with their places; all on its device."""
        device = self.parameters[0].device
        if self.factor.device != device:
            self.factor = self.factor.to(device)
            for lists in (self.codes, self.owned, self.places):
                lists[:] = [tensor.to(device) for tensor in lists]
        return zip(self.parameters, self.codes, self.owned, self.places, strict=True)

    @torch.no_grad()
    def share_gradients(self) -> None:
        if all(p.grad is None for p in self.parameters):
            return
        parts = list(self._parts())
        total = torch.zeros_like(self.factor)
        for parameter, codes, _, _ in parts:
            if parameter.grad is not None:
                total.index_add_(0, codes.to(torch.int32), _dense(parameter.grad).reshape(-1).to(total.dtype))
        total *= self.factor
        for parameter, _, owned, places in parts:
            alone = torch.zeros_like(parameter, memory_format=torch.contiguous_format)
            alone.view(-1)[places] = total[owned].to(alone.dtype)
            if parameter.grad is None or parameter.grad.layout != torch.strided:
                parameter.grad = alone
            else:
                parameter.grad.copy_(alone)

    @torch.no_grad()
    def spread(self) -> None:
        parts = list(self._parts())
        values = torch.zeros_like(self.factor)
        for parameter, _, owned, places in parts:
            values[owned] = parameter.reshape(-1)[places].to(values.dtype)
        values *= self.factor != 0
        for parameter, codes, _, _ in parts:
            parameter.copy_(
                values.to(parameter.dtype).index_select(0, codes.to(torch.int32)).view(parameter.shape)
            )


def _dense(gradient: Tensor) -> Tensor:
    """Embeddings may have sparse ones."""
    return gradient if gradient.layout == torch.strided else gradient.to_dense()
