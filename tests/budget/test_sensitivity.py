"""Sensitivity curves against networks that are really cut; resumed to the same bytes; they feed the allocation."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import neuroprune
from neuroprune import Budget, Sensitivity, prune_to_budget, sensitivity
from neuroprune.base.errors import UserError
from neuroprune.base.progress import SilentProgress
from neuroprune.budget.curves import BROKEN, Curve, Point
from neuroprune.budget.judge import Judge
from neuroprune.graph import trace
from neuroprune.graph.units import Group
from neuroprune.pruning import GroupDecision, apply, build_plan, score

RATIOS = (0.25, 0.5, 0.75)


class Blocks(nn.Module):
    """Batch norms and a residual stream."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(2, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6)
        self.a, self.n, self.b = nn.Conv2d(6, 8, 3, padding=1), nn.BatchNorm2d(8), nn.Conv2d(8, 6, 1)
        self.head = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.stem(x)).relu()
        x = x + self.b(self.n(self.a(x)).relu())
        return self.head(x.mean((2, 3)))


class Tokens(nn.Module):
    """A layer norm over units, and heads."""

    def __init__(self) -> None:
        super().__init__()
        self.heads = 3
        self.embed, self.norm, self.qkv = nn.Linear(4, 8), nn.LayerNorm(8), nn.Linear(8, 36)
        self.out, self.head = nn.Linear(12, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        n, t, _ = x.shape
        x = self.norm(self.embed(x))
        q, k, v = self.qkv(x).view(n, t, 3, self.heads, 12 // 3).permute(2, 0, 3, 1, 4)
        y = nn.functional.scaled_dot_product_attention(q, k, v)
        return self.head(self.out(y.transpose(1, 2).reshape(n, t, -1)).relu().mean(1))


def made(kind: str = "blocks", seed: int = 0) -> tuple[nn.Module, list[Any]]:
    """A network with norms that are not the identity, and labelled batches."""
    torch.manual_seed(seed)
    model: nn.Module = Blocks() if kind == "blocks" else Tokens()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d | nn.LayerNorm):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.3)
    shape = (2, 6, 6) if kind == "blocks" else (5, 4)
    model.train()(torch.randn(64, *shape))
    return model.eval(), [(torch.randn(24, *shape), torch.randint(0, 3, (24,))) for _ in range(2)]


def really_cut(model: nn.Module, batches: list[Any], group: str, removed: int, criterion: str) -> nn.Module:
    """By plan and surgery: shapes change."""
    found = trace(model, batches[0][0][:2])
    scores = score(model, found, criterion)
    decisions = []
    for one in found.groups:
        gone = np.argsort(scores[one.name], kind="stable")[: removed if one.name == group else 0].tolist()
        kept = tuple(i for i in range(one.size) if i not in gone)
        decisions.append(
            GroupDecision(one.name, criterion, kept, tuple(sorted(gone)), tuple(scores[one.name]), 0.0, "", "")
        )
    return apply(build_plan(model, found, decisions), copy.deepcopy(model)).eval()


@pytest.mark.parametrize("kind", ["blocks", "tokens"])
@pytest.mark.parametrize("criterion", ["l2", "l1"])
def test_every_point_is_what_the_cut_network_gives(kind: str, criterion: str) -> None:
    model, batches = made(kind)
    before = copy.deepcopy(model.state_dict())
    found = sensitivity(model, batches, RATIOS, criterion=criterion)
    groups = {g.name: g for g in trace(model, batches[0][0][:2]).groups}
    assert {c.group for c in found.curves} == set(groups)
    assert any(g.statistics for g in groups.values()) == (kind == "tokens")
    x, y = (torch.cat([batch[i] for batch in batches]) for i in (0, 1))
    with torch.no_grad():
        dense = model(x)
        assert found.dense == pytest.approx(100 * float((dense.argmax(1) == y).float().mean()))
        for curve in found.curves:
            assert [p.ratio for p in curve.points] == list(RATIOS)
            for point in curve.points:
                small = really_cut(model, batches, curve.group, point.removed, criterion)
                assert sum(p.numel() for p in small.parameters()) < sum(p.numel() for p in model.parameters())
                given = small(x)
                wanted = float((given - dense).double().square().sum() / dense.double().square().sum())
                assert point.divergence == pytest.approx(wanted, rel=1e-4, abs=1e-9)
                agreement = 100 * float((given.argmax(1) == dense.argmax(1)).float().mean())
                assert point.agreement == pytest.approx(agreement)
                assert point.metric == pytest.approx(100 * float((given.argmax(1) == y).float().mean()))
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_counts_are_rounded_up_and_one_unit_stays() -> None:
    model, batches = made()
    found = sensitivity(model, batches, (0.01, 0.34, 0.99))
    assert [p.removed for p in found.curve("stem").points] == [1, 3, 5]
    assert [p.removed for p in found.curve("a").points] == [1, 3, 7]


