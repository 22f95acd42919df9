"""Whatever breaks off a change, at any line: all is as it was, or (after the last change) all is cut."""

from __future__ import annotations

import copy
import dataclasses
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType, SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

import neuroprune.pruning
from neuroprune.base.errors import UserError
from neuroprune.pruning import AttributeEdit, Plan, apply, prune, restore
from neuroprune.pruning.transaction import Swap, all_or_nothing

OURS = str(Path(neuroprune.pruning.__file__).parent)


class Net(nn.Module):
    """Convolutions with batch norm, and sizes kept in every way that a path can name."""

    heads_of_all = (4, 2)

    def __init__(self) -> None:
        super().__init__()
        self.a, self.bn, self.b = nn.Conv2d(2, 4, 1), nn.BatchNorm2d(4), nn.Conv2d(4, 2, 1)
        self.sizes = [1, (4, 3)]
        self.shape = torch.Size([4, 2])
        self.table = {"a": [4]}
        self.config = SimpleNamespace(width=4)
        self.b.config = self.config

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.bn(self.a(x)).relu())


PATHS = ("sizes[1][0]", "shape[0]", "table['a'][0]", "config.width", "heads_of_all[0]")


class Scene:
    """A model in the middle of training, with an optimizer and two averages, and a plan for it."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.model = Net()
        found = prune(self.model, torch.randn(1, 2, 3, 3), criterion="random").plan
        edits = tuple(AttributeEdit("", path, 4, 2) for path in PATHS)
        self.plan = dataclasses.replace(found, attributes=found.attributes + edits)
        self.optimizer = torch.optim.Adam(self.model.parameters())
        self.model(torch.randn(2, 2, 3, 3)).sum().backward()
        self.optimizer.step()
        self.ema = AveragedModel(self.model)
        self.averages = {name: tensor.clone() for name, tensor in self.model.state_dict().items()}

    def twin(self) -> Scene:
        """The same scene once more; tracing the model each time would take long."""
        other = copy.deepcopy(self)
        for copied, parameter in zip(other.model.parameters(), self.model.parameters(), strict=True):
            copied.grad = parameter.grad.clone()  # deepcopy of a parameter leaves it out
        return other

    def cut(self) -> None:
        apply(self.plan, self.model, optimizer=self.optimizer, ema=[self.ema, self.averages])

    def state(self) -> dict[str, Any]:
        """Everything that is not a tensor's value, and where each tensor lies in memory."""
        found: dict[str, Any] = {}
        for title, net in (("model", self.model), ("ema", self.ema)):
            found |= {f"{title}.{name}": place(tensor) for name, tensor in net.state_dict(keep_vars=True).items()}
            for name, module in net.named_modules():
                plain = {k: v for k, v in vars(module).items() if not k.startswith("_") and k != "config"}
                found[f"{title}.{name} attributes"] = copy.deepcopy(
                    {k: v for k, v in plain.items() if k != "avg_fn"}
                )
        found["config"] = (vars(self.model.config).copy(), self.model.b.config is self.model.config)
        found["averages"] = {name: place(tensor) for name, tensor in self.averages.items()}
        found["optimizer"] = [
            {kind: place(tensor) for kind, tensor in entry.items()} for entry in self.optimizer.state.values()
        ]
        return found


def place(tensor: Tensor) -> tuple[Any, ...]:
    grad = tensor.grad
    return (id(tensor), tensor.data_ptr(), tensor.dtype, tuple(tensor.shape), tensor.stride()) + (
        (grad.data_ptr(), tuple(grad.shape)) if grad is not None else ()
    )


def is_cut(scene: Scene) -> bool:
    """All of it, of the model, the optimizer and both averages."""
    inner = scene.ema.module
    tensors = [
        scene.model.a.weight,
        scene.model.a.weight.grad,
        scene.optimizer.state[scene.model.a.weight]["exp_avg"],
    ]
    tensors += [inner.a.weight, scene.averages["a.weight"]]
    sizes = [net.bn.num_features for net in (scene.model, inner)]
    sizes += [net.sizes[1][0] for net in (scene.model, inner)] + [net.shape[0] for net in (scene.model, inner)]
    sizes += [net.table["a"][0] for net in (scene.model, inner)] + [scene.model.config.width, inner.config.width]
    sizes += [net.heads_of_all[0] for net in (scene.model, inner)]
    return all(tensor.shape[0] == 2 for tensor in tensors) and sizes == [2] * len(sizes)


@contextmanager
def watched(at_line: Callable[[str, int], None]) -> Iterator[None]:
    """Call ``at_line`` before each line of neuroprune.pruning that runs; what it raises is raised there."""

    def trace(frame: FrameType, event: str, arg: object) -> Any:
        if not frame.f_code.co_filename.startswith(OURS):
            return None
        if event == "line":
            at_line(frame.f_code.co_filename, frame.f_lineno)
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        yield
    finally:
        sys.settrace(before)


