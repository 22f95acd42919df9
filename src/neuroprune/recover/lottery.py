"""Lottery tickets: train, prune what is on, go back, train again; and the controls that tell what it is worth."""

from __future__ import annotations

import contextlib
import hashlib
import json
import tempfile
from collections.abc import Callable, Iterator, Mapping
from fnmatch import fnmatch
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor, nn

from neuroprune.base.errors import UserError
from neuroprune.base.files import read_json, write_json
from neuroprune.base.modes import gradients
from neuroprune.base.progress import Progress
from neuroprune.graph.trace import Trace, trace
from neuroprune.pruning.allocate import allocate
from neuroprune.pruning.criteria import CRITERIA
from neuroprune.pruning.cut import provable
from neuroprune.pruning.masks import Masks
from neuroprune.pruning.plan import Plan
from neuroprune.pruning.score import Scores, gather, saliencies, score
from neuroprune.pruning.tensors import named_tensors
from neuroprune.pruning.thinning import Pool, kept_after, thinned
from neuroprune.recover.checkpoint import Checkpoint, run_identity
from neuroprune.recover.config import EpochRecord
from neuroprune.recover.fit import fit, make_optimizer
from neuroprune.recover.ticket import Control, Kind, LotteryConfig, Ticket, TicketRecord, put
from neuroprune.tasks.batches import derive_seed
from neuroprune.tasks.task import Task, tensor_bytes

__all__ = ["LotteryConfig", "Ticket", "TicketRecord", "find_ticket"]

Tensors = Mapping[str, Tensor]
After = Callable[[TicketRecord, nn.Module], None]


def find_ticket(
    model: nn.Module,
    task: Task,
    config: LotteryConfig,
    *,
    checkpoint: Path | None = None,
    progress: Progress | None = None,
    after: After | None = None,
) -> Ticket:
    """Find a sparse part of ``model`` that trains from an early state to the dense network's metric.

    >>> ticket = find_ticket(model, task, LotteryConfig(FitConfig(epochs=10), rounds=12))  # doctest: +SKIP

    ``model`` comes as it was initialised (what it holds is what ``rewind="init"`` goes back to) and ends as the
    chosen ticket, trained, off weights at exactly zero. Every training sees the same batches in the same order;
    the ticket is chosen on ``task.val``, and ``task.test`` is not touched. Gradients of off weights are zero, so
    that neither clipping nor momentum knows of them.

    ``checkpoint``: a folder; a search that finds its own goes on from the last finished epoch and ends with the
    same bits, and may then have more rounds or other controls. ``after(record, network)`` is called after each
    training, and for finished ones again when a search is gone on with. Raises UserError for a criterion or
    rates that find nothing, a folder of another search, and as ``fit``.
    """
    with gradients(model), _folder(checkpoint) as folder:
        return _Search(model, task, config, folder, progress, after).run()


@contextlib.contextmanager
def _folder(chosen: Path | None) -> Iterator[Path]:
    if chosen is not None:
        yield chosen
        return
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


