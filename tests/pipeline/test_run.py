"""Whole runs of small recipes: what the steps leave behind, resume, attempts, budgets, undo."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from neuroprune.base.errors import BudgetNotMet, Interrupted, UserError
from neuroprune.base.files import load_tensors, read_json
from neuroprune.compression.artifact import verify_artifact
from neuroprune.pipeline.recipe import Recipe, parse_recipe
from neuroprune.pipeline.run import run_recipe
from neuroprune.pipeline.step import STEPS, Outcome, StepConfig, step
from neuroprune.pruning.plan import Plan
from neuroprune.pruning.restore import restore
from neuroprune.pruning.surgery import apply
from neuroprune.report import build_report
from neuroprune.tasks.models import load_model

HEAD = """\
name: small
model: {spec: "neuroprune.tasks.nets:tiny_resnet"}
data: {spec: digits, limit: 300}
"""
TAIL = """
  - export
  - quantize: {calibration: 32}
  - validate
  - measure: {seconds: 0.1}
  - document
  - report
"""


def recipe(steps: str, head: str = HEAD) -> Recipe:
    return parse_recipe(f"{head}steps:\n{steps}")


ROUNDS = recipe(
    "  - train: {epochs: 3}\n  - initialise\n  - rounds: {rounds: 3, fraction: 0.2}\n  - cut\n"
    "  - finetune: {epochs: 1}\n  - cluster: {k: 8}" + TAIL
)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    out = tmp_path_factory.mktemp("run") / "out"
    result = run_recipe(ROUNDS, out)
    assert result.met is True
    return out


def results_of(run: Path) -> dict[str, Any]:
    found: dict[str, Any] = read_json(run / "results.json")
    return found


def test_the_run_folder_holds_what_it_promises(finished: Path) -> None:
    names = {path.name for path in finished.iterdir()}
    promised = {"recipe.yaml", "state.json", "steps", "undo", "artifact", "report.html", "results.json"}
    assert promised | {"journal.jsonl", "DOCUMENT.md"} <= names
    steps = sorted(path.name for path in (finished / "steps").iterdir())
    assert steps == [f"{i:02d}-{call.name}" for i, call in enumerate(ROUNDS.steps, start=1)]
    for name in steps:
        record = read_json(finished / "steps" / name / "record.json")
        assert record["summary"]
        assert record["seconds"] >= 0


def test_results_feed_the_report(finished: Path, tmp_path: Path) -> None:
    results = results_of(finished)
    assert [row["metric"] for row in results["table"]] == [
        "Parameters", "MACs", "File size", "Accuracy (test)", "Latency p50 (CPU)", "Latency p90 (CPU)",
        "Latency p50 (wall)", "Latency p90 (wall)", "Peak memory", "Energy per inference",
    ]  # fmt: skip
    assert {row["kind"] for row in results["table"]} == {"measured", "modelled"}
    assert results["curves"][0]["label"] == "dense training"
    assert len(results["rounds"]) == 3
    assert [v["role"] for v in results["variants"]].count("final") == 1
    assert results["variants"][0]["name"] == "dense fp32"
    units = sum(len(d.scores) for d in Plan.load(finished / "artifact" / "plan.json").decisions)
    assert len(results["units"]) == units
    build_report(results, tmp_path / "again.html")
    assert (tmp_path / "again.html").read_bytes() == (finished / "report.html").read_bytes()


def test_the_table_agrees_with_the_files(finished: Path) -> None:
    rows = {row["metric"]: row for row in results_of(finished)["table"]}
    weights = load_tensors(finished / "artifact" / "weights.safetensors")
    names = {name for name, _ in load_model("neuroprune.tasks.nets:tiny_resnet").named_parameters()}
    assert rows["Parameters"]["after"] == sum(t.numel() for name, t in weights.items() if name in names)
    chosen = next(v for v in results_of(finished)["variants"] if v["chosen"])
    file = "model.int8.onnx" if "int8" in chosen["name"] else "model.onnx"
    assert rows["File size"]["after"] == (finished / "artifact" / file).stat().st_size


def test_clustering_leaves_k_values_in_the_artifact(finished: Path) -> None:
    weights = load_tensors(finished / "artifact" / "weights.safetensors")
    for name, tensor in weights.items():
        if tensor.dim() >= 2:
            assert len(set(tensor.flatten().tolist())) <= 8, name


def test_the_artifact_verifies(finished: Path) -> None:
    report = verify_artifact(finished / "artifact")
    assert report.ok, str(report)


def test_undo_gives_the_dense_network_back_bit_for_bit(finished: Path) -> None:
    dense = load_tensors(finished / "steps" / "01-train" / "weights.safetensors")
    kept = load_tensors(finished / "undo" / "dense.safetensors")
    assert kept.keys() == dense.keys()
    assert all(torch.equal(kept[name], dense[name]) for name in dense)
    before = load_tensors(finished / "steps" / "03-rounds" / "weights.safetensors")
    masked = load_tensors(finished / "undo" / "before-cut" / "dense.safetensors")
    assert all(torch.equal(masked[name], before[name]) for name in before)


def test_a_cut_network_is_restored_in_place(finished: Path) -> None:
    plan = Plan.load(finished / "undo" / "plan.json")
    model = apply(plan, load_model("neuroprune.tasks.nets:tiny_resnet"))
    model.load_state_dict(load_tensors(finished / "artifact" / "weights.safetensors"))
    dense = load_tensors(finished / "undo" / "dense.safetensors")
    again = restore(plan, model, dense).state_dict()
    assert all(torch.equal(again[name], dense[name]) for name in dense)


def test_the_cut_network_equals_the_masked_one(finished: Path) -> None:
    """Independent of the oracle: weights from the step folders, float64, off units are exactly zero."""
    masked = load_model("neuroprune.tasks.nets:tiny_resnet").double()
    masked.load_state_dict(load_tensors(finished / "steps" / "03-rounds" / "weights.safetensors"))
    plan = Plan.load(finished / "steps" / "04-cut" / "plan.json")
    cut = apply(plan, load_model("neuroprune.tasks.nets:tiny_resnet")).double()
    cut.load_state_dict(load_tensors(finished / "steps" / "04-cut" / "weights.safetensors"))
    x = torch.rand(5, 1, 8, 8, dtype=torch.float64)
    a, b = masked.eval()(x).detach(), cut.eval()(x).detach()
    assert float((a - b).abs().max() / a.abs().max()) < 1e-12


def test_resuming_a_finished_run_recomputes_nothing(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*args: Any) -> Outcome:
        raise AssertionError("a finished step ran again")

    for call in ROUNDS.steps:
        monkeypatch.setattr("neuroprune.pipeline.run.Runner._do", never)
        assert STEPS.get(call.name)
    result = run_recipe(ROUNDS, finished, resume=True)
    artifact = load_tensors(finished / "artifact" / "weights.safetensors")
    state = result.model.state_dict()
    assert all(torch.equal(state[name], artifact[name]) for name in artifact)


def test_another_recipe_cannot_resume_the_run(finished: Path) -> None:
    other = parse_recipe(ROUNDS.text, overrides=["steps.train.epochs=4"])
    with pytest.raises(UserError, match=r"recipe\.steps\.1\.train\.epochs"):
        run_recipe(other, finished, resume=True)


def test_other_weights_cannot_resume_the_run(finished: Path) -> None:
    with pytest.raises(UserError, match="cannot resume: model"):
        run_recipe(ROUNDS, finished, resume=True, model=load_model("neuroprune.tasks.nets:tiny_resnet", seed=9))


def test_weight_masks_survive_fine_tuning(tmp_path: Path) -> None:
    steps = (
        "  - train: {epochs: 2}\n  - initialise: {granularity: weight}\n  - score: {criterion: l1}\n"
        "  - select: {granularity: weight, ratio: 0.6}\n  - finetune: {epochs: 1, distill: false}"
    )
    result = run_recipe(recipe(steps + TAIL), tmp_path / "out")
    masked = [p for p in result.model.parameters() if p.dim() >= 2]
    zeros = sum(int((p == 0).sum()) for p in masked) / sum(p.numel() for p in masked)
    assert zeros == pytest.approx(0.6, abs=0.01)
    layers = results_of(tmp_path / "out")["layers"]
    assert sum(layer["after"] for layer in layers) / sum(layer["before"] for layer in layers) == pytest.approx(
        0.4, abs=0.01
    )
    assert verify_artifact(tmp_path / "out" / "artifact").ok


def test_single_weights_cannot_be_cut(tmp_path: Path) -> None:
    steps = (
        "  - initialise: {granularity: weight}\n  - score: {criterion: l1}\n"
        "  - select: {granularity: weight}\n  - cut\n"
    )
    with pytest.raises(UserError, match="cannot be removed physically"):
        run_recipe(recipe(steps), tmp_path / "out")


def test_a_round_that_does_not_pay_is_undone(tmp_path: Path) -> None:
    """Without a reward for sparsity, and without retraining, losing accuracy can only be undone."""
    steps = (
        "  - train: {epochs: 12, lr: 0.1}\n  - initialise\n"
        "  - rounds: {rounds: 3, fraction: 0.8, lambda_weight: 0, epochs: 0}\n"
    )
    run_recipe(recipe(steps), tmp_path / "out")
    record = read_json(tmp_path / "out" / "steps" / "03-rounds" / "record.json")
    first, *_ = record["pieces"]["rounds"]
    assert first["accepted"] is False
    assert "undone" in first["note"]
    rounds = record["pieces"]["rounds"]
    assert [round_["fraction"] for round_ in rounds[:2]] == pytest.approx([0.8, 0.4])
    if not any(round_["accepted"] for round_ in rounds):  # nothing changed, so nothing was written
        assert not (tmp_path / "out" / "steps" / "03-rounds" / "weights.safetensors").exists()


MASKED = """\
  - train: {epochs: 2}
  - initialise: {granularity: G}
  - rounds: {granularity: G, epochs: 0, OPTIONS}
