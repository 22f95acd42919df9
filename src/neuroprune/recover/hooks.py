"""What may change a network while `fit` trains it: masks that tighten, weights that grow back, weights that
shrink.

A hook is called before the first step and after each one. What it must remember between steps goes into the
checkpoint, so that an interrupted training with a hook ends in the same bits too.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from neuroprune.base.errors import UserError
from neuroprune.pruning.masks import Masks
from neuroprune.pruning.schedules import Schedule
from neuroprune.pruning.select_weights import Spread

#: the saliency of every masked tensor, of the weights as they are now
Saliencies = Callable[[], Mapping[str, Tensor]]


class Hook(Protocol):
    """``steps``: optimizer steps of the whole training; ``step``: how many are done, from 1.

    ``goes_back``, where a hook has it and it is true: early stopping may take the weights of any epoch, since what
    the hook holds is the same in all of them.
    """

    def start(self, steps: int) -> None:
        """Before the first step; not called where a training goes on from a checkpoint."""

    def after_step(self, optimizer: torch.optim.Optimizer, step: int, steps: int) -> None: ...

    def state(self) -> dict[str, Tensor]:
        """What `load_state` needs to go on from here."""

    def load_state(self, state: Mapping[str, Tensor]) -> None: ...

    def identity(self) -> str:
        """Text that differs where the training would: part of a checkpoint's identity."""


@runtime_checkable
class SharesGradients(Protocol):
    """A hook that changes gradients before their norm is clipped and the optimizer takes its step."""

    def after_backward(self) -> None: ...


class HeldMasks:
    """Masks that stay as they are; the base of those that do not."""

    goes_back = True

    def __init__(self, masks: Masks) -> None:
        self.masks = masks

    def start(self, steps: int) -> None:
        self.masks.apply()

    def after_step(self, optimizer: torch.optim.Optimizer, step: int, steps: int) -> None:
        self.masks.apply()

    def state(self) -> dict[str, Tensor]:
        return self.masks.state()

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        self.masks.load_state(state)

    def identity(self) -> str:
        return "held masks"


class GradualMasks(HeldMasks):
    """Masks whose sparsity follows ``schedule``; chosen anew every ``every`` steps while it rises.

    ``saliencies``: called for each choice. ``shape`` and ``spread``: see `select_weights`. What is off scores zero
    by every criterion that multiplies by the weight, so it stays off. ``spared`` names what a choice would have
    emptied. Raises UserError for ``every`` below 1.
    """

    goes_back = False

    def __init__(
        self,
        masks: Masks,
        schedule: Schedule,
        saliencies: Saliencies,
        *,
        shape: str = "weight",
        spread: Spread = "normalised",
        every: int = 10,
        name: str = "",
    ) -> None:
        super().__init__(masks)
        if every < 1:
            raise UserError("masks are chosen anew every so many steps", value=every, mend="give every=1 or more")
        self.schedule, self.saliencies, self.shape, self.spread = schedule, saliencies, shape, spread
        self.every, self.name = every, name
        self.fraction = 0.0
        self.spared: tuple[str, ...] = ()

    def start(self, steps: int) -> None:
        self._choose(self.schedule.at(0.0))

    def after_step(self, optimizer: torch.optim.Optimizer, step: int, steps: int) -> None:
        due = step % self.every == 0 or step >= self.schedule.end * steps
        fraction = self.schedule.at(step / steps)
        self.masks.apply()  # first: what is off may have moved, and must not be scored as it moved
        if due and fraction > self.fraction:
            self._choose(fraction)

    def _choose(self, fraction: float) -> None:
        if fraction > 0:
            saliency = self.saliencies()
            self.spared = self.masks.switch_weights(saliency, fraction, shape=self.shape, spread=self.spread)
        else:
            self.masks.apply()
        self.fraction = fraction

    def state(self) -> dict[str, Tensor]:
        return self.masks.state() | {_FRACTION: torch.tensor(self.fraction, dtype=torch.float64)}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        super().load_state(state)
        self.fraction = float(state[_FRACTION])

    def identity(self) -> str:
        return f"gradual {self.name} {self.schedule} {self.shape} {self.spread} {self.every}"