class _Search:
    """One search: masks of all rounds, and a folder for each training."""

    def __init__(
        self,
        model: nn.Module,
        task: Task,
        config: LotteryConfig,
        folder: Path,
        progress: Progress | None,
        after: After | None,
    ) -> None:
        self.model, self.task, self.config, self.folder = model, task, config, folder
        self.progress, self.after = progress, after
        self.initial = {name: tensor.detach().clone() for name, tensor in named_tensors(model).items()}
        self.identity = run_identity(model, task, config.fit, None)
        self.units = trace(model, task.example_inputs) if config.granularity == "filter" else None
        if self.units is not None:
            self.units = provable(model, self.units, task.example_inputs)
        self.masks = Masks.for_weights(model) if self.units is None else Masks.for_units(model, self.units)
        _check_prunable(config, list(self.masks.masks))
        _check_same_search(folder, config, self.initial)
        self.history: list[dict[str, Tensor]] = [self._bits()]  # of each round, as booleans
        self.plans: list[Plan | None] = [None]
        self.records: list[TicketRecord] = []
        self.unscored: tuple[str, ...] = ()

    def run(self) -> Ticket:
        dense = self._dense()
        for number in range(1, self.config.rounds + 1):
            self._prune(number)
            self._train("ticket", number, self._start_of(number))
        chosen, reached = self._choose(dense)
        for number in sorted({*self.config.control_rounds, chosen}):
            for control in self.config.controls:
                self._control(control, number)
        self._wear(self.history[chosen])
        put(self.model, self._start_of(chosen))
        self.masks.apply()
        start = {name: tensor.detach().clone() for name, tensor in named_tensors(self.model).items()}
        put(self.model, self._trained("ticket", chosen))
        return Ticket(
            self.config.granularity,
            self.masks.state(),
            start,
            self._trained("dense", 0),
            tuple(self.records),
            chosen,
            reached,
            self.plans[chosen],
            self.unscored,
        )

    def _dense(self) -> float:
        """Train without masks; keep the state at the epoch that tickets go back to."""
        rewound, epoch = self._store("rewind"), self.config.rewind_epoch
        put(self.model, self.initial)
        if epoch and not rewound.started:
            store, optimizer = self._store("dense", 0), make_optimizer(self.model, self.config.fit)
            fit(
                self.model, self.task, self.config.fit, checkpoint=store.folder, until=epoch,
                progress=self.progress, title="dense training",
            )  # fmt: skip
            rewound.save(self.model, optimizer, store.restore(self.model, optimizer)[0])
        return self._train("dense", 0, self.initial, epoch=0).metric

    def _train(self, kind: Kind, number: int, source: Tensors, epoch: int | None = None) -> TicketRecord:
        """Train from ``source`` under the masks in force, from after ``epoch`` (the rewinding's) on."""
        epoch = self.config.rewind_epoch if epoch is None else epoch
        put(self.model, source)
        self.masks.apply()
        store = self._store(kind, number)
        if epoch and not store.started:
            self._rewind(store, source)
        with _no_gradients_of_off(self.model, self.masks):
            history = fit(
                self.model,
                self.task,
                self.config.fit,
                after_step=self.masks.apply if number else None,
                checkpoint=store.folder,
                progress=self.progress,
                title=f"{kind.replace('_', ' ')}, round {number}" if number else "dense training",
            )
        return self._finished(kind, number, history[epoch:])

    def _rewind(self, store: Checkpoint, source: Tensors) -> None:
        """Leave in ``store`` the state in which the training begins, as if it had come there by itself."""
        optimizer = make_optimizer(self.model, self.config.fit)
        records, _ = self._store("rewind").restore(self.model, optimizer)
        if self.config.rewind == "lr":
            optimizer = make_optimizer(self.model, self.config.fit)
        put(self.model, source)
        self.masks.apply()
        store.save(self.model, optimizer, records)

    def _finished(self, kind: Kind, number: int, history: list[EpochRecord]) -> TicketRecord:
        single = tuple(
            name for name, mask in self.masks.masks.items() if mask.numel() > 1 and mask.count_nonzero() == 1
        )
        sparsity = self.masks.sparsity()
        record = TicketRecord(kind, number, sparsity, history[-1].val_metric, tuple(history), single)
        self.records.append(record)
        if self.after is not None:
            self.after(record, self.model)
        return record

    def _start_of(self, number: int) -> Tensors:
        """What the ticket of a round begins with, before its masks."""
        if self.config.rewind == "lr":
            return self._trained("ticket", number - 1) if number > 1 else self._trained("dense", 0)
        return self._store("rewind").tensors() if self.config.rewind == "epoch" else self.initial

    def _prune(self, number: int) -> None:
        """The model holds the trained weights of the round before."""
        config, seed = self.config, derive_seed(self.config.fit.seed, "lottery", number)
        batches = islice(self.task.train.epoch(None), config.batches)
        statistics = gather(
            self.model, config.criterion, batches, self.task.forward, self.task.loss, trace=self.units
        )
        if self.units is None:
            found = saliencies(self.model, CRITERIA.get(config.criterion), statistics, seed)
            pools = _pools({n: m.numel() for n, m in self.masks.masks.items() if n in found}, config, number)
            self._wear(thinned(self.masks.masks, found, pools))
            self.unscored = tuple(name for name in self.masks.masks if name not in found)
            self.plans.append(None)
        else:
            scores = score(self.model, self.units, config.criterion, statistics, seed=seed)
            self._prune_units(self.units, scores, number)
        self.history.append(self._bits())

    def _prune_units(self, units: Trace, scores: Scores, number: int) -> None:
        for name, off in self.masks.off.items():
            scores[name][list(off)] = -1.0  # what is off goes first
        gone = 1 - (1 - self.config.fraction) ** number
        plan = allocate(
            self.model, units, scores, gone, scope=self.config.scope, criterion=self.config.criterion,
            constraint=f"fraction={gone:.4g}",
        )  # fmt: skip
        self.masks.switch_units(units, {d.group: d.removed for d in plan.decisions})
        self.plans.append(plan)

    def _choose(self, dense: float) -> tuple[int, bool]:
        """The sparsest ticket that is as good as the dense network on validation, else the best."""
        tickets = [record for record in self.records if record.kind == "ticket"]
        good = [record for record in tickets if record.metric >= dense - self.config.tolerance]
        best = max(good, key=lambda r: r.round) if good else max(tickets, key=lambda r: (r.metric, r.round))
        return best.round, bool(good)

    def _control(self, control: Control, number: int) -> None:
        if control == "dense":
            self._dense_again(number)
        elif control == "reinit":
            self._wear(self.history[number])
            permuted = _permuted(self.model, self.initial, derive_seed(self.config.fit.seed, "reinit"))
            self._train("reinit", number, permuted, epoch=0)
        else:
            self._wear(self._random_masks(number))
            source = self._trained("dense", 0) if self.config.rewind == "lr" else self._start_of(number)
            self._train("random_mask", number, source)

    def _dense_again(self, number: int) -> None:
        """The network without masks, trained as often as the ticket of this round."""
        self._wear(self.history[0])
        first = self.records[0]
        if self.config.rewind != "lr":  # it would train from the same state in the same way
            self.records.append(TicketRecord("dense", number, 0.0, first.metric, first.epochs))
            return
        for again in range(1, number + 1):
            if ("dense", again) not in {(record.kind, record.round) for record in self.records}:
                self._train("dense", again, self._trained("dense", again - 1))

    def _random_masks(self, number: int) -> dict[str, Tensor]:
        """As many weights (units) of each tensor (group) as the ticket has, anywhere."""
        generator = torch.Generator().manual_seed(derive_seed(self.config.fit.seed, "random mask", number))
        plan = self.plans[number]
        if plan is None or self.units is None:
            return {name: _shuffled(mask, generator) for name, mask in self.history[number].items()}
        sizes = {group.name: group.size for group in self.units.groups}
        gone = {
            d.group: tuple(torch.randperm(sizes[d.group], generator=generator)[: len(d.removed)].tolist())
            for d in plan.decisions
        }
        self.masks.switch_units(self.units, gone)
        return self._bits()

    def _wear(self, masks: Tensors) -> None:
        """Put masks of the same shapes into force, without touching the weights."""
        for name, mask in self.masks.masks.items():
            mask.copy_(masks[name])

    def _bits(self) -> dict[str, Tensor]:
        return {name: mask != 0 for name, mask in self.masks.masks.items()}

    def _store(self, kind: str, number: int | None = None) -> Checkpoint:
        return Checkpoint(self.folder / (kind if number is None else f"{kind}-{number:02d}"), self.identity)

    def _trained(self, kind: Kind, number: int) -> dict[str, Tensor]:
        return self._store(kind, number).tensors()


