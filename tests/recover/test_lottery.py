"""Lottery tickets against a loop written out here; what must hold for any of them; killed and gone on with."""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from interrupting import Stop
from torch import Tensor, nn
from torch.nn import functional

from neuroprune.base.errors import UserError
from neuroprune.graph import cost
from neuroprune.pruning.surgery import apply
from neuroprune.pruning.tensors import named_tensors
from neuroprune.recover.fit import FitConfig, fit
from neuroprune.recover.lottery import LotteryConfig, Ticket, TicketRecord, find_ticket
from neuroprune.tasks.make import make_task
from neuroprune.tasks.task import Task

EPOCHS, SEED, RATE, DECAY, CLIP = 4, 3, 0.1, 1e-3, 0.5
FIT = FitConfig(epochs=EPOCHS, lr=RATE, weight_decay=DECAY, clip_norm=CLIP, warmup_epochs=0, seed=SEED)
REWINDS: list[tuple[Any, int]] = [("init", 0), ("epoch", 1), ("epoch", 3), ("lr", 0), ("lr", 2)]
WEIGHTS = {"0.weight": 48, "3.weight": 24}


def net(width: int = 8, dropout: float = 0.0) -> nn.Sequential:
    torch.manual_seed(5)
    return nn.Sequential(
        nn.Linear(6, width), nn.BatchNorm1d(width), nn.Dropout(dropout) if dropout else nn.ReLU(),
        nn.Linear(width, 3),
    )  # fmt: skip


def small_task(**options: Any) -> Task:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(36, 6, generator=generator)
    y = (x[:, :3] + 0.3 * x[:, 3:]).argmax(1)
    return make_task(train=(x[:24], y[:24]), val=(x[24:], y[24:]), batch_size=8, **options)


def tensors_of(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in named_tensors(model).items()}


def same(left: dict[str, Tensor], right: dict[str, Tensor]) -> bool:
    """Bit for bit: minus zero is not zero."""
    return left.keys() == right.keys() and all(
        left[n].numpy().tobytes() == right[n].numpy().tobytes() for n in left
    )


# the truth


