"""Rules and size handlers made deliberately wrong: the cut is refused, never returned wrong."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from graph.nets import CASES
from graph.nets_hostile import HOSTILE
from graph.nets_operators import OPERATORS
from torch import Tensor, nn

from neuroprune.base.errors import CutRefused
from neuroprune.graph import interpret, trace
from neuroprune.graph.labels import Labels, Vector
from neuroprune.graph.provenance import COMPOSITES, HANDLERS
from neuroprune.graph.rules import RULES, OpCall, Rule, composite
from neuroprune.graph.rules.elementwise import elementwise
from neuroprune.graph.rules.movement import movement
from neuroprune.graph.sizes import indifferent
from neuroprune.pruning import prune, verify
from neuroprune.testing.fuzz import TOLERANCE, zeroed_error

Mutate = Callable[[Rule], Rule]
SEEDS = 4
pytestmark = pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")


def example(name: str) -> tuple[nn.Module, Any]:
    torch.manual_seed(0)
    if name in CASES:
        make, shape, _ = CASES[name]
        return make(), torch.randn(shape)
    if name == "steps_apart":
        return StepsApart(), torch.randn(2, 3)
    case = OPERATORS.get(name) or HOSTILE[name]
    return case.make(), case.inputs()


class StepsApart(nn.Module):
    """Even and odd channels never meet again, so only the step itself ties neighbours."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.even, self.odd = nn.Linear(3, 8), nn.Linear(4, 2), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        return self.even(x[:, ::2]) + self.odd(x[:, 1::2])


def forgetting(*what: str) -> Mutate:
    """The right rule, but what it writes into these lists of the records is lost."""

    def mutate(rule: Rule) -> Rule:
        def wrong(op: OpCall) -> list[Labels]:
            before = {name: len(getattr(op.records, name)) for name in what}
            out = rule(op)
            for name, count in before.items():
                del getattr(op.records, name)[count:]
            op.statistical &= "statistics" not in what
            return out

        return wrong

    return mutate


def relabelled(change: Callable[[Vector], Vector]) -> Mutate:
    """The right rule, but the labels of its outputs stand elsewhere."""

    def mutate(rule: Rule) -> Rule:
        return lambda op: [{d: change(v) for d, v in out.items()} for out in rule(op)]

    return mutate


def instead(other: Rule) -> Mutate:
    """Another operator's rule."""
    return lambda _: other


def with_argument(name: str, value: Any) -> Mutate:
    """The right rule, but it takes one argument for another."""

    def mutate(rule: Rule) -> Rule:
        def wrong(op: OpCall) -> list[Labels]:
            op.args = {**op.args, name: value}
            return rule(op)

        return wrong

    return mutate


def contiguous_gates(rule: Rule) -> Rule:
    """Recurrent rows taken hidden unit by hidden unit, where PyTorch stores them gate by gate."""

    def wrong(op: OpCall) -> list[Labels]:
        own = op.records.tie

        def tie(a: Vector, b: Vector, reason: Any) -> None:
            own(a.reshape(a.shape[1], -1).T if a.ndim == 2 else a, b, reason)

        op.records.tie = tie  # type: ignore[method-assign]
        try:
            return rule(op)
        finally:
            del op.records.tie  # type: ignore[attr-defined]

    return wrong


def let_through(rule: Rule) -> Rule:
    """Every dimension passes, those that the operator mixes as well."""

    def wrong(op: OpCall) -> list[Labels]:
        out = op.outputs[0]
        whole = op.args.get("self", op.args.get("input"))
        labels = {d: v for d, v in op.take_all(whole).items() if d < out.dim() and out.shape[d] == v.size}
        return [labels for _ in op.outputs]

    return wrong


def reversed_vector(vector: Vector) -> Vector:
    return vector[::-1].copy()


def rolled_vector(vector: Vector) -> Vector:
    return np.roll(vector, 1)


REVERSED, ROLLED = relabelled(reversed_vector), relabelled(rolled_vector)
TIES, PINS, PRODUCTS = forgetting("ties"), forgetting("pins", "ties"), forgetting("products")
STATISTICS = forgetting("statistics")

