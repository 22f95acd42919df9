"""What the blocks of a network give, beside what the same blocks of its teacher give."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from neuroprune.base.errors import UserError
from neuroprune.base.modes import evaluation
from neuroprune.pruning.bypass import is_inside
from neuroprune.pruning.plan import Plan
from neuroprune.recover.blocks import as_cut, blocks_of, inside, kept_rows, watched
from neuroprune.recover.replay import Forward, Replay
from neuroprune.recover.sites import find_sites


class Features:
    """Outputs of the ``teacher``'s blocks of layers and of the ``student``'s modules of the same names.

    Where ``student`` is ``teacher`` cut by ``plan``, the student's channel i is beside the teacher's kept[i];
    without a plan blocks are compared whose outputs have the same shape. ``batch`` is run once to find them.
    """

    def __init__(self, teacher: nn.Module, student: nn.Module, plan: Plan | None, forward: Forward, batch: Any):
        self.teacher, self.student = teacher, student
        plan = plan or Plan("")
        sites = find_sites(teacher, lambda net: forward(net, batch))
        layers, there = [site.layer for site in sites], dict(student.named_modules())
        self.kept = {
            name: kept_rows(teacher, plan, inside(layers, name))
            for name in blocks_of(sites, Replay(teacher, forward, [batch]))
            if name in there and not is_inside(name, plan.bypassed)
        }
        self.seen: tuple[dict[str, Tensor], dict[str, Tensor]] = {}, {}  # of teacher and student

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Both networks tell what their blocks give as long as this lasts; afterwards no hook is left."""
        with contextlib.ExitStack() as stack:
            for net, seen in zip((self.teacher, self.student), self.seen, strict=True):

                def saw(name: str, args: Any, kwargs: Any, output: Any, seen: dict[str, Tensor] = seen) -> None:
                    seen[name] = output.clone()  # what the model later writes into it must not reach us

                stack.callback(seen.clear)
                # a block that a run leaves out (stochastic depth) must not answer with what it gave before
                start = net.register_forward_pre_hook(lambda *_, seen=seen: seen.clear())
                stack.callback(start.remove)
                stack.enter_context(watched(dict(net.named_modules()), list(self.kept), saw))
            yield

    def pairs(self) -> list[tuple[Tensor, Tensor]]:
        """The student's and the teacher's value of each block that ran in the last run of both."""
        theirs, ours = self.seen
        found = []
        for name, kept in self.kept.items():
            target = as_cut(theirs[name], ours[name].shape, kept) if name in theirs and name in ours else None
            if target is not None:
                found.append((ours[name], target.detach()))
        return found

    def error(self) -> Tensor:
        """Squared error of each block over the variance of the teacher's value, mean over the blocks: a scalar.

        FitNets (Romero et al. 2015, arXiv:1412.6550), without their regressor: the plan says which channel is
        which. A block that gives the same value everywhere says nothing and does not count.
        """
        telling = [(ours, target, var) for ours, target in self.pairs() if (var := target.var()) > 0]
        if not telling:
            return torch.zeros(())
        return torch.stack([functional.mse_loss(ours, target) / var for ours, target, var in telling]).mean()


def matched(teacher: nn.Module, student: nn.Module, plan: Plan | None, forward: Forward, batch: Any) -> Features:
    """`Features` of two networks that have some in common. Raises UserError where they have none."""
    features = Features(teacher, student, plan, forward, batch)
    with features.watched():
        for net in (teacher, student):
            with evaluation(net):
                forward(net, batch)
        if features.pairs():
            return features
    raise UserError(
        "the student has no block whose output can be compared with the teacher's",
        where=f"{type(student).__name__}, teacher {type(teacher).__name__}",
        value=f"{len(features.kept)} blocks of the same name, none of a shape that fits",
        mend="give the plan that cut the student, or leave features out (logits are distilled without)",
    )
