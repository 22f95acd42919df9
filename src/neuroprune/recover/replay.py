"""Run a network over the same batches again and again, where finished modules answer from memory.

Layers are refitted in the order in which they run, each on the inputs that the ones before it really give. Without
memory that is one run of the whole network up to there per layer. A module whose layers are all finished gives the
same output for a batch each time: it is kept while an operator outside of finished modules reads it, and where
none does any more, zeros of its shape stand in for it. Kept is the boundary between done and to do, no more; of
many samples the most of it lies in temporary files.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from neuroprune.base.modes import evaluation
from neuroprune.recover.shelf import Shelf
from neuroprune.recover.sites import fixed_in
from neuroprune.tasks.task import tensors_in

Forward = Callable[[nn.Module, Any], Any]


class Enough(BaseException):
    """Ends a run of the user's model early; no handler of its own may catch it."""


class _Readers(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch: untyped __init_subclass__
    """Which modules' operators read each module's output."""

    def __init__(self, stack: list[str]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.stack = stack
        self.givers: dict[int, list[str]] = {}
        self.readers: dict[str, set[str]] = {}
        self.kept: list[Tensor] = []
        self.written: set[str] = set()  # modules that write into what they get: to answer for them is not enough

    def given(self, output: Any) -> None:
        """The network's output: its caller reads it."""
        for tensor in tensors_in(output):
            for giver in self.givers.get(id(tensor), ()):
                self.readers[giver].add("")

    def gave(self, name: str, output: Tensor) -> None:
        self.givers.setdefault(id(output), []).append(name)
        self.readers.setdefault(name, set())
        self.kept.append(output)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        flat = [t for a in args for t in (a if isinstance(a, (tuple, list)) else (a,)) if isinstance(t, Tensor)]
        here = self.stack[-1] if self.stack else ""
        for tensor in [*flat, *(kwargs or {}).values()]:
            for giver in self.givers.get(id(tensor), ()):
                self.readers[giver].add(here)
        return func(*args, **(kwargs or {}))


class Replay:
    """One network and its batches. ``forward(model, batch)`` runs it."""

    def __init__(
        self, model: nn.Module, forward: Forward, batches: Sequence[Any], *, remember: bool = True
    ) -> None:
        self.model, self.forward, self.batches, self.remember = model, forward, batches, remember
        self.modules = dict(model.named_modules())
        self.fixed = fixed_in(model)
        self.readers = self._look(batches[0]) if remember else {}
        self._needed: set[str] = set()
        self.done: list[str] = []  # finished modules whose output is one tensor
        self._store = Shelf()
        self._dropped: dict[
            tuple[str, int], tuple[torch.Size, torch.dtype, torch.device]
        ] = {}  # nobody reads these

    def _look(self, batch: Any) -> dict[str, set[str]]:
        """Module -> modules whose operators read its output, for those that run once and give one tensor."""
        stack: list[str] = []
        mode = _Readers(stack)
        calls: dict[str, int] = {}
        got: list[list[tuple[Tensor, int]]] = []  # what the modules of the stack got, and how often it was written

        def enter(name: str, *arguments: Any) -> None:
            stack.append(name)
            got.append([(t, t._version) for t in tensors_in(arguments) if not t.is_inference()])
            calls[name] = calls.get(name, 0) + 1

        def leave(name: str, output: Any) -> None:
            stack.pop()
            if any(tensor._version != version for tensor, version in got.pop()):
                mode.written.add(name)
            if isinstance(output, Tensor):
                mode.gave(name, output)

        handles = []
        for name, module in self.modules.items():
            handles.append(
                module.register_forward_pre_hook(lambda _m, a, k, n=name: enter(n, a, k), with_kwargs=True)
            )
            handles.append(module.register_forward_hook(lambda _m, _a, out, n=name: leave(n, out)))
        try:
            with evaluation(self.model), mode:
                mode.given(self.forward(self.model, batch))
        finally:
            for handle in handles:
                handle.remove()
        return {n: r for n, r in mode.readers.items() if calls[n] == 1 and n and n not in mode.written}

    def finish(self, layers: Iterable[str], of: Iterable[str]) -> None:
        """``layers`` will not change any more; ``of``: all layers that ever change."""
        if not self.remember:
            return
        finished, every = set(layers), set(of)
        self.done = [
            name for name in self.readers
            if (inside := {e for e in every if e == name or e.startswith(name + ".")}) and inside <= finished
        ]  # fmt: skip
        outermost = [n for n in self.done if not any(n.startswith(o + ".") for o in self.done)]
        self._needed = {n for n in outermost if not all(self._inside(reader) for reader in self.readers[n])}

    def _inside(self, reader: str) -> bool:
        return any(reader == n or reader.startswith(n + ".") for n in self.done)

    @contextmanager
    def _answering(self, index: int) -> Iterator[None]:
        own = {name: self.modules[name].__dict__.get("forward") for name in self.done}
        try:
            for name in self.done:
                # not by attribute: nn.Module's own way is slow
                module = self.modules[name]
                module.__dict__["forward"] = self._answer(name, index, module.forward)
            yield
        finally:
            for name, forward in own.items():
                self.modules[name].__dict__.pop("forward", None)
                if forward is not None:
                    self.modules[name].__dict__["forward"] = forward

    def _answer(self, name: str, index: int, forward: Callable[..., Any]) -> Callable[..., Any]:
        key = (name, index)

        def answer(*args: Any, **kwargs: Any) -> Any:
            if key in self._store:
                return self._store[key].clone()
            if key in self._dropped:
                shape, dtype, device = self._dropped[key]
                return torch.zeros(shape, dtype=dtype, device=device)
            output = forward(*args, **kwargs)
            if name in self._needed:
                self._store[key] = output.clone()
            return output

        return answer

    def _drop(self, index: int) -> None:
        """Forget what nobody needs, once everything that was made of it is stored."""
        if all((name, index) in self._store for name in self._needed):
            for key in [k for k in self._store if k[1] == index and k[0] not in self._needed]:
                value = self._store.pop(key)
                self._dropped[key] = (value.shape, value.dtype, value.device)

    def run(self, index: int) -> Any:
        """The network on batch ``index``; None when it was ended early by `Enough`."""
        with evaluation(self.model), self._answering(index):
            try:
                return self.forward(self.model, self.batches[index])
            except Enough:
                return None
            finally:
                self._drop(index)