#: (operators, what is wrong with their rule, networks each of which must notice)
RULE_MUTANTS: dict[str, tuple[str, Mutate, str]] = {
    "sums forget to tie": ("add", TIES, "residual layer_norm_stream"),
    "flipped sums forget to tie": ("add", TIES, "flip_add"),
    "activations reverse": ("relu_", REVERSED, "residual"),
    "in-place sums forget to tie": ("add_", TIES, "lstm_cell in_place"),
    "products forget to tie": ("_prelu_kernel", TIES, "batchnorm_of_rows"),
    "gates forget their halves": ("glu", TIES, "bilinear_glu_prelu"),
    "convolution forgets to tie": ("convolution", TIES, "residual depthwise grouped transposed own_groups"),
    "convolution reverses": ("convolution", REVERSED, "residual depthwise"),
    "convolution forgets groups": ("convolution", PRODUCTS, "grouped depthwise"),
    "linear forgets to tie": ("addmm", TIES, "residual layer_norm twice"),
    "linear reverses": ("addmm", REVERSED, "layer_norm"),
    "products of matrices forget to tie": ("mm", TIES, "gqa_native"),
    "batched products forget to tie": ("bmm", TIES, "unfold"),
    "batched products roll": ("bmm", ROLLED, "attention_own_scale"),
    "embedding reverses": ("embedding", REVERSED, "embedding factorised_embedding"),
    "bags roll": ("_embedding_bag_forward_only", ROLLED, "embedding_bag"),
    "bilinear rolls": ("bilinear", ROLLED, "bilinear_glu_prelu"),
    "bilinear forgets to tie": ("bilinear", TIES, "bilinear_glu_prelu"),
    "batch norm forgets to tie": ("native_batch_norm", TIES, "residual instance_norm"),
    "batch norm reverses": ("native_batch_norm", REVERSED, "residual depthwise"),
    "layer norm forgets its weight": ("native_layer_norm", TIES, "layer_norm"),
    "layer norm is no statistic": ("native_layer_norm", STATISTICS, "layer_norm layer_norm_plain"),
    "layer norm reverses": ("native_layer_norm", REVERSED, "layer_norm layer_norm_plain"),
    "layer norm rolls": ("native_layer_norm", ROLLED, "layer_norm layer_norm_of_images"),
    "group norm forgets its weight": ("native_group_norm", TIES, "group_norm group_norm_per_channel"),
    "group norm is no statistic": ("native_group_norm", STATISTICS, "group_norm_one_group"),
    "group norm rolls": ("native_group_norm", ROLLED, "group_norm group_norm_one_group"),
    "rms norm forgets its weight": ("mul", TIES, "rms_norm rms_norm_by_hand"),
    "weight norm forgets to tie": ("_weight_norm_interface", TIES, "weight_norm"),
    "softmax is no statistic": ("_softmax", STATISTICS, "softmax_over_channels"),
    "softmax rolls": ("_softmax", ROLLED, "selective_kernel"),
    "log softmax rolls": ("_log_softmax", ROLLED, "log_softmax_over_channels"),
    "means are no statistic": ("mean", STATISTICS, "layer_norm_by_hand rms_norm"),
    "means reverse": ("mean", REVERSED, "dynamic_conv"),
    "deviations are no statistic": ("std", STATISTICS, "unbiased_std_by_hand"),
    "maxima roll": ("amax", ROLLED, "maxout stacked"),
    "pooling reverses": ("_adaptive_avg_pool2d max_pool2d_with_indices", REVERSED, "pools"),
    "unpooling reverses": ("max_unpool2d", REVERSED, "pools"),
    "chosen channels pass": ("index_select", let_through, "index_select_of_channels"),
    "views reverse": ("_unsafe_view", REVERSED, "attention"),
    "views forget products": ("view", PRODUCTS, "attention"),
    "transposition rolls": ("transpose", ROLLED, "attention fold"),
    "permutation reverses": ("permute", REVERSED, "permute_flatten_linear"),
    "flip forgotten": ("flip", instead(elementwise), "flip_add"),
    "pieces of a dimension roll": ("unbind", ROLLED, "attention"),
    "repetition rolls": ("expand", ROLLED, "attention_own_scale gru_learned_initial"),
    "repeats roll": ("repeat", ROLLED, "repeated instance_norm"),
    "windows roll": ("unfold", ROLLED, "tensor_unfold"),
    "permutation rolls": ("permute", ROLLED, "attention space_to_depth_view"),
    "roll by nothing": ("roll", with_argument("shifts", [0]), "roll_channels"),
    "roll wraps freely": ("roll", instead(movement), "roll_channels"),
    "steps ignored": ("slice", PINS, "steps_apart"),
    "slices roll": ("slice", ROLLED, "slice_by_attribute"),
    "pieces reverse": ("split_with_sizes split", REVERSED, "split_by_list"),
    "stacks reverse": ("stack", REVERSED, "stacked_channels"),
    "joined channels roll": ("cat", ROLLED, "concat growing_concat"),
    "padding rolls": ("constant_pad_nd", ROLLED, "pad_shortcut"),
    "pixels reverse": ("pixel_shuffle pixel_unshuffle", REVERSED, "pixel_unshuffle"),
    "unfolded windows reverse": ("im2col", REVERSED, "unfold"),
    "folded windows forget to tie": ("col2im", TIES, "fold"),
    "shuffle forgets products": ("channel_shuffle", PRODUCTS, "native_shuffle"),
    "attention forgets keys": ("scaled_dot_product_attention", TIES, "attention_relative_bias"),
    "attention reverses": ("scaled_dot_product_attention", REVERSED, "attention attention_given_scale"),
    "gates unit by unit": ("lstm gru", contiguous_gates, "lstm gru"),
    "recurrence forgets to tie": ("lstm gru rnn_tanh", TIES, "lstm gru rnn lstm_projected"),
}