def optimizer_of(model: nn.Module) -> torch.optim.SGD:
    matrices = [p for p in model.parameters() if p.dim() > 1]
    others = [p for p in model.parameters() if p.dim() <= 1]
    groups = [{"params": matrices, "weight_decay": DECAY}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.SGD(groups, lr=RATE, momentum=0.9, nesterov=True)


def train_by_hand(
    model: nn.Module, optimizer: torch.optim.SGD, task: Task, first: int, last: int, masks: dict[str, Tensor]
) -> None:
    """Epochs ``first + 1`` to ``last`` of the cosine schedule over ``EPOCHS``."""
    parameters = dict(model.named_parameters())
    model.train()
    for epoch in range(first + 1, last + 1):
        for index, (x, y) in enumerate(task.train.epoch(SEED * 100_000 + epoch)):
            done = ((epoch - 1) * len(task.train) + index) / (EPOCHS * len(task.train))
            for group in optimizer.param_groups:
                group["lr"] = RATE * (1 + math.cos(math.pi * done)) / 2
            optimizer.zero_grad()
            functional.cross_entropy(model(x), y).backward()
            for name, mask in masks.items():
                parameters[name].grad.mul_(mask)
            torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
            optimizer.step()
            with torch.no_grad():
                for name, mask in masks.items():
                    parameters[name].copy_(torch.where(mask == 1, parameters[name], 0.0))


def masks_by_hand(model: nn.Module, masks: dict[str, Tensor], keep: dict[str, int]) -> dict[str, Tensor]:
    """The largest weights of each layer; those that are off are zero and come last."""
    found = {}
    for name, count in keep.items():
        weight = dict(model.named_parameters())[name].detach()
        order = (weight.abs() * masks[name]).flatten().sort(descending=True).indices
        found[name] = torch.zeros(weight.numel()).index_fill_(0, order[:count], 1).view(weight.shape)
    return found


def ticket_by_hand(rewind: str, at: int) -> tuple[nn.Module, dict[str, Tensor], dict[str, Tensor]]:
    """Two rounds of a half: the trained network, its masks, and what the last training began with."""
    task, model = small_task(), net()
    initial = tensors_of(model)
    optimizer, everything = (
        optimizer_of(model),
        {name: torch.ones_like(model.state_dict()[name]) for name in WEIGHTS},
    )
    train_by_hand(model, optimizer, task, 0, at, everything)
    point, momentum = tensors_of(model), copy.deepcopy(optimizer.state_dict())
    train_by_hand(model, optimizer, task, at, EPOCHS, everything)
    masks, start = everything, initial
    for part in (0.5, 0.25):
        masks = masks_by_hand(model, masks, {name: int(size * part) for name, size in WEIGHTS.items()})
        optimizer = optimizer_of(model)
        with torch.no_grad():
            for name, tensor in named_tensors(model).items():
                if rewind != "lr":
                    tensor.copy_((initial if rewind == "init" else point)[name])
                if name in masks:
                    tensor.copy_(torch.where(masks[name] == 1, tensor, 0.0))
        if rewind == "epoch":
            optimizer.load_state_dict(copy.deepcopy(momentum))
        start = tensors_of(model)
        train_by_hand(model, optimizer, task, at, EPOCHS, masks)
    return model, masks, start


@pytest.mark.parametrize(("rewind", "at"), REWINDS)
def test_a_ticket_is_that_of_a_loop_written_out(rewind: Any, at: int) -> None:
    expected, masks, start = ticket_by_hand(rewind, at)
    model = net()
    config = LotteryConfig(FIT, rounds=2, fraction=0.5, rewind=rewind, rewind_epoch=at, tolerance=100)
    ticket = find_ticket(model, small_task(), config)
    assert ticket.round == 2
    assert same(ticket.masks, masks)
    assert same(ticket.start, start)
    assert same(tensors_of(model), tensors_of(expected))


# what must hold


@pytest.mark.parametrize(("rewind", "at"), REWINDS)
@pytest.mark.parametrize("scope", ["local", "global"])
def test_what_a_ticket_starts_with(rewind: Any, at: int, scope: Any) -> None:
    model, task = net(dropout=0.2), small_task()
    initial = tensors_of(model)
    seen: list[dict[str, Tensor]] = []
    config = LotteryConfig(FIT, rounds=3, rewind=rewind, rewind_epoch=at, scope=scope, tolerance=100)
    ticket = find_ticket(model, task, config, after=lambda record, network: seen.append(tensors_of(network)))
    source = initial if rewind == "init" else seen[2]
    if rewind == "epoch":
        dense = net(dropout=0.2)
        fit(dense, task, FIT, until=at)
        source = tensors_of(dense)
    masked = {n: torch.where(ticket.masks[n] == 1, t, 0.0) if n in ticket.masks else t for n, t in source.items()}
    assert same(ticket.start, masked), "weights, biases, statistics and counts of batches"
    assert all(
        torch.equal((t != 0).float(), ticket.masks[n]) for n, t in tensors_of(model).items() if n in WEIGHTS
    )
    assert not any(math.copysign(1, v) < 0 for n in WEIGHTS for v in seen[3][n].flatten().tolist() if v == 0)
    assert same(ticket.dense, seen[0])


@pytest.mark.parametrize(("rewind", "at"), REWINDS[:3])
def test_with_nothing_pruned_a_ticket_is_the_dense_network(rewind: Any, at: int) -> None:
    model = net(dropout=0.3)
    config = LotteryConfig(FIT, rounds=1, rewind=rewind, rewind_epoch=at, rates={"*": 0.0})
    ticket = find_ticket(model, small_task(), config)
    dense = net(dropout=0.3)
    records = fit(dense, small_task(), FIT)
    assert same(tensors_of(model), tensors_of(dense))
    assert same(ticket.dense, tensors_of(dense))
    ours = [(e.epoch, e.train_loss, e.val_metric) for e in ticket.record.epochs]
    assert ours == [(e.epoch, e.train_loss, e.val_metric) for e in records[at:]]


def test_counts_of_every_round_are_exact_and_masks_are_nested() -> None:
    seen: list[dict[str, Tensor]] = []
    config = LotteryConfig(FIT, rounds=4, fraction=0.25, rates={"3.*": 0.5}, criterion="random")
    find_ticket(net(), small_task(), config, after=lambda record, network: seen.append(tensors_of(network)))
    on = [{name: tensors[name] != 0 for name in WEIGHTS} for tensors in seen]
    assert [int(m["0.weight"].sum()) for m in on] == [48, 36, 27, 20, 15]  # 48 * 0.75 ** round
    assert [int(m["3.weight"].sum()) for m in on] == [24, 21, 18, 16, 14]  # 24 * 0.875 ** round
    for before, after in itertools.pairwise(on):
        assert all(bool((after[n] <= before[n]).all()) for n in WEIGHTS)


def test_no_layer_becomes_empty_and_those_at_one_weight_are_told() -> None:
    config = LotteryConfig(FIT, rounds=2, fraction=0.9)
    ticket = find_ticket(net(), small_task(), config)
    assert [ticket.record_of("ticket", number).single for number in (1, 2)] == [(), ("0.weight", "3.weight")]
    config = LotteryConfig(FIT, rounds=3, fraction=0.999, scope="global")
    record = find_ticket(net(), small_task(), config).record_of("ticket", 3)
    assert record.single == ("0.weight", "3.weight")
    assert record.sparsity == pytest.approx(70 / 72)


@pytest.mark.parametrize("criterion", ["activation", "taylor", "snip", "lamp", "synflow"])
def test_other_criteria_score_what_was_trained(criterion: str) -> None:
    found = [
        find_ticket(net(), small_task(), LotteryConfig(FIT, rounds=2, fraction=0.5, criterion=name, tolerance=100))
        for name in (criterion, "random")
    ]
    assert [int(found[0].masks[n].sum()) for n in WEIGHTS] == [12, 6]
    assert not same(found[0].masks, found[1].masks)


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.LSTM(3, 4, batch_first=True), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.head(self.body(x.view(len(x), 2, 3))[0][:, -1])
        return y


def test_what_a_criterion_cannot_score_stays_whole_and_is_told() -> None:
    config = LotteryConfig(FIT, rounds=1, fraction=0.5, criterion="activation")
    ticket = find_ticket(Recurrent(), small_task(), config)
    assert ticket.unscored == ("body.weight_ih_l0", "body.weight_hh_l0")
    assert {name: int(mask.sum()) for name, mask in ticket.masks.items()} == {
        "body.weight_ih_l0": 48, "body.weight_hh_l0": 64, "head.weight": 6,
    }  # fmt: skip


# choosing and controls


class Untouched:
    """Test data that nobody may look at."""

    samples = 12

    def __len__(self) -> int:
        return 2

    def epoch(self, index: int | None) -> Iterator[Any]:
        raise AssertionError("the test data was looked at")


@pytest.mark.parametrize(
    ("tolerance", "metrics", "chosen", "reached"),
    [(0.0, [91, 90, 89.9, 80], 2, True), (0.2, [91, 90, 89.9, 80], 3, True), (0.0, [89, 70, 89, 80], 3, False)],
)
def test_the_sparsest_as_good_as_dense_on_validation(
    tolerance: float, metrics: list[float], chosen: int, reached: bool
) -> None:
    figures = iter([90.0, *metrics])
    task = small_task(evaluate=lambda model: next(figures), metric="score")
    object.__setattr__(task, "test", Untouched())
    object.__setattr__(task, "digest", lambda: "")
    model = net()
    config = LotteryConfig(FitConfig(epochs=1), rounds=4, tolerance=tolerance)
    seen: list[dict[str, Tensor]] = []
    ticket = find_ticket(model, task, config, after=lambda record, network: seen.append(tensors_of(network)))
    assert (ticket.round, ticket.reached, ticket.record.metric) == (chosen, reached, metrics[chosen - 1])
    assert same(tensors_of(model), seen[chosen])
    assert int(ticket.masks["0.weight"].sum()) == round(48 * 0.8**chosen)


def runs(config: LotteryConfig) -> tuple[Ticket, dict[tuple[str, int], dict[str, Tensor]]]:
    seen: dict[tuple[str, int], dict[str, Tensor]] = {}

    def after(record: TicketRecord, network: nn.Module) -> None:
        seen[record.kind, record.round] = tensors_of(network)

    return find_ticket(net(), small_task(), config, after=after), seen


def test_random_initial_weights_under_the_same_mask() -> None:
    config = LotteryConfig(
        FIT, rounds=3, rewind="epoch", rewind_epoch=2, controls=("reinit",), control_rounds=(2,)
    )
    ticket, seen = runs(config)
    for name in WEIGHTS:
        assert torch.equal(seen["reinit", 2][name] != 0, seen["ticket", 2][name] != 0)
    assert len(ticket.record_of("reinit", 2).epochs) == EPOCHS, "it starts anew"
    assert ticket.record_of("reinit", 2).sparsity == ticket.record_of("ticket", 2).sparsity


def test_the_control_starts_from_the_same_values_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    starts: list[dict[str, Tensor]] = []

    def spy(model: nn.Module, *args: Any, **options: Any) -> Any:
        starts.append(tensors_of(model))
        return fit(model, *args, **options)

    monkeypatch.setattr("neuroprune.recover.lottery.fit", spy)
    runs(LotteryConfig(FIT, rounds=1, rates={"*": 0.0}, controls=("reinit",)))
    initial, again = tensors_of(net()), starts[2]
    for name, tensor in initial.items():
        assert torch.equal(again[name].flatten().sort().values, tensor.flatten().sort().values)
        constant = tensor.unique().numel() == 1
        assert torch.equal(again[name], tensor) == constant


@pytest.mark.parametrize(("rewind", "at"), REWINDS)
def test_a_random_mask_of_the_same_sparsity_of_each_layer(rewind: Any, at: int) -> None:
    config = LotteryConfig(
        FIT,
        rounds=2,
        fraction=0.5,
        rewind=rewind,
        rewind_epoch=at,
        controls=("random_mask",),
        control_rounds=(1, 2),
    )
    ticket, seen = runs(config)
    for number in (1, 2):
        left, right = seen["ticket", number], seen["random_mask", number]
        for name, size in WEIGHTS.items():
            assert int((right[name] != 0).sum()) == size // 2**number
            assert not torch.equal(left[name] != 0, right[name] != 0)
        assert len(ticket.record_of("random_mask", number).epochs) == EPOCHS - at


def test_the_dense_control_trains_as_often() -> None:
    """Rewinding weights repeats the dense training; rewinding the rate goes on from it, so the control does."""
    ticket, seen = runs(LotteryConfig(FIT, rounds=2, controls=("dense",), control_rounds=(2,)))
    assert ticket.record_of("dense", 2).metric == ticket.record_of("dense", 0).metric
    assert set(seen) == {("dense", 0), ("ticket", 1), ("ticket", 2)}, "nothing was trained for it"
    ticket, seen = runs(LotteryConfig(FIT, rounds=2, rewind="lr", controls=("dense",), control_rounds=(2,)))
    again = net()
    for number in range(3):
        fit(again, small_task(), FIT)
        assert same(seen["dense", number], tensors_of(again))


def test_controls_leave_the_ticket_as_it_is() -> None:
    models = [net(), net()]
    for model, controls in zip(models, [(), ("reinit", "random_mask", "dense")], strict=True):
        ticket = find_ticket(model, small_task(), LotteryConfig(FIT, rounds=3, rewind="lr", controls=controls))
        assert ticket.masks["0.weight"].sum() == (model[0].weight != 0).sum()
    assert same(tensors_of(models[0]), tensors_of(models[1]))


# interrupted


CONTROLLED = {"controls": ("reinit", "random_mask", "dense"), "control_rounds": (1, 2)}


@pytest.mark.parametrize(("rewind", "at"), [("init", 0), ("epoch", 2), ("lr", 2)])
def test_interrupted_anywhere_the_bits_are_the_same(tmp_path: Path, rewind: Any, at: int) -> None:
    config = LotteryConfig(FIT, rounds=2, rewind=rewind, rewind_epoch=at, criterion="activation", **CONTROLLED)  # type: ignore[arg-type]
    whole = net(dropout=0.3)
    expected = find_ticket(whole, small_task(), config)
    kills = 0
    while True:  # every six batches of work: two epochs
        resumed = net(dropout=0.3)
        torch.manual_seed(kills)  # the world has moved on
        try:
            ticket = find_ticket(resumed, small_task(), config, checkpoint=tmp_path / "c", progress=Stop(7))
        except KeyboardInterrupt:
            kills += 1
            continue
        break
    assert kills > 5
    assert same(tensors_of(resumed), tensors_of(whole))
    assert (ticket.round, ticket.reached) == (expected.round, expected.reached)
    for one, other in (
        (ticket.masks, expected.masks),
        (ticket.start, expected.start),
        (ticket.dense, expected.dense),
    ):
        assert same(one, other)
    figures = [
        [(r.kind, r.round, r.sparsity, r.metric, [e.train_loss for e in r.epochs]) for r in t.records]
        for t in (ticket, expected)
    ]
    assert figures[0] == figures[1]


def test_killed_between_the_files_of_the_rewinding_point(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = LotteryConfig(FIT, rounds=1, rewind="epoch", rewind_epoch=2)
    whole = net()
    find_ticket(whole, small_task(), config)
    from neuroprune.base import files

    def killed(path: Path, value: Any) -> None:
        if path.parent.name in ("rewind", "ticket-01"):
            monkeypatch.setattr("neuroprune.recover.checkpoint.write_json", files.write_json)
            raise KeyboardInterrupt
        files.write_json(path, value)

    monkeypatch.setattr("neuroprune.recover.checkpoint.write_json", killed)
    with pytest.raises(KeyboardInterrupt):
        find_ticket(net(), small_task(), config, checkpoint=tmp_path)
    resumed = net()
    find_ticket(resumed, small_task(), config, checkpoint=tmp_path)
    assert same(tensors_of(resumed), tensors_of(whole))


def test_a_finished_search_trains_nothing_and_may_have_more_rounds_and_controls(tmp_path: Path) -> None:
    first = LotteryConfig(FIT, rounds=2)
    find_ticket(net(), small_task(), first, checkpoint=tmp_path)
    watch = Stop(0)
    find_ticket(net(), small_task(), first, checkpoint=tmp_path, progress=watch)
    assert watch.titles == ["dense training: 0", "ticket, round 1: 0", "ticket, round 2: 0"]
    more = LotteryConfig(FIT, rounds=3, controls=("reinit",), control_rounds=(3,))
    resumed, whole = net(), net()
    watch = Stop(1000)
    find_ticket(resumed, small_task(), more, checkpoint=tmp_path, progress=watch)
    assert watch.titles[2:] == ["ticket, round 2: 0", "ticket, round 3: 12", "reinit, round 3: 12"]
    find_ticket(whole, small_task(), more)
    assert same(tensors_of(resumed), tensors_of(whole))


def test_a_folder_of_another_search_is_refused(tmp_path: Path) -> None:
    find_ticket(net(), small_task(), LotteryConfig(FIT, rounds=1), checkpoint=tmp_path)
    other = net()
    with torch.no_grad():
        other[0].bias += 1
    before = tensors_of(other)
    cases = [
        (other, LotteryConfig(FIT, rounds=1), "changed: initial"),
        (net(), LotteryConfig(FIT, rounds=1, fraction=0.3), "changed: fraction"),
        (net(), LotteryConfig(FIT, rounds=1, rewind="lr"), "changed: rewind"),
        (net(), LotteryConfig(FitConfig(epochs=EPOCHS, seed=1), rounds=1), "changed: fit"),
    ]
    for model, config, part in cases:
        with pytest.raises(UserError, match="another search") as caught:
            find_ticket(model, small_task(), config, checkpoint=tmp_path)
        assert part in str(caught.value)
    assert same(tensors_of(other), before)
    x = torch.randn(24, 6)
    with pytest.raises(UserError, match="another training run"):
        find_ticket(
            net(), make_task(train=(x, torch.arange(24) % 3), val=(x, torch.arange(24) % 3), batch_size=8),
            LotteryConfig(FIT, rounds=1), checkpoint=tmp_path,
        )  # fmt: skip


# planting


def test_a_planted_ticket_trains_under_its_masks() -> None:
    model = net()
    ticket = find_ticket(model, small_task(), LotteryConfig(FIT, rounds=2, tolerance=100))
    again = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))
    masks = ticket.plant(again)
    assert same(tensors_of(again), ticket.start)
    fit(
        again,
        small_task(),
        FitConfig(**{**FIT.to_json(), "distill": None, "clip_norm": None}),
        after_step=masks.apply,
    )
    assert all(torch.equal((again[i].weight != 0).float(), ticket.masks[f"{i}.weight"]) for i in (0, 3))


