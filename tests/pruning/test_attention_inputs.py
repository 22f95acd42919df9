"""Activation tracking sees the projections of attention: against attention written out with linear layers."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from neuroprune.pruning import CRITERIA, Masks
from neuroprune.pruning.score import gather, saliencies
from neuroprune.pruning.statistics import Statistics, collect

E, HEADS = 8, 2


class WrittenOut(nn.Module):
    """The same computation with a layer per projection."""

    def __init__(self, joint: nn.MultiheadAttention) -> None:
        super().__init__()
        self.q, self.k, self.v, self.out = (nn.Linear(E, E) for _ in range(4))
        weights = joint.in_proj_weight.detach().chunk(3)
        biases = joint.in_proj_bias.detach().chunk(3)
        for layer, weight, bias in zip((self.q, self.k, self.v), weights, biases, strict=True):
            layer.load_state_dict({"weight": weight, "bias": bias})
        self.out.load_state_dict(joint.out_proj.state_dict())

    def forward(self, pair: tuple[Tensor, Tensor]) -> Tensor:
        x, y = pair

        def heads(z: Tensor) -> Tensor:
            return z.unflatten(-1, (HEADS, -1)).transpose(1, 2)

        mixed = functional.scaled_dot_product_attention(heads(self.q(x)), heads(self.k(y)), heads(self.v(y)))
        return self.out(mixed.transpose(1, 2).flatten(2))  # type: ignore[no-any-return]


class Attending(nn.Module):
    def __init__(self, *, batch_first: bool = True) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(E, HEADS, batch_first=batch_first)

    def forward(self, pair: tuple[Tensor, Tensor]) -> Tensor:
        x, y = pair
        if not self.attention.batch_first:
            x, y = x.transpose(0, 1), y.transpose(0, 1)
        out = self.attention(x, value=y, key=y, need_weights=False)[0]
        return out if self.attention.batch_first else out.transpose(0, 1)


def tracked(model: nn.Module, batches: list[tuple[Tensor, Tensor]]) -> Statistics:
    return collect(model, {"activations"}, batches, lambda net, batch: net(batch))


@pytest.mark.parametrize("batch_first", [True, False])
def test_statistics_are_those_of_attention_written_out(batch_first: bool) -> None:
    torch.manual_seed(0)
    batches = [(torch.randn(3, 5, E), torch.randn(3, 4, E).relu()) for _ in range(2)]
    model = Attending(batch_first=batch_first).eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    reference = WrittenOut(model.attention)
    assert torch.allclose(model(batches[0]), reference(batches[0]), atol=1e-5)
    found, wanted = tracked(model, batches), tracked(reference, batches)
    for kind in ("input_magnitude", "input_norm", "input_active"):
        ours, theirs = getattr(found, kind), getattr(wanted, kind)
        joint = torch.cat([theirs[f"{one}.weight"].expand(E, E) for one in "qkv"])
        assert torch.allclose(ours["attention.in_proj_weight"], joint, rtol=1e-4), kind
        assert torch.allclose(ours["attention.out_proj.weight"], theirs["out.weight"], rtol=1e-3), kind
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_projections_of_their_own_sizes() -> None:
    model = nn.MultiheadAttention(E, HEADS, kdim=4, vdim=6, batch_first=True).eval()
    q, k, v = torch.randn(2, 3, E), torch.randn(2, 5, 4), torch.randn(2, 5, 6)
    found = collect(model, {"activations"}, [(q, k, v)], lambda net, batch: net(*batch))
    for name, x in (("q_proj_weight", q), ("k_proj_weight", k), ("v_proj_weight", v)):
        assert torch.allclose(found.input_magnitude[name], x.abs().mean((0, 1)), rtol=1e-4)


def test_masks_of_a_transformer_layer_reach_every_matrix() -> None:
    layer = nn.TransformerEncoderLayer(E, HEADS, 16, batch_first=True).eval()
    statistics = gather(layer, "activation", [torch.randn(2, 3, E)], lambda net, batch: net(batch))
    saliency = saliencies(layer, CRITERIA.get("activation"), statistics, 0)
    masks = Masks.for_weights(layer)
    assert set(saliency) == set(masks.masks)
    masks.switch_weights(saliency, 0.5, spread="layer")
    assert all(0.4 < float(mask.mean()) < 0.6 for mask in masks.masks.values())
