"""Whole blocks go: against networks written without them, in nested plans, together with channels."""

from __future__ import annotations

import contextlib
import copy
import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from pruning.depth_nets import Around, PreBlock, Residual, TinyResNet, TinyViT, TorchEncoder, trained
from torch import Tensor, nn

from neuroprune.base.errors import CutRefused, UserError
from neuroprune.pruning import (
    BLOCK_CRITERIA,
    Plan,
    apply,
    block_criterion,
    combine,
    fingerprint,
    prune,
    prune_depth,
    restore,
    verify,
)
from neuroprune.testing import assert_exact

IMAGE = torch.randn(2, 3, 8, 8)


def gone(result: object) -> list[str]:
    return sorted(result.plan.bypassed)


def test_a_resnet_without_blocks_is_the_resnet_written_without_them() -> None:
    model = trained(TinyResNet(), IMAGE)
    result = prune_depth(model, IMAGE, ratio=0.6, criterion="random", seed=3)
    assert len(gone(result)) == 3  # of five
    assert type(result.model) is TinyResNet
    kept = {f"layer{s}.{i}" for s in (1, 2) for i in range(3)} - set(gone(result))
    with torch.no_grad():
        x = model.bn(model.stem(IMAGE)).relu()
        for stage, layers in (("layer1", model.layer1), ("layer2", model.layer2)):
            for index, block in enumerate(layers):
                x = block(x) if f"{stage}.{index}" in kept else x
        assert torch.equal(result.model(IMAGE), model.head(x.mean((2, 3))))
    assert result.verification.exact
    assert_exact(model, result.model, result.plan, IMAGE)


@pytest.mark.parametrize(("make", "shape"), [(TinyViT, (2, 5, 4)), (TorchEncoder, (2, 5, 8))])
def test_a_transformer_without_layers_is_the_one_written_without_them(make, shape: tuple[int, ...]) -> None:
    x = torch.randn(shape)
    model = trained(make(), x)
    layers = model.encoder.layers if make is TorchEncoder else model.blocks
    for index in range(len(layers)):
        keep = [f"*.{i}" for i in range(len(layers)) if i != index]
        result = prune_depth(model, x, ratio=0.4, keep=keep)
        assert gone(result) == [f"{'encoder.layers' if make is TorchEncoder else 'blocks'}.{index}"]
        shorter = copy.deepcopy(model)
        del (shorter.encoder.layers if make is TorchEncoder else shorter.blocks)[index]
        assert torch.equal(result.model(x), shorter(x))
        assert_exact(model, result.model, result.plan, x)


def test_the_parts_go_where_a_layer_is_made_of_residual_parts() -> None:
    result = prune_depth(TinyViT(parts=True), torch.randn(2, 5, 4), ratio=0.5)
    assert len(gone(result)) == 4  # of eight: neither the stage nor whole layers are units of their own
    assert all(name.count(".") == 2 for name in gone(result))


class Outer(nn.Module):
    """Blocks around blocks: of the parameters of each outer one, ``inner`` layers of 1 + ``inner`` lie within."""

    def __init__(self, inner: int) -> None:
        super().__init__()
        self.first = nn.Linear(4, 4)
        parts = [[Residual(nn.Linear(4, 4)) for _ in range(inner)] for _ in range(2)]
        self.blocks = nn.Sequential(*(Residual(nn.Sequential(*part, nn.Linear(4, 4))) for part in parts))

    def forward(self, x: Tensor) -> Tensor:
        return self.blocks(self.first(x))


def test_a_block_with_a_small_part_is_a_unit_and_one_mostly_made_of_blocks_is_a_stage() -> None:
    x = torch.randn(3, 4)
    result = prune_depth(Outer(1), x, ratio=0.5)
    assert gone(result)[0] in ("blocks.0", "blocks.1")
    assert len(result.plan.decisions) == 2
    model = Outer(2)
    result = prune_depth(model, x, ratio=0.9)
    assert [d.group for d in result.plan.decisions] == [
        f"block:blocks.{i}.inner.{j}" for i in (0, 1) for j in (0, 1)
    ]
    assert len(gone(result)) == 3
    assert_exact(model, result.model, result.plan, x)


def test_a_block_is_never_removed_with_one_inside_it() -> None:
    model, x = Outer(1), torch.randn(3, 4)
    part = Plan(fingerprint(model), bypassed={"blocks.0.inner.0": "args[0]"})
    result = prune_depth(model, x, ratio=0.5, criterion="random", base_plan=part)
    assert gone(result) == ["blocks.0.inner.0", "blocks.1"]
    assert_exact(model, result.model, result.plan, x)
    both = combine(part, Plan(part.fingerprint, bypassed={"blocks.0": "args[0]"}))
    assert dict(both.bypassed) == {"blocks.0": "args[0]"}
    assert verify(model, both, x).exact


