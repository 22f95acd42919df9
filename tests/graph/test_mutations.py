"""Rules and size handlers made deliberately wrong: the cut is refused, never returned wrong."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from graph.nets import CASES
from graph.nets_hostile import HOSTILE
from graph.nets_operators import OPERATORS
from graph.nets_rare import RARE
from torch import Tensor, nn

from neuroprune.base.errors import CutRefused
from neuroprune.graph import interpret, trace
from neuroprune.graph.calls import as_calls
from neuroprune.graph.labels import Labels, Vector
from neuroprune.graph.provenance import COMPOSITES, HANDLERS, Call, Handler
from neuroprune.graph.rules import RULES, OpCall, Rule, composite
from neuroprune.graph.rules.elementwise import elementwise
from neuroprune.graph.rules.movement import movement
from neuroprune.graph.sizes import indifferent
from neuroprune.pruning import Plan, prune, verify
from neuroprune.pruning.verify import relative_error
from neuroprune.testing.fuzz import TOLERANCE, zeroed_error

Mutate = Callable[[Rule], Rule]
Spoil = Callable[[pytest.MonkeyPatch], None]
SEEDS = 4
pytestmark = pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")


def example(name: str) -> tuple[nn.Module, Any]:
    torch.manual_seed(0)
    if name in CASES:
        make, shape, _ = CASES[name]
        return make(), torch.randn(shape)
    if name in RARE:
        model, inputs = RARE[name]
        return model(), inputs()
    case = OPERATORS.get(name) or HOSTILE[name]
    return case.make(), case.inputs()


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


def padded_with_nothing(op: OpCall) -> list[Labels]:
    """The new places at the border are taken for zeros."""
    op.args = {**op.args, "self": op.args["input"]}
    return RULES["constant_pad_nd"](op)


def shifted_state(rule: Rule) -> Rule:
    """The columns of an LSTM's recurrent matrices taken for those of the next hidden unit."""

    def wrong(op: OpCall) -> list[Labels]:
        own, recurrent = op.labels_of, {id(tensor) for tensor in op.args["params"][1::4]}

        def labels_of(tensor: Tensor) -> Labels:
            labels = own(tensor)
            return {**labels, 1: rolled_vector(labels[1])} if id(tensor) in recurrent else labels

        op.labels_of = labels_of
        return rule(op)

    return wrong


def reversed_vector(vector: Vector) -> Vector:
    return vector[::-1].copy()


def rolled_vector(vector: Vector) -> Vector:
    return np.roll(vector, 1)


REVERSED, ROLLED = relabelled(reversed_vector), relabelled(rolled_vector)
TIES, PINS, PRODUCTS = forgetting("ties"), forgetting("pins", "ties"), forgetting("products")
STATISTICS = forgetting("statistics")

#: (operators, what is wrong with their rule, networks each of which must notice)
#: a wrong version that only leaves labels out is no mutant: it costs compression, and nothing can be wrong
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
    "standardised weights are no statistic": ("native_batch_norm", STATISTICS, "weight_standardisation"),
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
    "softmax over another dimension": ("_softmax", with_argument("dim", 0), "softmax_over_channels"),
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
    "flipped along another dimension": ("flip", with_argument("dims", [2]), "flip_add"),
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
    "shuffle forgets products": ("channel_shuffle native_channel_shuffle", PRODUCTS, "native_shuffle shuffled"),
    "attention forgets keys": ("scaled_dot_product_attention", TIES, "attention_relative_bias"),
    "attention reverses": ("scaled_dot_product_attention", REVERSED, "attention attention_given_scale"),
    "in inference mode linear forgets to tie": ("addmm", TIES, "inference_mode"),
    "vectors forget to tie": ("mv", TIES, "spectral_norm_of_a_reader"),
    "products of vectors forget to tie": ("vdot", TIES, "spectral_norm"),
    "borders roll": ("pad", ROLLED, "conv_padding_modes"),
    "borders are zeros": ("pad", instead(padded_with_nothing), "wrapped_features"),
    "cropped channels go": ("constant_pad_nd", PINS, "cropped"),
    "new tensors are channels": ("new_ones", let_through, "literal_ones"),
    "strides roll": ("as_strided", ROLLED, "pooled_channels_last"),
    "the selected channel goes": ("select", PINS, "selected"),
    "windows of any places": ("unfold", instead(movement), "windows_of_channels"),
    "stacks forget to tie": ("stack", TIES, "stacked"),
    "numbered channels pass": ("index", let_through, "in_order"),
    "indexed places roll": ("index", ROLLED, "index_of_places pairs_of_indices mask_of_places"),
    "written places forget to tie": ("index_add", TIES, "scattered_messages"),
    "scattered places forget to tie": ("scatter_add", TIES, "scattered"),
    "gathered places roll": ("gather", ROLLED, "gather_of_places"),
    "gathered along another dimension": ("gather", with_argument("dim", 2), "gathered_channels"),
    "frequencies of channels pass": ("_fft_r2c", let_through, "fourier_of_channels"),
    "frequencies of places roll": ("_fft_r2c", ROLLED, "fourier_tokens"),
    "complex pairs roll": ("view_as_complex", ROLLED, "rotary_complex fourier_filter"),
    "triangles pass": ("tril", let_through, "triangular"),
    "sampled channels roll": ("grid_sampler_2d", ROLLED, "grid_sample"),
    "sorted channels pass": ("sort", let_through, "sorted_channels"),
    "sums so far roll": ("cumsum", ROLLED, "cumsum_of_places"),
    "smoothed channels pass": ("avg_pool2d", let_through, "smoothed_channels"),
    "states of the next unit": ("lstm", shifted_state, "lstm"),
    "gates unit by unit": ("lstm gru", contiguous_gates, "lstm gru"),
    "recurrence forgets to tie": ("lstm gru rnn_tanh", TIES, "lstm gru rnn lstm_projected"),
}


