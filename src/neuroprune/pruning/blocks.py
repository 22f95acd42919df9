"""Which modules can be removed whole: found by calling them, not by knowing their class.

A module is a block when, with its own parameters at zero, every tensor it returns is exactly one of the tensors
it was given. It can then be replaced by a pass-through, and the masked dense network that this must equal needs
no tracing: it is the network with those parameters at zero. A residual block, a pre-norm transformer layer and a
block behind a ReLU (its input is not negative) pass by arithmetic; a scaled shortcut and a post-norm layer fail.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from neuroprune.base.errors import UserError
from neuroprune.graph.calls import Call, map_tensors, tensors_in, with_one_more
from neuroprune.graph.records import user_line_of
from neuroprune.graph.units import Refusal
from neuroprune.pruning.bypass import is_inside, names_of, own_parameters
from neuroprune.pruning.verify import awake, double_inputs, outputs_of


@dataclass(frozen=True)
class Block:
    """A module that can be removed whole, ``parameters`` of its own with it; it runs ``calls`` times in a pass.

    ``returns``: what its callers get instead, as an expression of its arguments: ``args[0]``,
    ``(kwargs['hidden_states'], None)``.
    """

    module: str
    parameters: int
    calls: int
    returns: str


class _Unfit(Exception):
    """Why a module is no block."""


@dataclass
class _Candidate:
    """A module that might be a block, and what its calls so far leave possible.

    ``form`` is the structure it returns with a ``{}`` for each tensor, ``sources`` the arguments that each of
    them equalled in every call. ``silent`` candidates are not worth a refusal: they do not even look like blocks.
    """

    name: str
    module: nn.Module
    own: list[nn.Parameter]
    calls: int = 0
    form: str = ""
    sources: list[list[str]] = field(default_factory=list)
    reason: str = ""
    silent: bool = False
    pending: list[Call] = field(default_factory=list)

    @property
    def is_open(self) -> bool:
        return not self.reason and not self.silent

    @property
    def is_block(self) -> bool:
        return self.is_open and bool(self.form)


def find_blocks(
    model: nn.Module, example_inputs: Any, *, seed: int = 0
) -> tuple[tuple[Block, ...], tuple[Refusal, ...]]:
    """The modules of ``model`` that can be removed whole, outermost first, and those that look it and cannot.

    Checked in float64 in every call of a pass over ``example_inputs`` and of one over noise at another batch
    size, on the inputs that the module receives there. Blocks may lie inside each other. ``model`` is not
    touched. Raises UserError when it fails on the example inputs.
    """
    network = awake(copy.deepcopy(model).double(), seed)
    candidates = _candidates(network)
    inputs = double_inputs(example_inputs, seed)
    with _watched(candidates, first=True):
        _run(network, inputs, seed)
    for other in (_noise(with_one_more(inputs), seed), with_one_more(inputs)):
        with contextlib.suppress(UserError), _watched(candidates, first=False):
            _run(network, other, seed)
            break  # a fixed batch size, or inputs that must not be noise, are the model's right
    blocks = tuple(
        Block(c.name, sum(p.numel() for p in c.own), c.calls, c.form.format(*(found[0] for found in c.sources)))
        for c in candidates
        if c.is_block
    )
    return blocks, tuple(_refusals(network, candidates, [b.module for b in blocks]))


def _candidates(model: nn.Module) -> list[_Candidate]:
    """Modules with a matrix or kernel of their own: without one there is no work to save."""
    names = names_of(model)
    found = []
    for name, module in model.named_modules():
        if name and not isinstance(module, torch.jit.ScriptModule):
            own = own_parameters(module, names)
            if any(p.dim() >= 2 for p in own):
                found.append(_Candidate(name, module, own))
    return found


@contextlib.contextmanager
def _watched(candidates: list[_Candidate], *, first: bool) -> Iterator[None]:
    """Check each call of each candidate while it happens: nothing is recorded, so memory stays that of a pass."""
    busy = False

    def before(candidate: _Candidate, call: Call) -> None:
        if not busy and candidate.is_open:
            candidate.pending.append(_copied(call))  # the module may change its inputs in place

    def after(candidate: _Candidate, output: Any) -> None:
        nonlocal busy
        if busy or not candidate.is_open:
            return
        busy = True
        try:
            candidate.calls += first
            _check_call(candidate, candidate.pending.pop(), output)
        except _Unfit as error:
            candidate.reason = str(error)
        finally:
            busy = False

    handles = []
    for candidate in candidates:
        handles += [
            candidate.module.register_forward_pre_hook(
                lambda _, args, kwargs, c=candidate: before(c, (args, kwargs)), with_kwargs=True
            ),
            candidate.module.register_forward_hook(lambda _, __, output, c=candidate: after(c, output)),
        ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _check_call(candidate: _Candidate, call: Call, output: Any) -> None:
    """Narrow down what ``candidate`` may return instead. Raises _Unfit when nothing is left."""
    given = dict(_sources(call))
    real = tensors_in(output)
    if not real or not any(_alike(real[0], x) for x in given.values()):
        candidate.silent = True
        return
    if not all(bool(t.isfinite().all()) for t in real if t.is_floating_point()):
        return  # noise that the network cannot bear proves nothing
    returned, used = _silenced(candidate, call)
    form, leaves = _outline(returned)
    if not leaves:
        raise _Unfit("it returns no tensor")
    sources = [_equal(leaf, given) for leaf in leaves]
    if not _unchanged(call, used):
        raise _Unfit("it writes into its arguments (a cache?), which a pass-through would not: switch that off")
    if any(len(found) > 1 for found in sources):
        sources = _untangled(candidate, call, sources)
    if candidate.form not in ("", form):
        raise _Unfit("it does not return the same structure in every call")
    pairs = zip(candidate.sources, sources, strict=True) if candidate.form else ((s, s) for s in sources)
    candidate.form, candidate.sources = form, [[s for s in a if s in b] for a, b in pairs]
    if not all(candidate.sources):
        raise _Unfit("its callers pass its input in different ways")


def _silenced(candidate: _Candidate, call: Call) -> tuple[Any, Call]:
    """What the module returns for a copy of ``call`` while its own parameters are zero, and the used copy."""
    used = _copied(call)
    values = [p.data for p in candidate.own]
    try:
        for parameter in candidate.own:
            parameter.data = torch.zeros_like(parameter.data)
        return candidate.module(*used[0], **used[1]), used
    except Exception as error:
        raise _Unfit(f"with its parameters at zero it fails: {type(error).__name__}: {error}") from error
    finally:
        for parameter, value in zip(candidate.own, values, strict=True):
            parameter.data = value


def _equal(leaf: Tensor, given: Mapping[str, Tensor]) -> list[str]:
    """The arguments that ``leaf`` equals, bit for bit. Raises _Unfit when there is none."""
    alike = {name: x for name, x in given.items() if _alike(leaf, x)}
    found = [name for name, x in alike.items() if torch.equal(leaf, x)]
    if found:
        return found
    if not bool(leaf.isfinite().all()):
        raise _Unfit("with its parameters at zero its output is not finite")
    if not bool(leaf.any()):
        raise _Unfit("with its parameters at zero it returns zeros, not its input")
    gaps = [float((leaf.double() - x.double()).abs().max()) for x in alike.values() if x.numel()]
    gap = f" (largest difference {min(gaps):.2g})" if gaps else ""
    raise _Unfit(f"with its parameters at zero it returns something other than its input{gap}")


def _unchanged(before: Call, after: Call) -> bool:
    """Whether a call left its arguments as they were, down to the tensors that an object among them holds."""
    a, b = tensors_in(before), tensors_in(after)
    return len(a) == len(b) and all(
        _alike(x, y) and torch.equal(torch.nan_to_num(x), torch.nan_to_num(y)) for x, y in zip(a, b, strict=True)
    )


def _untangled(candidate: _Candidate, call: Call, sources: list[list[str]]) -> list[list[str]]:
    """Which of several equal arguments comes out: each is scaled by a factor of its own, signs stay."""
    steps = iter(range(1, 1_000_000))

    def scale(value: Tensor) -> Tensor:
        return value * (1 + next(steps) / 8) if value.is_floating_point() else value

    scaled: Call = map_tensors(scale, call)
    given = dict(_sources(scaled))
    try:
        _, leaves = _outline(_silenced(candidate, scaled)[0])
    except _Unfit:  # it cannot bear scaled inputs: the first argument it equals will do
        return sources
    told = [
        [n for n in names if torch.equal(leaf, given[n])] for leaf, names in zip(leaves, sources, strict=False)
    ]
    return [now or before for now, before in zip(told, sources, strict=True)] if told else sources


def _sources(call: Call) -> Iterator[tuple[str, Tensor]]:
    """Every tensor among the arguments, with the expression that reaches it."""

    def walk(value: Any, path: str) -> Iterator[tuple[str, Tensor]]:
        if isinstance(value, Tensor):
            yield path, value
        elif type(value) in (tuple, list):
            for index, part in enumerate(value):
                yield from walk(part, f"{path}[{index}]")
        elif type(value) is dict:
            for key, part in value.items():
                if isinstance(key, (str, int)):
                    yield from walk(part, f"{path}[{key!r}]")

    yield from walk(call[0], "args")
    yield from walk(call[1], "kwargs")


def _outline(value: Any) -> tuple[str, list[Tensor]]:
    """The structure of an output, ``({}, None)``, and its tensors. Raises _Unfit for what a plan cannot say."""
    if isinstance(value, Tensor):
        return "{}", [value]
    if value is None:
        return "None", []
    if type(value) not in (tuple, list):
        raise _Unfit(f"it returns what is neither a tensor nor a tuple of them: {type(value).__name__}")
    parts = [_outline(part) for part in value]
    inner = ", ".join(form for form, _ in parts)
    form = f"[{inner}]" if isinstance(value, list) else f"({inner},)" if len(parts) == 1 else f"({inner})"
    return form, [leaf for _, leaves in parts for leaf in leaves]


def _alike(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and a.dtype == b.dtype and a.device == b.device


def _copied(call: Call) -> Call:
    """A copy that shares nothing, caches included: a block that fills a cache must not fill the real one twice."""
    try:
        return copy.deepcopy(call)
    except Exception:  # an argument that refuses to be copied: its tensors are what matters
        copied: Call = map_tensors(lambda x: x.detach().clone(), call)
        return copied


def _noise(inputs: Any, seed: int) -> Any:
    """Noise of both signs instead of floating values: what holds because an image is positive must not pass."""
    generator = torch.Generator().manual_seed(seed)

    def draw(value: Tensor) -> Tensor:
        if not value.is_floating_point():
            return value
        return torch.randn(value.shape, generator=generator, dtype=value.dtype).to(value.device)

    return map_tensors(draw, inputs)


def _run(model: nn.Module, inputs: Any, seed: int) -> None:
    try:
        outputs_of(model, inputs, seed)
    except Exception as error:
        raise UserError(
            f"the model fails on the example inputs: {type(error).__name__}: {error}",
            where=user_line_of(error) or None,
            value=f"example inputs of shape {[tuple(t.shape) for t in tensors_in(inputs)]}",
            mend="pass example inputs of the shape and type the model is used with",
        ) from error


def _refusals(model: nn.Module, candidates: list[_Candidate], blocks: list[str]) -> Iterator[Refusal]:
    """Layers inside a block, modules around one, and single layers say nothing that a reader could use."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    for candidate in candidates:
        single = sum(p.dim() >= 2 for p in candidate.own) < 2
        around = any(is_inside(block, [candidate.name]) for block in blocks)
        if candidate.reason and not single and not around and not is_inside(candidate.name, blocks):
            parameter = names[id(candidate.own[0])]
            yield Refusal(parameter, -1, "block", candidate.name, _line_of(candidate.module), candidate.reason)


def _line_of(module: nn.Module) -> str:
    code = getattr(type(module).forward, "__code__", None)
    return f"{code.co_filename}:{code.co_firstlineno}" if code is not None else ""