class MovementMasks(GradualMasks):
    """Gradual masks by movement: - the sum over the steps so far of gradient * weight, which is large where
    training moves a weight away from zero (Sanh, Wolf, Rush 2020, Movement pruning). The weight is the one after
    the step. What is off is at zero, moves no more, and stays off. ``spread``: not ``normalised``, for scores may
    be negative.
    """

    def __init__(self, masks: Masks, schedule: Schedule, *, spread: Spread, every: int) -> None:
        if spread == "normalised":
            raise UserError(
                "movement has no mean to be normalised by", value=spread, mend="use spread layer, erk or global"
            )
        super().__init__(masks, schedule, self._scores, spread=spread, every=every, name="movement")
        self.moved = {name: torch.zeros_like(p.detach()) for name, p in masks.parameters().items()}

    def _scores(self) -> dict[str, Tensor]:
        """What is off below all that is on."""
        lowest = min(float(moved.min()) for moved in self.moved.values()) - 1
        return {
            name: moved.where(self.masks.masks[name] != 0, torch.full_like(moved, lowest))
            for name, moved in self.moved.items()
        }

    def after_step(self, optimizer: torch.optim.Optimizer, step: int, steps: int) -> None:
        for name, parameter in self.masks.parameters().items():
            if parameter.grad is not None:
                self.moved[name] -= parameter.grad * parameter.detach() * (self.masks.masks[name] != 0)
        super().after_step(optimizer, step, steps)

    def state(self) -> dict[str, Tensor]:
        return super().state() | {f"moved/{name}": moved.clone() for name, moved in self.moved.items()}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        super().load_state(state)
        self.moved = {name: state[f"moved/{name}"].clone() for name in self.moved}


_FRACTION = "fraction of the schedule"


class Regrowth(HeldMasks):
    """Dynamic sparse training: of each tensor the smallest weights go, as many others come back, at zero.

    Every ``every`` steps until ``until`` (share of the steps) the share ``share / 2 * (1 + cos(pi t))`` of what is
    on is exchanged. ``grow``: by the ``gradient``'s magnitude (RigL, Evci et al. 2020, Rigging the lottery) or at
    ``random`` (SET, Mocanu et al. 2018). Momentum of what comes back starts at zero. The sparsity of every tensor
    stays what it is. Raises UserError for shares outside (0, 1] and ``every`` below 1.
    """

    goes_back = False

    def __init__(
        self,
        masks: Masks,
        *,
        grow: Literal["gradient", "random"] = "gradient",
        share: float = 0.3,
        every: int = 100,
        until: float = 0.75,
        seed: int = 0,
    ) -> None:
        super().__init__(masks)
        if grow not in ("gradient", "random"):
            raise UserError("weights grow back by gradient or at random", value=grow, mend='give grow="gradient"')
        if not (0 < share <= 1 and 0 < until <= 1 and every >= 1):
            raise UserError(
                "regrowth exchanges a share of the weights every so many steps",
                value=f"share {share}, until {until}, every {every}",
                mend="give 0 < share <= 1, 0 < until <= 1, every >= 1",
            )
        self.grow, self.share, self.every, self.until, self.seed = grow, share, every, until, seed

    @torch.no_grad()
    def after_step(self, optimizer: torch.optim.Optimizer, step: int, steps: int) -> None:
        self.masks.apply()
        if step % self.every or step >= self.until * steps:
            return
        share = self.share / 2 * (1 + math.cos(math.pi * step / (self.until * steps)))
        for number, (name, parameter) in enumerate(self.masks.parameters().items()):
            mask = self.masks.masks[name].flatten() != 0
            count = min(int(share * int(mask.sum())), int((~mask).sum()))
            if count and parameter.grad is not None:
                self._exchange(name, parameter, mask, count, optimizer, step * 100_003 + number)
        self.masks.apply()

    def _exchange(
        self,
        name: str,
        parameter: Tensor,
        mask: Tensor,
        count: int,
        optimizer: torch.optim.Optimizer,
        draw: int,
    ) -> None:
        size = parameter.detach().abs().flatten()
        gone = size.masked_fill(~mask, math.inf).argsort(stable=True)[:count]
        left = mask.index_fill(0, gone, False)
        assert parameter.grad is not None
        wish = parameter.grad.abs().flatten()
        if self.grow == "random":
            generator = torch.Generator().manual_seed(self.seed * 1_000_003 + draw)
            wish = torch.rand(len(mask), generator=generator)
        back = wish.masked_fill(left, -math.inf).argsort(descending=True, stable=True)[:count]
        fresh = back[~mask[back]]
        for value in optimizer.state.get(parameter, {}).values():
            if isinstance(value, Tensor) and value.shape == parameter.shape:
                value[torch.unravel_index(fresh, value.shape)] = 0
        after = left.index_fill(0, back, True).view_as(parameter)
        self.masks.masks[name] = after.to(self.masks.masks[name].dtype)

    def identity(self) -> str:
        return f"regrowth {self.grow} {self.share} {self.every} {self.until} {self.seed}"