def test_with_recover_a_consumer_is_the_least_squares_solution() -> None:
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 4)).eval()
    x = torch.randn(400, 5)
    plain, fitted = (sensitivity(model, [x], (0.5,), recover=recover).curves[0] for recover in (False, True))
    assert (plain.refitted, fitted.refitted) == (False, True)
    kept = np.sort(np.argsort(score(model, trace(model, x[:2]), "l2")["0"], kind="stable")[4:])
    with torch.no_grad():
        hidden, dense = model[1](model[0](x)).double().numpy(), model(x).double().numpy()
    design = np.c_[hidden[:, kept], np.ones(len(hidden))]
    best = design @ np.linalg.lstsq(design, dense, rcond=None)[0]
    assert fitted.points[0].divergence == pytest.approx(((best - dense) ** 2).sum() / (dense**2).sum(), rel=1e-3)
    assert fitted.points[0].divergence < 0.7 * plain.points[0].divergence  # type: ignore[operator]


@pytest.mark.parametrize("kind", ["blocks", "tokens"])
def test_recover_repairs_and_leaves_nothing_behind(kind: str) -> None:
    """The last group alone gives what it gives after all others were cut and put back."""
    model, batches = made(kind)
    every = sensitivity(model, batches, (0.5,), recover=True)
    plain = sensitivity(model, batches, (0.5,))
    fitted = [c.group for c in every.curves if c.refitted]
    assert fitted
    for group in fitted:
        assert every.curve(group).points[0].divergence < plain.curve(group).points[0].divergence  # type: ignore[operator]
    last = every.curves[-1].group
    alone = sensitivity(model, batches, (0.5,), recover=True, keep=[c.group for c in every.curves[:-1]])
    assert alone.curves == (every.curve(last),)


def test_labels_an_own_figure_or_outputs_alone() -> None:
    model, batches = made()
    images = [x for x, _ in batches]
    for found in (sensitivity(model, images, (0.5,)), sensitivity(model, batches, (0.5,), labels=False)):
        assert (found.metric, found.dense, found.curves[0].points[0].metric) == ("", None, None)
        assert found.curves[0].points[0].agreement is not None
    own = sensitivity(model, images, (0.5,), evaluate=lambda net: float(net(images[0]).mean()))
    assert own.metric == "metric"
    with torch.no_grad():
        assert own.dense == pytest.approx(float(model(images[0]).mean()))
    assert own.curve("a").points[0].metric != own.dense
    pairs = [(x, torch.rand(24, 4)) for x in images]  # a second input is no label
    assert sensitivity(model, pairs, (0.5,), forward=lambda net, batch: net(batch[0]) + batch[1]).metric == ""


def test_outputs_that_are_not_finite_any_more_have_no_divergence() -> None:
    model, batches = made()
    judge = Judge(model, lambda net, batch: net(batch[0]), batches)
    assert judge(model).divergence == 0
    broken = copy.deepcopy(model)
    broken.head.bias.data.fill_(float("nan"))  # type: ignore[union-attr, operator]
    assert judge(broken).divergence is None
    assert judge(broken).metric is not None


def test_a_network_without_class_scores_has_no_agreement() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 6), nn.ReLU(), nn.Linear(6, 1)).eval()
    point = sensitivity(model, [torch.randn(8, 3)], (0.5,)).curves[0].points[0]
    assert point.agreement is None
    assert point.divergence is not None
    assert point.divergence > 0


class Stops(SilentProgress):
    """Ctrl-C after so many points."""

    def __init__(self, after: int) -> None:
        self.left = after

    def advance(self, note: str = "") -> None:
        self.left -= 1
        if self.left < 0:
            raise KeyboardInterrupt


@pytest.mark.parametrize("recover", [False, True])
@pytest.mark.parametrize("after", [0, 1, 4])
def test_a_resumed_analysis_ends_in_the_same_bytes(tmp_path: Path, after: int, recover: bool) -> None:
    model, batches = made()
    options: dict[str, Any] = {"ratios": RATIOS, "recover": recover}
    whole = sensitivity(model, batches, **options, out=tmp_path / "whole.json")
    with pytest.raises(KeyboardInterrupt):
        sensitivity(model, batches, **options, out=tmp_path / "part.json", progress=Stops(after))
    part = Sensitivity.load(tmp_path / "part.json")
    assert sum(len(c.points) for c in part.curves) == after + 1
    assert not part.complete
    asked: list[int] = []
    again = sensitivity(
        model, batches, **options, out=tmp_path / "part.json", resume=True,
        evaluate=None, forward=lambda net, batch: (asked.append(1), net(batch[0]))[1],
    )  # fmt: skip
    assert again == whole == Sensitivity.load(tmp_path / "part.json")
    assert (tmp_path / "part.json").read_bytes() == (tmp_path / "whole.json").read_bytes()
    assert asked  # the rest was measured, not copied


