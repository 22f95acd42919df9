"""Training goes on after a cut in the user's own loop: as the masked dense network with its masks held would."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from graph.nets import Tied
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from neuroprune.base.errors import UserError
from neuroprune.pruning import Plan, apply, prune
from neuroprune.pruning.companions import Followers
from neuroprune.pruning.surgery import rewrite
from neuroprune.pruning.tensors import named_tensors, shrink

OPTIMIZERS: dict[str, Callable[[Any], Optimizer]] = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.01, momentum=0.9, nesterov=True, weight_decay=0.01),
    "sgd-foreach": lambda p: torch.optim.SGD(p, lr=0.01, momentum=0.9, dampening=0.1, foreach=True),
    "adam": lambda p: torch.optim.Adam(p, lr=0.01),
    "adam-amsgrad": lambda p: torch.optim.Adam(p, lr=0.01, amsgrad=True, foreach=True),
    "adamw-fused": lambda p: torch.optim.AdamW(p, lr=0.01, amsgrad=True, fused=True),
    "adagrad": lambda p: torch.optim.Adagrad(p, lr=0.01),
    "adadelta": lambda p: torch.optim.Adadelta(p),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=0.001, momentum=0.9, centered=True),
    "nadam": lambda p: torch.optim.NAdam(p, lr=0.01),
    "radam": lambda p: torch.optim.RAdam(p, lr=0.01),
    "adamax": lambda p: torch.optim.Adamax(p, lr=0.01),
    "asgd": lambda p: torch.optim.ASGD(p, lr=0.01),
    "rprop": lambda p: torch.optim.Rprop(p, lr=0.001),
}


def images(seed: int) -> Tensor:
    return torch.randn(4, 3, 6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def tokens(seed: int) -> Tensor:
    return torch.randint(0, 11, (3, 5), generator=torch.Generator().manual_seed(seed))


def half_of(model: nn.Module, batch: Tensor) -> Plan:
    plan = prune(model, batch.float() if batch.is_floating_point() else batch, criterion="random").plan
    assert plan.removed
    return plan


def backward(model: nn.Module, batch: Tensor) -> Tensor:
    """One forward and backward pass in training mode; the loss is returned, and with it the graph."""
    model.train()
    loss = model(batch).pow(2).mean() + model(batch).sin().mean()
    loss.backward()
    return loss


@torch.no_grad()
def mask(model: nn.Module, plan: Plan) -> None:
    for name, dims in plan.removed.items():
        for dim, indices in dims.items():
            named_tensors(model)[name].index_fill_(dim, torch.tensor(indices), 0)


def assert_is_part(dense: dict[str, Any], small: dict[str, Any], plan: Plan, what: str) -> None:
    """Every tensor of ``small`` is the dense one without the plan's indices."""
    assert dense.keys() == small.keys()
    for name, tensor in dense.items():
        if not isinstance(tensor, Tensor):
            assert (tensor is None) == (small[name] is None), f"{what} of {name}"
            continue
        expected = shrink(tensor.detach(), plan.removed.get(name, {}) if tensor.dim() else {})
        torch.testing.assert_close(small[name].detach(), expected, rtol=1e-9, atol=1e-12, msg=f"{what} of {name}")


def states(model: nn.Module, optimizer: Optimizer) -> Iterator[tuple[str, dict[str, Any]]]:
    """Per kind of state (momentum_buffer, exp_avg, ...): parameter name -> tensor."""
    held = {name: optimizer.state[p] for name, p in model.named_parameters() if p in optimizer.state}
    for kind in sorted({kind for entry in held.values() for kind in entry}):
        yield kind, {name: entry.get(kind) for name, entry in held.items()}


def continue_both_ways(
    dense: nn.Module, optimizer: Optimizer, batches: Callable[[int], Tensor], plan: Plan
) -> tuple[nn.Module, Optimizer]:
    """Mask, copy, cut the copy between backward and step, train both on: the copy is the part that was kept."""
    mask(dense, plan)
    small, its_optimizer = copy.deepcopy((dense, optimizer))
    parameters, alive = list(small.parameters()), dict[nn.Module, Tensor]()
    for step in range(3, 8):
        for net, its in ((dense, optimizer), (small, its_optimizer)):
            its.zero_grad()
            alive[net] = backward(
                net, batches(step)
            )  # as in any loop, the graph lives until the next loss is there
            if net is small and step == 3:
                assert apply(plan, small, optimizer=its_optimizer) is small
            its.step()
        mask(dense, plan)
        assert_is_part(gradients(dense), gradients(small), plan, f"step {step}: gradient")
        assert_is_part(named_tensors(dense), named_tensors(small), plan, f"step {step}: value")
        for (kind, a), (_, b) in zip(states(dense, optimizer), states(small, its_optimizer), strict=True):
            assert_is_part(a, b, plan, f"step {step}: {kind}")
    assert all(a is b for a, b in zip(parameters, small.parameters(), strict=True))
    return small, its_optimizer


