"""The arithmetic behind the sections, against brute force and written-out answers."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from report.sample import sample_results

from neuroprune.report.results import Candidate, Unit, read_results
from neuroprune.report.sections import comparison, curves, document, layers, units
from neuroprune.report.sections.pareto import Point, by_stage, choose_axis, front, placed
from neuroprune.report.sections.variants import section as variants_section
from neuroprune.report.tree import nodes, worded


def candidate(**facts: Any) -> Candidate:
    empty = dict.fromkeys(("ratio", "params", "macs", "size_bytes", "latency_ms", "metric"))
    return Candidate(**{"label": "c", "stage": "", "chosen": False, **empty, **facts})


costs = st.integers(0, 6).map(float)


@given(st.lists(st.tuples(costs, costs), min_size=1, max_size=20))
def test_front_is_what_no_other_point_dominates(pairs: list[tuple[float, float]]) -> None:
    points = [Point(candidate(label=str(i)), cost, metric) for i, (cost, metric) in enumerate(pairs)]

    def dominated(p: Point) -> bool:
        return any(
            q.cost <= p.cost and q.metric >= p.metric and (q.cost, q.metric) != (p.cost, p.metric) for q in points
        )

    wanted = {(p.cost, p.metric) for p in points if not dominated(p)}
    best = front(points)
    assert [(p.cost, p.metric) for p in best] == sorted(wanted)


def test_the_axis_is_latency_only_where_most_candidates_have_it() -> None:
    with_latency, without = candidate(latency_ms=1.0, macs=5e6), candidate(macs=5e6)
    assert choose_axis([with_latency, with_latency, without]).spoken == "latency"
    assert choose_axis([with_latency, without]).spoken == "MACs"
    assert choose_axis([candidate(params=3.0)]).spoken == "parameters"
    assert choose_axis([without]).title == "MMACs per example"


def test_points_without_a_figure_are_not_placed() -> None:
    all_of_them = [candidate(macs=2.0, metric=1.0), candidate(macs=2.0), candidate(macs=2.0, metric=float("nan")),
                   candidate(metric=1.0)]  # fmt: skip
    assert len(placed(all_of_them, choose_axis(all_of_them))) == 1


def test_stages_have_fronts_of_their_own() -> None:
    points = [Point(candidate(stage=s), 1.0, 2.0) for s in ("before", "after", "before")]
    assert {stage: len(members) for stage, members in by_stage(points).items()} == {"before": 2, "after": 1}


def unit(group: str, number: int, score: float | None, threshold: float | None = 0.5) -> Unit:
    kept = score is not None and score >= 0.5
    return Unit(group, number, score, threshold, kept, "above" if kept else "below", "macs")


@given(st.lists(st.tuples(st.sampled_from("ab"), st.one_of(st.none(), st.floats(-9, 9))), min_size=1))
def test_columns_hold_every_unit(rows: list[tuple[str, float | None]]) -> None:
    found = [unit(group, i, score) for i, (group, score) in enumerate(rows)]
    block = json.loads(json.dumps(units.columns(units.grouped(found)), allow_nan=False))

    def at(column: Any, i: int) -> Any:
        return column[i] if isinstance(column, list) else column

    back = {
        (g["name"], g["unit"][i], bool(g["kept"][i]), block["texts"][at(g["reason"], i)], at(g["threshold"], i))
        for g in block["groups"]
        for i in range(len(g["unit"]))
    }
    assert back == {(u.group, u.unit, u.kept, u.reason, u.threshold) for u in found}
    scores = {u.unit: u.score for u in found}
    for g in block["groups"]:
        for number, score in zip(g["unit"], g["score"], strict=True):
            assert (
                score == pytest.approx(scores[number], rel=1e-5) if score is not None else scores[number] is None
            )


def test_too_many_units_keep_the_close_decisions_and_say_so() -> None:
    found = [unit("g", i, i / 8) for i in range(10)]
    (group,) = units.grouped(found, carried=4)
    assert [u.unit for u in group.carried] == [2, 3, 4, 5]
    assert (group.left_out, group.kept) == (6, 6)


def test_reasons_are_counted() -> None:
    (group,) = units.grouped([unit("g", i, 0.1 if i < 3 else 0.9) for i in range(5)])
    assert group.reasons == [("went", "below; bound by macs", 3), ("stayed", "above; bound by macs", 2)]
    assert group.more_reasons == 0


@pytest.mark.parametrize(
    ("row", "share"),
    [
        ({"before": 200, "after": 50}, 25.0),
        ({"before": 50, "after": 200}, None),
        ({"before": 0, "after": 0}, None),
        ({"before": float("inf"), "after": 1}, None),
        ({"before": 98.0, "after": 97.0, "unit": "%"}, None),
    ],
)
def test_share_bar_only_where_it_says_something(row: dict[str, Any], share: float | None) -> None:
    made = comparison.section(read_results({"table": [{"metric": "m", "kind": "measured", **row}]}))
    assert made is not None
    assert made.values["rows"][0]["share"] == share  # type: ignore[index]


def test_layers_without_a_count_are_in_the_table_and_the_lead_says_so() -> None:
    made = layers.section(read_results({"layers": [{"name": "a", "before": 4, "after": 1}, {"name": "b"}]}))
    assert made is not None
    assert "draws 1 of them; 1 are only in the table" in str(made.values["lead"])
    assert len(made.values["table"].rows) == 2  # type: ignore[attr-defined]


def test_variants_without_a_control_claim_no_speed() -> None:
    sample = sample_results()
    sample["variants"] = sample["variants"][1:]
    made = variants_section(read_results(sample))
    assert made is not None
    assert "No dense control" in str(made.values["lead"])
    chart = json.dumps([c.figure for c in made.values["charts"]], ensure_ascii=False)  # type: ignore[attr-defined]
    assert "\N{MULTIPLICATION SIGN}" not in chart


def test_a_tree_of_anything() -> None:
    tree = nodes(worded({"memory_bytes": 8_331_419_648, "flags": [True, None], "deep": {"a_b": [{"c": 1.5}]}}))
    assert [(n.name, n.text) for n in tree] == [("memory", "8.33 GB"), ("flags", "yes, —"), ("deep", "")]
    assert tree[2].children[0].name == "a b"
    assert tree[2].children[0].children[0].children[0].text == "1.5"


def test_a_tree_says_what_it_leaves_out() -> None:
    assert nodes({str(i): i for i in range(205)})[-1].text == "5 more entries left out"
    assert nodes({"l": list(range(205))})[0].text.endswith("(5 more entries left out)")
    deep: dict[str, object] = {"x": 1}
    for _ in range(9):
        deep = {"x": deep}
    assert "nested too deeply" in str(nodes(deep))


def test_curves_of_one_step_share_their_charts() -> None:
    made = curves.section(read_results(sample_results()))
    assert made is not None
    views: Any = made.values["curves"]
    assert [view["title"] for view in views] == [
        "dense training",
        "retraining, round 1 to retraining, round 8",
        "fine-tuning with distillation",
    ]
    joined = views[1]["charts"][0].figure
    assert joined["data"][0]["x"] == [float(i) for i in range(1, 9)]
    assert joined["layout"]["shapes"] == []
    assert [row[0] for row in views[1]["table"].rows][:2] == ["retraining, round 1", "retraining, round 2"]


def test_borders_part_longer_runs() -> None:
    curve = {"step": "s", "label": "r", "epochs": [{"epoch": i, "val_loss": 1.0} for i in (1, 2)]}
    made = curves.section(read_results({"curves": [curve, curve, {**curve, "step": "t"}]}))
    assert made is not None
    views: Any = made.values["curves"]
    assert [s["x0"] for s in views[0]["charts"][0].figure["layout"]["shapes"]] == [2.5]
    assert views[1]["charts"][0].figure["layout"]["shapes"] == []


def test_the_document_keeps_the_promised_order_and_gathers_options_by_step() -> None:
    parts = {"efficiency": {"x": "y"}, "hyper_parameters": {"01-train.lr": 0.1, "seed": 0, "01-train.max_n": 2},
             "extra": "z", "strategy": {"a": "b"}}  # fmt: skip
    made = document.section(read_results({"document": parts}))
    assert made is not None
    tree: Any = made.values["parts"]
    assert [part.name for part in tree] == ["strategy", "hyper parameters", "efficiency", "extra"]
    train, seed = tree[1].children
    assert (train.name, [(n.name, n.text) for n in train.children]) == (
        "01-train",
        [("lr", "0.1"), ("max n", "2")],
    )
    assert (seed.name, seed.text) == ("seed", "0")


def test_the_epoch_that_early_stopping_kept_is_marked() -> None:
    epochs = [
        {"epoch": k + 1, "val_loss": 1.0, "improved": better} for k, better in enumerate([True, True, False])
    ]
    made = curves.section(read_results({"curves": [{"step": "s", "label": "l", "epochs": epochs}]}))
    assert made is not None
    views: Any = made.values["curves"]
    assert [row[0] for row in views[0]["table"].rows] == ["1", "2 (kept)", "3"]
    assert "the weights of epoch 2 were kept" in views[0]["charts"][0].caption
