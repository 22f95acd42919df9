"""The folder that is built, and its two ways to run, against a loop over examples and levels."""

from __future__ import annotations

import copy
import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from cascade_nets import digits, trained

from neuroprune.base.errors import UserError
from neuroprune.cascade.build import CascadeOptions, build_cascade
from neuroprune.cascade.runner import NEVER, CascadeRunner, OperatingPoint, confidence
from neuroprune.cascade.single_file import Rung, write_single_file
from neuroprune.pruning import Plan

OPTIONS = CascadeOptions(levels=(0.15, 0.45, 1.0), examples=256, seconds=0.05)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("cascade") / "digits"
    build_cascade(trained(), digits(), out, OPTIONS)
    return out


@pytest.fixture
def runner(folder: Path) -> CascadeRunner:
    return CascadeRunner.load(folder)


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return torch.cat([batch[0] for batch in digits().test.epoch(None)])[:60].numpy()


def session(path: Path) -> Any:
    return onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])


def looped(folder: Path, image: np.ndarray, point: OperatingPoint) -> tuple[int, np.ndarray]:
    """Level and scores [1, classes] of one example [1, ...], by the files and the document alone."""
    document = json.loads((folder / "cascade.json").read_text())
    for level in point.path:
        scores = session(folder / f"level{level}.onnx").run(None, {"x": image})[0]
        exps = np.exp((scores[0] - scores[0].max()) / document["levels"][level]["temperature"])
        if level == point.path[-1] or exps.max() / exps.sum() >= point.threshold:
            return level, scores
    raise AssertionError


def harder(runner: CascadeRunner) -> None:
    """A point at which each level answers some."""
    sure = confidence(runner._scores(0, [runner_images()]), runner.levels[0]["temperature"])
    point = replace(runner.points["path-0-1-2"], threshold=float(np.median(sure)))
    runner.points["some"] = point
    runner.set_operating_point("some")


def runner_images() -> np.ndarray:
    return torch.cat([batch[0] for batch in digits().test.epoch(None)])[:60].numpy()


def test_what_lies_in_the_folder(folder: Path) -> None:
    assert sorted(path.name for path in folder.iterdir()) == [
        "cascade.json", "cascade.onnx", "level0.onnx", "level1.onnx", "level2.onnx", "pytorch", "runner.py",
    ]  # fmt: skip
    plans = [Plan.load(folder / "pytorch" / f"level{n}.plan.json") for n in range(3)]
    assert plans[2].removed == {}
    for small, large in ((plans[0], plans[1]), (plans[1], plans[2])):
        for name, dims in large.removed.items():
            for dim, gone in dims.items():
                assert set(gone) <= set(small.removed[name][dim])


def test_one_by_one_the_runner_answers_as_a_loop_does(
    folder: Path, runner: CascadeRunner, images: np.ndarray
) -> None:
    harder(runner)
    used = set()
    for image in images[:, None]:
        level, scores = looped(folder, image, runner.points["some"])
        answer = runner(image)
        assert answer.level.tolist() == [level]
        assert np.array_equal(answer.outputs, scores)  # bit for bit
        used.add(level)
    assert used == {0, 1, 2}


def test_in_a_batch_every_example_takes_its_own_way(runner: CascadeRunner, images: np.ndarray) -> None:
    harder(runner)
    batch = runner(images)
    for number, image in enumerate(images[:, None]):
        alone = runner(image)
        assert batch.level[number] == alone.level[0]
        assert batch.outputs[number] == pytest.approx(alone.outputs[0], rel=1e-4, abs=1e-4)
        assert batch.confidence[number] == pytest.approx(alone.confidence[0], abs=1e-5)


def single(folder: Path, tmp_path: Path, runner: CascadeRunner, path: tuple[int, ...], threshold: float) -> Any:
    rungs = [Rung(folder / f"level{n}.onnx", n, runner.levels[n]["temperature"]) for n in path]
    write_single_file(rungs, threshold, tmp_path / "one.onnx")
    onnx.checker.check_model(onnx.load(tmp_path / "one.onnx"), full_check=True)
    return session(tmp_path / "one.onnx")


@pytest.mark.parametrize("path", [(0,), (0, 2), (1, 2), (0, 1, 2)])
def test_one_file_answers_as_several_do(
    folder: Path, tmp_path: Path, runner: CascadeRunner, images: np.ndarray, path: tuple[int, ...]
) -> None:
    harder(runner)
    threshold = runner.points["some"].threshold
    one = single(folder, tmp_path, runner, path, threshold)
    runner.points["own"] = replace(runner.points["some"], path=path)
    for image in images[:, None]:
        scores, level, sure = one.run(None, {"x": image})
        answer = runner(image, point="own")
        assert level.tolist() == answer.level.tolist()
        assert np.array_equal(scores, answer.outputs)
        assert sure == pytest.approx(answer.confidence, abs=1e-6)


