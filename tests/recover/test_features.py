"""Distillation by features: against masked networks, finite differences, and with every hook gone afterwards."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from test_distill import blocks, cut, forward, made, missed
from test_resume import Stop, _bytes
from torch import Tensor, nn

from neuroprune.base.errors import UserError
from neuroprune.base.modes import evaluation
from neuroprune.graph.trace import trace
from neuroprune.pruning.masks import Masks
from neuroprune.recover.config import Distill, FitConfig
from neuroprune.recover.features import Features, matched
from neuroprune.recover.fit import fit
from neuroprune.recover.objective import Objective
from neuroprune.tasks.make import make_task
from neuroprune.tasks.nets import signal_net, tiny_resnet
from neuroprune.tasks.task import Task

X = torch.randn(16, 3, 5, 5, generator=torch.Generator().manual_seed(1))


def error(features: Features, *nets: nn.Module, x: Tensor = X) -> Tensor:
    """After the networks ran in this order."""
    with features.watched():
        for net in nets:
            net.eval()(x)
        return features.error()


def value(features: Features, *nets: nn.Module, x: Tensor = X) -> float:
    return float(error(features, *nets, x=x).detach())


def hooks(*nets: nn.Module) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for net in nets for m in net.modules())


@pytest.mark.parametrize("net", [made(), tiny_resnet(), signal_net()], ids=["stream", "resnet", "signal"])
def test_a_network_that_equals_its_teacher_has_no_error(net: nn.Module) -> None:
    shape = {"SignalNet": (8, 1, 32), "ResNet": (8, 1, 8, 8)}.get(type(net).__name__, (8, 3, 5, 5))
    x = torch.randn(shape)
    same = copy.deepcopy(net)
    features = matched(net, same, None, forward, x)
    assert len(features.kept) >= 1
    assert value(features, net, same, x=x) == 0


def test_what_was_cut_equals_the_kept_channels_of_the_masked_teacher() -> None:
    """Channel i of the student is the teacher's kept[i]: any other pairing would leave an error."""
    teacher = made()
    found = trace(teacher, X)
    masks = Masks.for_units(teacher, found)
    masks.switch_units(found, {group.name: (0, 1) for group in found.groups})
    plan, student = cut(teacher, X)
    features = matched(teacher, student, plan, forward, X)
    assert len(features.pairs()) == 0  # nothing ran under watch any more
    assert len(features.kept) == 5  # stem, three blocks, head
    assert value(features, teacher, student) < 1e-12
    with torch.no_grad():
        student[1].b.weight.mul_(1.5)
    assert value(features, teacher, student) > 1e-3


def test_the_formula() -> None:
    teacher = made()
    plan, student = cut(teacher, X)
    expected = missed(teacher, student, plan, [X])[:-1]
    features = matched(teacher, student, plan, forward, X)
    del features.kept["0"], features.kept["4"]
    own = [w[:, [2, 3, 4, 5]] for w in blocks(teacher, X)[:-1]]
    given = blocks(student, X)[:-1]
    by_hand = [float((a - b).square().mean() / a.var()) for a, b in zip(own, given, strict=True)]
    assert value(features, teacher, student) == pytest.approx(sum(by_hand) / 3, rel=1e-5)
    assert expected == pytest.approx(by_hand, rel=1e-5)


def test_the_gradient_is_that_of_finite_differences() -> None:
    teacher = made().double()
    plan, student = cut(teacher, X.double())
    features = matched(teacher, student, plan, forward, X.double())
    loss = error(features, teacher, student, x=X.double())
    loss.backward()  # type: ignore[no-untyped-call]
    step = 1e-5
    for name in ("0.weight", "1.a.weight", "1.n.weight", "2.b.bias", "4.2.weight"):
        parameter = student.get_parameter(name)
        assert parameter.grad is not None
        flat = parameter.detach().view(-1)
        index = int(parameter.grad.abs().argmax())
        values = []
        for moved in (step, -step):
            flat[index] += moved
            values.append(value(features, teacher, student, x=X.double()))
            flat[index] -= moved
        assert float(parameter.grad.view(-1)[index]) == pytest.approx(
            (values[0] - values[1]) / (2 * step), rel=1e-5
        )
    assert all(p.grad is None for p in teacher.parameters())


def test_the_order_of_hooks_and_runs_does_not_matter() -> None:
    teacher = made()
    plan, student = cut(teacher, X)
    features = matched(teacher, student, plan, forward, X)
    first = value(features, teacher, student)
    assert value(features, student, teacher) == first
    for net in (teacher, student):
        for module in net.modules():
            module.register_forward_hook(lambda m, a, out: None, prepend=True)
    features.kept = dict(reversed(features.kept.items()))
    assert value(features, student, teacher) == pytest.approx(first, rel=1e-6)


