"""Networks that run in inference mode, whole or in part: PyTorch hands over its operators in one piece there."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from graph.nets import CASES
from graph.nets_operators import OPERATORS
from graph.nets_rare import RARE
from torch import Tensor, nn

from neuroprune.base.errors import UserError
from neuroprune.base.nouns import Cost
from neuroprune.graph import cost
from neuroprune.graph.interpret import is_composite
from neuroprune.graph.provenance import COMPOSITES
from neuroprune.graph.rules import RULES
from neuroprune.pruning import exported, gather, prune
from neuroprune.testing import assert_exact

#: weight norm calls a module with a parameter, which can have no gradient there; the mask needs fake tensors
NETS = ["residual", "attention", "attention_square_root_of_shape", "lstm", "conv_lstm", "weight_norm"]
NETS += ["layer_norm", "mask_of_places", "native_shuffle", "multihead_attention"]
MODES = (torch.inference_mode, torch.no_grad)


def example(name: str) -> tuple[nn.Module, Any]:
    torch.manual_seed(0)
    if name in CASES:
        make, shape, _ = CASES[name]
        return make(), torch.randn(shape)
    return OPERATORS[name].make(), OPERATORS[name].inputs()


def decorated(model: nn.Module, mode: Callable[[], Any]) -> nn.Module:
    """The same network, its ``forward`` under the decorator."""
    own = type(model)
    model.__class__ = type(own.__name__, (own,), {"forward": mode()(own.forward)})
    return model


def macs(model: nn.Module, inputs: Any) -> Cost | str:
    try:
        return cost(model, inputs)
    except Exception as error:
        return type(error).__name__


def test_no_rule_is_for_operators_that_are_always_taken_apart() -> None:
    """What a function mode hands over in one piece has a rule all the same."""
    arriving = set(COMPOSITES)
    for name in torch._C._dispatch_get_all_op_names():
        packet, _, overload = name.removeprefix("aten::").partition(".")
        if name.startswith("aten::") and not is_composite(
            getattr(getattr(torch.ops.aten, packet), overload or "default")
        ):
            arriving |= {packet, packet.rstrip("_")}
    assert RULES.keys() <= arriving


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", NETS)
def test_it_is_cut_as_without(name: str, mode: Callable[[], Any]) -> None:
    model, inputs = example(name)
    expected = prune(model, inputs, criterion="random")
    expected_cost = macs(model, inputs)
    found = prune(decorated(model, mode), inputs, criterion="random")
    assert found.plan.removed
    assert found.plan.removed == expected.plan.removed
    assert {(r.parameter, r.dim, r.operator) for r in found.refused} == {
        (r.parameter, r.dim, r.operator) for r in expected.refused
    }
    assert found.verification.groups == expected.verification.groups
    assert_exact(model, found.model, found.plan, inputs)
    assert macs(model, inputs) == expected_cost


class InPart(nn.Module):
    """What comes out of inference mode stays a tensor of that mode, also behind it."""

    def __init__(self, infers: bool) -> None:
        super().__init__()
        self.infers = infers
        self.embed, self.norm, self.wide = nn.Linear(4, 8), nn.LayerNorm(8), nn.Linear(8, 12)
        self.out = nn.Linear(12, 2)

    def forward(self, x: Tensor) -> Tensor:
        with torch.inference_mode(self.infers):
            x = self.embed(x)
        x = torch.matmul(torch.matmul(x, x.transpose(1, 2)).softmax(-1), x).reshape(-1, x.shape[2])
        return self.out(self.wide(self.norm(x)).relu())


def test_a_shuffle_without_data_is_what_it_is_with_data() -> None:
    model, inputs = (make() for make in RARE["shuffled"])
    result = prune(model, inputs, criterion="random", on_refuse="raise")
    gone = result.plan.removed["conv.weight"][0]
    assert {(i + 4) % 8 for i in gone} == set(gone)
    assert len(gone) == 4
    assert_exact(model, result.model, result.plan, inputs)


@pytest.mark.parametrize("tier", ["module", "exported"])
def test_a_part_in_inference_mode_is_cut_as_without(tier: Any) -> None:
    found = []
    for infers in (False, True):
        torch.manual_seed(0)
        model, inputs = InPart(infers), torch.randn(2, 6, 4)
        found.append(prune(model, inputs, criterion="random", tier=tier))
    assert {"embed.weight", "wide.weight"} <= found[1].plan.removed.keys()
    assert found[1].plan.removed == found[0].plan.removed
    assert found[1].verification.exact


def test_an_exported_network_called_in_inference_mode_is_cut_as_without() -> None:
    torch.manual_seed(0)
    inputs = torch.randn(2, 6, 4)
    net = exported(InPart(False), inputs)
    expected = prune(net, inputs, criterion="random").plan.removed
    assert prune(decorated(net, torch.inference_mode), inputs, criterion="random").plan.removed == expected


def test_activations_are_the_same_and_gradients_a_clear_error() -> None:
    found = []
    for mode in MODES:
        model, x = example("residual")
        decorated(model, mode)
        found.append(gather(model, "activation", [x], lambda m, b: m(b)).input_magnitude)
        assert not any(tensor.is_inference() for tensor in found[-1].values())
        with pytest.raises(UserError, match=r"without gradients(.|\n)*l1"):
            gather(model, "taylor", [x], lambda m, b: m(b), lambda b, y: y.sum())
    assert found[0].keys() == found[1].keys()
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])