"""


def rounds_of(folder: Path, granularity: str, options: str) -> list[dict[str, Any]]:
    run_recipe(recipe(MASKED.replace("G", granularity).replace("OPTIONS", options)), folder)
    rounds: list[dict[str, Any]] = read_json(folder / "steps" / "03-rounds" / "record.json")["pieces"]["rounds"]
    return rounds


def test_rounds_follow_a_schedule_to_the_target(tmp_path: Path) -> None:
    options = "rounds: 4, target: 0.8, sparsity_schedule: cubic, lambda_weight: 1000"
    rounds = rounds_of(tmp_path / "out", "weight", options)
    expected = [0.8 * (1 - (1 - number / 4) ** 3) for number in (1, 2, 3, 4)]
    assert [one["fraction"] for one in rounds] == pytest.approx(expected)
    assert [one["sparsity"] for one in rounds] == pytest.approx(expected, abs=0.01)
    assert all(one["cost"] == 1 for one in rounds)  # zeros make nothing cheaper
    assert all(one["cost_reward"] == pytest.approx(one["metric"]) for one in rounds)


@pytest.mark.parametrize("cost", ["macs", "latency"])
def test_the_reward_by_cost_can_decide(cost: str, tmp_path: Path) -> None:
    options = f"rounds: 2, lambda_weight: 1000, reward: cost, cost: {cost}, seconds: 0.2"
    rounds = rounds_of(tmp_path / "out", "filter", options)
    for one in rounds:
        assert 0 < one["cost"] < 2
        assert one["cost_reward"] == pytest.approx(one["metric"] + 1000 * (1 - one["cost"]))
        assert one["cost_kind"] == cost
    best = read_json(tmp_path / "out" / "steps" / "01-train" / "record.json")["facts"]["dense_metric"]
    for one in rounds:
        assert one["accepted"] == (one["cost_reward"] >= best)
        best = max(best, one["cost_reward"])


BUDGET = """\
  - initialise
  - score: {criterion: l2}
  - fit_budget: {max_ratio: 0.6, tolerance: 0.2, batches: 1}
  - cut
  - finetune: {epochs: 1}"""


def test_a_met_budget_of_counts(tmp_path: Path) -> None:
    head = HEAD + "budget: {macs: 0.6, params: 0.7}\nmax_drop: 100\n"
    result = run_recipe(recipe(BUDGET + TAIL, head), tmp_path / "out")
    assert result.met
    result.require_met()
    rows = {row["metric"]: row for row in results_of(tmp_path / "out")["table"]}
    assert rows["MACs"]["after"] <= 0.6 * rows["MACs"]["before"]
    assert rows["Parameters"]["after"] <= 0.7 * rows["Parameters"]["before"]
    assert rows["MACs"]["met"] is True
    candidates = results_of(tmp_path / "out")["candidates"]
    assert sum(candidate["chosen"] for candidate in candidates) == 1
    assert len(candidates) >= 2


def test_a_budget_that_cannot_be_met_ends_with_the_best_and_its_name(tmp_path: Path) -> None:
    head = HEAD + "budget: {macs: 0.9, params: 0.01}\nmax_drop: 100\n"
    result = run_recipe(recipe(BUDGET + TAIL, head), tmp_path / "out")
    assert result.met is False
    assert result.binding == "params"
    with pytest.raises(BudgetNotMet, match="params") as caught:
        result.require_met()
    assert caught.value.exit_code == 3
    fit = read_json(tmp_path / "out" / "steps" / "03-fit_budget" / "record.json")["facts"]["fit"]
    assert fit["ratio"] == 0.6
    assert not fit["reached"]
    assert verify_artifact(tmp_path / "out" / "artifact").ok  # the best that was reached is kept whole
    assert (tmp_path / "out" / "report.html").is_file()


def test_a_lost_accuracy_is_corrected_and_then_reported(tmp_path: Path) -> None:
    """A well trained network, cut to the bone: int8 cannot help, longer training does not either."""
    head = HEAD + "budget: {macs: 0.05}\nmax_drop: 0\nattempts: 3\n"
    steps = "  - train: {epochs: 15, lr: 0.1}\n" + BUDGET.replace("max_ratio: 0.6", "max_ratio: 0.8")
    result = run_recipe(recipe(steps + TAIL, head), tmp_path / "out")
    assert result.met is False
    assert result.binding == "max_drop"
    names = [path.name.split("-")[1] for path in sorted((tmp_path / "out" / "steps").iterdir())]
    assert names.count("fit_budget") == names.count("measure") == 3
    assert names[-2:] == ["document", "report"]
    stages = {candidate["stage"] for candidate in results_of(tmp_path / "out")["candidates"]}
    assert stages == {"before fine-tuning", "after fine-tuning"}  # the attempts not kept are shown
    again = run_recipe(recipe(steps + TAIL, head), tmp_path / "out", resume=True)
    assert (again.met, again.binding, again.text) == (result.met, result.binding, result.text)


def test_a_full_disk_is_one_message_and_resume_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import errno

    import neuroprune.pipeline.run as run_module

    def full(*args: Any, **kwargs: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "somewhere")

    small = recipe("  - train: {epochs: 1}\n  - initialise\n")
    with monkeypatch.context() as patch:
        patch.setattr(run_module, "save_step", full)
        with pytest.raises(UserError, match="no room") as caught:
            run_recipe(small, tmp_path / "out", command="TYPE THIS")
    assert "TYPE THIS" in str(caught.value)
    assert not [path for path in (tmp_path / "out" / "steps").iterdir() if not path.name.endswith(".work")]
    run_recipe(small, tmp_path / "out", resume=True)


def test_ctrl_c_says_what_is_finished_and_how_to_go_on(tmp_path: Path) -> None:
    @step("stop_here", StepConfig, summary="presses Ctrl-C", source="test")
    def stop(context: Any, config: StepConfig) -> Outcome:
        raise KeyboardInterrupt

    try:
        stopped = recipe("  - train: {epochs: 1}\n  - stop_here\n")
        with pytest.raises(Interrupted, match="01-train") as caught:
            run_recipe(stopped, tmp_path / "out", command="neuroprune run r.yaml --resume")
    finally:
        STEPS.unregister("stop_here")
    assert "go on with: neuroprune run r.yaml --resume" in str(caught.value)
    assert caught.value.exit_code == 130


def test_the_users_model_is_not_modified(tmp_path: Path) -> None:
    model = load_model("neuroprune.tasks.nets:tiny_resnet", seed=3)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    result = run_recipe(recipe("  - train: {epochs: 1}\n"), tmp_path / "out", model=model)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert model.training
    assert result.model is not model
    assert not torch.equal(next(result.model.parameters()), next(model.parameters()))


def test_nothing_to_remove_is_said_at_once(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    with pytest.raises(UserError, match="nothing in this network can be removed"):
        run_recipe(recipe("  - initialise\n"), tmp_path / "out", model=model)


def test_a_network_no_better_than_chance_is_doubted(tmp_path: Path) -> None:
    run_recipe(recipe("  - initialise\n"), tmp_path / "out")
    record = json.loads((tmp_path / "out" / "steps" / "01-initialise" / "record.json").read_text())
    assert "are its weights loaded?" in record["summary"]


def test_threads_of_the_caller_are_put_back(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    run_recipe(parse_recipe(HEAD + "threads: 2\nsteps: [{train: {epochs: 0}}]\n"), tmp_path / "out")
    assert torch.get_num_threads() == 1