def lines_of(action: Callable[[], None]) -> list[tuple[str, int]]:
    lines: list[tuple[str, int]] = []
    with watched(lambda file, line: lines.append((file, line))):
        action()
    return lines


def break_off(action: Callable[[], None], number: int) -> None:
    """Run ``action`` and press Ctrl-C before the given line event."""
    seen = [0]

    def at_line(file: str, line: int) -> None:
        seen[0] += 1
        if seen[0] == number + 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), watched(at_line):
        action()


def worth_trying(lines: list[tuple[str, int]]) -> list[int]:
    """The first, the second and the last time that each line ran."""
    where: dict[tuple[str, int], list[int]] = {}
    for number, line in enumerate(lines):
        where.setdefault(line, []).append(number)
    return sorted({number for times in where.values() for number in (*times[:2], times[-1])})


def test_ctrl_c_at_any_line_of_a_cut() -> None:
    made = Scene()
    made.twin().cut()  # what is computed once and kept, such as a parsed path, runs no lines later
    lines = lines_of(made.twin().cut)
    outcomes = {"as it was": 0, "cut": 0}
    for number in worth_trying(lines):
        scene = made.twin()
        before = scene.state()
        break_off(scene.cut, number)
        if scene.state() == before:
            outcomes["as it was"] += 1
            scene.cut()  # and it can be tried again
        else:
            outcomes["cut"] += 1
        assert is_cut(scene), f"half cut when stopped at {lines[number]}"
        assert Net.heads_of_all == (4, 2)
    assert outcomes["as it was"] > 100
    assert outcomes["cut"] <= 5  # only after the last change: the lines that return


def test_ctrl_c_at_any_line_of_restoring() -> None:
    scene = Scene()
    dense = {name: tensor.clone() for name, tensor in scene.model.state_dict().items()}
    scene.cut()

    def state(model: Net) -> list[Any]:
        held = [place(tensor)[1:] for tensor in model.state_dict(keep_vars=True).values()]
        return [*held, copy.deepcopy(model.sizes), model.shape, model.bn.num_features, model.config.width]

    lines = lines_of(lambda: restore(scene.plan, copy.deepcopy(scene.model), dense) and None)
    for number in worth_trying(lines):
        model = copy.deepcopy(scene.model)
        before = state(model)
        break_off(lambda net=model: restore(scene.plan, net, dense) and None, number)
        if state(model) == before:
            restore(scene.plan, model, dense)
        assert all(torch.equal(dense[name], tensor) for name, tensor in model.state_dict().items()), lines[number]
        assert (model.sizes, model.shape, model.config.width) == ([1, (4, 3)], (4, 2), 4)
        assert model.b.config is model.config


