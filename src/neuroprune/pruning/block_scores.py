"""Scores of blocks: a criterion of weights, averaged over the block, or a measure of what the block does.

A new measure is a function with the decorator ``block_criterion``; nothing else needs to know it.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from torch import Tensor, nn
from torch.nn import functional as F

from neuroprune.base.errors import UserError
from neuroprune.base.modes import evaluation
from neuroprune.base.registry import Registry, nearest
from neuroprune.graph.calls import as_calls, tensors_in
from neuroprune.pruning.blocks import Block
from neuroprune.pruning.bypass import Bypass, names_of, own_parameters, without
from neuroprune.pruning.criteria import CRITERIA, Criterion
from neuroprune.pruning.score import from_examples, saliencies
from neuroprune.pruning.statistics import Statistics

BlockCriterion = Callable[[nn.Module, Sequence[Block], Any], dict[str, float]]
BLOCK_CRITERIA: Registry[BlockCriterion] = Registry("block criterion")


def block_criterion(name: str, *, summary: str, source: str) -> Callable[[BlockCriterion], BlockCriterion]:
    """Decorator: register ``(model, blocks, inputs) -> {module: score}``; larger means keep."""
    return BLOCK_CRITERIA.register(name, summary=summary, source=source)


def block_scores(
    model: nn.Module,
    blocks: Sequence[Block],
    example_inputs: Any = None,
    criterion: str = "l2",
    *,
    statistics: Statistics | None = None,
    seed: int = 0,
) -> dict[str, float]:
    """Score of every block by module name; larger means keep. ``model`` is not touched.

    ``criterion``: a block criterion (``block_influence``, ``output_change``), which runs the network on
    ``example_inputs``, or a criterion of weights: its mean over the block's own weights, divided by the mean over
    the blocks with the same parameter shapes (over all blocks where there is no other of these shapes), since
    layers of another width have weights of another size. Raises UserError for an unknown name, absent data and
    blocks in which the criterion finds nothing.
    """
    if criterion in BLOCK_CRITERIA.names():
        if example_inputs is None:
            raise UserError(f"the criterion {criterion!r} needs data", mend="give example_inputs, or use l1 or l2")
        return BLOCK_CRITERIA.get(criterion)(model, blocks, example_inputs)
    valid = [*CRITERIA.names(), *BLOCK_CRITERIA.names()]
    if criterion not in valid:
        guess = nearest(criterion, valid)
        hint = f"did you mean {guess!r}? " if guess else ""
        raise UserError(f"unknown criterion {criterion!r}", mend=f"{hint}valid names: {', '.join(valid)}")
    if statistics is None and example_inputs is not None:
        statistics = from_examples(model, criterion, example_inputs)
    return _of_weights(model, blocks, CRITERIA.get(criterion), statistics, seed)


def _of_weights(
    model: nn.Module, blocks: Sequence[Block], rule: Criterion, statistics: Statistics | None, seed: int
) -> dict[str, float]:
    if rule.needs and statistics is None:
        raise UserError(
            f"the criterion {rule.name!r} needs data", mend="pass statistics=gather(...), or use l1 or l2"
        )
    saliency = saliencies(model, rule, statistics or Statistics(), seed)
    names, named = names_of(model), {id(p): name for name, p in model.named_parameters()}
    raw: dict[str, float] = {}
    families: dict[Any, list[str]] = defaultdict(list)  # blocks with the same parameter shapes
    for block in blocks:
        own = own_parameters(model.get_submodule(block.module), names)
        scored = [saliency[named[id(p)]].double() for p in own if named[id(p)] in saliency]
        if not scored:
            raise UserError(
                f"the criterion {rule.name!r} finds nothing to score in this block",
                where=block.module,
                mend="use l1, l2 or block_influence: each block has a matrix",
            )
        raw[block.module] = float(sum(t.sum() for t in scored)) / sum(t.numel() for t in scored)
        if not np.isfinite(raw[block.module]):
            raise UserError("the scores are not finite", where=block.module, mend="check the weights for NaN")
        families[tuple(sorted(tuple(p.shape) for p in own))].append(block.module)
    scores: dict[str, float] = {}
    for family in families.values():
        mean = np.mean([raw[name] for name in family]) if len(family) > 1 else np.mean(list(raw.values()))
        scores |= {name: float(raw[name] / mean) if mean > 0 else 1.0 for name in family}
    return {block.module: scores[block.module] for block in blocks}


@block_criterion(
    "block_influence",
    summary="1 - mean cosine similarity of a block's input and output, position by position",
    source="Men et al. 2024, ShortGPT: Layers in large language models are more redundant than you expect",
)
def block_influence(model: nn.Module, blocks: Sequence[Block], inputs: Any) -> dict[str, float]:
    """BI_i = 1 - E over positions t of x_t . y_t / (|x_t| |y_t|); x, y: the stream before and after block i.

    A position is a token or a pixel: the vectors run along the dimension of the channels, which is the one whose
    size occurs most often in the shapes of the block's parameters.
    """
    values: dict[str, list[tuple[float, int]]] = {block.module: [] for block in blocks}

    def measure(block: Block, x: Tensor, y: Tensor) -> None:
        dim = _channels(x, model.get_submodule(block.module))
        similar = F.cosine_similarity(x.double(), y.double(), dim=dim)
        values[block.module].append((float(similar.sum()), similar.numel()))

    _watch(model, blocks, inputs, measure)
    return {name: 1 - sum(s for s, _ in found) / sum(n for _, n in found) for name, found in values.items()}


@block_criterion(
    "output_change",
    summary="relative change of the network's output when the block alone is bypassed",
    source="as in Song et al. 2024, SLEB, with the output's change in the place of perplexity",
)
def output_change(model: nn.Module, blocks: Sequence[Block], inputs: Any) -> dict[str, float]:
    """|f(x) - f_without(x)| / |f(x)| over all floating outputs; one pass per block."""
    dense = _outputs(model, inputs)
    norm = float(sum(t.double().square().sum() for t in dense)) or 1.0

    def change(block: Block) -> float:
        try:
            with without(model, {block.module: block.returns}):
                found = _outputs(model, inputs)
            gaps = [(a.double() - b.double()).square().sum() for a, b in zip(dense, found, strict=True)]
        except Exception:  # the network does not run without this block, or returns something else: it goes last
            return float("inf")
        return math.sqrt(sum(map(float, gaps)) / norm)

    return {block.module: change(block) for block in blocks}


def _outputs(model: nn.Module, inputs: Any) -> list[Tensor]:
    with evaluation(model):
        outputs = [model(*args, **kwargs) for args, kwargs in as_calls(inputs)]
    return [t for t in tensors_in(outputs) if t.is_floating_point()]


def _watch(
    model: nn.Module, blocks: Sequence[Block], inputs: Any, measure: Callable[[Block, Tensor, Tensor], None]
) -> None:
    """Call ``measure(block, before, after)`` with the stream at every call of every block."""
    before: dict[str, Tensor] = {}
    handles = []

    def keep(block: Block, call: tuple[Any, Any]) -> None:
        stream = tensors_in(Bypass(block.returns)(*call[0], **call[1]))[0]
        before[block.module] = stream.clone()  # the block may change its input in place

    for block in blocks:
        module = model.get_submodule(block.module)
        handles += [
            module.register_forward_pre_hook(lambda _, a, k, b=block: keep(b, (a, k)), with_kwargs=True),
            module.register_forward_hook(
                lambda _, __, y, b=block: measure(b, before.pop(b.module), tensors_in(y)[0])
            ),
        ]
    try:
        _outputs(model, inputs)
    finally:
        for handle in handles:
            handle.remove()


def _channels(x: Tensor, block: nn.Module) -> int:
    """The dimension of the channels; where sizes leave it open, the last one, of images the second."""
    if x.dim() < 2:
        return 0
    shapes = [p.shape for p in block.parameters()]
    counts = {d: sum(x.shape[d] in shape for shape in shapes) for d in range(1, x.dim())}
    best = [d for d, count in counts.items() if count == max(counts.values())]
    return best[0] if x.dim() > 3 else best[-1]