def test_plans_are_nested_and_a_base_plan_goes_on() -> None:
    model = trained(TinyResNet(), IMAGE)
    plans = [prune_depth(model, IMAGE, ratio=r / 10, criterion="random").plan for r in range(10)]
    for small, large in itertools.pairwise(plans):
        assert set(small.bypassed) <= set(large.bypassed)
    assert [len(p.bypassed) for p in plans] == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]
    further = prune_depth(model, IMAGE, ratio=0.6, criterion="l1", base_plan=plans[4])
    assert set(plans[4].bypassed) < set(further.plan.bypassed)
    assert len(further.plan.bypassed) == 3
    assert len(further.plan.decisions) == 5
    assert sum(len(d.removed) for d in further.plan.decisions) == 3


def test_every_block_has_a_decision_with_score_and_reason() -> None:
    model = trained(TinyResNet(), IMAGE)
    plan = prune_depth(model, IMAGE, ratio=0.4, keep=["layer1.1.conv1"]).plan
    by_name = {d.group: d for d in plan.decisions}
    assert len(by_name) == 5
    kept = by_name["block:layer1.1"]
    assert (kept.kept, kept.removed, kept.reason) == ((0,), (), "kept by the user")
    free = [d for d in plan.decisions if d is not kept]
    assert {d.threshold for d in plan.decisions} == {min(d.scores[0] for d in free if not d.removed)}
    for decision in free:
        assert (decision.group.removeprefix("block:") in plan.bypassed) == bool(decision.removed)
        assert bool(decision.removed) == (decision.scores[0] < decision.threshold)


def test_width_and_depth_in_one_plan_are_proven_together() -> None:
    model = trained(TinyResNet(), IMAGE)
    width = prune(model, IMAGE, ratio=0.5, criterion="random").plan
    depth = prune_depth(model, IMAGE, ratio=0.4, criterion="random").plan
    for both in (combine(width, depth), combine(depth, width)):
        assert verify(model, both, IMAGE).exact
        assert (both.removed, both.bypassed) == (width.removed, depth.bypassed)
        small = apply(both, copy.deepcopy(model))
        assert_exact(model, small, both, IMAGE)
        assert small.stem.out_channels == 4
    again = prune_depth(model, IMAGE, ratio=0.4, criterion="random", base_plan=width)
    assert again.plan.bypassed == depth.bypassed
    assert torch.equal(again.model(IMAGE), small(IMAGE))
    dense = {k: v.clone() for k, v in model.state_dict().items()}
    back = restore(both, small, dense, dense=TinyResNet())
    assert not back.layer1[0].training  # as the cut model was
    assert torch.equal(back(IMAGE), model(IMAGE))
    assert back.layer1[0].conv1.out_channels == 8


def test_plans_that_do_not_belong_together_are_refused() -> None:
    model, x = TinyResNet(), IMAGE
    width = prune(model, x, ratio=0.5).plan
    with pytest.raises(UserError, match="different models"):
        combine(width, Plan.identity(TinyViT()))
    with pytest.raises(UserError, match="both plans cut tensors"):
        combine(width, width)
    with pytest.raises(UserError, match="made for another model"):
        prune_depth(model, x, base_plan=Plan.identity(TinyViT()))


def test_the_oracle_notices_a_block_that_is_none() -> None:
    model = trained(TinyResNet(), IMAGE)
    wrong = Plan(fingerprint(model), bypassed={"layer1.0": "args[0]", "layer2.0.bn2": "args[0]"})
    assert not verify(model, wrong, IMAGE).exact
    right = Plan(fingerprint(model), bypassed={"layer1.0": "args[0]"})
    with pytest.raises(AssertionError, match=r"belongs to a removed block and is still there"):
        assert_exact(model, copy.deepcopy(model), right, IMAGE)