def unequated(handler: Handler) -> Handler:
    """The right size handler, but its equations are lost: labels of its own for a new tensor stay."""

    def wrong(call: Call) -> None:
        equations = call.book.labels.records.equations
        before = len(equations)
        handler(call)
        del equations[before:]

    return wrong


#: (functions, networks each of which must notice): their size handler writes no equation
SIZE_MUTANTS: dict[str, tuple[str, str]] = {
    "views": ("view reshape", "attention"),
    "expansions": ("expand", "literal_expand"),
    "repetitions": ("repeat", "repeated_mean repeated_by_share"),
    "strides": ("as_strided", "strided"),
    "unflattened sizes": ("unflatten", "unflatten_layer"),
    "splits": ("split split_with_sizes", "split_by_list mixed_kernels"),
    "chunks": ("chunk", "half_of_it_held"),
    "bounds of pieces": ("tensor_split", "tensor_split"),
    "slices": ("__getitem__", "slice_by_attribute"),
    "slices of a graph": ("slice", "exported_slices"),
    "selections": ("select", "selected"),
    "narrowing": ("narrow", "narrow"),
    "groups": ("conv2d", "own_groups"),
    "groups of any convolution": ("convolution", "convolved"),
    "groups of a norm": ("group_norm", "group_norm_per_channel"),
    "normalised shapes": ("layer_norm", "layer_norm_functional"),
    "new tensors": ("zeros new_zeros ones full", "lstm_zeros_of_an_attribute made_tensors"),
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


@functools.cache
def right(net: str, granularity: str, ratio: float) -> bool:
    """With every rule as it is each choice of units is exact."""
    found = outcomes(net, granularity, ratio)
    never_wrong(found)
    return None not in found


def notice(
    monkeypatch: pytest.MonkeyPatch, spoil: Spoil, net: str, granularity: str = "channel", ratio: float = 0.4
) -> None:
    """``spoil`` makes something wrong: some cuts are refused, and none is wrong."""
    assert right(net, granularity, ratio)
    with monkeypatch.context() as patched:
        spoil(patched)
        found = outcomes(net, granularity, ratio)
    never_wrong(found)
    assert None in found, "no choice of units shows the mistake"


def wrong_rules(operators: str, mutate: Mutate) -> Spoil:
    def spoil(patched: pytest.MonkeyPatch) -> None:
        for operator in operators.split():
            own = RULES.get(operator) or RULES.get(operator.rstrip("_")) or elementwise
            patched.setitem(RULES, operator, mutate(own))

    return spoil


def wrong_sizes(functions: str) -> Spoil:
    def spoil(patched: pytest.MonkeyPatch) -> None:
        for function in functions.split():
            patched.setitem(HANDLERS, function, unequated(HANDLERS[function]))

    return spoil


def swapped_keys_and_values(patched: pytest.MonkeyPatch) -> None:
    own = COMPOSITES["scaled_dot_product_attention"]

    def wrong(book: Any, func: Any, args: Any, kwargs: Any) -> Any:
        return own(book, func, (args[0], args[2], args[1], *args[3:]), kwargs)

    patched.setitem(COMPOSITES, "scaled_dot_product_attention", wrong)


def key_heads_in_the_wrong_order(patched: pytest.MonkeyPatch) -> None:
    """Heads 0, 0, 1, 1 of the keys taken for 0, 1, 0, 1."""
    patched.setattr(composite, "np", SimpleNamespace(repeat=np.tile, concatenate=np.concatenate))


def free_outputs(patched: pytest.MonkeyPatch) -> None:
    patched.setattr(interpret, "_pin_output", lambda *_: None)


def nothing_pinned(patched: pytest.MonkeyPatch) -> None:
    """Neither what a rule says must stay nor what no rule carries on."""
    patched.setattr(OpCall, "pin", lambda *_, **__: None)


def first_call_alone(patched: pytest.MonkeyPatch) -> None:
    """Of several example calls only the first is traced."""
    patched.setattr(interpret, "as_calls", lambda inputs: as_calls(inputs)[:1])


#: (what is spoilt beside the tables of rules and sizes, networks, how they are cut)
OTHER_MUTANTS: dict[str, tuple[Spoil, str, dict[str, Any]]] = {
    # with the default scale the operator is a statistic: the second oracle alone decides
    "queries forget their keys": (
        wrong_rules("scaled_dot_product_attention", TIES), "gqa_native gqa_expand", {"ratio": 0.25}),
    "keys for values": (swapped_keys_and_values, "gqa_expand", {"granularity": "head_dim"}),
    "key heads in the wrong order": (key_heads_in_the_wrong_order, "gqa_native", {"granularity": "head"}),
    "outputs may shrink": (free_outputs, "hidden_output", {}),
    "nothing is pinned": (nothing_pinned, "unknown_beside cropped", {}),
    "the first call alone": (first_call_alone, "two_calls two_calls_by_keyword", {}),
}  # fmt: skip

RULE_PAIRS = [(label, net) for label, (_, _, nets) in RULE_MUTANTS.items() for net in nets.split()]
SIZE_PAIRS = [(label, net) for label, (_, nets) in SIZE_MUTANTS.items() for net in nets.split()]
OTHER_PAIRS = [(label, net) for label, (_, nets, _) in OTHER_MUTANTS.items() for net in nets.split()]


@pytest.mark.parametrize(("label", "net"), RULE_PAIRS)
def test_a_wrong_rule_is_caught(monkeypatch: pytest.MonkeyPatch, label: str, net: str) -> None:
    operators, mutate, _ = RULE_MUTANTS[label]
    notice(monkeypatch, wrong_rules(operators, mutate), net)


@pytest.mark.parametrize(("label", "net"), SIZE_PAIRS)
def test_a_forgotten_size_is_caught(monkeypatch: pytest.MonkeyPatch, label: str, net: str) -> None:
    notice(monkeypatch, wrong_sizes(SIZE_MUTANTS[label][0]), net)


@pytest.mark.parametrize(("label", "net"), OTHER_PAIRS)
def test_what_is_wrong_elsewhere_is_caught(monkeypatch: pytest.MonkeyPatch, label: str, net: str) -> None:
    spoil, _, options = OTHER_MUTANTS[label]
    notice(monkeypatch, spoil, net, **options)


def test_a_group_norm_that_forgets_its_products_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """Groups that keep unequal numbers are refused.

    Equal numbers at unequal places are right, though the right rules have no units for them, so cannot judge.
    """
    assert right("group_norm", "channel", 0.4)
    with monkeypatch.context() as patched:
        wrong_rules("native_group_norm", PRODUCTS)(patched)
        found = outcomes("group_norm")
    assert None in found
    assert any(found)
    for model, inputs, result in filter(None, found):
        dense, small, x = copy.deepcopy(model).double(), copy.deepcopy(result.model).double(), inputs.double()
        with torch.no_grad():
            assert relative_error(normed_over_kept(dense, result.plan, x), small(x)) <= TOLERANCE


def normed_over_kept(model: Any, plan: Plan, x: Tensor) -> Tensor:
    """The dense network, each group of its norm normalised over its kept channels alone."""
    x, norm = model.conv(x), model.norm
    out = torch.zeros_like(x)
    for group in torch.arange(x.shape[1]).view(norm.num_groups, -1).tolist():
        kept = [channel for channel in group if channel not in plan.removed["conv.weight"][0]]
        if kept:
            out[:, kept] = F.group_norm(x[:, kept], 1, norm.weight[kept], norm.bias[kept], norm.eps)
    left: Tensor = model.out(out)
    return left


#: functions of the tables without a wrong version
WITHOUT_MUTANT: dict[Callable[..., Any], str] = {
    indifferent: "it writes nothing: there is nothing in it to forget",
}


def test_every_rule_and_every_size_handler_has_a_wrong_version() -> None:
    """Names that share a function share its wrong version; a composite is judged by its rule."""
    operators = {name for names, _, _ in RULE_MUTANTS.values() for name in names.split()}
    functions = {name for names, _ in SIZE_MUTANTS.values() for name in names.split()}
    tables: list[tuple[dict[str, Any], set[str]]] = [(RULES, operators), (HANDLERS, functions)]
    for table, names in tables:
        shown = {table[name] for name in names if name in table}
        assert not shown & WITHOUT_MUTANT.keys()
        assert [name for name, made in table.items() if made not in shown | WITHOUT_MUTANT.keys()] == []
    assert COMPOSITES.keys() <= RULES.keys()
