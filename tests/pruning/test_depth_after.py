"""What a user does with a network that lost blocks: train on, save, export, take it back."""

from __future__ import annotations

import copy
import warnings
from pathlib import Path

import pytest
import torch
from pruning.depth_nets import Residual, TinyResNet, TinyViT, trained
from torch import Tensor, nn

from neuroprune.base.errors import UserError
from neuroprune.export import EXPORTS
from neuroprune.pruning import Plan, apply, bypass, combine, fingerprint, prune, prune_depth, restore
from neuroprune.pruning.bypass import _replace as replace_modules
from neuroprune.testing import assert_exact

IMAGE = torch.randn(2, 3, 8, 8)


def test_the_shorter_network_trains_copies_compiles_and_exports(tmp_path: Path) -> None:
    model = trained(TinyResNet(), IMAGE)
    small = prune_depth(model, IMAGE, ratio=0.4).model
    before = small(IMAGE)
    exported = torch.export.export(small, (IMAGE,)).module()
    assert torch.allclose(exported(IMAGE), before, atol=1e-6)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own deprecations while it compiles
        assert torch.allclose(torch.compile(small, backend="eager")(IMAGE), before, atol=1e-6)
    path = tmp_path / "small.onnx"
    EXPORTS.get("onnx").write(small, (IMAGE,), path)
    (got,) = EXPORTS.get("onnx").load(path).run([IMAGE.numpy()])
    assert torch.allclose(torch.from_numpy(got), before, atol=1e-5)
    twin = copy.deepcopy(small).train()
    optimizer = torch.optim.SGD(twin.parameters(), lr=0.1)
    twin(IMAGE).square().mean().backward()
    assert all(p.grad is not None for p in twin.parameters())
    optimizer.step()
    assert not torch.equal(twin.eval()(IMAGE), before)
    assert torch.equal(small(IMAGE), before)


def test_optimizer_and_averages_let_go_of_a_block_and_training_goes_on() -> None:
    model = trained(TinyResNet(), IMAGE).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    ema = torch.optim.swa_utils.AveragedModel(model)
    shadow = {name: p.detach().clone() for name, p in model.named_parameters()}
    model(IMAGE).square().mean().backward()
    optimizer.step()
    block = list(model.layer1[1].parameters())
    plan = Plan(fingerprint(model), bypassed={"layer1.1": "args[0]"})
    width = prune(model, IMAGE, ratio=0.5, criterion="random").plan
    apply(combine(width, plan), model, optimizer=optimizer, ema=[ema, shadow])
    held = [p for group in optimizer.param_groups for p in group["params"]]
    assert {id(p) for p in held} == {id(p) for p in model.parameters()}
    assert not any(p in optimizer.state for p in block)
    assert shadow.keys() == dict(model.named_parameters()).keys()
    assert ema.module.state_dict().keys() == model.state_dict().keys()
    before = [p.detach().clone() for p in held]
    model(IMAGE).square().mean().backward()
    optimizer.step()
    assert not any(torch.equal(p, b) for p, b in zip(held, before, strict=True))


def test_an_error_in_the_middle_puts_blocks_back(monkeypatch: pytest.MonkeyPatch) -> None:
    model = trained(TinyResNet(), IMAGE)
    plan = combine(prune(model, IMAGE, ratio=0.5).plan, prune_depth(model, IMAGE, ratio=0.4).plan)
    small = apply(plan, copy.deepcopy(model))

    monkeypatch.setattr(bypass, "_replace", then_raise)
    for work, network in [
        (lambda: apply(plan, model), model),
        (lambda: restore(plan, small, model.state_dict(), dense=TinyResNet()), small),
    ]:
        modules, state = dict(network.named_modules()), {k: v.clone() for k, v in network.state_dict().items()}
        with pytest.raises(KeyboardInterrupt):
            work()
        assert dict(network.named_modules()) == modules
        assert all(torch.equal(v, network.state_dict()[k]) for k, v in state.items())


def then_raise(model: nn.Module, by_id: object) -> None:
    replace_modules(model, by_id)
    raise KeyboardInterrupt


class TiedAcross(nn.Module):
    """The block's first weight is also the head's; as the block comes first, the weight is named after it."""

    def __init__(self) -> None:
        super().__init__()
        self.block = Residual(nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 4)))
        self.first, self.head = nn.Linear(3, 4), nn.Linear(4, 6)
        self.head.weight = self.block.inner[0].weight

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.block(self.first(x)))


def test_restore_gives_blocks_back_and_keeps_tied_weights_tied() -> None:
    model, x = TiedAcross(), torch.randn(2, 3)
    dense = {k: v.clone() for k, v in model.state_dict().items()}
    result = prune_depth(model, x, ratio=0.0, base_plan=Plan(fingerprint(model), bypassed={"block": "args[0]"}))
    assert_exact(model, result.model, result.plan, x)
    assert set(result.model.state_dict()) == {"first.weight", "first.bias", "head.weight", "head.bias"}
    with torch.no_grad():
        result.model.head.weight.add_(1)
    fresh = TiedAcross()
    untouched = {k: v.clone() for k, v in fresh.state_dict().items()}
    head = result.model.head.weight
    back = restore(result.plan, result.model, dense, dense=fresh)
    assert back.head.weight is back.block.inner[0].weight is head
    assert torch.equal(back(x), model(x))
    assert all(torch.equal(untouched[k], v) for k, v in fresh.state_dict().items())


def test_restore_says_what_it_lacks_and_changes_nothing() -> None:
    model = TinyResNet()
    dense = model.state_dict()
    result = prune_depth(model, IMAGE, ratio=0.5)
    names = list(result.model.state_dict())
    for given, state, message in [
        (None, dense, "a cut model does not hold them"),
        (TinyViT(), dense, "made for another model"),
        (TinyResNet(), TinyViT().state_dict(), "dense weights are not of the model"),
    ]:
        with pytest.raises(UserError, match=message):
            restore(result.plan, result.model, state, dense=given)
    with pytest.raises(UserError, match="not what this plan made"):
        restore(result.plan, TinyResNet(), dense, dense=TinyResNet())
    assert list(result.model.state_dict()) == names