def test_the_threshold_of_one_file_is_an_input_that_may_be_left_out(
    folder: Path, tmp_path: Path, runner: CascadeRunner, images: np.ndarray
) -> None:
    one = single(folder, tmp_path, runner, (0, 2), 0.0)
    image = images[:1]
    assert one.run(["level"], {"x": image})[0].tolist() == [0]
    never = np.array([NEVER], dtype=np.float32)
    assert one.run(["level"], {"x": image, "threshold": never})[0].tolist() == [2]
    with pytest.raises(Exception, match="Got: 2 Expected: 1"):
        one.run(None, {"x": images[:2]})  # the decision is about one example


def test_nan_goes_all_the_way_both_ways(
    folder: Path, tmp_path: Path, runner: CascadeRunner, images: np.ndarray
) -> None:
    broken = images[:1].copy()
    broken[0, 0, 3, 3] = np.nan
    one = single(folder, tmp_path, runner, (0, 1, 2), 0.0)
    scores, level, sure = one.run(None, {"x": broken})
    runner.points["all"] = replace(runner.points["path-0-1-2"], threshold=0.0)
    answer = runner(np.concatenate([broken, images[1:2]]), point="all")
    assert level.tolist() == [2]
    assert answer.level.tolist() == [2, 0]
    assert np.isnan(sure).all()
    assert np.isnan(answer.confidence).tolist() == [True, False]
    assert np.isnan(scores).any()


def test_the_file_that_was_built_runs_the_default_point(
    folder: Path, runner: CascadeRunner, images: np.ndarray
) -> None:
    one, path = session(folder / "cascade.onnx"), list(runner.points[runner.point].path)
    assert runner.document["single_file"]["path"] == path
    for image in images[:20, None]:
        assert one.run(["level"], {"x": image})[0].tolist() == runner(image).level.tolist()


def test_the_last_level_is_the_dense_network(runner: CascadeRunner, images: np.ndarray) -> None:
    with torch.no_grad():
        wanted = trained()(torch.from_numpy(images)).numpy()
    answer = runner(images, point="level-2")
    assert answer.outputs == pytest.approx(wanted, rel=1e-4, abs=1e-4)
    assert all(level["error"] < 1e-4 for level in runner.levels)


def test_figures_of_the_document_are_those_of_its_files(runner: CascadeRunner) -> None:
    """Validation and test accuracy of every point, counted again with the runner."""
    for split, figures in (
        ("val", runner.document["operating_points"]),
        ("test", runner.document["test"]["points"]),
    ):
        batches = list(getattr(digits(), split).epoch(None))
        inputs = torch.cat([batch[0] for batch in batches]).numpy()
        labels = torch.cat([batch[1] for batch in batches]).numpy()
        for name, row in figures.items():
            answer = runner(inputs, point=name)
            assert 100 * np.mean(answer.outputs.argmax(1) == labels) == pytest.approx(row["accuracy"]), name
            assert [np.mean(answer.level == n) for n in range(3)] == pytest.approx(row["shares"]), name


def test_points_keep_the_accuracy_that_they_are_named_after(runner: CascadeRunner) -> None:
    dense = runner.document["dense"]["accuracy"]
    assert runner.points["lose-0"].accuracy >= dense
    assert runner.points["lose-1"].accuracy >= dense - 1
    assert runner.document["default"] == "lose-0"


def test_budgets_choose_at_run_time(runner: CascadeRunner, images: np.ndarray) -> None:
    points = {name: OperatingPoint((n,), 0.0, 50 + n, n + 1.0, n + 1.0, n + 1.0, 10.0 * (n + 1), (1.0, 0, 0))
              for n, name in enumerate(("a", "b", "c"))}  # fmt: skip
    points["cascade"] = OperatingPoint((0, 2), 0.9, 52.0, 1.5, 4.0, 4.0, 15.0, (0.8, 0, 0.2))
    runner.points = points
    assert runner.choose(budget_ms=2.5) == "b"
    assert runner.choose(budget_ms=3.0) == "c"
    assert runner.choose(budget_ms=100) == "cascade"  # as accurate as c, and faster on average
    assert runner.choose(energy_uj=15) == "cascade"
    assert runner.choose(energy_uj=14.9) == "a"
    assert runner.choose(energy_uj=15, budget_ms=3.9) == "a"
    assert runner.choose(power_mw=1, per_second=50, budget_ms=3) == "b"  # 20 uJ each
    assert runner.choose(power_mw=1, per_second=50, budget_ms=1) == "a"
    assert runner(images[:3], budget_ms=1).point == "a"
    assert runner(images[:3], power_mw=1, per_second=10).point == "cascade"
    with pytest.raises(UserError, match="no operating point fits"):
        runner.choose(budget_ms=0.5)


@pytest.mark.parametrize(
    ("limits", "says"),
    [({}, "no budget"), ({"budget_ms": 0.0}, "above 0"), ({"budget_ms": float("nan")}, "above 0"),
     ({"energy_uj": -1.0}, "above 0"), ({"power_mw": 5.0}, "so many examples a second"),
     ({"per_second": 5.0}, "so many examples a second")],
)  # fmt: skip
def test_budgets_that_say_nothing(runner: CascadeRunner, limits: dict[str, float], says: str) -> None:
    with pytest.raises(UserError, match=says):
        runner.choose(**limits)