def gradients(model: nn.Module) -> dict[str, Any]:
    return {name: parameter.grad for name, parameter in model.named_parameters()}


class Net(nn.Module):
    """A residual stream with batch norm, a depthwise convolution and a linear head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.bn = nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.a, self.abn = nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.depth, self.point = nn.Conv2d(8, 8, 3, groups=8), nn.Conv2d(8, 12, 1)
        self.head = nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.bn(self.stem(x)).relu()
        x = x + self.abn(self.a(x))
        x = self.point(self.depth(x).relu()).relu()
        return self.head(x.mean((2, 3)))


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_training_goes_on_as_under_masks(name: str) -> None:
    model = Net()
    plan = half_of(model, images(0))
    model.double()
    optimizer = OPTIMIZERS[name](model.parameters())
    warm_up(model, optimizer, images)
    before = {kind: len(values) for kind, values in states(model, optimizer)}
    assert before, "the optimizer keeps nothing: the test would show nothing"
    small, _ = continue_both_ways(model, optimizer, images, plan)
    assert small.stem.weight.shape == (4, 3, 3, 3)
    assert small.depth.groups == 4


def warm_up(model: nn.Module, optimizer: Optimizer, batches: Callable[[int], Tensor]) -> None:
    for step in range(3):
        optimizer.zero_grad()
        backward(model, batches(step))
        optimizer.step()


def test_tied_weights_stay_tied() -> None:
    model = Tied()
    plan = half_of(model, tokens(0))
    model.double()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    warm_up(model, optimizer, tokens)
    small, _ = continue_both_ways(model, optimizer, tokens, plan)
    assert small.out.weight is small.embed.weight
    assert small.embed.weight.shape == (11, 4)


def test_frozen_parameters_and_parameter_groups() -> None:
    model = Net()
    plan = half_of(model, images(0))
    model.double()
    model.a.weight.requires_grad_(False)
    heads = list(model.head.parameters())
    rest = [p for name, p in model.named_parameters() if not name.startswith("head")]
    optimizer = torch.optim.SGD([{"params": rest, "lr": 0.02}, {"params": heads}], lr=0.01, momentum=0.9)
    warm_up(model, optimizer, images)
    small, its = continue_both_ways(model, optimizer, images, plan)
    assert [group["lr"] for group in its.param_groups] == [0.02, 0.01]
    assert small.a.weight.shape == (4, 4, 3, 3)
    assert small.a.weight.grad is None
    assert small.a.weight not in its.state


def test_several_optimizers_one_of_them_inside_another() -> None:
    """As SAM and Lookahead do: an optimizer that keeps another one."""

    class Outer(Optimizer):
        def __init__(self, params: Any) -> None:
            super().__init__(params, {})
            self.base_optimizer = torch.optim.SGD(self.param_groups, lr=0.01, momentum=0.9)
            for group in self.param_groups:
                for p in group["params"]:
                    self.state[p]["slow"] = p.detach().clone()

        def step(self) -> None:
            self.base_optimizer.step()

    model = Net()
    plan = half_of(model, images(0))
    rest = [p for name, p in model.named_parameters() if not name.startswith("head")]
    outer, other = Outer(rest), torch.optim.Adam(model.head.parameters())
    backward(model, images(1).float())
    outer.step()
    other.step()
    apply(plan, model, optimizer=[outer, other])
    for optimizer, kinds in ((outer, ["slow"]), (outer.base_optimizer, ["momentum_buffer"]), (other, ["exp_avg"])):
        for kind in kinds:
            held = [(p, optimizer.state[p][kind]) for g in optimizer.param_groups for p in g["params"]]
            assert held
            assert all(p.shape == state.shape for p, state in held)
    backward(model, images(2).float())
    outer.step()
    other.step()


def test_an_optimizer_of_other_parameters_too() -> None:
    model, critic = Net(), nn.Linear(8, 1)
    plan = half_of(model, images(0))
    optimizer = torch.optim.Adam([*model.parameters(), *critic.parameters()])
    backward(model, images(1).float())
    for p in critic.parameters():
        p.grad = torch.ones_like(p)
    optimizer.step()
    apply(plan, model, optimizer=optimizer)
    assert optimizer.state[critic.weight]["exp_avg"].shape == (1, 8)
    assert optimizer.state[model.stem.weight]["exp_avg"].shape == (4, 3, 3, 3)


class Factored(Optimizer):
    """The layouts of factored second moments: torch's Adafactor keeps the dimension, transformers' drops it."""

    def __init__(self, params: Any, **states: Callable[[Tensor], Any]) -> None:
        super().__init__(params, {})
        for group in self.param_groups:
            for p in group["params"]:
                self.state[p] = {key: make(p.detach()) for key, make in states.items()}

    def step(self) -> None: ...


def test_factored_states_lose_the_same_rows_and_columns() -> None:
    model = nn.Sequential(nn.Linear(3, 6), nn.ReLU(), nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 2))
    plan = prune(model, torch.randn(2, 3), criterion="random").plan
    weight = model[2].weight
    layouts = {
        "row_var": lambda p: p.pow(2).mean(-1, keepdim=True),
        "col_var": lambda p: p.pow(2).mean(-2, keepdim=True) if p.dim() > 1 else p.pow(2),
        "exp_avg_sq_row": lambda p: p.pow(2).mean(-1),
        "exp_avg_sq_col": lambda p: p.pow(2).mean(-2) if p.dim() > 1 else p.pow(2),
        "pair": lambda p: [p.clone(), {"inner": (p.clone(), 3)}],
        "step": lambda p: torch.tensor([3.0]),
        "label": lambda p: "x",
    }
    optimizer = Factored(model.parameters(), **layouts)
    before = copy.deepcopy(optimizer.state[weight])
    rows, columns = plan.removed["2.weight"][0], plan.removed["2.weight"][1]
    assert rows != columns, "the same indices would not tell rows from columns"
    apply(plan, model, optimizer=optimizer)
    after = optimizer.state[weight]
    assert torch.equal(after["row_var"], shrink(before["row_var"], {0: rows}))
    assert torch.equal(after["col_var"], shrink(before["col_var"], {1: columns}))
    assert torch.equal(after["exp_avg_sq_row"], shrink(before["exp_avg_sq_row"], {0: rows}))
    assert torch.equal(after["exp_avg_sq_col"], shrink(before["exp_avg_sq_col"], {0: columns}))
    assert torch.equal(after["pair"][1]["inner"][0], shrink(before["pair"][0], {0: rows, 1: columns}))
    assert after["step"].tolist() == [3.0]


def test_adafactor_goes_on() -> None:
    model = Net()
    plan = half_of(model, images(0))
    optimizer = torch.optim.Adafactor(model.parameters())
    warm_up(model, optimizer, lambda step: images(step).float())
    apply(plan, model, optimizer=optimizer)
    warm_up(model, optimizer, lambda step: images(step).float())
    assert optimizer.state[model.a.weight]["row_var"].shape == (4, 4, 3, 1)


def test_the_gradient_of_a_sparse_embedding() -> None:
    model = nn.Sequential(nn.Embedding(11, 8, sparse=True), nn.Linear(8, 3))
    plan = half_of(model, tokens(0))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model(tokens(1)).sum().backward()
    dense = model[0].weight.grad.to_dense()
    apply(plan, model, optimizer=optimizer)
    assert torch.equal(model[0].weight.grad.to_dense(), shrink(dense, plan.removed["0.weight"]))
    optimizer.step()


def test_channels_last_stays_channels_last() -> None:
    model = Net().to(memory_format=torch.channels_last)
    plan = half_of(model, images(0))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    warm_up(model, optimizer, lambda step: images(step).float())
    apply(plan, model, optimizer=optimizer)
    assert model.a.weight.is_contiguous(memory_format=torch.channels_last)
    assert not model.a.weight.is_contiguous()
    assert optimizer.state[model.a.weight]["momentum_buffer"].stride() == model.a.weight.stride()


@pytest.mark.parametrize(
    ("make", "says", "value"),
    [
        (lambda m: torch.optim.SGD(Net().parameters(), lr=1), "holds no parameter of the model", "Net"),
        (lambda m: nn.Linear(1, 1), "no torch optimizer", "Linear"),
        (
            lambda m: Factored(m.parameters(), odd=lambda p: torch.zeros(7, 7, 7)),
            "not known how.*'odd'",
            "7, 7, 7",
        ),
        (
            lambda m: Factored([m.a.weight], blur=lambda p: p[:, :, 0, 0]),
            "not known how.*'blur'",
            "8, 8",
        ),
    ],
)
def test_an_optimizer_that_does_not_fit_is_refused_before_anything_changes(
    make: Callable[[nn.Module], Any], says: str, value: str
) -> None:
    model = Net()
    plan = half_of(model, images(0))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    good = torch.optim.Adam(model.parameters())
    warm_up(model, good, lambda step: images(step).float())
    moments = [entry["exp_avg"].shape for entry in good.state.values()]
    with pytest.raises(UserError, match=says) as caught:
        apply(plan, model, optimizer=[good, make(model)])
    assert value in str(caught.value)
    assert caught.value.mend
    assert {name: tensor.shape for name, tensor in model.state_dict().items()} == {
        name: tensor.shape for name, tensor in before.items()
    }
    assert moments == [entry["exp_avg"].shape for entry in good.state.values()]


def test_a_square_state_without_a_telling_name_is_refused() -> None:
    model = nn.Sequential(nn.Linear(3, 6), nn.ReLU(), nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 2))
    plan = prune(model, torch.randn(2, 3), criterion="random").plan
    with pytest.raises(UserError, match="not known how"):
        apply(plan, model, optimizer=Factored([model[2].weight], mean=lambda p: p.mean(0)))
    apply(plan, model, optimizer=Factored([model[4].weight], mean=lambda p: p.mean(0)))  # (2, 6): no doubt


def test_lbfgs_with_history_is_refused_and_without_goes_on() -> None:
    model = nn.Sequential(nn.Linear(3, 6), nn.ReLU(), nn.Linear(6, 2))
    plan = prune(model, torch.randn(2, 3), criterion="random").plan
    other = copy.deepcopy(model)
    optimizer = torch.optim.LBFGS(model.parameters())

    def closure() -> Tensor:
        optimizer.zero_grad()
        return backward(model, torch.ones(2, 3))

    optimizer.step(closure)
    with pytest.raises(UserError, match="LBFGS keeps its history") as caught:
        apply(plan, model, optimizer=optimizer)
    assert "new LBFGS" in str(caught.value.mend)
    fresh = torch.optim.LBFGS(other.parameters())
    apply(plan, other, optimizer=fresh)
    assert other[0].weight.shape == (3, 3)


def averaged_both_ways(ema_of: Callable[[nn.Module], Any], tensors: Callable[[Any], dict[str, Tensor]]) -> Any:
    """Average over training steps, dense under masks and cut: the averages stay slices of each other."""
    model = Net()
    plan = half_of(model, images(0))
    dense = model.double()
    optimizer = torch.optim.SGD(dense.parameters(), lr=0.05, momentum=0.9)
    ema = ema_of(dense)
    warm_up(dense, optimizer, images)
    update(ema, dense)
    mask(dense, plan)
    small, its, small_ema = copy.deepcopy((dense, optimizer, ema))
    apply(plan, small, optimizer=its, ema=small_ema)
    for step in range(3, 6):
        for net, opt, average in ((dense, optimizer, ema), (small, its, small_ema)):
            opt.zero_grad()
            backward(net, images(step))
            opt.step()
            if net is dense:
                mask(dense, plan)
            update(average, net)
        assert_is_part(tensors(ema), tensors(small_ema), plan, f"step {step}: average")
    assert tensors(small_ema)["stem.weight"].shape == (4, 3, 3, 3)
    return small_ema


def update(ema: Any, model: nn.Module) -> None:
    if isinstance(ema, AveragedModel):
        ema.update_parameters(model)
        return
    average = ema if isinstance(ema, dict) else ema.state_dict()
    with torch.no_grad():
        for name, value in model.state_dict().items():
            entry = average.get(name, average.get(f"module.{name}"))
            if entry is not None and entry.is_floating_point():
                entry.lerp_(value, 0.3)


def test_an_averaged_model_follows() -> None:
    ema = averaged_both_ways(
        lambda m: AveragedModel(m, multi_avg_fn=get_ema_multi_avg_fn(0.7), use_buffers=True),
        lambda ema: ema.module.state_dict(),
    )
    assert ema.module.bn.num_features == 4  # its attributes too
    ema.eval()(images(9))


def test_a_plain_copy_follows() -> None:
    ema = averaged_both_ways(copy.deepcopy, lambda ema: ema.state_dict())
    ema.eval()(images(9))


@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.module."])
def test_a_dict_of_averages_follows(prefix: str) -> None:
    def parameters_alone(model: nn.Module) -> dict[str, Tensor]:
        return {f"{prefix}{name}": p.detach().clone() for name, p in model.named_parameters()}

    if prefix in ("", "module."):
        averaged_both_ways(
            parameters_alone, lambda ema: {name.removeprefix(prefix): tensor for name, tensor in ema.items()}
        )
    model = Net()
    plan = half_of(model, images(0))
    ema = parameters_alone(model)
    apply(plan, model, ema=ema)
    assert all(torch.equal(ema[f"{prefix}{name}"], p) for name, p in model.named_parameters())


def test_several_averages_and_tied_names() -> None:
    model = Tied()
    plan = half_of(model, tokens(0))
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    assert {"embed.weight", "out.weight"} <= state.keys()
    first, second = copy.deepcopy(model), AveragedModel(model)
    apply(plan, model, ema=[first, second, {"updates": 3, **state}])
    assert torch.equal(first.embed.weight, model.embed.weight)
    assert torch.equal(second.module.embed.weight, model.embed.weight)
    assert state["embed.weight"].shape == state["out.weight"].shape == (11, 4)


def test_an_average_that_holds_the_models_own_tensors_is_cut_once() -> None:
    model = Net()
    plan = half_of(model, images(0))
    apply(plan, model, ema=[model, dict(model.named_parameters())])
    assert model.stem.weight.shape == (4, 3, 3, 3)


@pytest.mark.parametrize(
    ("ema", "says"),
    [
        (lambda m: {"weight": torch.zeros(3)}, "no tensor of this ema dict"),
        (lambda m: {}, "no tensor of this ema dict"),
        (lambda m: {"stem.weight": torch.zeros(3)}, "another shape"),
        (lambda m: AveragedModel(nn.Linear(2, 2)), "made for another model"),
        (lambda m: [3], "neither a module nor a dict"),
    ],
)
def test_an_average_that_does_not_fit_is_refused_before_anything_changes(ema: Any, says: str) -> None:
    model = Net()
    plan = half_of(model, images(0))
    good = copy.deepcopy(model)
    with pytest.raises(UserError, match=says) as caught:
        apply(plan, model, ema=[good, *(given if isinstance(given := ema(model), list) else [given])])
    assert caught.value.mend
    assert model.stem.weight.shape == good.stem.weight.shape == (8, 3, 3, 3)


def test_a_wrapped_model_is_told_to_be_unwrapped() -> None:
    model = Net()
    plan = half_of(model, images(0))
    with pytest.raises(UserError, match="another model") as caught:
        apply(plan, AveragedModel(model))
    assert "inside the wrapper" in str(caught.value.mend)


class Blocks(nn.Module):
    """Two blocks; the weight of ``shared`` belongs to the second one too."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.first = nn.Linear(3, 4), nn.Linear(4, 4)
        self.second, self.head = nn.Linear(4, 4), nn.Linear(4, 2)
        self.second.weight = self.first.weight

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return self.head(x + self.second(x + self.first(x)))


