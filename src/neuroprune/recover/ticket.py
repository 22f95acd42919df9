"""What a search for lottery tickets is told, and what it finds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from neuroprune.base.errors import UserError
from neuroprune.base.registry import nearest
from neuroprune.pruning.allocate import Scope
from neuroprune.pruning.criteria import CRITERIA
from neuroprune.pruning.masks import Granularity, Masks
from neuroprune.pruning.plan import Plan
from neuroprune.pruning.tensors import named_tensors
from neuroprune.recover.config import EpochRecord, FitConfig

Rewind = Literal["init", "epoch", "lr"]
Control = Literal["reinit", "random_mask", "dense"]
Kind = Literal["dense", "ticket", "reinit", "random_mask"]

#: options that a search which is gone on with may change: what was trained already stays as it is
_FREE = ("rounds", "controls", "control_rounds", "tolerance")


@dataclass(frozen=True)
class LotteryConfig:
    """Iterative pruning with rewinding (Frankle, Carbin 2019, arXiv:1803.03635).

    ``fit``: the whole training, of the dense network and of each ticket. In each of ``rounds`` rounds ``fraction``
    of what is still on goes, by ``criterion`` (``batches`` training batches for those that need data).

    ``rewind``, where a ticket's training begins. ``init``: the weights before training. ``epoch``: the dense
    network after ``rewind_epoch`` epochs, with the optimizer's state, and at this place of the schedule (Frankle
    et al. 2020, arXiv:1912.05671). ``lr``: the weights as trained, but the schedule at ``rewind_epoch`` (0: its
    beginning) and a new optimizer (Renda et al. 2020, arXiv:2003.02389).

    ``scope``: each tensor loses ``fraction``, or one threshold on the criterion as it is for all (units: relative
    to their group's mean). ``rates``: patterns of weight tensors that are pruned by themselves, at this share of
    ``fraction`` (``{"fc3.weight": 0.5}``: half as fast, as the output layer in the paper; 0: not at all).
    ``granularity="filter"``: whole units go, and a ticket can be cut.

    ``tolerance``: the sparsest ticket whose metric on validation is no more than this under the dense network's
    is chosen. ``controls`` at ``control_rounds`` and the chosen one: ``reinit``, the ticket's mask over
    other initial weights (each tensor's own, permuted); ``random_mask``, as many weights of each tensor, drawn
    at random; ``dense``, the network without masks trained as often (another training for ``lr`` alone).
    """

    fit: FitConfig
    rounds: int = 10
    fraction: float = 0.2
    rewind: Rewind = "init"
    rewind_epoch: int = 0
    granularity: Granularity = "weight"
    criterion: str = "l1"
    batches: int = 16
    scope: Scope = "local"
    rates: Mapping[str, float] = field(default_factory=dict)
    controls: tuple[Control, ...] = ()
    control_rounds: tuple[int, ...] = ()
    tolerance: float = 0.0

    def __post_init__(self) -> None:
        for name, kind in (("rewind", Rewind), ("granularity", Granularity), ("scope", Scope)):
            _one_of(name, getattr(self, name), get_args(kind))
        for control in self.controls:
            _one_of("control", control, get_args(Control))
        self._check_criterion()
        self._check_rewinding()
        _within("rounds", self.rounds, self.rounds >= 1, "give 1 or more")
        _within("fraction", self.fraction, 0 < self.fraction < 1, "0.2 prunes a fifth of what is on in each round")
        _within("batches", self.batches, self.batches >= 1, "give 1 or more")
        _within("tolerance", self.tolerance, self.tolerance >= 0, "0.5 allows half a point under the dense metric")
        for name, rate in self.rates.items():
            _within(f"rates[{name!r}]", rate, 0 <= rate <= 1, "a share of fraction: 0.5 prunes half as fast")
        for number in self.control_rounds:
            _within("control_rounds", number, 1 <= number <= self.rounds, f"rounds are 1..{self.rounds}")

    def _check_criterion(self) -> None:
        rule = CRITERIA.get(self.criterion)
        if self.granularity == "weight" and (rule.saliency is None or rule.looks == "scales"):
            scored = "whole units" if rule.saliency is None else "batch norms"
            raise UserError(
                f"the criterion {self.criterion!r} scores {scored}, not single weights",
                where="LotteryConfig",
                mend="use l1, l2 or activation, or granularity='filter'",
            )
        if self.granularity == "filter" and self.rates:
            raise UserError(
                "rates are of single weights, not of units",
                where="LotteryConfig",
                value=dict(self.rates),
                mend="leave them out with granularity='filter'",
            )

    def _check_rewinding(self) -> None:
        last = self.fit.epochs - 1
        low, high = {"init": (0, 0), "epoch": (1, last), "lr": (0, last)}[self.rewind]
        if last < 0:
            raise UserError(
                "a ticket needs training", where="LotteryConfig.fit", value="0 epochs", mend="epochs=10"
            )
        mend = f"with rewind={self.rewind!r} and {self.fit.epochs} epochs it lies in {low}..{high}"
        if high < low:
            mend = "train for more epochs, or use rewind='init'"
        _within("rewind_epoch", self.rewind_epoch, low <= self.rewind_epoch <= high, mend)

    def identity(self) -> dict[str, Any]:
        """What must stay the same for a search to be gone on with."""
        return {key: value for key, value in asdict(self).items() if key not in _FREE}


def _one_of(name: str, value: str, valid: tuple[str, ...]) -> None:
    if value not in valid:
        guess = nearest(str(value), valid)
        hint = f"did you mean {guess!r}? " if guess else ""
        raise UserError(
            f"unknown {name} {value!r}", where="LotteryConfig", mend=f"{hint}valid names: {', '.join(valid)}"
        )


def _within(name: str, value: float, holds: bool, mend: str) -> None:
    if not holds:
        raise UserError(f"{name} is out of range", where="LotteryConfig", value=value, mend=mend)


@dataclass(frozen=True)
class TicketRecord:
    """One training. ``round``: of the masks, 0 for none; ``sparsity``: share of the masked tensors' elements that
    are off, 0..1; ``metric``: on validation after the last epoch; ``single``: tensors that are down to one weight.
    """

    kind: Kind
    round: int
    sparsity: float
    metric: float
    epochs: tuple[EpochRecord, ...]
    single: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Ticket:
    """The chosen ticket. ``start``: every tensor at the beginning of its training, off weights at zero; ``masks``:
    1 where a weight is on; ``dense``: every tensor of the dense network after its training, the control.

    ``records``: of all trainings in their order; ``round``: the chosen one; ``reached``: its metric is no more
    than the tolerance under the dense network's. ``plan``: for ``granularity="filter"``, what can be cut.
    ``unscored``: masked tensors in which the criterion finds nothing to score, and which stay whole.
    """

    granularity: Granularity
    masks: dict[str, Tensor]
    start: dict[str, Tensor]
    dense: dict[str, Tensor]
    records: tuple[TicketRecord, ...]
    round: int
    reached: bool
    plan: Plan | None = None
    unscored: tuple[str, ...] = ()

    def record_of(self, kind: Kind, number: int) -> TicketRecord:
        """Raises KeyError where there was no such training."""
        for record in self.records:
            if (record.kind, record.round) == (kind, number):
                return record
        raise KeyError(f"no {kind} in round {number}")

    @property
    def record(self) -> TicketRecord:
        """Of the chosen ticket."""
        return self.record_of("ticket", self.round)

    def plant(self, model: nn.Module) -> Masks:
        """Put the ticket's start into ``model``, another instance of the same network; its masks, to be held.

        The optimizer's state of ``rewind="epoch"`` is not in it. Raises UserError, changing nothing, for another
        architecture.
        """
        put(model, self.start)
        masks = Masks(model, self.granularity, {name: mask.clone() for name, mask in self.masks.items()})
        masks.apply()
        return masks


def put(model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Copy ``tensors`` into the parameters and buffers of ``model``.

    Raises UserError, changing nothing, when they are those of another network.
    """
    mine = named_tensors(model)
    for name in [*mine, *(name for name in tensors if name not in mine)]:
        ours, theirs = (tuple(t[name].shape) if name in t else "nothing" for t in (mine, tensors))
        if ours != theirs:
            raise UserError(
                "this ticket belongs to another network",
                where=name,
                value=f"{theirs}, the model has {ours}",
                mend="give a model made as the one in which the ticket was found",
            )
    with torch.no_grad():
        for name, tensor in mine.items():
            tensor.copy_(tensors[name])
