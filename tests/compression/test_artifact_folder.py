"""The artifact: complete, runnable alone, and every change to it is noticed."""

from __future__ import annotations

import contextlib
import copy
import json
import os
import resource
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from compression.exported import Exported, X
from torch import Tensor, nn

from neuroprune.base.errors import UserError
from neuroprune.base.files import sha256
from neuroprune.compression import artifact
from neuroprune.compression import manifest as manifests
from neuroprune.compression.artifact import ModelSpec, add_file, verify_artifact, write_artifact
from neuroprune.compression.constructor import verify_command
from neuroprune.compression.manifest import describe_inputs, made_up_inputs, read_manifest
from neuroprune.compression.quantize import quantize_onnx
from neuroprune.export import EXPORTS
from neuroprune.pipeline.arguments import constructor_arguments
from neuroprune.pruning import Plan
from neuroprune.tasks.nets import tiny_resnet

NAMES = [
    *("manifest.json", "plan.json", "weights.safetensors", "model.onnx", "model.int8.onnx"),
    *("run.py", "measurements.json", "report.html"),
]
SPEC = ModelSpec("neuroprune.tasks.nets:tiny_resnet", {"width": 8})


def write(exported: Exported, folder: Path, **changes: Any) -> Path:
    report = folder.with_name("report.html")
    report.parent.mkdir(exist_ok=True)
    report.write_text("<html></html>")
    files = {"model.onnx": exported.fp32, "model.int8.onnx": exported.int8, "report.html": report}
    arguments: dict[str, Any] = {
        "model": exported.model,
        "plan": exported.plan,
        "dense_spec": SPEC,
        "example_inputs": (torch.from_numpy(X[:2]),),
        "files": files,
        "measurements": {"latency": {"cpu_p50_ms": 0.1}},
        "preprocessing": {"mean": [0.3], "layout": "NCHW"},
    }
    return write_artifact(folder, **{**arguments, **changes})


@pytest.fixture(scope="module")
def good(exported: Exported, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(exported, tmp_path_factory.mktemp("good") / "artifact")


@pytest.fixture
def folder(good: Path, tmp_path: Path) -> Path:
    """A copy to spoil."""
    return Path(shutil.copytree(good, tmp_path / "artifact"))


def rewrite(folder: Path, change: Callable[[dict[str, Any]], object], *, sealed: bool = True) -> None:
    """Change the manifest; ``sealed`` as a careful forger would."""
    data = json.loads((folder / "manifest.json").read_text())
    change(data)
    body = {key: value for key, value in data.items() if key != "seal"}
    (folder / "manifest.json").write_text(json.dumps(body | {"seal": manifests._seal(body)} if sealed else data))


def reseal(folder: Path, name: str) -> None:
    """Enter a changed file into the manifest."""
    path = folder / name
    entry = {"sha256": sha256(path), "bytes": path.stat().st_size}
    rewrite(folder, lambda data: data["files"].update({name: entry}))


def failed(folder: Path, **arguments: Any) -> dict[str, str]:
    report = verify_artifact(folder, **arguments)
    assert report.ok == (not [c for c in report.checks if not c.ok])
    return {check.name: check.detail for check in report.checks if not check.ok}


def test_a_fresh_artifact_holds_everything_and_verifies(good: Path) -> None:
    assert sorted(p.name for p in good.iterdir()) == sorted(NAMES)
    report = verify_artifact(good)
    assert report.ok, str(report)
    names = [check.name for check in report.checks]
    assert names[-5:] == [
        "model",
        "plan applied",
        "weights loaded",
        "model.onnx against PyTorch",
        "model.int8.onnx against PyTorch",
    ]
    data = json.loads((good / "manifest.json").read_text())
    assert data["schema"] == 1
    assert data["model"] == {"spec": SPEC.spec, "kwargs": {"width": 8}, "class_name": "ResNet"}
    assert set(data["files"]) == set(NAMES) - {"manifest.json"}
    assert data["versions"]["torch"] == torch.__version__
    assert data["preprocessing"]["layout"] == "NCHW"


def test_the_same_network_gives_the_same_bytes(exported: Exported, good: Path, tmp_path: Path) -> None:
    again = write(exported, tmp_path / "again")
    for name in NAMES:
        assert (good / name).read_bytes() == (again / name).read_bytes(), name
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(".")]