def test_levels_are_timed_again_on_the_device(runner: CascadeRunner, images: np.ndarray) -> None:
    before = runner.points
    each = runner.time_levels(images, runs=3)
    assert len(each) == 3
    for name, point in runner.points.items():
        assert point.worst_ms == pytest.approx(sum(each[n] for n in point.path))
        spent = np.cumsum([each[n] for n in point.path])
        assert point.mean_ms == pytest.approx(
            sum(s * point.shares[n] for s, n in zip(spent, point.path, strict=True))
        )
        assert (point.accuracy, point.threshold) == (before[name].accuracy, before[name].threshold)
        assert point.p90_ms in spent


def test_operating_points_by_name(runner: CascadeRunner, images: np.ndarray) -> None:
    runner.set_operating_point("level-1")
    assert set(runner(images).level) == {1}
    with pytest.raises(UserError, match="no operating point 'fast'"):
        runner.set_operating_point("fast")
    with pytest.raises(UserError, match="no operating point 'fast'"):
        runner(images, point="fast")


def test_inputs_that_do_not_fit(runner: CascadeRunner, images: np.ndarray) -> None:
    for wrong, says in (
        ([images, images], "takes 1 inputs"), (np.float32(3), "takes 1 inputs"),
        (images[:, 0], "refuses the inputs"),
        (images.astype(np.float64), "refuses the inputs"), (images[0], "refuses the inputs"),
    ):  # fmt: skip
        with pytest.raises(UserError, match=says):
            runner(wrong)
    assert runner(images[:0]).outputs.shape == (0, 10)


def test_a_folder_that_is_none_or_was_changed(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot read"):
        CascadeRunner.load(tmp_path)
    copied = tmp_path / "copy"
    shutil.copytree(folder, copied)
    (copied / "level1.onnx").write_bytes(b"torn")
    with pytest.raises(UserError, match=r"level1.onnx is not the file"):
        CascadeRunner.load(copied)
    (copied / "level1.onnx").unlink()
    with pytest.raises(UserError, match=r"level1.onnx is not the file"):
        CascadeRunner.load(copied)
    for text, says in (("{", "not valid JSON"), ("[]", "no cascade"), ('{"schema": 99}', "no cascade")):
        (copied / "cascade.json").write_text(text)
        with pytest.raises(UserError, match=says):
            CascadeRunner.load(copied)


def test_the_runner_in_the_folder_needs_neither_torch_nor_this_library(
    folder: Path, tmp_path: Path, runner: CascadeRunner, images: np.ndarray
) -> None:
    np.savez(tmp_path / "x.npz", images)
    code = (
        "import runpy, sys\n"
        "sys.modules['torch'] = sys.modules['neuroprune'] = None\n"  # importing them fails
        f"sys.argv = ['runner.py', {str(folder)!r}, '--inputs', 'x.npz', '--point', 'path-0-2']\n"
        f"runpy.run_path({str(folder / 'runner.py')!r}, run_name='__main__')\n"
        "assert not any(name.startswith('scipy') or name.startswith('onnx.') for name in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stderr
    found, wanted = json.loads(done.stdout), runner(images, point="path-0-2")
    assert found["classes"] == wanted.outputs.argmax(1).tolist()
    assert found["levels"] == wanted.level.tolist()


def test_the_library_s_own_runner_imports_no_torch() -> None:
    code = (
        "import sys, neuroprune.cascade.runner\nassert 'torch' not in sys.modules and 'scipy' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_int8_levels(tmp_path: Path, images: np.ndarray) -> None:
    runner = build_cascade(
        trained(), digits(), tmp_path / "int8", replace(OPTIONS, precision="int8", levels=(0.3, 1.0))
    )
    assert b"QuantizeLinear" in (tmp_path / "int8" / "level0.onnx").read_bytes()
    assert runner.points["level-1"].accuracy > 70
    one = single(tmp_path / "int8", tmp_path, runner, (0, 1), 0.9)
    runner.points["own"] = replace(runner.points["path-0-1"], threshold=0.9)
    for image in images[:20, None]:
        scores, level, _ = one.run(None, {"x": image})
        answer = runner(image, point="own")
        assert (level[0], scores.tolist()) == (answer.level[0], answer.outputs.tolist())


def test_files_of_different_networks_make_no_cascade(folder: Path, tmp_path: Path) -> None:
    other = onnx.load(folder / "level1.onnx")
    other.graph.input[0].name = "y"
    onnx.save(other, tmp_path / "other.onnx")
    with pytest.raises(UserError, match="different inputs"):
        write_single_file([Rung(folder / "level0.onnx", 0, 1.0), Rung(tmp_path / "other.onnx", 1, 1.0)], 0.5,
                          tmp_path / "one.onnx")  # fmt: skip
    taken = copy.deepcopy(other)
    taken.graph.input[0].name = "threshold"
    onnx.save(taken, tmp_path / "taken.onnx")
    with pytest.raises(UserError, match="needs for itself"):
        write_single_file([Rung(tmp_path / "taken.onnx", 0, 1.0)], 0.5, tmp_path / "one.onnx")