@pytest.mark.parametrize(
    ("other", "where"),
    [
        (net(width=9), "0.weight"),
        (nn.Sequential(*net(), nn.Linear(3, 3)), "4.weight"),
        (nn.Sequential(*list(net())[:3]), "3.weight"),
    ],
)
def test_a_ticket_of_another_architecture_is_refused(other: nn.Module, where: str) -> None:
    ticket = find_ticket(net(), small_task(), LotteryConfig(FitConfig(epochs=1), rounds=1))
    before = tensors_of(other)
    with pytest.raises(UserError, match="another network") as caught:
        ticket.plant(other)
    assert caught.value.where == where
    assert same(tensors_of(other), before)


# whole units


@pytest.mark.parametrize("rewind", ["init", "lr"])
def test_a_ticket_of_units_can_be_cut(rewind: Any) -> None:
    model, task = net(), small_task()
    config = LotteryConfig(
        FIT, rounds=2, fraction=0.4, granularity="filter", rewind=rewind, tolerance=100,
        controls=("random_mask", "reinit"),
    )  # fmt: skip
    seen: dict[str, dict[str, Tensor]] = {}
    ticket = find_ticket(
        model, task, config, after=lambda record, network: seen.update({record.kind: tensors_of(network)})
    )
    assert ticket.plan is not None
    small = apply(ticket.plan, copy.deepcopy(model)).eval()
    x = torch.randn(50, 6)
    torch.testing.assert_close(small(x), model.eval()(x), rtol=1e-5, atol=1e-6)
    kept = [int((tensors["0.weight"] != 0).any(1).sum()) for tensors in seen.values()]
    assert kept == [8, 2, 2, 2], "8 * 0.6 ** 2 = 2.88 of eight units stay, rounded down"
    assert cost(small, task.example_inputs).params == 2 * 6 + 2 + 2 * 2 + 3 * 2 + 3
    assert not torch.equal(seen["ticket"]["0.weight"] != 0, seen["random_mask"]["0.weight"] != 0)