def test_verify_restores_exactly_the_compact_network(exported: Exported, good: Path) -> None:
    from safetensors.torch import load_file

    stored = load_file(good / "weights.safetensors")
    state = exported.model.state_dict()
    assert stored.keys() == state.keys()
    assert all(torch.equal(stored[name], state[name]) for name in state)


@pytest.mark.parametrize("name", [n for n in NAMES if n != "manifest.json"])
def test_a_flipped_bit_in_any_file_is_named(folder: Path, name: str) -> None:
    data = bytearray((folder / name).read_bytes())
    data[len(data) // 2] ^= 1
    (folder / name).write_bytes(data)
    found = failed(folder)
    assert list(found) == [name]
    assert "was changed" in found[name]


@pytest.mark.parametrize("name", [n for n in NAMES if n != "manifest.json"])
def test_an_absent_file_is_named(folder: Path, name: str) -> None:
    (folder / name).unlink()
    assert failed(folder) == {name: "is missing"}


def test_a_truncated_and_an_emptied_file(folder: Path) -> None:
    (folder / "weights.safetensors").write_bytes((folder / "weights.safetensors").read_bytes()[:-1])
    (folder / "model.onnx").write_bytes(b"")
    assert set(failed(folder)) == {"weights.safetensors", "model.onnx"}


def test_every_bit_of_the_manifest_matters(folder: Path) -> None:
    """Flipping one bit anywhere: either it is no artifact any more, or a check fails; never accepted."""
    path = folder / "manifest.json"
    original = path.read_bytes()
    for position in range(0, len(original), 7):
        data = bytearray(original)
        data[position] ^= 1
        path.write_bytes(data)
        try:
            manifest, problems = read_manifest(folder)
        except UserError:
            continue
        assert problems or manifest.to_json() == json.loads(original), f"byte {position}"


def test_an_unlisted_file_is_noticed(folder: Path) -> None:
    (folder / "extra.bin").write_bytes(b"1")
    (folder / "sub").mkdir()
    assert failed(folder) == {"files": "not in the manifest: extra.bin, sub"}


def test_a_link_instead_of_a_file_is_refused(folder: Path, tmp_path: Path) -> None:
    shutil.move(folder / "model.onnx", tmp_path / "elsewhere.onnx")
    (folder / "model.onnx").symlink_to(tmp_path / "elsewhere.onnx")
    assert failed(folder) == {"model.onnx": "is a link"}


def test_an_added_field_is_noticed(folder: Path) -> None:
    rewrite(folder, lambda data: data.update(more=1), sealed=False)
    assert "unknown field 'more'" in failed(folder)["manifest"]
    rewrite(folder, lambda data: data.update(more=1))
    assert failed(folder) == {"manifest": "unknown field 'more'"}


def test_a_changed_value_breaks_the_seal(folder: Path) -> None:
    rewrite(folder, lambda data: data["preprocessing"].update(mean=[0.31]), sealed=False)
    assert "seal" in failed(folder)["manifest"]


@pytest.mark.parametrize("schema", [3, 99])
def test_a_newer_schema_is_a_user_error(folder: Path, schema: int) -> None:
    rewrite(folder, lambda data: data.update(schema=schema, unheard_of={}))
    with pytest.raises(UserError, match=f"schema {schema}.*reads up to 2") as caught:
        verify_artifact(folder)
    assert "newer neuroprune" in str(caught.value)


@pytest.mark.parametrize("schema", [0, -1, "1", None, True, 1.5])
def test_a_senseless_schema_is_a_user_error(folder: Path, schema: object) -> None:
    rewrite(folder, lambda data: data.update(schema=schema))
    with pytest.raises(UserError, match="no valid schema"):
        verify_artifact(folder)


@pytest.mark.parametrize(
    "name", ["../plan.json", "/etc/hostname", "sub/file", "..", ".", "", "a\\b", "C:x", "manifest.json", "a\0b"]
)
def test_names_that_lead_outside_are_refused(folder: Path, name: str) -> None:
    rewrite(folder, lambda data: data["files"].update({name: data["files"]["plan.json"]}))
    with pytest.raises(UserError, match="outside the artifact"):
        verify_artifact(folder)


@pytest.mark.parametrize(
    "key", ["model", "inputs", "structure", "files", "versions", "int8_error", "preprocessing"]
)
def test_a_missing_part_is_a_user_error(folder: Path, key: str) -> None:
    rewrite(folder, lambda data: data.pop(key))
    with pytest.raises(UserError, match="damaged"):
        verify_artifact(folder)


@pytest.mark.parametrize("text", ["", "[]", "null", "{", '"x"'])
def test_a_manifest_that_is_none(folder: Path, text: str) -> None:
    (folder / "manifest.json").write_text(text)
    with pytest.raises(UserError):
        verify_artifact(folder)


def test_a_folder_that_is_no_artifact(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not an artifact"):
        verify_artifact(tmp_path)
    with pytest.raises(UserError, match="not an artifact"):
        verify_artifact(tmp_path / "absent")


def test_dropping_a_file_from_manifest_and_folder(folder: Path) -> None:
    (folder / "weights.safetensors").unlink()
    rewrite(folder, lambda data: data["files"].pop("weights.safetensors"))
    assert failed(folder) == {"files": "the manifest lacks weights.safetensors"}


def test_other_weights_with_a_mended_manifest_differ_from_the_files(exported: Exported, folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    state = load_file(folder / "weights.safetensors")
    name = next(n for n in state if n.endswith("weight") and state[n].dim() == 4)
    state[name] = state[name] * 1.01
    save_file(state, folder / "weights.safetensors")
    reseal(folder, "weights.safetensors")
    assert "relative error" in failed(folder)["model.onnx against PyTorch"]


def test_weights_of_another_shape_with_a_mended_manifest(folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    state = load_file(folder / "weights.safetensors")
    name = next(n for n in state if state[n].dim() == 4)
    state[name] = state[name][:-1]
    save_file({n: t.contiguous() for n, t in state.items()}, folder / "weights.safetensors")
    reseal(folder, "weights.safetensors")
    assert name in failed(folder)["weights.safetensors"]


def test_a_plan_of_another_network_with_a_mended_manifest(folder: Path) -> None:
    Plan.identity(nn.Linear(2, 2)).save(folder / "plan.json")
    reseal(folder, "plan.json")
    assert "another model" in failed(folder)["plan.json"]


def test_files_of_another_network_with_a_mended_manifest(folder: Path, exported: Exported) -> None:
    other = copy.deepcopy(exported.model)
    with torch.no_grad():
        next(iter(other.parameters())).mul_(1.02)
    EXPORTS.get("onnx").write(other, (torch.from_numpy(X[:2]),), folder / "model.onnx")
    reseal(folder, "model.onnx")
    assert list(failed(folder)) == ["model.onnx against PyTorch"]
    shutil.copy(folder / "model.onnx", folder / "model.int8.onnx")  # within int8's tolerance: fp32 tells
    (folder / "model.onnx").write_bytes(b"no network")
    reseal(folder, "model.int8.onnx")
    reseal(folder, "model.onnx")
    assert "cannot load" in failed(folder)["model.onnx against PyTorch"]


def test_a_given_model_is_used_and_left_alone(exported: Exported, good: Path, folder: Path) -> None:
    rewrite(folder, lambda data: data.update(model={"spec": None, "kwargs": {}, "class_name": "ResNet"}))
    assert "name it: neuroprune verify" in failed(folder)["model"]
    dense = tiny_resnet(8)
    before = copy.deepcopy(dense.state_dict())
    assert verify_artifact(folder, model=dense).ok
    assert all(torch.equal(before[name], value) for name, value in dense.state_dict().items())


@pytest.mark.parametrize("model", [nn.Linear(3, 3), tiny_resnet(4)])
def test_a_wrong_model_is_a_failed_check(folder: Path, model: nn.Module) -> None:
    assert "another model" in failed(folder, model=model)["plan.json"]


@pytest.mark.parametrize(
    "spec",
    [
        "os:system",
        "builtins:exec",
        "subprocess:run",
        "torch:load",
        "torch.hub:load",
        "posix:system",
        "neuroprune.compression.artifact:add_file",
    ],
)
def test_a_manifest_cannot_make_verify_call_just_anything(
    folder: Path, spec: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "neuroprune.compression.constructor.load_model", lambda *a, **k: pytest.fail("it was called")
    )
    rewrite(folder, lambda data: data["model"].update(spec=spec, kwargs={"command": "true"}))
    assert spec in failed(folder)["model"]


def test_code_inside_the_artifact_is_not_imported(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "evil.py").write_text("raise SystemExit('imported')")
    monkeypatch.chdir(folder)
    for spec in ("evil:make", "evil.py:make", str(folder / "evil.py") + ":make", "run:make", "sub.evil:make"):
        rewrite(folder, lambda data, spec=spec: data["model"].update(spec=spec))
        reseal(folder, "evil.py")
        (folder / "sub").mkdir(exist_ok=True)
        (folder / "sub").rmdir()
        assert "model" in failed(folder)


def test_a_users_annotated_function_is_called_and_another_is_not(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine.py").write_text(
        "from torch import nn\nfrom neuroprune.tasks.nets import tiny_resnet\n"
        "def annotated(width: int) -> nn.Module:\n    return tiny_resnet(width)\n"
        "def plain(width):\n    return tiny_resnet(width)\n"
    )
    monkeypatch.chdir(tmp_path)
    for source in ("mine", "mine.py", str(tmp_path / "mine.py")):
        rewrite(folder, lambda data, source=source: data["model"].update(spec=f"{source}:annotated"))
        assert verify_artifact(folder).ok
    rewrite(folder, lambda data: data["model"].update(spec="mine.py:plain"))
    report = verify_artifact(folder)
    assert [check.name for check in report.checks if not check.ok] == ["model"]
    words = shlex.split(report.completed_by or "")
    assert words == ["neuroprune", "verify", str(folder), "--model", "mine.py:plain", "--arg", "width=8"]
    assert str(report.completed_by) in report.checks[-1].detail
    assert str(tmp_path) not in sys.path
    sys.modules.pop("mine", None)


def test_the_command_is_quoted_and_its_arguments_come_back(tmp_path: Path) -> None:
    kwargs = {"classes": 2, "act": "leaky relu", "rate": 1e-5, "sizes": [1, {"a": None}], "on": True, "n": "8"}
    folder, spec = tmp_path / "my run", "dir ünï/my nets.py:cnn"
    words = shlex.split(verify_command(folder, ModelSpec(spec, kwargs)))
    assert words[:5] == ["neuroprune", "verify", str(folder), "--model", spec]
    assert constructor_arguments([word for word in words[5:] if word != "--arg"]) == kwargs


def test_only_what_may_be_right_is_offered_for_completion(folder: Path, tmp_path: Path) -> None:
    rewrite(folder, lambda data: data["model"].update(spec="os:system"))
    assert verify_artifact(folder).completed_by is None
    rewrite(folder, lambda data: data["model"].update(spec="moved/away.py:net"))
    report = verify_artifact(folder)
    assert "--model moved/away.py:net" in str(report.completed_by)
    (folder / "report.html").write_text("changed")
    assert verify_artifact(folder).completed_by is None


def test_a_constructor_that_fails_is_a_failed_check(folder: Path) -> None:
    rewrite(folder, lambda data: data["model"].update(kwargs={"no_such": 1}))
    assert "no_such" in failed(folder)["model"]
    rewrite(folder, lambda data: data["model"].update(spec="no_such_package:thing"))
    assert "no_such_package" in failed(folder)["model"]


def test_a_model_that_raises_is_a_failed_check_not_a_crash(folder: Path) -> None:
    class Raises(nn.Module):
        def __deepcopy__(self, memo: object) -> nn.Module:
            raise RuntimeError("out of order")

    assert failed(folder, model=Raises()) == {"model": "RuntimeError: out of order"}


def test_a_report_can_come_later(exported: Exported, tmp_path: Path) -> None:
    folder = write(exported, tmp_path / "artifact", files={"model.onnx": exported.fp32})
    assert verify_artifact(folder).ok
    page = tmp_path / "page.html"
    page.write_text("<p>later</p>")
    add_file(folder, "report.html", page)
    add_file(folder, "report.html", page)
    assert verify_artifact(folder).ok
    for name in ("manifest.json", "plan.json", "run.py", "other.py", "../x", ".hidden"):
        with pytest.raises(UserError):
            add_file(folder, name, page)
    with pytest.raises(UserError):
        add_file(folder, "model.int8.onnx", tmp_path / "absent")
    assert verify_artifact(folder).ok


def test_replacing_an_artifact_but_nothing_else(exported: Exported, tmp_path: Path) -> None:
    folder = write(exported, tmp_path / "artifact")
    write(exported, folder, files={"model.onnx": exported.fp32})
    assert not (folder / "model.int8.onnx").exists()
    assert verify_artifact(folder).ok
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.tex").write_text("years of work")
    with pytest.raises(UserError, match="holds something else"):
        write(exported, tmp_path / "thesis")
    (tmp_path / "empty").mkdir()
    assert verify_artifact(write(exported, tmp_path / "empty")).ok


def test_a_killed_write_leaves_no_half_artifact(exported: Exported, tmp_path: Path) -> None:
    """Killed before the rename: the partial folder is not taken for an artifact and does not disturb."""
    (tmp_path / ".artifact.partial").mkdir()
    (tmp_path / ".artifact.partial" / "junk.bin").write_text("x")
    assert verify_artifact(write(exported, tmp_path / "artifact")).ok
    with pytest.raises(UserError):
        write(exported, tmp_path / "other", measurements={"bad": float("nan")})
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize(
    "changes",
    [
        {"files": {}},
        {"files": {"model.onnx": Path("absent.onnx")}},
        {"measurements": {"x": object()}},
        {"dense_spec": ModelSpec("a:b", {"x": object()})},
        {"preprocessing": {"x": {1, 2}}},
        {"example_inputs": (object(),)},
        {"best": "dense.onnx"},
    ],
)
def test_what_cannot_be_written_is_a_user_error(
    exported: Exported, tmp_path: Path, changes: dict[str, Any]
) -> None:
    with pytest.raises(UserError):
        write(exported, tmp_path / "artifact", **changes)
    assert {p.name for p in tmp_path.iterdir()} == {"report.html"}


def test_an_unwritable_place_is_a_user_error(exported: Exported, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write"):
        write_artifact(
            tmp_path / "file" / "artifact",
            model=exported.model,
            plan=exported.plan,
            dense_spec=SPEC,
            example_inputs=(torch.zeros(1),),
            files={"model.onnx": exported.fp32},
            measurements={},
        )


@contextlib.contextmanager
def full_disk() -> Iterator[None]:
    """No file may grow beyond 6 KB, as on a disk that is full."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (6000, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_is_a_user_error_and_leaves_nothing(exported: Exported, tmp_path: Path) -> None:
    onnx = EXPORTS.get("onnx")
    for work in (
        lambda: write(exported, tmp_path / "artifact", files={"model.onnx": exported.fp32}),
        lambda: quantize_onnx(exported.fp32, tmp_path / "q.onnx", [(X,)]),
        lambda: onnx.write(nn.Linear(50, 50), (torch.zeros(2, 50),), tmp_path / "m.onnx"),
    ):
        with full_disk(), pytest.raises(UserError) as caught:
            work()
        assert caught.value.mend
    assert {p.name for p in tmp_path.iterdir()} <= {"report.html"}


class TestRunSample:
    """``run.py`` as a user would call it: from anywhere, with another interpreter's view of the world."""

    def run(self, folder: Path, *arguments: str) -> list[str]:
        done = self.process(folder, *arguments)
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines()

    def refused(self, folder: Path, *arguments: str) -> str:
        """The one line that it says instead of a traceback."""
        done = self.process(folder, *arguments)
        assert done.returncode == 1
        assert done.stdout == ""
        assert len(done.stderr.splitlines()) == 1, done.stderr
        return done.stderr

    def process(self, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
        blocked = "import sys; sys.modules.update(torch=None, neuroprune=None, onnx=None); import runpy; "
        code = blocked + f"sys.argv = {['run.py', *arguments]!r}; runpy.run_path({str(folder / 'run.py')!r})"
        environment = {**os.environ, "PYTHONWARNINGS": "error"}
        return subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, cwd="/", env=environment, check=False
        )

    def test_without_arguments(self, good: Path) -> None:
        shape, top = self.run(good)
        assert shape == "linear: float32 [1, 10]"
        assert top.startswith("top class: ")

    def test_preprocesses_as_the_metadata_say(self, exported: Exported, good: Path, tmp_path: Path) -> None:
        pixels = np.random.default_rng(1).integers(0, 17, (3, 1, 16, 16)).astype(np.uint8)
        np.save(tmp_path / "x.npy", pixels)
        _, top = self.run(good, str(tmp_path / "x.npy"), "model.onnx")
        x = (torch.from_numpy(pixels).float() * 0.0625 - 0.3) / 0.4
        with torch.no_grad():
            scores: Tensor = exported.model(x)
        values = [f"{int(row.argmax())} ({float(row.max()):.3f})" for row in scores]
        assert top == "top class: " + ", ".join(values)

    def test_one_example_without_batch_dimension(self, good: Path, tmp_path: Path) -> None:
        np.save(tmp_path / "x.npy", np.zeros((1, 16, 16), np.uint8))
        assert self.run(good, str(tmp_path / "x.npy")) == self.run(good)

    @pytest.mark.parametrize("shape", [(16, 16), (1, 16, 16), (3, 16, 16), (3, 1, 16, 16)])
    def test_missing_dimensions_are_added(self, good: Path, tmp_path: Path, shape: tuple[int, ...]) -> None:
        np.save(tmp_path / "x.npy", np.zeros(shape, np.uint8))
        count = 3 if shape[0] == 3 else 1
        assert self.run(good, str(tmp_path / "x.npy"))[0] == f"linear: float32 [{count}, 10]"

    @pytest.mark.parametrize("shape", [(8, 8), (16, 16, 3), (), (5,)])
    def test_another_size_is_one_line_with_the_size(
        self, good: Path, tmp_path: Path, shape: tuple[int, ...]
    ) -> None:
        np.save(tmp_path / "x.npy", np.zeros(shape))
        said = self.refused(good, str(tmp_path / "x.npy"))
        assert "x float ['batch', 1, 16, 16], layout NCHW" in said
        assert f"given as {list(shape)}: resize it first" in said

    def test_the_chosen_file_is_run(self, exported: Exported, tmp_path: Path) -> None:
        np.save(tmp_path / "x.npy", X[:8])
        folder = write(exported, tmp_path / "artifact", best="model.onnx")
        assert json.loads((folder / "manifest.json").read_text())["best"] == "model.onnx"
        assert verify_artifact(folder).ok
        page = tmp_path / "report.html"
        add_file(folder, "report.html", page)
        results = {name: self.run(folder, str(tmp_path / "x.npy"), *name) for name in ((), ("model.onnx",))}
        int8 = self.run(folder, str(tmp_path / "x.npy"), "model.int8.onnx")
        assert results[()] == results[("model.onnx",)] != int8
        (folder / "manifest.json").unlink()
        assert self.run(folder, str(tmp_path / "x.npy")) == int8

    def test_a_file_that_is_not_there(self, good: Path) -> None:
        assert "no other.onnx" in self.refused(good, "other.onnx")

    @pytest.mark.parametrize("classes", ["[]", '["cat"]'])
    def test_classes_without_names_are_numbers(self, exported: Exported, tmp_path: Path, classes: str) -> None:
        write = EXPORTS.get("onnx").write
        write(exported.model, (torch.from_numpy(X[:2]),), tmp_path / "model.onnx", metadata={"classes": classes})
        shutil.copy(Path(artifact.__file__).with_name("run_sample.py"), tmp_path / "run.py")
        np.save(tmp_path / "x.npy", X[:9])
        with torch.no_grad():
            best = exported.model(torch.from_numpy(X[:9])).argmax(1).tolist()
        assert max(best) > 0
        _, top = self.run(tmp_path, str(tmp_path / "x.npy"))
        names = {0: "cat"} if "cat" in classes else {}
        assert [word.split()[0] for word in top.removeprefix("top class: ").split(", ")] == [
            str(names.get(index, index)) for index in best
        ]

    def test_one_array_for_two_inputs(self, tmp_path: Path) -> None:
        class Two(nn.Module):
            def forward(self, image: Tensor, length: Tensor) -> Tensor:
                return image.flatten(1) * length

        EXPORTS.get("onnx").write(Two(), (torch.ones(2, 3), torch.ones(2, 1)), tmp_path / "model.onnx")
        shutil.copy(Path(artifact.__file__).with_name("run_sample.py"), tmp_path / "run.py")
        np.save(tmp_path / "x.npy", np.ones((2, 3)))
        said = self.refused(tmp_path, str(tmp_path / "x.npy"))
        assert "takes 2 array(s): image float ['batch', 3], length float ['batch', 1]" in said
        assert self.run(tmp_path)[0].endswith("float32 [1, 3]")

    def test_is_short(self, good: Path) -> None:
        code = (good / "run.py").read_text().split('"""')[2]
        assert len([line for line in code.splitlines() if line.strip() and not line.startswith("#")]) <= 36


def test_made_up_inputs_have_the_kind_of_the_examples() -> None:
    example = (
        torch.tensor([[1.0, -2.0], [0.5, 3.0]]),
        {"tokens": torch.tensor([[3, 7, 5], [4, 4, 4]]), "mask": torch.tensor([[True], [False]])},
        torch.tensor(2.5),
        True,
    )
    specs, structure = describe_inputs(example)
    again = json.loads(json.dumps(structure))
    x, named, scalar, flag = made_up_inputs(specs, again, batch=50)
    assert (x.shape, x.dtype) == ((50, 2), torch.float32)
    assert -2 <= x.min() < x.max() <= 3
    assert (named["tokens"].shape, named["tokens"].dtype) == ((50, 3), torch.int64)
    assert set(named["tokens"].unique().tolist()) == {3, 4, 5, 6, 7}
    assert named["mask"].dtype == torch.bool
    assert set(named["mask"].unique().tolist()) == {False, True}
    assert float(scalar) == 2.5
    assert flag is True
    same = made_up_inputs(specs, again, batch=50)
    assert torch.equal(same[0], x)
    assert not torch.equal(made_up_inputs(specs, again, batch=50, seed=1)[0], x)