On = Literal["weights", "scales", "filters"]


@dataclass(frozen=True)
class Shrinkage:
    """L1 regularisation, decoupled from the gradient as AdamW's decay is: after each step what it penalises moves
    towards zero by rate * ``strength``.

    ``proximal``: by soft thresholding, which ends at exactly zero (Parikh, Boyd 2014, Proximal algorithms, 6.5);
    ``plain``: by the subgradient's sign, which crosses it. ``on``: ``weights``, single ones of matrices and
    kernels; ``scales`` of batch norms (Liu et al. 2017, Network slimming); or ``filters``, the norm of each row or
    filter times the root of its size (group lasso: Wen et al. 2016, Learning structured sparsity). Raises
    UserError for a negative strength, unknown words, and a model without batch norm for ``scales``.
    """

    model: nn.Module
    strength: float
    on: On = "weights"
    kind: Literal["proximal", "plain"] = "proximal"

    def __post_init__(self) -> None:
        if not 0 <= self.strength < math.inf:
            raise UserError("the strength must not be negative", where="Shrinkage", value=self.strength,
                            mend="give 1e-4")  # fmt: skip
        if self.on not in ("weights", "scales", "filters") or self.kind not in ("proximal", "plain"):
            raise UserError(
                "unknown kind of shrinkage",
                value=f"{self.kind} on {self.on}",
                mend="proximal or plain, on weights, scales or filters",
            )
        if not self.penalised():
            raise UserError(
                f"there is nothing to shrink on: {self.on}",
                where=f"model {type(self.model).__name__}",
                mend="use on: filters for networks without batch norm",
            )

    def penalised(self) -> list[Tensor]:
        if self.on == "scales":
            return [m.weight for m in self.model.modules() if isinstance(m, _BatchNorm) and m.affine]
        return [p for p in self.model.parameters() if p.dim() >= 2]

    def start(self, steps: int) -> None:
        pass

    @torch.no_grad()
    def after_step(self, optimizer: torch.optim.Optimizer, step: int, steps: int) -> None:
        amount = float(optimizer.param_groups[0]["lr"]) * self.strength
        for tensor in self.penalised():
            size = tensor.abs()
            if self.on == "filters":
                rows = tensor.flatten(1)
                size = rows.norm(dim=1).reshape(-1, *[1] * (tensor.dim() - 1))
                amount_here = amount * math.sqrt(rows.shape[1])
            else:
                amount_here = amount
            if self.kind == "plain":
                tensor -= amount_here * tensor / size.clamp_min(1e-12)
            else:
                tensor *= (1 - amount_here / size.clamp_min(1e-12)).clamp_min(0)

    def state(self) -> dict[str, Tensor]:
        return {}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        pass

    def identity(self) -> str:
        return f"shrinkage {self.strength} {self.on} {self.kind}"