# what users get wrong


BAD: list[tuple[dict[str, Any], str]] = [
    ({"fraction": 0.0}, "fraction"),
    ({"fraction": 1.0}, "fraction"),
    ({"fraction": -0.1}, "fraction"),
    ({"fraction": float("nan")}, "fraction"),
    ({"rounds": 0}, "rounds"),
    ({"batches": 0}, "batches"),
    ({"tolerance": -1}, "tolerance"),
    ({"rewind": "epoch", "rewind_epoch": EPOCHS}, "lies in 1..3"),
    ({"rewind": "epoch"}, "lies in 1..3"),
    ({"rewind": "lr", "rewind_epoch": EPOCHS}, "lies in 0..3"),
    ({"rewind": "lr", "rewind_epoch": -1}, "lies in 0..3"),
    ({"rewind": "init", "rewind_epoch": 1}, "rewind_epoch"),
    ({"rewind": "initial"}, "did you mean 'init'"),
    ({"controls": ("reinitialise",)}, "did you mean 'reinit'"),
    ({"control_rounds": (11,)}, "rounds are 1..10"),
    ({"granularity": "weights"}, "did you mean 'weight'"),
    ({"scope": "layer"}, "valid names: local, global"),
    ({"criterion": "fpgm"}, "whole units"),
    ({"criterion": "bn_scale"}, "batch norms"),
    ({"criterion": "l3"}, "l1"),
    ({"rates": {"3.weight": 1.5}}, "rates"),
    ({"rates": {"3.weight": 0.5}, "granularity": "filter"}, "not of units"),
]