def test_a_finished_file_is_not_measured_again(tmp_path: Path) -> None:
    model, batches = made()
    first = sensitivity(model, batches, (0.5,), out=tmp_path / "s.json")
    altered = first.to_json()
    altered["curves"][0]["points"][0]["divergence"] = 123.0
    Sensitivity.from_json(altered).save(tmp_path / "s.json")
    kept = sensitivity(model, batches, (0.5,), out=tmp_path / "s.json", resume=True)
    assert kept.curves[0].points[0].divergence == 123.0


def other_weights(model: nn.Module, batches: list[Any]) -> tuple[nn.Module, list[Any]]:
    changed = copy.deepcopy(model)
    changed.head.bias.data += 1  # type: ignore[union-attr, operator]
    return changed, batches


def other_data(model: nn.Module, batches: list[Any]) -> tuple[nn.Module, list[Any]]:
    return model, [(x + 1, y) for x, y in batches]


@pytest.mark.parametrize(
    ("change", "options", "named"),
    [
        (other_weights, {}, "model"),
        (other_data, {}, "data"),
        (None, {"ratios": (0.4,)}, "ratios"),
        (None, {"criterion": "l1"}, "criterion"),
        (None, {"recover": True}, "recover"),
        (None, {"keep": ["a"]}, "keep"),
        (None, {"labels": False}, "labels"),
        (None, {"seed": 1}, "seed"),
    ],
)
def test_what_was_measured_otherwise_is_not_gone_on_with(
    tmp_path: Path, change: Callable[..., Any] | None, options: dict[str, Any], named: str
) -> None:
    model, batches = made()
    sensitivity(model, batches, (0.5,), out=tmp_path / "s.json")
    before = (tmp_path / "s.json").read_bytes()
    model, batches = change(model, batches) if change else (model, batches)
    with pytest.raises(UserError, match="measured otherwise") as caught:
        sensitivity(model, batches, **{"ratios": (0.5,), **options}, out=tmp_path / "s.json", resume=True)
    assert named in str(caught.value)
    assert (tmp_path / "s.json").read_bytes() == before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ratios": ()}, "different numbers above 0"),
        ({"ratios": (0.5, 1.0)}, "different numbers above 0"),
        ({"ratios": (0.5, 0.5)}, "different numbers above 0"),
        ({"criterion": "l3"}, "did you mean 'l"),
        ({"criterion": "snip", "labels": False}, "needs a loss"),
        ({"batches": []}, "nothing to measure on"),
        ({"batches": [torch.full((4, 2, 6, 6), float("nan"))]}, "not finite"),
        ({"keep": ["nosuch"]}, "matches nothing"),
        ({"keep": ["*"]}, "no group of this network can be cut"),
        ({"resume": True}, "nothing to resume from"),
        ({"evaluate": lambda net: float("nan")}, "not finite"),
    ],
)
def test_what_cannot_be_done_is_said(options: dict[str, Any], message: str) -> None:
    model, batches = made()
    with pytest.raises(UserError, match=message):
        sensitivity(model, **{"batches": batches, "ratios": (0.5,), **options})


def test_a_file_that_is_there_is_not_written_over(tmp_path: Path) -> None:
    (tmp_path / "s.json").write_text("mine")
    with pytest.raises(UserError, match="is there already"):
        sensitivity(*made(), (0.5,), out=tmp_path / "s.json")
    with pytest.raises(UserError, match="not valid JSON"):
        sensitivity(*made(), (0.5,), out=tmp_path / "s.json", resume=True)
    assert (tmp_path / "s.json").read_text() == "mine"


def test_criteria_with_gradients_use_the_labels() -> None:
    assert sensitivity(*made(), (0.5,), criterion="snip").complete


def test_json_there_and_back_and_damage_is_said(tmp_path: Path) -> None:
    found = sensitivity(*made(), RATIOS)
    found.save(tmp_path / "s.json")
    assert Sensitivity.load(tmp_path / "s.json") == found
    text = json.loads((tmp_path / "s.json").read_text())
    assert text["kind"] == "measured"
    for broken in ([], {"schema": 9, "curves": []}, {"schema": 1, "curves": [{"group": "a"}]},
                   {**text, "unknown": 1}):  # fmt: skip
        with pytest.raises(UserError, match="sensitivity curves"):
            Sensitivity.from_json(broken)