class Passes(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x


def bypassed(network: nn.Module) -> None:
    network.second = Passes()


@pytest.mark.parametrize("breaks_off", [False, True])
def test_optimizer_and_averages_let_go_of_modules_that_leave(breaks_off: bool) -> None:
    """With width and depth in one change, what the second block alone held leaves with it, or nothing does."""
    model = Blocks()
    optimizer = torch.optim.Adam(
        [{"params": list(model.parameters())[:3]}, {"params": list(model.parameters())[3:]}]
    )
    for _ in range(2):
        backward(model, torch.ones(2, 3))
        optimizer.step()
    ema, state = copy.deepcopy(model), {f"module.{name}": t.clone() for name, t in model.state_dict().items()}
    followers = Followers(model, [optimizer], [state])
    held = copy.deepcopy([[id(p) for p in group["params"]] for group in optimizer.param_groups])
    states, averages, bias = list(optimizer.state), dict(state), model.second.bias

    def then(network: nn.Module) -> None:
        bypassed(network)
        if breaks_off and network is ema:
            raise KeyboardInterrupt

    if breaks_off:
        with pytest.raises(KeyboardInterrupt):
            rewrite([model, ema], [], [], followers, then)
        assert [[id(p) for p in group["params"]] for group in optimizer.param_groups] == held
        assert [id(p) for p in optimizer.state] == [id(p) for p in states]
        assert state == averages
        assert isinstance(model.second, nn.Linear)
        return
    rewrite([model, ema], [], [], followers, then)
    own = {id(p) for p in model.parameters()}
    assert len(own) == 6
    assert {id(p) for group in optimizer.param_groups for p in group["params"]} == own
    assert {id(p) for p in optimizer.state} == own
    assert bias not in optimizer.state
    assert {name.removeprefix("module.") for name in state} == set(model.state_dict()) == set(ema.state_dict())
    optimizer.zero_grad()
    backward(model, torch.ones(2, 3))
    optimizer.step()
