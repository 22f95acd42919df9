"""The parts of the benchmarks that decide what is counted, on inputs whose answer is written here."""

# ruff: noqa: E402  (the benchmarks are scripts in a folder, which has to be named before they can be imported)

from __future__ import annotations

import copy
import importlib.util
import json
import sys
import threading
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

ROOT = Path(__file__).resolve().parents[1]
sys.path.append(str(ROOT / "benchmarks"))  # at the end: the folder has a coverage.py, as the package index has

import fuzz
import scale
import tables
import training_free
from measuring import checks, cifar, free_summary, mlperf, ours, peer, race, shares, summary
from measuring.children import Report, _verdict, run_child
from measuring.lazily import Lazily
from measuring.records import Records, plain, to_do
from zoos import lazy, timm_zoo, torchvision_zoo

import neuroprune


def _script(folder: Path, text: str) -> str:
    path = folder / "child.py"
    path.write_text(text)
    return str(path)


class Narrowing(nn.Module):
    """Two convolutions and a head; nothing that a cut could not handle."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 6, 3)
        self.norm, self.head = nn.BatchNorm2d(6), nn.Linear(6, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.norm(self.b(self.a(x).relu())).mean((2, 3)))


def tiny_zoo() -> Any:
    def build(name: str, lazy: bool = False) -> tuple[nn.Module, Any]:
        torch.manual_seed(0)
        return Narrowing().eval(), torch.randn(1, 3, 7, 7)

    return SimpleNamespace(build=build, classes=lambda name: 4)


# records


def test_a_record_replaces_the_one_of_its_key_and_the_others_stay(tmp_path: Path) -> None:
    records = Records(tmp_path / "zoo.jsonl")
    for model, ratio, status in (
        ("a", 0.5, "error"),
        ("b", 0.5, "exact"),
        ("a", 0.3, "exact"),
        ("a", 0.5, "exact"),
    ):
        records.put({"model": model, "ratio": ratio, "status": status})
    assert {key: r["status"] for key, r in records.by_key().items()} == {
        ("a", 0.5): "exact", ("a", 0.3): "exact", ("b", 0.5): "exact"}  # fmt: skip
    assert len(records.path.read_text().splitlines()) == 3


def test_writers_at_the_same_time_lose_nothing(tmp_path: Path) -> None:
    def write(start: int) -> None:
        for number in range(start, start + 10):
            Records(tmp_path / "zoo.jsonl").put({"model": f"m{number}", "ratio": None})

    threads = [threading.Thread(target=write, args=(start,)) for start in (0, 10, 20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(Records(tmp_path / "zoo.jsonl").all()) == 30


def test_a_sweep_goes_on_and_repeats_what_it_is_told_to() -> None:
    done = {
        ("a", 0.5): {"status": "exact", "versions": {"commit": "new"}},
        ("b", 0.5): {"status": "timeout", "versions": {"commit": "old"}},
    }
    keys = [("a", 0.5), ("b", 0.5), ("c", 0.5)]
    assert to_do(keys, done, []) == [("c", 0.5)]
    assert to_do(keys, done, ["timeout"]) == [("b", 0.5), ("c", 0.5)]
    assert to_do(keys, done, ["stale"], "new") == [("b", 0.5), ("c", 0.5)]
    assert to_do(keys, done, ["all"]) == keys


def test_records_hold_no_infinity_and_no_path_of_this_machine() -> None:
    text = f"in /usr/lib/python3.11/site-packages/timm/models/vit.py:3 and {ROOT}/benchmarks/fuzz.py:7"
    assert plain({"x": [float("inf"), 1 / 3], "where": text}) == {
        "x": [None, 0.333333],
        "where": "in timm/models/vit.py:3 and benchmarks/fuzz.py:7",
    }


# children


def test_a_child_that_ends_is_believed(tmp_path: Path) -> None:
    text = "import json, sys; json.dump({'status': 'exact', 'x': 1}, open(sys.argv[-1], 'w'))"
    record = run_child([_script(tmp_path, text)], 60)
    assert (record["status"], record["x"]) == ("exact", 1)


def test_a_child_that_hangs_is_stopped(tmp_path: Path) -> None:
    assert run_child([_script(tmp_path, "import time; time.sleep(600)")], 0.3)["status"] == "timeout"


def test_the_verdict_names_the_stage_that_a_child_was_at(tmp_path: Path) -> None:
    noise = tmp_path / "noise.txt"
    noise.write_text("Traceback\nMemoryError")
    record = {"stage": "prune", "status": "both"}
    assert _verdict("timeout", record, -9, noise) == {"status": "timeout", "problem": "at stage prune"}
    assert _verdict("done", record, 0, noise) == {}
    crashed = _verdict("done", record, 1, noise)
    assert crashed == {"status": "error", "problem": "ended with 1 at stage prune: MemoryError"}
    noise.write_text("Fatal Python error: Aborted\n  File inner.py, line 3\n  File outer.py\n\nExtension modules")
    assert _verdict("done", record, -6, noise)["problem"].endswith("File inner.py, line 3")
    noise.write_text("")
    assert _verdict("done", record, -9, noise)["problem"].endswith("SIGKILL")


def test_a_child_that_dies_or_takes_too_much_is_an_error(tmp_path: Path) -> None:
    died = run_child([_script(tmp_path, "raise SystemExit('no such model')")], 60)
    assert died["status"] == "error"
    assert "no such model" in died["problem"]
    greedy = run_child([_script(tmp_path, "import time; x = b'x' * (4 * 10**8); time.sleep(600)")], 60, 200)
    assert greedy["status"] == "error"
    assert "memory" in greedy["problem"]


# shares


def group(name: str, *slices: tuple[str, int, list[list[int]]]) -> Any:
    parts = tuple(SimpleNamespace(tensor=t, dim=d, indices=np.array(i)) for t, d, i in slices)
    return SimpleNamespace(name=name, slices=parts, size=len(slices[0][2]))


def test_an_index_that_two_groups_cut_counts_once() -> None:
    heads = group("heads", ("w", 0, [[0, 1], [2, 3]]))  # two heads of two channels
    columns = group("columns", ("w", 0, [[0, 2], [1, 3]]), ("v", 1, [[0], [1]]))
    places = shares.removable_places([heads, columns])
    assert places == {("w", 0): {0, 1, 2, 3}, ("v", 1): {0, 1}}
    assert shares.achieved(places, {"w": {0: (0, 1, 2)}, "other": {0: (5,)}}) == 3 / 6
    assert shares.achieved({}, {"w": {0: (0,)}}) == 0


def test_removable_is_a_share_of_elements() -> None:
    model = nn.Sequential(nn.Linear(2, 3, bias=False), nn.Linear(3, 4, bias=False))
    assert shares.removable_share(model, {("0.weight", 0): {0}}) == 6 / 18


def test_the_commonest_reasons_come_first() -> None:
    refused = [
        SimpleNamespace(operator=op, reason="why") for op in ("mean", "sort", "mean", "view", "sort", "mean")
    ]
    assert shares.commonest(refused, 2) == [["mean: why", 3], ["sort: why", 2]]


# the checks that share nothing with the engine


def cut_by_hand(model: Narrowing, keep: list[int]) -> Narrowing:
    """``model`` without the outputs of its first layer that are not in ``keep``."""
    small = copy.deepcopy(model)
    small.a.weight.data, small.a.bias.data = model.a.weight[keep].data, model.a.bias[keep].data
    small.b.weight.data = model.b.weight[:, keep].data
    return small


def test_a_right_cut_equals_the_masked_network_and_a_wrong_one_does_not() -> None:
    model, inputs = checks.stir(Narrowing().eval()), torch.randn(1, 3, 7, 7)
    removed = {"a.weight": {0: (1, 6)}, "a.bias": {0: (1, 6)}, "b.weight": {1: (1, 6)}}
    right = cut_by_hand(model, [0, 2, 3, 4, 5, 7])
    assert checks.masked_error(model, right, removed, inputs)[0] < 1e-12
    wrong = copy.deepcopy(right)
    wrong.b.weight.data = model.b.weight[:, [0, 2, 3, 4, 5, 6]].data
    assert checks.masked_error(model, wrong, removed, inputs)[0] > 1e-3


def test_a_model_that_computes_in_float32_only_is_compared_in_it() -> None:
    class Single(Narrowing):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x) + torch.ones(1, 6, dtype=torch.float32) @ self.head.weight.T

    model, inputs = checks.stir(Single().eval()), torch.randn(1, 3, 7, 7)
    removed = {"a.weight": {0: (1, 6)}, "a.bias": {0: (1, 6)}, "b.weight": {1: (1, 6)}}
    error, allowed = checks.masked_error(model, cut_by_hand(model, [0, 2, 3, 4, 5, 7]), removed, inputs)
    assert error < allowed == checks.LOOSE


def test_a_model_that_kept_something_of_the_trace_is_noticed() -> None:
    model, inputs = Narrowing().eval(), torch.randn(1, 3, 7, 7)
    with torch.no_grad():
        before = checks.run(model, inputs)
    assert checks.left_alone(model, inputs, before) == ""
    model.forward = lambda x: before[0].as_subclass(nn.Parameter)
    assert checks.left_alone(model, inputs, before) == "it returns Parameter"
    model.forward = lambda x: before[0] + 1
    assert checks.left_alone(model, inputs, before) == "it returns other values"


def test_stirring_wakes_every_silent_branch() -> None:
    class Silent(Narrowing):
        def __init__(self) -> None:
            super().__init__()
            self.gain = nn.Parameter(torch.zeros(()))
            nn.init.normal_(self.head.weight, std=1e-4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x) * self.gain

    model = checks.stir(Silent())
    assert float(model.gain.detach()) >= 0.05
    assert float(model.head.weight.detach().std()) >= 0.9 * 6**-0.5
    for tensor in (model.norm.weight, model.norm.bias, model.norm.running_mean, model.norm.running_var):
        assert float(tensor.detach().std()) > 0


def test_difference_sees_integers_and_infinities() -> None:
    one, inf = torch.tensor([1.0, 2.0]), torch.tensor([1.0, float("inf")])
    assert checks.difference(one, one + torch.tensor([0, 0.5])) == 0.25
    assert checks.difference(inf, inf) == 0
    assert checks.difference(one, inf) == float("inf")
    assert checks.difference(torch.tensor([1]), torch.tensor([2])) == float("inf")


def test_a_model_that_cannot_run_or_train_is_told_apart() -> None:
    dense, inputs = Narrowing().eval(), torch.randn(1, 3, 7, 7)
    small = cut_by_hand(dense, [0, 1])
    assert checks.runs_like(dense, small, inputs) == (True, "")
    assert checks.trains(copy.deepcopy(small), dense, lambda: cut_by_hand(dense, [0, 1]), inputs) == (True, "")
    assert checks.trains(copy.deepcopy(small), dense, Narrowing, inputs)[0] is False  # its state dict does not fit
    broken = copy.deepcopy(small)
    broken.b.weight.data = dense.b.weight.data
    assert checks.runs_like(dense, broken, inputs)[0] is False
    assert checks.trains(broken, dense, Narrowing, inputs)[0] is False


def test_the_checksum_sees_one_changed_weight_and_one_changed_attribute() -> None:
    model = Narrowing()
    before = checks.checksum(model)
    assert checks.checksum(model) == before
    model.norm.running_mean[0] += 1
    assert checks.checksum(model) != before
    other = Narrowing()
    before = checks.checksum(other)
    other.a.groups = 3
    assert checks.checksum(other) != before


# one model, ours


def measured(monkeypatch: pytest.MonkeyPatch, folder: Path, change: Any = None) -> dict[str, Any]:
    """The record of the tiny network; ``change`` tampers with what neuroprune returns."""
    if change:
        real = neuroprune.prune
        monkeypatch.setattr(neuroprune, "prune", lambda *a, **k: change(real(*a, **k)), raising=False)
    ours.measure_prune(tiny_zoo(), "tiny", 0.5, Report(folder / "record.json"))
    return json.loads((folder / "record.json").read_text())


def test_an_exact_cut_is_recorded_as_such(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    record = measured(monkeypatch, tmp_path)
    assert (record["status"], record["trains"], record["runs"]) == ("exact", True, True)
    assert (record["achieved"], record["groups"]) == (0.5, 2)
    assert record["removable"] == pytest.approx(1 - 4 / record["params"], rel=1e-5)  # all but the last bias
    assert record["params_after"] < record["params"]


def test_a_wrong_result_is_caught_although_it_was_returned_as_exact(monkeypatch, tmp_path: Path) -> None:
    def swap(result: Any) -> Any:
        with torch.no_grad():
            result.model.b.weight.copy_(result.model.b.weight.flip(1))
        return result

    assert measured(monkeypatch, tmp_path, swap)["status"] == "wrong"


def test_a_result_without_proof_and_one_without_a_cut_are_told_apart(monkeypatch, tmp_path: Path) -> None:
    def unproven(result: Any) -> Any:
        said = SimpleNamespace(**{**vars(result.verification), "statistics": True, "exact": False})
        return replace(result, verification=said)

    assert measured(monkeypatch, tmp_path, unproven)["status"] == "wrong"
    monkeypatch.undo()

    def whole(result: Any) -> Any:
        dense = tiny_zoo().build("tiny")[0]
        return replace(result, model=dense, plan=neuroprune.Plan.identity(dense))

    assert measured(monkeypatch, tmp_path, whole)["status"] == "refused"


def test_a_model_that_was_changed_on_the_way_is_an_error(monkeypatch, tmp_path: Path) -> None:
    zoo, built = tiny_zoo(), []
    monkeypatch.setattr(zoo, "build", lambda name, make=zoo.build: built.append(make(name)) or built[-1])
    real = neuroprune.prune

    def careless(model: nn.Module, *args: Any, **kwargs: Any) -> Any:
        result = real(model, *args, **kwargs)
        model.norm.running_mean += 1
        return result

    monkeypatch.setattr(neuroprune, "prune", careless, raising=False)
    ours.measure_prune(zoo, "tiny", 0.5, Report(tmp_path / "record.json"))
    assert json.loads((tmp_path / "record.json").read_text())["status"] == "error"


# the peer


def test_what_was_kept_is_read_from_the_values() -> None:
    full = torch.randn(6, 5, 3, dtype=torch.float64)
    part = full[[0, 2, 5]][:, [1, 4]]
    assert peer.kept_indices(full, part) == [[0, 2, 5], [1, 4], [0, 1, 2]]
    assert peer.kept_indices(full, part.flip(0)) is None
    assert peer.kept_indices(full, part + 1) is None


def test_removed_indices_of_a_cut_by_hand() -> None:
    dense = peer.distinct(checks.stir(Narrowing()).double())
    small = cut_by_hand(dense, [0, 2, 3, 4, 5, 7])
    assert peer.removed_indices(dense, small) == {
        "a.weight": {0: [1, 6], 1: [], 2: [], 3: []}, "a.bias": {0: [1, 6]},
        "b.weight": {0: [], 1: [1, 6], 2: [], 3: []}}  # fmt: skip


def test_output_layers_are_found_without_the_number_of_classes() -> None:
    model, inputs = Narrowing().eval(), torch.randn(1, 3, 7, 7)
    assert peer.output_layers(model, inputs, None) == [model.head]
    assert peer.output_layers(model, inputs, 6) == [model.b, model.head]


def test_norms_without_statistics_only_scale_and_shift() -> None:
    for norm, x in ((nn.LayerNorm(4), torch.randn(2, 3, 4)), (nn.GroupNorm(2, 4), torch.randn(2, 4, 3))):
        checks.stir(norm)
        peer.without_statistics(norm)
        shape = (4,) if isinstance(norm, nn.LayerNorm) else (4, 1)
        assert torch.equal(norm(x), x * norm.weight.reshape(shape) + norm.bias.reshape(shape))


def test_a_plan_without_weights_takes_the_first_units() -> None:
    with torch.device("meta"):
        model, inputs = Narrowing().eval(), torch.zeros(1, 3, 7, 7)
    plan = race.plan_of_first(model, neuroprune.trace(model, inputs), 0.5)
    assert plan.removed["a.weight"][0] == (0, 1, 2, 3)
    assert plan.removed["b.weight"] == {0: (0, 1, 2), 1: (0, 1, 2, 3)}


# zoos


def test_large_weights_are_never_written_and_small_ones_are() -> None:
    before = torch.get_rng_state()
    with lazy.unwritten(True):
        nn.init.trunc_normal_(nn.Linear(512, 512, bias=False).weight, std=0.02)
        assert torch.equal(torch.get_rng_state(), before)
        small = nn.Linear(8, 8)
        table = torch.arange(100_000.0).mul_(2)
    assert not torch.equal(torch.get_rng_state(), before)
    assert 0 < float(small.weight.detach().abs().max()) <= 8**-0.5
    assert float(table[-1]) == 199_998


def test_the_committed_tables_of_names() -> None:
    document = json.loads(timm_zoo.SMALLEST.read_text())
    assert len(document["models"]) == len({row["module"] for row in document["models"]}) == 98
    assert sum(row["members"] for row in document["models"]) == 1371
    assert timm_zoo.names("smallest") == [row["name"] for row in document["models"]]
    assert len(set(torchvision_zoo.peer_names())) == 85


# summaries


def test_cut_as_asked_means_proven_and_within_five_points() -> None:
    assert summary.pruned({"status": "exact", "achieved": 0.46, "ratio": 0.5})
    assert not summary.pruned({"status": "exact", "achieved": 0.44, "ratio": 0.5})
    assert not summary.pruned({"status": "wrong", "achieved": 0.5, "ratio": 0.5})
    assert not summary.pruned({"status": "refused", "ratio": 0.5})


def test_the_rows_of_the_coverage_table(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(summary, "RESULTS", tmp_path)
    assert summary.coverage("transformers") == summary.NOTHING
    made = {"versions": {"commit": "abc", "torch": "2"}, "seconds": 1.0, "params": 10}
    good = {"achieved": 0.5, "removed": 0.7, "removable": 1.0, "trains": True, "peak_mb": 1.0, "trace_cpu_s": 0.1}
    mine, theirs = (Records(tmp_path / "coverage" / f"transformers{end}.jsonl") for end in ("", ".peer"))
    mine.put({**made, **good, "model": "bert", "ratio": 0.5, "status": "exact"})
    mine.put({**made, "model": "gpt2", "ratio": 0.5, "status": "timeout", "problem": "at stage | prune"})
    theirs.put({**made, "model": "bert", "ratio": 0.5, "status": "runs", "removed": 0.71, "exact": "no"})
    theirs.put({**made, "model": "gpt2", "ratio": 0.5, "status": "broken"})
    cells = [cell.strip() for cell in summary.coverage("transformers").splitlines()[2].split("|")[1:-1]]
    assert cells == ["tiny transformers", "50 %", "2 of 10", "1", "0", "0", "0", "0", "1", "1", "1 of 1", "70.0 %",
                     "1 of 2", "0 / 1 / 0", "0 of 1"]  # fmt: skip
    page = summary.models("transformers")
    assert "runs, not equal" in page
    assert "at stage \\| prune" in page


def test_the_race_counts_who_came_to_an_end(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(summary, "RESULTS", tmp_path)
    records = Records(tmp_path / "coverage" / "timm.race.jsonl")
    for name, mine, theirs in (("a", 1.0, 4.0), ("b", 3.0, 1.0), ("c", 1.0, None)):
        quotient = mine / theirs if theirs else None
        records.put({"model": name, "ratio": 0.5, "ours": mine, "theirs": theirs, "quotient": quotient,
                     "status": "timeout"})  # fmt: skip
    row = summary.race().splitlines()[2]
    assert row == "| timm | 3 | 2 | 1 | 0 | 1.62 | 3.00 | 1 | 1 |"


def test_the_interval_of_a_paired_drop_counts_only_what_changed() -> None:
    """By hand: 8 lost and 3 won of 100: (0.08 + 0.03 - 0.05^2) / 100 is the variance of the difference."""
    record = {"lost": 8, "won": 3, "examples": 100}
    assert free_summary.half_width(record) == pytest.approx(196 * (0.1075 / 100) ** 0.5)
    assert free_summary.half_width(record | {"lost": 0, "won": 0}) == 0


def test_the_rows_of_the_table_without_training(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(free_summary, "FILE", tmp_path / "free.jsonl")
    assert free_summary.training_free() == "Not measured yet."
    records = Records(tmp_path / "free.jsonl", free_summary.KEY)
    made = {
        "model": "net",
        "ratio": 2.1,
        "status": "done",
        "lost": 3,
        "won": 1,
        "examples": 100,
        "agreement": 95.0,
    }
    records.put({**made, "method": "distill", "subset": 0, "accuracy": 90.0, "cpu_s": 8.0, "peak_mb": 7.0})
    records.put({**made, "method": "distill", "subset": 1, "accuracy": 92.0, "cpu_s": 10.0, "peak_mb": 5.0})
    records.put({**made, "method": "l1", "subset": 0, "accuracy": 50.0, "cpu_s": 1.0, "peak_mb": 4.0})
    records.put({"model": "net", "method": "none", "ratio": 2.1, "subset": 0, "status": "timeout"})
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in free_summary.training_free().splitlines()]
    assert rows[2:] == [
        ["net", "2.1x", "L1", "50.00", "2.00 ± 3.90", "95.00", "", "1", "4", "1"],
        ["net", "2.1x", "+ distillation", "91.00 (1.41)", "2.00 ± 3.90", "95.00 (0.00)", "", "9 (1)", "7", "2"],
    ]


def test_a_process_gives_one_record_for_each_method_that_was_asked_for() -> None:
    told = {"status": "timeout", "problem": "at stage l1", "seconds": 9.0, "rows": {"l1": {"accuracy": 1.0}}}
    first, second = training_free.split(told, "net", 2.1, 3, ["l1", "distill"])
    assert (first["method"], first["status"], first["accuracy"]) == ("l1", "done", 1.0)
    assert (second["method"], second["status"], second["problem"]) == ("distill", "timeout", "at stage l1")
    assert {record["subset"] for record in (first, second)} == {3}


def test_images_and_their_mirror_images_come_once_each() -> None:
    images = torch.rand(5, 1, 2, 2)
    batches = cifar.Mirrored(images, 4, seed=1)
    assert [len(batch) for batch in batches] == [4, 4, 2]
    found = sorted(torch.cat(list(batches)).flatten(1).tolist())
    assert found == sorted(torch.cat([images, images.flip(3)]).flatten(1).tolist())
    assert all(torch.equal(a, b) for a, b in zip(batches, cifar.Mirrored(images, 4, seed=1), strict=True))


def test_a_document_gets_the_table_its_marker_names() -> None:
    text = "a\n<!-- one: by a script -->\nold\n<!-- /one -->\nb"
    assert tables.filled(text, {"one": lambda: "new"}) == text.replace("old", "new")
    with pytest.raises(KeyError):
        tables.filled(text, {})


# fuzz and scale


def test_networks_are_drawn_the_same_for_ever_and_long_enough() -> None:
    assert fuzz.drawn(0, 7) == fuzz.drawn(0, 7) != fuzz.drawn(0, 8)
    lengths = {len(fuzz.drawn(0, number)[0]) for number in range(300)}
    assert min(lengths) == 5
    assert max(lengths) == 40


def test_outcomes_of_random_networks_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    genes, ratio, seed = fuzz.drawn(0, 0)
    assert fuzz.outcome(genes, ratio, seed)[0] in ("exact", "statistics", "whole", "refused")
    real = neuroprune.prune

    def swapped(*args: Any, **kwargs: Any) -> Any:
        result = real(*args, **kwargs)
        result.model.head.weight.data.add_(1)
        return result

    monkeypatch.setattr(neuroprune, "prune", swapped, raising=False)
    monkeypatch.setattr(fuzz, "RandomNetwork", lambda genes, seed: Narrowing())
    monkeypatch.setattr(fuzz, "example", lambda model: torch.randn(1, 3, 7, 7))
    assert fuzz.outcome(genes, ratio, seed)[0] == "wrong"
    monkeypatch.setattr(neuroprune, "prune", lambda *a, **k: 1 / 0, raising=False)
    assert fuzz.outcome(genes, ratio, seed)[0] == "exception"
    monkeypatch.setattr(fuzz, "RandomNetwork", lambda genes, seed: 1 / 0)
    assert fuzz.outcome(genes, ratio, seed)[0] == "invalid"


def test_a_document_counts_all_chunks_and_keeps_every_failure() -> None:
    kept = [{"status": "wrong", "number": 3}, *({"status": "refused", "number": n} for n in range(300))]
    first = fuzz.trimmed({}, {"counts": {"exact": 95, "refused": 4, "wrong": 1}, "kept": kept, "seconds": 2.0})
    assert first["kept"][0]["status"] == "wrong"
    assert len(first["kept"]) == 1 + fuzz.KEEP_REFUSED
    second = fuzz.trimmed({"0": first}, {"counts": {"invalid": 100}, "kept": kept, "seconds": 1.0})
    assert [item["status"] for item in second["kept"]] == ["wrong"]
    document = fuzz.gathered({"0": {**first, "commit": "a"}, "100": {**second, "commit": "b"}}, {}, seed=0)
    assert document["networks_by_commit"] == {"a": 100, "b": 100}
    assert (document["networks"], document["failed"], document["refused_share"]) == (200, 1, 0.04)


def test_the_decoders_have_the_sizes_their_names_say() -> None:
    with torch.device("meta"):
        sizes = {name: shares.parameters(scale.Decoder(shape)) for name, shape in scale.SIZES.items()}
    assert sizes["7B"] == 6_738_415_616  # Llama-7B
    assert sizes["7B-gqa"] == 7_241_732_096  # Mistral-7B
    for name, wanted in (("10M", 1e7), ("100M", 1e8), ("1B", 1e9)):
        assert 0.7 <= sizes[name] / wanted <= 1.3


def test_the_decoder_reads_its_past_only() -> None:
    model = scale.Decoder(scale.Shape(16, 2, 4, 2, 24, 30)).eval()
    tokens = torch.randint(30, (2, 6))
    other = tokens.clone()
    other[:, 4:] = (other[:, 4:] + 1) % 30
    with torch.no_grad():
        one, two = model(tokens), model(other)
    assert torch.allclose(one[:, :4], two[:, :4], atol=1e-6)
    assert not torch.allclose(one[:, 4:], two[:, 4:], atol=1e-3)


def test_the_command_line_of_the_sweep() -> None:
    spec = importlib.util.spec_from_file_location("coverage_benchmark", ROOT / "benchmarks" / "coverage.py")
    assert spec is not None
    assert spec.loader is not None
    coverage = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(coverage)
    wanted = {
        "--zoo timm": ["prune"],
        "--zoo timm --peer torch-pruning": ["prune", "peer"],
        "--zoo timm --peer-only": ["peer"],
        "--zoo timm --trace-only --set all": ["trace"],
        "--zoo timm --race --models a,b": ["race"],
    }
    for words, modes in wanted.items():
        assert coverage.modes(coverage.parsed(words.split())) == modes
    assert coverage.parsed(["--zoo", "timm", "--again", "timeout,error"]).again == ["timeout", "error"]
    assert coverage.parsed(["--zoo", "timm", "--again"]).again == ["all"]
    with pytest.raises(SystemExit):
        coverage.parsed([])


# the networks of MLPerf Tiny


def test_the_keyword_net_is_as_accurate_as_published(shared_data: Path) -> None:
    features, labels = mlperf.keywords()
    model = mlperf.keyword_net()
    assert int((cifar.predictions(model, features) == labels).sum()) == 913
    assert sum(p.numel() for p in model.parameters()) == 23_756


def test_the_image_net_is_as_accurate_as_published(shared_data: Path) -> None:
    """88.1 % of 1,017 images, give or take one; Keras counts the batch norms' statistics as parameters."""
    _, _, test, labels = mlperf.images()
    model = mlperf.image_net()
    assert abs(int((cifar.predictions(model, test) == labels).sum()) - 0.881 * 1017) < 1.5
    statistics = sum(b.numel() for b in model.buffers() if b.is_floating_point())
    assert sum(p.numel() for p in model.parameters()) + statistics == 78_666