def dropped(call: Any) -> None:
    """No equation at all."""
    indifferent(call)


#: (functions, networks): their size handler writes no equation
SIZE_MUTANTS: dict[str, tuple[str, str]] = {
    "views": ("view reshape", "attention"),
    "splits": ("split split_with_sizes", "split_by_list mixed_kernels"),
    "slices": ("__getitem__", "slice_by_attribute"),
    "narrowing": ("narrow", "narrow"),
    "groups": ("conv2d", "own_groups"),
    "normalised shapes": ("layer_norm", "layer_norm_functional"),
}


def outcomes(name: str, granularity: str = "channel", ratio: float = 0.4) -> list[Any]:
    """Per seed the result of a cut, or None where it was refused."""
    found = []
    for seed in range(SEEDS):
        model, inputs = example(name)
        try:
            options = {"criterion": "random", "on_refuse": "raise", "granularity": granularity}
            result = prune(model, inputs, ratio=ratio, seed=seed, **options)
        except CutRefused:
            found.append(None)
        else:
            found.append((model, inputs, result))
    return found


def never_wrong(found: list[Any]) -> None:
    """Judged by the right rules, and where no statistic is taken by zeroed weights, which know no rules."""
    for model, inputs, result in filter(None, found):
        assert verify(model, result.plan, inputs).exact, "a wrong cut was returned"
        cut = {d.group for d in result.plan.decisions if d.removed}
        plain = not any(g.statistics for g in trace(model, inputs).groups) and not result.verification.statistics
        if cut and plain and not isinstance(inputs, list):
            assert zeroed_error(model, result.model, result.plan, inputs) <= TOLERANCE


RULE_PAIRS = [(label, net) for label, (_, _, nets) in RULE_MUTANTS.items() for net in nets.split()]
SIZE_PAIRS = [(label, net) for label, (_, nets) in SIZE_MUTANTS.items() for net in nets.split()]


@pytest.mark.parametrize(("label", "net"), RULE_PAIRS)
def test_a_wrong_rule_is_caught(monkeypatch: pytest.MonkeyPatch, label: str, net: str) -> None:
    operators, mutate, _ = RULE_MUTANTS[label]
    assert None not in outcomes(net)
    with monkeypatch.context() as patched:
        for operator in operators.split():
            right = RULES.get(operator) or RULES.get(operator.rstrip("_")) or elementwise
            patched.setitem(RULES, operator, mutate(right))
        found = outcomes(net)
    never_wrong(found)
    assert None in found, "no choice of units shows the mistake"


@pytest.mark.parametrize(("label", "net"), SIZE_PAIRS)
def test_a_forgotten_size_is_caught(monkeypatch: pytest.MonkeyPatch, label: str, net: str) -> None:
    functions, _ = SIZE_MUTANTS[label]
    assert None not in outcomes(net)
    with monkeypatch.context() as patched:
        for function in functions.split():
            patched.setitem(HANDLERS, function, dropped)
        found = outcomes(net)
    never_wrong(found)
    assert None in found, "no choice of units shows the mistake"


@pytest.mark.parametrize("net", ["gqa_native", "gqa_expand"])
def test_head_dimensions_of_queries_without_their_keys_are_caught(
    monkeypatch: pytest.MonkeyPatch, net: str
) -> None:
    """With the default scale the operator is a statistic: the second oracle alone decides."""
    assert None not in outcomes(net, ratio=0.25)
    with monkeypatch.context() as patched:
        name = "scaled_dot_product_attention"
        patched.setitem(RULES, name, TIES(RULES[name]))
        found = outcomes(net, ratio=0.25)
    never_wrong(found)
    assert None in found


def test_swapped_arguments_of_a_composite_are_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    right = COMPOSITES["scaled_dot_product_attention"]

    def wrong(book: Any, func: Any, args: Any, kwargs: Any) -> Any:
        return right(book, func, (args[0], args[2], args[1], *args[3:]), kwargs)

    with monkeypatch.context() as patched:
        patched.setitem(COMPOSITES, "scaled_dot_product_attention", wrong)
        found = outcomes("gqa_expand", "head_dim")
    never_wrong(found)
    assert None in found


def test_key_heads_repeated_in_the_wrong_order_are_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """Heads 0, 0, 1, 1 of the keys taken for 0, 1, 0, 1."""
    assert None not in outcomes("gqa_native", "head")
    with monkeypatch.context() as patched:
        patched.setattr(composite, "np", SimpleNamespace(repeat=np.tile, concatenate=np.concatenate))
        found = outcomes("gqa_native", "head")
    never_wrong(found)
    assert None in found


def test_an_output_that_is_not_pinned_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    assert None not in outcomes("hidden_output")
    with monkeypatch.context() as patched:
        patched.setattr(interpret, "_pin_output", lambda *_: None)
        found = outcomes("hidden_output")
    never_wrong(found)
    assert None in found