def _check_same_search(folder: Path, config: LotteryConfig, initial: Tensors) -> None:
    """A folder of another search is refused; data and architecture are in the checkpoints of the trainings."""
    digest = hashlib.sha256()
    for name, tensor in initial.items():
        digest.update(name.encode() + tensor_bytes(tensor))
    mine = json.loads(json.dumps({**config.identity(), "initial": digest.hexdigest()}))  # as it is read back
    file = folder / "lottery.json"
    if not file.exists():
        write_json(file, mine)
        return
    found = read_json(file)
    found = found if isinstance(found, dict) else {}
    changed = [key for key in mine if found.get(key) != mine[key]]
    if changed:
        raise UserError(
            "the folder holds another search for lottery tickets",
            where=str(folder),
            value=f"changed: {', '.join(changed)}",
            mend="choose another folder, or delete this one to search from the start",
        )


def _check_prunable(config: LotteryConfig, names: list[str]) -> None:
    if not names:
        what = "weights of two dimensions or more" if config.granularity == "weight" else "units that can go"
        raise UserError(f"the network has no {what}", mend="give a network with a linear layer or a convolution")
    for pattern in config.rates:
        if not any(fnmatch(name, pattern) for name in names):
            raise UserError(f"rates: {pattern!r} matches nothing", mend=f"weight tensors: {', '.join(names)}")


def _pools(sizes: Mapping[str, int], config: LotteryConfig, number: int) -> list[Pool]:
    """Which tensors are compared with each other in this round, and how many of their weights stay.

    Raises UserError when the criterion scores none.
    """
    if not sizes:
        raise UserError(
            f"the criterion {config.criterion!r} finds no weights to score", mend="use l1, l2 or activation"
        )
    rates = {name: rate for pattern, rate in config.rates.items() for name in sizes if fnmatch(name, pattern)}
    own = [name for name in sizes if config.scope == "local" or name in rates]
    fractions = {name: config.fraction * rates.get(name, 1.0) for name in own}
    pools = [Pool((name,), kept_after(sizes[name], fractions[name], number)) for name in own]
    shared = tuple(name for name in sizes if name not in own)
    if shared:
        pools.append(Pool(shared, kept_after(sum(sizes[n] for n in shared), config.fraction, number)))
    return pools


@contextlib.contextmanager
def _no_gradients_of_off(model: nn.Module, masks: Masks) -> Iterator[None]:
    """An off weight's gradient is zero: it counts neither in the norm that is clipped nor in the momentum."""
    off = {name: mask == 0 for name, mask in masks.masks.items() if not bool(mask.all())}
    handles = [
        parameter.register_hook(lambda gradient, off=off[name]: gradient.masked_fill(off, 0))  # type: ignore[no-untyped-call]
        for name, parameter in model.named_parameters()
        if name in off and parameter.requires_grad
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _permuted(model: nn.Module, initial: Tensors, seed: int) -> dict[str, Tensor]:
    """Every parameter's own initial values in another order: another draw from whatever it was drawn from."""
    generator = torch.Generator().manual_seed(seed)
    parameters = dict(model.named_parameters())
    return {n: _shuffled(t, generator) if n in parameters else t for n, t in initial.items()}


def _shuffled(tensor: Tensor, generator: torch.Generator) -> Tensor:
    order = torch.randperm(tensor.numel(), generator=generator).to(tensor.device)
    return tensor.flatten()[order].view(tensor.shape)