def test_no_example_calibrates_and_tests(shared_data: Path) -> None:
    features = mlperf.keywords()[0]
    for subset in (0, 3):
        data = mlperf.keyword_data(subset)
        assert (len(data.calibration), len(data.test), len(data.labels)) == (300, 700, 700)
        both = torch.cat([data.calibration, data.test]).flatten(1)
        assert len(torch.unique(both, dim=0)) == len(torch.unique(features.flatten(1), dim=0))
    assert not torch.equal(mlperf.keyword_data(0).calibration, mlperf.keyword_data(1).calibration)
    assert torch.equal(mlperf.image_data(1, 8).calibration, mlperf.image_data(1, 8).calibration)


def test_keras_layouts_are_turned_into_ours() -> None:
    """Entries of a kernel [height, width, inputs, outputs] and a matrix [inputs, outputs] are known again."""
    held = {
        f"conv2d{n}/kernel:0": torch.arange(24.0).view(1, 2, 3, 4) for n in ("", *(f"_{i}" for i in range(1, 9)))
    }
    held |= {name.replace("kernel", "bias"): torch.zeros(4) for name in list(held)}
    for norm in ("", *(f"_{i}" for i in range(1, 7))):
        held |= {f"batch_normalization{norm}/{one}:0": torch.zeros(4) for one in mlperf._OF_NORM}
    held |= {"dense/kernel:0": torch.arange(6.0).view(2, 3), "dense/bias:0": torch.zeros(3)}
    state = mlperf.from_keras(held)
    assert state["blocks.1.skip.weight"][3, 2, 0, 1] == held["conv2d_5/kernel:0"][0, 1, 2, 3]
    assert state["dense.weight"][2, 1] == held["dense/kernel:0"][1, 2]


def test_lazy_batches_are_the_same_at_each_access() -> None:
    lazy = Lazily(10, 4, 5)
    assert [len(batch) for batch in lazy] == [4, 4, 2]
    assert torch.equal(lazy[1], lazy[1:2][0])
    assert torch.equal(lazy[-1], lazy[2])
    assert not torch.equal(lazy[0], lazy[1])
    with pytest.raises(IndexError):
        lazy[3]