@pytest.mark.parametrize(("options", "message"), BAD)
def test_options_out_of_range(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as caught:
        LotteryConfig(FIT, **options)
    assert message in str(caught.value)
    assert "mend:" in str(caught.value)


def test_training_too_short_to_be_gone_back_in() -> None:
    with pytest.raises(UserError, match="needs training"):
        LotteryConfig(FitConfig(epochs=0))
    with pytest.raises(UserError, match="train for more epochs"):
        LotteryConfig(FitConfig(epochs=1), rewind="epoch", rewind_epoch=1)


@pytest.mark.parametrize(
    ("model", "config", "message"),
    [
        (net(), LotteryConfig(FIT, rates={"4.weight": 0.5}), "matches nothing"),
        (nn.Sequential(nn.BatchNorm1d(6)), LotteryConfig(FIT), "has no weights"),
    ],
)
def test_nothing_to_prune_is_told_before_an_hour_of_training(
    model: nn.Module, config: LotteryConfig, message: str, tmp_path: Path
) -> None:
    before = tensors_of(model)
    with pytest.raises(UserError, match=message):
        find_ticket(model, small_task(), config, progress=Stop(0), checkpoint=tmp_path)
    assert same(tensors_of(model), before)
    assert not list(tmp_path.iterdir())


def test_training_that_diverges_is_told() -> None:
    model = nn.Sequential(nn.Linear(6, 4), nn.Linear(4, 3))
    config = LotteryConfig(FitConfig(epochs=2, lr=1e30, schedule="constant", clip_norm=None))
    with pytest.raises(UserError, match="diverged"):
        find_ticket(model, small_task(), config)


def test_a_network_that_was_frozen_is_frozen_again() -> None:
    model = net().requires_grad_(False)
    find_ticket(model, small_task(), LotteryConfig(FIT, rounds=1))
    assert not any(p.requires_grad for p in model.parameters())
    assert not any(p._backward_hooks for p in model.parameters())