def test_a_block_that_says_nothing_does_not_count() -> None:
    teacher = made()
    student = copy.deepcopy(teacher)
    features = matched(teacher, student, None, forward, X)
    with torch.no_grad():
        for net in (teacher, student):
            net.get_parameter("0.weight").zero_(), net.get_parameter("0.bias").zero_()
    assert value(features, teacher, student) == 0


def labelled() -> Task:
    data = (X, torch.arange(16) % 4)
    return make_task(train=data, val=data, batch_size=8)


def test_no_hook_is_left_whatever_happens() -> None:
    teacher = made()
    plan, student = cut(teacher, X)
    features = matched(teacher, student, plan, forward, X)
    assert hooks(teacher, student) == 0
    with pytest.raises(ValueError, match="more than 1 value"), features.watched():
        student.train()(X[:1, :, :1, :1])  # in the middle of a forward pass
    assert hooks(teacher, student) == 0
    config = FitConfig(epochs=2, lr=1e-3, distill=Distill(features=1.0))
    with pytest.raises(KeyboardInterrupt):
        fit(student, labelled(), config, teacher=teacher, plan=plan, progress=Stop(1))
    assert hooks(teacher, student) == 0
    wild = FitConfig(epochs=9, lr=1e30, clip_norm=None, distill=Distill(features=1.0))
    with pytest.raises(UserError, match="diverged"):
        fit(student, labelled(), wild, teacher=teacher, plan=plan)
    assert hooks(teacher, student) == 0
    fails = copy.deepcopy(teacher)
    fails[3].forward = lambda x: 1 / 0  # type: ignore[method-assign, assignment]
    with pytest.raises(ZeroDivisionError):
        matched(teacher, fails, None, forward, X)
    assert hooks(teacher, fails) == 0


def test_the_term_is_added_with_its_weight() -> None:
    teacher, task = made(), labelled()
    plan, student = cut(teacher, X)
    features = matched(teacher, student, plan, forward, X)
    batch = next(iter(task.val.epoch(None)))
    with features.watched(), evaluation(student), evaluation(teacher):
        output = student(batch[0])
        plain = Objective(task, FitConfig(1, distill=Distill()), teacher)(batch, output)
        more = Objective(task, FitConfig(1, distill=Distill(features=3.0)), teacher, features)(batch, output)
        assert float(more - plain) == pytest.approx(3 * float(features.error()), rel=1e-4)


def test_training_with_features_brings_the_blocks_nearer_and_resumes(tmp_path: Path) -> None:
    teacher, task = made(), labelled()
    plan, student = cut(teacher, X)
    plain, whole = copy.deepcopy(student), copy.deepcopy(student)
    config = FitConfig(epochs=20, lr=3e-3, optimizer="adamw", distill=Distill(features=1.0))
    fit(plain, task, FitConfig(epochs=20, lr=3e-3, optimizer="adamw", distill=Distill()), teacher=teacher)
    fit(whole, task, config, teacher=teacher, plan=plan)
    with_, without = (missed(teacher, net, plan, [X]) for net in (whole, plain))
    assert sum(with_[:-1]) < 0.5 * sum(without[:-1])
    with pytest.raises(KeyboardInterrupt):
        fit(
            copy.deepcopy(student),
            task,
            config,
            teacher=teacher,
            plan=plan,
            checkpoint=tmp_path,
            progress=Stop(25),
        )
    fit(student, task, config, teacher=teacher, plan=plan, checkpoint=tmp_path)
    assert _bytes(student) == _bytes(whole)


def test_without_a_plan_only_equal_shapes_are_compared() -> None:
    teacher = made()
    student = cut(teacher, X)[1]
    features = matched(teacher, student, None, forward, X)
    with features.watched(), evaluation(teacher), evaluation(student):
        teacher(X), student(X)
        assert [tuple(a.shape) for a, _ in features.pairs()] == [(16, 4)]  # the head
    with pytest.raises(UserError, match="no block whose output can be compared") as caught:
        matched(teacher, nn.Sequential(nn.Flatten(), nn.Linear(75, 4)), None, forward, X)
    assert "give the plan" in str(caught.value)


def test_a_weight_below_zero_is_refused() -> None:
    with pytest.raises(UserError, match="weight of the features"):
        Distill(features=-1)