def curve(*pairs: tuple[int, float | None], units: int = 5) -> Curve:
    return Curve("g", units, "channel", points=tuple(Point(0.1, n, value) for n, value in pairs))


def test_errors_run_through_the_points_and_never_fall() -> None:
    np.testing.assert_allclose(curve((2, 1.0), (4, 4.0)).errors(), [0, 0.5, 1, 2.5, 4, 5.5])
    np.testing.assert_allclose(curve((1, 2.0), (2, 1.0), (4, 4.0)).errors(), [0, 2, 2, 2.5, 4, 5.5])
    np.testing.assert_allclose(curve((1, 2.0), (2, 1.0)).errors(), [0, 2, 2, 2, 2, 2])
    np.testing.assert_allclose(curve((1, 0.1), (2, None)).errors()[:3], [0, 0.1, BROKEN])
    np.testing.assert_allclose(curve(units=2).errors(), [0, 0, 0])


def test_the_most_sensitive_come_first() -> None:
    steep, flat = replace(curve((1, 0.1), (2, 0.9)), group="steep"), curve((1, 0.2), (2, 0.3))
    found = Sensitivity((flat, steep), 1, options={"ratios": [0.1, 0.2]})
    assert [c.group for c in found.ranked()] == ["steep", "g"]
    assert found.damage(steep) == pytest.approx(0.5)
    rated = [replace(c, points=tuple(replace(p, metric=m) for p, m in zip(c.points, (90, v), strict=True)))
             for c, v in ((flat, 50), (steep, 70))]  # fmt: skip
    found = Sensitivity(tuple(rated), 1, "accuracy", "%", 95.0, {"ratios": [0.1, 0.2]})
    assert [c.group for c in found.ranked()] == ["g", "steep"]  # by the metric where there is one
    assert found.damage(rated[0]) == pytest.approx(25)


def test_errors_of_groups_that_were_not_measured() -> None:
    found = Sensitivity((curve((2, 1.0), units=5),), 1, options={"ratios": [0.4]})
    assert [len(e) for e in found.errors([Group("g", 5, ()), Group("one", 1, ())])] == [6, 2]
    for missing in (Group("h", 5, ()), Group("g", 6, ())):
        with pytest.raises(UserError, match="no sensitivity curve for the group"):
            found.errors([missing])
    with pytest.raises(UserError, match="not finished"):
        replace(found, options={"ratios": [0.4, 0.8]}).errors([Group("g", 5, ())])


def test_curves_choose_the_counts(tmp_path: Path) -> None:
    """Given from a file, as an object, or measured on the way; a curve that says a group is precious keeps it."""
    model, batches = made()
    images = [x for x, _ in batches]
    given = sensitivity(model, images, RATIOS, out=tmp_path / "s.json")
    options: dict[str, Any] = {"allocation": "sensitivity", "recover": "none"}
    budget = Budget(macs=0.6)
    plans = [
        prune_to_budget(model, images, budget, sensitivity=source, **options).plan
        for source in (given, tmp_path / "s.json", str(tmp_path / "s.json"))
    ]
    assert plans[0] == plans[1] == plans[2]
    assert prune_to_budget(model, images, budget, **options).verification.exact
    for precious in ("stem", "a"):
        curves = tuple(
            replace(c, points=tuple(replace(p, divergence=1e3 if c.group == precious else 1e-6) for p in c.points))
            for c in given.curves
        )
        kept = prune_to_budget(model, images, budget, sensitivity=replace(given, curves=curves), **options)
        shares = kept.plan.kept_fraction()
        assert shares[precious] == 1 > min(shares.values())


def test_curves_that_are_not_used_are_noted_and_of_another_network_refused() -> None:
    model, batches = made()
    given = sensitivity(model, batches, (0.5,))
    notes = prune_to_budget(model, batches, Budget(macs=0.8), sensitivity=given, recover="none").notes
    assert any("were not used" in note for note in notes)
    other = replace(given, curves=given.curves[:1])
    with pytest.raises(UserError, match="no sensitivity curve for the group"):
        prune_to_budget(model, batches, Budget(macs=0.8), sensitivity=other, allocation="sensitivity")


def test_the_verb_is_the_function_and_not_a_module() -> None:
    assert neuroprune.sensitivity is sensitivity
    assert callable(neuroprune.sensitivity)
