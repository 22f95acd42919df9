"""Go to other data: a fresh head, the same plan and masks, and a dense control that goes with them."""

from __future__ import annotations

import contextlib
import copy
from dataclasses import asdict
from typing import Any

from torch import nn

from neuroprune.pipeline.context import Context, state_digest
from neuroprune.pipeline.step import Outcome, step
from neuroprune.pipeline.steps.initialise import masks_of
from neuroprune.pipeline.training import fit_in
from neuroprune.pipeline.transferring import TransferConfig
from neuroprune.pruning.head import Head, find_head, masks_of_head, new_head, only_head_learns, with_head
from neuroprune.pruning.plan import Plan
from neuroprune.pruning.restore import save_undo
from neuroprune.tasks.check import check_task
from neuroprune.tasks.classes import class_count


def _go(context: Context, config: TransferConfig) -> None:
    """The new data and the new heads, as a resumed run needs them too; the weights of the heads are drawn anew."""
    context.task = config.data.load(context.recipe.header.seed)
    classes, inputs = class_count(context.task), context.task.example_inputs
    context.dense = copy.deepcopy(context.dense)  # another object tells that it is another network
    for network in (context.model, context.dense):
        new_head(network, inputs, classes, context.seed)
    context._trace = None


@step(
    "transfer",
    TransferConfig,
    summary="other data and a fresh head; plan and masks are kept; the dense control is trained as well",
    source="S2 and S4, future scope: transfer learning from pruned models",
    again=_go,
)
def transfer(context: Context, config: TransferConfig) -> Outcome:
    untouched = not context.is_cut and state_digest(context.model.state_dict()) == state_digest(
        context.dense.state_dict()
    )
    _go(context, config)
    head = find_head(context.dense, context.task.example_inputs)
    context.plan = with_head(context.plan, context.dense)
    if context.masks is not None:
        context.masks = masks_of_head(context.masks, head)
    check_task(context.task, context.dense)
    check_task(context.task, context.model)
    curves = _trained(context, config, head, untouched)
    save_undo(context.folder.undo, context.dense, context.plan or Plan.identity(context.dense))
    task = context.task
    dense, mine = (task.evaluate(network, task.val) for network in (context.dense, context.model))
    return Outcome(
        f"{task.name}, new head {head.module!r}; {task.metric} dense {dense:.2f}, "
        f"compressed {mine:.2f} {task.metric_unit} on val".rstrip(),
        facts={"dense_metric": dense, "head": asdict(head)},
        pieces={"curves": curves},
    )


def _trained(context: Context, config: TransferConfig, head: Head, untouched: bool) -> list[dict[str, Any]]:
    """Both networks on the new data, the same way; one alone where they are still the same."""
    with _learning(context.dense, head, config.freeze):
        curves = fit_in(context, config, label="transfer of the dense network", model=context.dense)
    if untouched:
        context.model.load_state_dict(context.dense.state_dict())
        return curves
    masks = None if context.masks is None or context.is_cut else masks_of(context, context.granularity)
    after = None if masks is None else masks.apply
    with _learning(context.model, head, config.freeze):
        return curves + fit_in(context, config, label="transfer of the pruned network", part=1, after_step=after)


def _learning(network: nn.Module, head: Head, freeze: bool) -> contextlib.AbstractContextManager[None]:
    return only_head_learns(network, head) if freeze else contextlib.nullcontext()
