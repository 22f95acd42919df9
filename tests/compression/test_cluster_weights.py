"""Code books of models: what they hold, what they leave alone, how they are counted and refused."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import nn

from neuroprune.base.errors import UserError
from neuroprune.compression.cluster import ClusterReport, cluster_weights, distinct
from neuroprune.tasks.nets import tiny_resnet


def test_model_keeps_zeros_biases_norms_and_shapes() -> None:
    model = tiny_resnet()
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.Conv2d):
                module.weight[torch.rand_like(module.weight) < 0.3] = 0
    before = copy.deepcopy(model.state_dict())
    report = cluster_weights(model, k=8)
    clustered = {t.name for t in report.tensors}
    assert clustered == {n for n, p in model.named_parameters() if p.dim() > 1}
    for name, new in model.state_dict().items():
        old = before[name]
        if name not in clustered:
            assert torch.equal(old, new)
            continue
        assert len(new.unique()) <= 8
        assert torch.equal(new[old == 0], torch.zeros_like(new[old == 0]))
        assert (new - old).abs().max() < (old.max() - old.min()) / 4
    assert report.summed_before == sum(len(before[n].unique()) for n in clustered)
    assert report.summed_after == sum(len(model.state_dict()[n].unique()) for n in clustered)
    assert report.to_json()["after"] == report.after


def test_mse_is_what_changed() -> None:
    layer = nn.Linear(20, 10)
    old = layer.weight.detach().clone()
    (tensor,) = cluster_weights(layer, k=4).tensors
    assert tensor.name == "weight"
    assert tensor.mse == pytest.approx(float(((layer.weight.detach() - old) ** 2).mean()), rel=1e-4)
    assert (tensor.entries, tensor.after) == (200, 4)


def test_few_values_are_left_alone_bit_for_bit() -> None:
    layer = nn.Linear(4, 4)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([0.1, 0.2, 0.3, 0.1]).repeat(4, 1))
    old = layer.weight.detach().clone()
    (tensor,) = cluster_weights(layer, k=3).tensors
    assert torch.equal(layer.weight, old)
    assert (tensor.before, tensor.after, tensor.mse) == (3, 3, 0.0)


def test_zeros_that_fill_almost_everything() -> None:
    layer = nn.Linear(10, 10)
    with torch.no_grad():
        layer.weight.zero_()
        layer.weight[0, :5] = torch.tensor([1.0, 1.1, 5.0, 5.1, -3.0])
    cluster_weights(layer, k=3)
    assert (layer.weight == 0).sum() == 95
    assert len(layer.weight.unique()) <= 3


def test_deterministic_and_idempotent() -> None:
    first, second = tiny_resnet(), tiny_resnet()
    second.load_state_dict(first.state_dict())
    for model in (first, second):
        cluster_weights(model, k=16)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    cluster_weights(first, k=16)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_float_types_stay_clustered(dtype: torch.dtype) -> None:
    layer = nn.Conv1d(6, 8, 3).to(dtype)
    cluster_weights(layer, k=8)
    assert layer.weight.dtype == dtype
    assert len(layer.weight.unique()) <= 8


def test_tied_weights_are_clustered_once_and_stay_tied() -> None:
    model = nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 6))
    model[1].weight = model[0].weight
    assert [t.name for t in cluster_weights(model, k=4).tensors] == ["0.weight"]
    assert model[1].weight is model[0].weight


def test_bad_k_and_bad_weights_change_nothing() -> None:
    model = nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 6))
    with torch.no_grad():
        model[1].weight[2, 3] = float("nan")
    first = model[0].weight.detach().clone()
    with pytest.raises(UserError, match="NaN") as caught:
        cluster_weights(model, k=2)
    assert caught.value.where == "1.weight"
    assert torch.equal(model[0].weight, first)
    with pytest.raises(UserError, match="at least two"):
        cluster_weights(model, k=1)


def test_a_model_without_layers_is_fine() -> None:
    report = cluster_weights(nn.ReLU(), k=2)
    assert (report.before, report.after, report.tensors) == (0, 0, ())


def recurrent() -> nn.ModuleDict:
    torch.manual_seed(0)
    return nn.ModuleDict(
        {
            "words": nn.Embedding(50, 8),
            "lstm": nn.LSTM(8, 8, num_layers=2, bidirectional=True, proj_size=4),
            "gru": nn.GRU(8, 6),
            "cell": nn.GRUCell(8, 6),
            "attention": nn.MultiheadAttention(8, 2, add_bias_kv=True),
            "mixed": nn.MultiheadAttention(8, 2, kdim=6, vdim=4),
            "pair": nn.Bilinear(3, 4, 5),
            "up": nn.ConvTranspose1d(4, 4, 3),
            "norm": nn.LayerNorm([4, 4]),
        }
    )


def test_every_kind_of_layer_and_no_bias_and_no_norm() -> None:
    model, before = recurrent(), recurrent()
    report = cluster_weights(model, k=4)
    expected = {n for n, p in model.named_parameters() if p.dim() >= 2 and "bias" not in n and "norm" not in n}
    assert {t.name for t in report.tensors} == expected
    assert len(expected) == 1 + 12 + 2 + 2 + 2 + 4 + 1 + 1
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, before.get_parameter(name)) == (name not in expected), name
        assert name not in expected or len(parameter.unique()) <= 4, name


def test_a_layer_shares_its_book_and_attention_is_one_layer() -> None:
    model = recurrent()
    report = cluster_weights(model, k=6, scope="layer")
    layers = {layer.name: layer for layer in report.layers}
    assert list(layers) == ["words", "lstm", "gru", "cell", "attention", "mixed", "pair", "up"]
    for name, layer in layers.items():
        weights = [p for n, p in model[name].named_parameters() if p.dim() >= 2 and "bias" not in n]
        values = torch.cat([w.detach().flatten() for w in weights]).unique()
        assert layer.after == len(values) == 6
        assert layer.entries == sum(w.numel() for w in weights)
    assert ("attention.in_proj_weight", "attention.out_proj.weight") in [book.tensors for book in report.books]


def test_a_network_shares_one_book_and_the_count_is_of_the_union() -> None:
    model = recurrent()
    values = torch.cat(
        [dict(model.named_parameters())[t.name].detach().flatten() for t in one_each(model).tensors]
    )
    report = cluster_weights(model, k=16, scope="network")
    after = torch.cat([dict(model.named_parameters())[t.name].detach().flatten() for t in report.tensors])
    assert (report.before, report.after) == (len(values.unique()), len(after.unique())) == (report.before, 16)
    assert report.summed_after > report.after
    assert report.error == pytest.approx(float((after - values).square().sum() / values.square().sum()), rel=1e-4)
    assert report.entries == values.numel()


def one_each(model: nn.Module) -> ClusterReport:
    """Which tensors there are, of a copy."""
    return cluster_weights(copy.deepcopy(model), k=256)


def test_a_value_in_two_tensors_counts_once_for_the_network() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[1.0, 2.0], [-0.0, 0.0]]))
        model[1].weight.copy_(torch.tensor([[1.0, 3.0], [0.0, 3.0]]))
    report = cluster_weights(model, k=4)
    assert [t.before for t in report.tensors] == [3, 3]
    assert (report.before, report.summed_before, report.after) == (4, 6, 4)
    assert all(book.alone for book in report.books)
    assert distinct([model[0].weight, model[1].weight, torch.tensor([7.0])]) == 5
    assert distinct([]) == 0


def test_zero_of_one_tensor_is_a_value_of_the_shared_book() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(20, 20), nn.Linear(20, 20))
    with torch.no_grad():
        model[0].weight[:10] = 0
    report = cluster_weights(model, k=5, scope="network")
    values = torch.cat([model[0].weight.detach().flatten(), model[1].weight.detach().flatten()]).unique()
    assert len(values) == 5
    assert report.books[0].values == 5
    assert int((model[0].weight == 0).sum()) == 200
    assert not (model[1].weight == 0).any()


@pytest.mark.parametrize("scope", ["tensor", "layer", "network"])
@pytest.mark.parametrize("distortion", [0.2, 0.01, 0.0005])
def test_a_distortion_is_kept_by_the_least_number_of_values(scope: Any, distortion: float) -> None:
    torch.manual_seed(1)
    model = nn.ModuleDict({"lstm": nn.LSTM(8, 8), "fc": nn.Linear(30, 20)})
    dense, fewer = copy.deepcopy(model), copy.deepcopy(model)
    report = cluster_weights(model, distortion=distortion, scope=scope)
    assert report.k is None
    for book in report.books:
        assert relative_error(dense, model, book.tensors) == pytest.approx(book.error, rel=1e-6)
        assert book.error <= distortion
        if book.values > 2:
            less = cluster_weights(fewer, k=book.values - 1, scope=scope, only=book.tensors)
            assert less.books[0].error > distortion


def relative_error(dense: nn.Module, model: nn.Module, names: Sequence[str]) -> float:
    pairs = [(dense.get_parameter(n).detach().double(), model.get_parameter(n).detach().double()) for n in names]
    return float(sum((a - b).square().sum() for a, b in pairs) / sum(a.square().sum() for a, _ in pairs))


def test_a_distortion_beyond_reach_names_the_tensor_and_changes_nothing() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(300, 300))
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(UserError, match="256 values distort") as caught:
        cluster_weights(model, distortion=1e-12)
    assert caught.value.where == "1.weight"
    assert all(torch.equal(before[n], t) for n, t in model.state_dict().items())


def test_types_never_share_a_book_and_half_precision_keeps_its_budget() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(20, 20), nn.Linear(20, 20).half(), nn.Linear(20, 20))
    report = cluster_weights(model, distortion=0.001, scope="network")
    assert [book.tensors for book in report.books] == [("0.weight", "2.weight"), ("1.weight",)]
    assert all(book.error <= 0.001 for book in report.books)


def test_only_and_keep_are_patterns_of_tensors_and_modules() -> None:
    def names(**options: Any) -> list[str]:
        return [t.name for t in cluster_weights(recurrent(), k=4, **options).tensors]

    assert names(only=["words", "attention"]) == [
        "words.weight", "attention.in_proj_weight", "attention.out_proj.weight",
    ]  # fmt: skip
    assert names(only=["gru*", "*.out_proj.weight"], keep=["gru.weight_hh_l0", "mixed"]) == [
        "gru.weight_ih_l0", "attention.out_proj.weight",
    ]  # fmt: skip
    with pytest.raises(UserError, match="matches no weight") as caught:
        names(keep=["atention.in_proj_weight"])
    assert "did you mean 'attention.in_proj_weight'" in str(caught.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"k": 257}, "at most 256"),
        ({"k": 0}, "at least two"),
        ({}, "either"),
        ({"k": 4, "distortion": 0.1}, "either"),
        ({"distortion": 0.0}, "share"),
        ({"distortion": 1.0}, "share"),
        ({"distortion": float("nan")}, "share"),
        ({"k": 4, "scope": "row"}, "tensor, a layer or the network"),
    ],
)
def test_arguments_out_of_range(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        cluster_weights(nn.Linear(4, 4), **options)


def test_weights_that_are_none_yet_or_are_computed_are_refused() -> None:
    with pytest.raises(UserError, match="no values yet"):
        cluster_weights(nn.Sequential(nn.LazyLinear(3)), k=2)
    with pytest.raises(UserError, match="no values yet"):
        cluster_weights(nn.Linear(3, 3, device="meta"), k=2)
    with pytest.raises(UserError, match="only real"):
        cluster_weights(nn.Linear(3, 3, dtype=torch.complex64), k=2)
    model = nn.Sequential(nn.Linear(3, 3), nn.utils.parametrizations.weight_norm(nn.Linear(3, 3)))
    with pytest.raises(UserError, match="parametrisation") as caught:
        cluster_weights(model, k=2)
    assert caught.value.where == "1.weight"
    assert [t.name for t in cluster_weights(model, k=2, keep=["1"]).tensors] == ["0.weight"]


def test_all_zero_and_empty_weights() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3), nn.Linear(3, 3))
    for layer, shape in zip(model, ((3, 3), (0, 3), (3, 0)), strict=True):
        layer.weight = nn.Parameter(torch.zeros(shape))
    report = cluster_weights(model, k=2, scope="network")
    assert (report.before, report.after, report.error) == (1, 1, 0.0)
    assert [(t.entries, t.after) for t in report.tensors] == [(9, 1), (0, 0), (0, 0)]
    assert cluster_weights(model, distortion=0.1).summed_after == 1


def test_the_report_is_json() -> None:
    import json

    report = cluster_weights(tiny_resnet(), distortion=0.01, scope="layer")
    read = json.loads(json.dumps(report.to_json(), allow_nan=False))
    assert read["scope"] == "layer"
    assert read["layers"][0].keys() == {"name", "tensors", "entries", "before", "after", "error"}
