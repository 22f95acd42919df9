"""Pruning in depth: whole blocks go, with the same proof as channels."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from fnmatch import fnmatch
from typing import Any, Literal

from torch import nn

from neuroprune.base.errors import CutRefused, UserError
from neuroprune.base.registry import nearest
from neuroprune.graph.units import Refusal
from neuroprune.pruning.block_scores import block_scores
from neuroprune.pruning.blocks import Block, find_blocks
from neuroprune.pruning.bypass import is_inside, names_of, own_parameters
from neuroprune.pruning.cut import PruneResult
from neuroprune.pruning.plan import GroupDecision, Plan, fingerprint
from neuroprune.pruning.statistics import Statistics
from neuroprune.pruning.surgery import apply
from neuroprune.pruning.verify import Verification, verify


def prune_depth(
    model: nn.Module,
    example_inputs: Any,
    ratio: float = 0.5,
    *,
    criterion: str = "l2",
    keep: Sequence[str] = (),
    calibration: Any = None,
    statistics: Statistics | None = None,
    base_plan: Plan | None = None,
    on_refuse: Literal["report", "raise"] = "report",
    seed: int = 0,
    inplace: bool = False,
) -> PruneResult:
    """Remove about ``ratio`` of the blocks of ``model`` (``units_of``); no hints about its structure needed.

    >>> result = prune_depth(model, torch.randn(1, 3, 224, 224), ratio=0.25)             # doctest: +SKIP

    The floor(``ratio`` * count) blocks with the lowest score go (``block_scores``; ``calibration``: a call's
    inputs for criteria that run the network, else ``example_inputs``). ``keep``: patterns of modules or tensors;
    a block that holds one stays. ``base_plan``: a plan for the same dense ``model`` (of widths, or of fewer
    blocks) that is carried out as well. With the same scores a larger ratio removes a superset.

    Returned only when the result equals the masked dense network: what the plan cuts and the removed blocks' own
    parameters at zero (float64, relative error <= 1e-9). A block that spoils this stays and is listed in
    ``refused``; ``on_refuse="raise"`` raises CutRefused instead. Raises UserError for unknown names and patterns,
    bad ratios, another model's ``base_plan``, or inputs that do not fit.
    """
    _check(ratio, on_refuse)
    base = base_plan or Plan.identity(model)
    if base.fingerprint != fingerprint(model):
        raise UserError(
            "the base plan was made for another model", mend="make both plans for the same dense model"
        )
    found, refused = find_blocks(model, example_inputs, seed=seed)
    blocks = units_of(model, found)
    kept = kept_blocks(model, blocks, keep)
    data = example_inputs if calibration is None else calibration
    scores = block_scores(model, blocks, data, criterion, statistics=statistics, seed=seed)
    wanted = _lowest(blocks, scores, ratio, kept, base.bypassed)
    plan, verification, unproven = prove_blocks(model, base, wanted, example_inputs)
    if unproven and on_refuse == "raise":
        raise CutRefused(unproven[0].reason, where=unproven[0].module)
    if not verification.exact:
        raise CutRefused(f"the base plan is not exact: {verification.problem}", where=verification.where or None)
    decisions = _decide(blocks, scores, plan.bypassed, kept, unproven, criterion, f"ratio={ratio:g}")
    earlier = [d for d in base.decisions if d.group not in {new.group for new in decisions}]
    plan = replace(plan, decisions=(*earlier, *decisions))
    cut = apply(plan, model if inplace else copy.deepcopy(model))
    return PruneResult(cut, plan, verification, refused + unproven)


def combine(width: Plan, depth: Plan) -> Plan:
    """One plan of both: what ``width`` cuts and the blocks that ``depth`` removes. ``verify`` proves the whole.

    Cut tensors inside removed blocks stay in the plan; they go with the block. Raises UserError for plans of
    different models, and where both cut tensors.
    """
    if (width.fingerprint, width.tier) != (depth.fingerprint, depth.tier):
        raise UserError("the two plans were made for different models", mend="make both for the same dense model")
    if width.removed and depth.removed:
        raise UserError(
            "both plans cut tensors", mend="give one plan of widths and one that only removes whole blocks"
        )
    cutting = width if width.removed else depth
    bypassed = {**width.bypassed, **depth.bypassed}
    outermost = {n: r for n, r in bypassed.items() if not is_inside(n, bypassed.keys() - {n})}
    return Plan(
        width.fingerprint,
        cutting.removed,
        cutting.attributes,
        width.decisions + depth.decisions,
        outermost,
        width.tier,
    )


def units_of(model: nn.Module, blocks: Sequence[Block]) -> tuple[Block, ...]:
    """The blocks that go one by one: the outermost that are not mostly made of other blocks.

    More than half of a stage's parameters lie in removable blocks, so these are the units and the stage is not;
    a transformer layer with a small removable part is a unit, and its part is not. No unit lies in another.
    """
    names = names_of(model)
    own = {b.module: own_parameters(model.get_submodule(b.module), names) for b in blocks}

    def is_stage(block: Block) -> bool:
        inner = {id(p) for b in blocks if _is_within(b.module, block.module) for p in own[b.module]}
        return 2 * sum(p.numel() for p in own[block.module] if id(p) in inner) > block.parameters

    whole = [block for block in blocks if not is_stage(block)]
    return tuple(b for b in whole if not any(_is_within(b.module, other.module) for other in whole))


def _is_within(name: str, block: str) -> bool:
    return name != block and is_inside(name, [block])


def _check(ratio: float, on_refuse: str) -> None:
    if not 0 <= ratio < 1:
        raise UserError("the ratio must be at least 0 and below 1", value=ratio, mend="0.5 removes half")
    if on_refuse not in ("report", "raise"):
        raise UserError(f"unknown on_refuse {on_refuse!r}", mend="use report or raise")


def kept_blocks(model: nn.Module, blocks: Sequence[Block], patterns: Sequence[str]) -> set[str]:
    """Blocks that match a pattern, or hold a module or tensor that does."""
    every = [name for names in names_of(model).values() for name in names if name]
    kept = set()
    for pattern in patterns:
        matching = [name for name in every if fnmatch(name, pattern)]
        if not matching:
            guess = nearest(pattern, every)
            hint = f"did you mean {guess!r}? " if guess else ""
            raise UserError(
                f"keep={pattern!r} matches nothing", mend=f"{hint}blocks: {', '.join(b.module for b in blocks)}"
            )
        kept |= {b.module for b in blocks if any(is_inside(name, [b.module]) for name in matching)}
    return kept


def _lowest(
    blocks: Sequence[Block], scores: Mapping[str, float], ratio: float, fixed: set[str], gone: Iterable[str]
) -> list[Block]:
    """The blocks to remove beyond those ``gone``, lowest score first; never one inside another.

    The order does not depend on the ratio: that is what nests the plans.
    """
    gone = list(gone)
    count = math.floor(len(blocks) * ratio + 1e-9) - sum(block.module in gone for block in blocks)

    def clashes(block: Block) -> bool:
        return any(is_inside(block.module, [name]) or is_inside(name, [block.module]) for name in gone)

    order = sorted(blocks, key=lambda block: scores[block.module])
    return [b for b in order if b.module not in fixed and not clashes(b)][: max(count, 0)]


def prove_blocks(
    model: nn.Module, base: Plan, wanted: Sequence[Block], example_inputs: Any
) -> tuple[Plan, Verification, tuple[Refusal, ...]]:
    """``base`` without the blocks that can go: all at once, or one by one where that does not hold."""
    plan = with_blocks(base, wanted)
    verification = verify(model, plan, example_inputs)
    if verification.exact or not wanted:
        return plan, verification, ()
    taken: list[Block] = []
    refused = []
    for block in wanted:
        alone = verify(model, with_blocks(base, [*taken, block]), example_inputs)
        if alone.exact:
            taken.append(block)
        else:
            parameter = next(n for n, _ in model.named_parameters() if is_inside(n, [block.module]))
            reason = f"not proven exact: {alone.problem}"
            refused.append(Refusal(parameter, -1, "verify", block.module, alone.where, reason))
    plan = with_blocks(base, taken)
    return plan, verify(model, plan, example_inputs), tuple(refused)


def with_blocks(base: Plan, blocks: Iterable[Block]) -> Plan:
    """``base``, and these blocks gone."""
    return replace(base, bypassed={**base.bypassed, **{b.module: b.returns for b in blocks}})


def _decide(
    blocks: Sequence[Block],
    scores: Mapping[str, float],
    gone: Iterable[str],
    kept: set[str],
    refused: Sequence[Refusal],
    criterion: str,
    constraint: str,
) -> list[GroupDecision]:
    """One decision per block, as a group ``block:<module>`` of one unit."""
    why = {**dict.fromkeys(kept, "kept by the user"), **{r.module: r.reason for r in refused}}
    gone = set(gone)
    stays = [scores[b.module] for b in blocks if b.module not in gone and b.module not in why]
    return [
        GroupDecision(
            f"block:{b.module}",
            criterion,
            () if b.module in gone else (0,),
            (0,) if b.module in gone else (),
            (scores[b.module],),
            min(stays, default=float("inf")),
            why.get(b.module, f"local {constraint}"),
            constraint,
        )
        for b in blocks
    ]