class Spoilt(nn.Module):
    """Three blocks by themselves; around the first, the network does what a pass-through cannot stand for."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.stem, self.head = nn.Conv2d(3, 6, 1), nn.Conv2d(6, 2, 1)
        self.first, self.second, self.third = PreBlock(), PreBlock(), PreBlock()
        self.how, self.held = how, (self.first,)  # a tuple is out of reach for whoever replaces modules

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        match self.how:
            case "changed in place":  # the block's output is a tensor of its own, what passes through is not
                x = self.first(x).add_(1) + x
            case "held elsewhere":
                x = self.held[0](x)
            case "read":
                x = self.first(x) * self.first.conv.weight.shape[0]
        return self.head(self.third(self.second(x)))


@pytest.mark.parametrize("how", ["changed in place", "held elsewhere", "read"])
def test_what_the_whole_network_contradicts_stays_and_the_rest_goes(how: str) -> None:
    model, x = Spoilt(how), torch.randn(2, 3, 5, 5)
    with in_order():
        result = prune_depth(model, x, ratio=0.9, criterion="in_order")
        assert gone(result) == ["second"]
        assert_exact(model, result.model, result.plan, x)
        refusal = result.refused[-1]
        assert (refusal.operator, refusal.module) == ("verify", "first")
        assert "not proven exact" in refusal.reason
        decision = next(d for d in result.plan.decisions if d.group == "block:first")
        assert (decision.kept, decision.reason) == ((0,), refusal.reason)
        with pytest.raises(CutRefused, match="not proven exact"):
            prune_depth(model, x, ratio=0.9, criterion="in_order", on_refuse="raise")


@contextlib.contextmanager
def in_order() -> Iterator[None]:
    """A criterion that takes the blocks in the order in which they were found."""
    block_criterion("in_order", summary="first come, first served", source="test")(
        lambda model, blocks, inputs: {block.module: index for index, block in enumerate(blocks)}
    )
    try:
        yield
    finally:
        BLOCK_CRITERIA.unregister("in_order")


def test_a_plan_file_and_weights_make_the_shorter_network_again(tmp_path: Path) -> None:
    model = Around(PreBlock(kind="tuple"), "first")
    x = torch.randn(2, 3, 5, 5)
    plan = Plan(fingerprint(model), bypassed={"block": "(args[0], None)"})
    plan.save(tmp_path / "plan.json")
    assert Plan.load(tmp_path / "plan.json") == plan
    assert plan.to_json()["schema"] == 2  # so that an older version refuses it
    small = apply(plan, copy.deepcopy(model))
    fresh = apply(Plan.load(tmp_path / "plan.json"), Around(PreBlock(kind="tuple"), "first"))
    fresh.load_state_dict(small.state_dict())
    assert torch.equal(fresh.eval()(x), small.eval()(x))


def test_plans_without_blocks_are_what_they_were() -> None:
    plan = prune(TinyResNet(), IMAGE, ratio=0.5).plan
    document = plan.to_json()
    assert document["schema"] == 1
    assert "bypassed" not in document
    assert Plan.from_json(document) == plan
    with pytest.raises(UserError, match="damaged"):
        Plan.from_json({**document, "schema": 2, "bypassed": ["layer1.0"]})


def test_apply_checks_everything_before_it_changes_anything() -> None:
    model = TinyResNet()
    width = prune(model, IMAGE, ratio=0.5).plan
    for bypassed, message in [
        ({"layer9": "args[0]"}, "'layer9', which is not in"),
        ({"layer1.0": "x"}, "returns"),
    ]:
        plan = Plan(width.fingerprint, width.removed, width.attributes, (), bypassed)
        with pytest.raises(UserError, match=message):
            apply(plan, model)
        assert model.stem.out_channels == 8
    with pytest.raises(UserError, match="made for another model"):
        apply(Plan.identity(TinyResNet()), apply(Plan(width.fingerprint, bypassed={"layer1.0": "args[0]"}), model))


def test_in_place_it_is_the_very_object_and_nothing_to_remove_is_no_error() -> None:
    model = TinyResNet()
    assert prune_depth(model, IMAGE, ratio=0.4, inplace=True).model is model
    assert len(list(model.layer1)) == 3
    plain = nn.Sequential(nn.Linear(3, 3), nn.ReLU())
    result = prune_depth(plain, torch.randn(2, 3), ratio=0.9)
    assert result.plan == Plan.identity(plain)
    assert result.verification.exact


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ratio": 1.0}, "at least 0 and below 1"),
        ({"ratio": -0.1}, "at least 0 and below 1"),
        ({"on_refuse": "shrug"}, "unknown on_refuse"),
        ({"keep": ["layer9*"]}, "matches nothing"),
        ({"criterion": "block_influenc"}, "did you mean 'block_influence'"),
        ({"criterion": "taylor"}, "needs data"),
    ],
)
def test_bad_options(options: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        prune_depth(TinyResNet(), IMAGE, **options)