@pytest.mark.parametrize("number", range(12))
def test_a_failure_of_torch_in_any_swap(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tensor is already empty when it happens, as in the worst moment."""
    scene = Scene()
    before, values = scene.state(), copy.deepcopy(scene.model.state_dict())
    carry_out, calls = Swap.carry_out, [0]

    def fails(swap: Swap) -> None:
        calls[0] += 1
        if calls[0] == number + 1:
            swap.tensor.grad = None
            swap.tensor.data = torch.empty(0)
            raise RuntimeError("out of memory")
        carry_out(swap)

    monkeypatch.setattr(Swap, "carry_out", fails)
    with pytest.raises(RuntimeError, match="out of memory"):
        scene.cut()
    monkeypatch.undo()
    assert scene.state() == before
    assert all(torch.equal(values[name], tensor) for name, tensor in scene.model.state_dict().items())
    scene.model(torch.randn(2, 2, 3, 3)).sum().backward()
    scene.optimizer.step()
    scene.cut()
    assert is_cut(scene)


class Fussy(Net):
    """A module that says no to a size in the middle of the cut, after having changed something else."""

    def __setattr__(self, name: str, value: object) -> None:
        if name == "shape" and getattr(self, "shape", value) != value:
            super().__setattr__("sizes", ["spoilt"])
            super().__setattr__("note", "new")
            raise RuntimeError("not this size")
        super().__setattr__(name, value)


def test_children_parameters_and_attributes_of_every_module_come_back() -> None:
    """What a plan may replace in the block beside tensors and sizes: whole modules."""
    model = Net()
    children, values = list(model.named_modules()), [(k, id(v)) for k, v in model.named_parameters()]
    attributes = {name: dict(vars(module)) for name, module in children}

    def spoil() -> None:
        model.bn = nn.Identity()
        model.extra = nn.Linear(1, 1)
        del model.a.weight
        model.b.weight = nn.Parameter(torch.zeros(1))
        model.b.kernel_size = (3, 3)
        model.b.new = 3
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), all_or_nothing([model], [], []):
        spoil()
    assert [(name, id(module)) for name, module in model.named_modules()] == [(n, id(m)) for n, m in children]
    assert [(k, id(v)) for k, v in model.named_parameters()] == values
    assert {name: dict(vars(module)) for name, module in children} == attributes


@pytest.mark.parametrize("fussy", ["model", "ema"])
def test_a_module_that_refuses_an_attribute(fussy: str) -> None:
    scene = Scene()
    (scene.model if fussy == "model" else scene.ema.module).__class__ = Fussy
    before = scene.state()
    with pytest.raises(RuntimeError, match="not this size"):
        scene.cut()
    assert scene.state() == before


def test_a_graph_from_before_the_failure_still_goes_backward() -> None:
    scene = Scene()
    scene.model.__class__ = Fussy
    scene.optimizer.zero_grad()
    x = torch.randn(2, 2, 3, 3)
    twin = copy.deepcopy(scene.model)
    twin(x).sum().backward()
    loss = scene.model(x).sum()
    with pytest.raises(RuntimeError):
        scene.cut()
    loss.backward()
    for a, b in zip(scene.model.parameters(), twin.parameters(), strict=True):
        assert torch.equal(a.grad, b.grad)


class Computed(Net):
    """Sizes that do not stay as they are set, and one that cannot be set at all."""

    @property
    def forgetful(self) -> int:
        return 4

    @forgetful.setter
    def forgetful(self, value: int) -> None:
        self.last = value

    @property
    def fixed(self) -> int:
        return 4


@pytest.mark.parametrize(
    ("edits", "says"),
    [
        ([AttributeEdit("", "forgetful", 4, 2)], "does not keep the value"),
        ([AttributeEdit("", "fixed", 4, 2)], "without a setter"),
        ([AttributeEdit("", "sizes[0]", 4, 2)], r"sizes\[0\] is not what the plan expects"),
        ([AttributeEdit("c", "width", 4, 2)], "no module 'c'"),
        ([AttributeEdit("b", "widht", 4, 2)], "has no widht"),
        ([AttributeEdit("b", "config.width", 4, 2), AttributeEdit("", "config.width", 4, 3)], "to two values"),
    ],
)
def test_edits_that_cannot_be_made(edits: list[AttributeEdit], says: str) -> None:
    scene = Scene()
    scene.model.__class__ = Computed
    before = scene.state()
    attributes = tuple(e for e in scene.plan.attributes if e.name != "config.width")
    scene.plan = dataclasses.replace(scene.plan, attributes=(*attributes, *edits))
    with pytest.raises(UserError, match=says) as caught:
        apply(scene.plan, scene.model, optimizer=scene.optimizer, ema=scene.averages)
    assert caught.value.mend
    assert scene.state() == before


def test_an_object_that_several_modules_share_is_changed_once() -> None:
    """Named once, named by each module that holds it, and held by the averaged copy as well."""
    for more in ((), (AttributeEdit("b", "config.width", 4, 2),)):
        scene = Scene()
        other = copy.deepcopy(scene.model)
        other.config = other.b.config = scene.model.config
        plan = dataclasses.replace(scene.plan, attributes=scene.plan.attributes + more)
        apply(plan, scene.model, ema=other)
        assert scene.model.b.config.width == other.config.width == 2


def test_a_size_of_the_class_is_changed_on_this_network_only() -> None:
    scene = Scene()
    scene.cut()
    assert scene.model.heads_of_all == (2, 2)
    assert Net().heads_of_all == (4, 2)
    restore(scene.plan, scene.model, Net().state_dict())
    assert scene.model.heads_of_all == (4, 2)


def test_a_plan_with_paths_survives_its_file(tmp_path: Path) -> None:
    scene = Scene()
    scene.plan.save(tmp_path / "plan.json")
    assert Plan.load(tmp_path / "plan.json") == scene.plan
    scene.plan = Plan.load(tmp_path / "plan.json")
    scene.cut()
    assert is_cut(scene)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda plan: plan["attributes"][0].update(name="a..b"), "cannot read the path"),
        (lambda plan: plan["attributes"][0].update(name="__class__.x"), "cannot read the path"),
        (lambda plan: plan["attributes"][0].update(after="big"), "no size"),
        (lambda plan: plan["removed"]["a.weight"].update({"0": [2, 1]}), "not ascending"),
        (lambda plan: plan["removed"]["a.weight"].update({"0": [-1]}), "not ascending"),
        (lambda plan: plan["removed"]["a.weight"].update({"0": []}), "not ascending"),
        (lambda plan: plan["removed"]["a.weight"].update({"x": [1]}), "damaged"),
    ],
)
def test_a_plan_that_was_changed_by_hand(change: Callable[[Any], None], says: str) -> None:
    document = Scene().plan.to_json()
    change(document)
    with pytest.raises(UserError, match=says) as caught:
        Plan.from_json(document)
    assert caught.value.mend


def test_indices_outside_of_the_model_are_refused() -> None:
    scene = Scene()
    before = scene.state()
    for removed in ({"a.weight": {0: (4,)}}, {"a.weight": {4: (0,)}}, {"c.weight": {0: (0,)}}):
        with pytest.raises(UserError, match="made for another model"):
            apply(dataclasses.replace(scene.plan, removed=removed), scene.model)
    assert scene.state() == before
