"""The command line: what it prints, what it exits with, and what it says when things go wrong."""

from __future__ import annotations

import json
import resource
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from commands import fails, in_a_process, neuroprune
from safetensors.torch import load_file, save_file
from torch import nn

from neuroprune import __version__

TINY = "neuroprune.tasks.nets:tiny_resnet"
RECIPE = f"""\
name: small
model: {{spec: "{TINY}"}}
data: {{spec: digits, limit: 300}}
steps:
  - train: {{epochs: 2}}
  - initialise
  - score: {{criterion: l2}}
  - select: {{ratio: 0.5}}
  - cut
  - export
  - quantize: {{calibration: 32}}
  - validate
  - measure: {{seconds: 0.1}}
  - report
"""


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run, made by the command line."""
    folder = tmp_path_factory.mktemp("cli")
    (folder / "r.yaml").write_text(RECIPE)
    done = in_a_process("run", "r.yaml", "--out", "out", cwd=folder)
    assert done.returncode == 0, done.stderr
    (folder / "stdout.txt").write_text(done.stdout)
    (folder / "stderr.txt").write_text(done.stderr)
    return folder / "out"


def test_help_is_quick_because_it_imports_no_torch(tmp_path: Path) -> None:
    code = "import sys; sys.argv = ['neuroprune', '--help']\n"
    code += "import neuroprune.cli\n"
    code += "try:\n    neuroprune.cli.main()\nexcept SystemExit as stop:\n    assert stop.code == 0\n"
    code += "assert 'torch' not in sys.modules\n"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for verb in ("demo", "run", "compress", "verify", "restore", "list", "inspect", "prune", "report", "version"):
        assert f"  {verb} " in done.stdout


def test_version(tmp_path: Path) -> None:
    assert neuroprune("version", cwd=tmp_path).stdout.strip() == __version__


def test_a_run_prints_steps_table_and_the_report_last(run_folder: Path) -> None:
    out, err = (run_folder.parent / f"{name}.txt" for name in ("stdout", "stderr"))
    assert out.read_text().splitlines()[-1] == "out/report.html"
    for metric in ("Parameters", "MACs", "File size", "Accuracy (test)", "Latency p50 (CPU)", "Peak memory"):
        assert metric in out.read_text()
    assert "modelled" in out.read_text()
    lines = err.read_text().splitlines()
    assert [line.split(":")[0] for line in lines] == [
        "01-train", "02-initialise", "03-score", "04-select", "05-cut", "06-export", "07-quantize", "08-validate",
        "09-measure", "10-report",
    ]  # fmt: skip


def test_a_folder_that_holds_another_run(run_folder: Path) -> None:
    fails(
        "run", "r.yaml", "--out", "out", cwd=run_folder.parent,
        says=["holds another run", "where: out", "--resume"],
    )  # fmt: skip


def test_resume_of_a_finished_run_changes_nothing(run_folder: Path) -> None:
    before = (run_folder / "results.json").read_bytes()
    done = neuroprune("run", "r.yaml", "--out", "out", "--resume", cwd=run_folder.parent)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "out/report.html"
    assert (run_folder / "results.json").read_bytes() == before


def test_resume_with_another_recipe_names_the_key(run_folder: Path) -> None:
    fails(
        "run", "r.yaml", "--out", "out", "--resume", "--set", "steps.train.epochs=3", cwd=run_folder.parent,
        says=["recipe.steps.1.train.epochs", "2 before, 3 now"],
    )  # fmt: skip


def test_verify_accepts_the_artifact_and_finds_a_flipped_bit(run_folder: Path, tmp_path: Path) -> None:
    done = neuroprune("verify", run_folder, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "FAIL" not in done.stdout
    copy = tmp_path / "artifact"
    copy.mkdir()
    for file in (run_folder / "artifact").iterdir():
        data = bytearray(file.read_bytes())
        if file.name == "weights.safetensors":
            data[-1] ^= 1
        (copy / file.name).write_bytes(bytes(data))
    fails("verify", copy, cwd=tmp_path, says=["weights.safetensors", "failed its verification"])


def test_the_artifact_names_the_file_that_was_chosen(run_folder: Path) -> None:
    """``run.py`` runs this one; with the other file as best, or as only one, the choice would be lost."""
    best = json.loads((run_folder / "artifact" / "manifest.json").read_text())["best"]
    (chosen,) = [
        v["name"] for v in json.loads((run_folder / "results.json").read_text())["variants"] if v["chosen"]
    ]
    assert best == {"compressed fp32": "model.onnx", "compressed int8": "model.int8.onnx"}[chosen]


def test_verify_completes_with_the_command_that_it_prints(tmp_path: Path) -> None:
    """A constructor without annotation, in a place that must be quoted, with an argument that it needs."""
    code = tmp_path / "dir ünï" / "my nets.py"
    code.parent.mkdir()
    code.write_text(
        "from neuroprune.tasks.nets import tiny_resnet\n\n"
        "def cnn(classes):\n    return tiny_resnet(classes=classes)\n"
    )
    spec = "dir ünï/my nets.py:cnn"
    recipe = RECIPE.replace(f'model: {{spec: "{TINY}"}}', f'model: {{spec: "{spec}", kwargs: {{classes: 10}}}}')
    assert spec in recipe
    (tmp_path / "r.yaml").write_text(recipe)
    run = neuroprune("run", "r.yaml", "--out", "my run", cwd=tmp_path)
    assert run.returncode == 0, run.stderr
    done = neuroprune("verify", "my run", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stdout.count("FAIL") == 1
    for part in ("everything else that was checked holds", "where: my run", "complete the check with: neuroprune"):
        assert part in done.stderr
    assert "again from its source" not in done.stdout + done.stderr
    words = shlex.split(done.stderr.split("complete the check with: ")[1])
    assert words[words.index("--model") + 1 :] == [spec, "--arg", "classes=10"]
    for command in (words[1:], ["verify", "my run", "--model", spec]):  # the arguments are the manifest's
        again = neuroprune(*command, cwd=tmp_path)
        assert again.returncode == 0, again.stdout + again.stderr
    fails("verify", "my run", "--model", spec, "--arg", "classes=3", cwd=tmp_path,
          says=["failed its verification", "check that --model 'dir ünï/my nets.py:cnn' and --arg"])  # fmt: skip


def test_restore_gives_the_dense_weights_back(run_folder: Path, tmp_path: Path) -> None:
    done = neuroprune("restore", run_folder, "--to", "dense.safetensors", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    dense = load_file(run_folder / "steps" / "01-train" / "weights.safetensors")
    again = load_file(tmp_path / "dense.safetensors")
    assert dense.keys() == again.keys()
    assert all(torch.equal(dense[name], again[name]) for name in dense)


def test_restore_without_a_run(tmp_path: Path) -> None:
    fails("restore", tmp_path, "--to", "x.safetensors", cwd=tmp_path, says=["nothing to restore", "where"])


def test_restore_to_an_impossible_place_names_its_own_option(run_folder: Path, tmp_path: Path) -> None:
    fails("restore", run_folder, "--to", "/proc/z", cwd=tmp_path, says=["cannot write z", "value: z", "--to"])
    (tmp_path / "FILE").write_text("")
    fails("restore", run_folder, "--to", "FILE/z", cwd=tmp_path, says=["FILE is a file, not a folder", "--to"])
    fails("run", run_folder / "recipe.yaml", "--out", "FILE", cwd=tmp_path, says=["FILE is a file", "--out"])


def test_report_is_drawn_again(run_folder: Path) -> None:
    page = run_folder / "report.html"
    before = page.read_bytes()
    page.unlink()
    done = neuroprune("report", run_folder, cwd=run_folder)
    assert done.returncode == 0, done.stderr
    assert page.read_bytes() == before
    assert neuroprune("verify", run_folder, cwd=run_folder).returncode == 0


def test_list_shows_all_kinds_or_one(tmp_path: Path) -> None:
    done = neuroprune("list", cwd=tmp_path)
    for name in ("criteria:", "steps:", "data:", "devices:", "exports:", "activation", "fit_budget", "digits"):
        assert name in done.stdout
    criteria = neuroprune("list", "criteria", cwd=tmp_path).stdout
    assert "steps:" not in criteria
    needs = dict(line.split()[:2] for line in criteria.splitlines()[1:])
    assert needs["l2"] == needs["synflow"] == "weights"  # an input's shape is no data
    assert (needs["wanda"], needs["snip"], needs["obs"]) == ("activations", "gradients", "hessian")
    assert "[Sun et al. 2023" in criteria
    fails("list", "critera", cwd=tmp_path, says=["did you mean 'criteria'"])


def test_inspect_shows_groups_and_refusals(tmp_path: Path) -> None:
    done = neuroprune("inspect", TINY, "--input", "1,1,16,16", "--arg", "width=8", "--json", cwd=tmp_path)
    found = json.loads(done.stdout)
    assert found["cost"]["params"] == 19810
    assert sum(group["units"] for group in found["groups"]) == 112
    plain = neuroprune("inspect", TINY, "--input", "1,1,16,16", cwd=tmp_path)
    assert "stem.0: 4 units" in plain.stdout
    fails("inspect", TINY, "--input", "1,a", cwd=tmp_path, says=["cannot read --input 1,a", "1,3,32,32"])
    fails("inspect", TINY, "--input", "1,3,16,16", cwd=tmp_path, says=["mend"])


COMPRESS = ("compress", TINY, "--data", "digits", "--limit", "300", "--budget", "macs=0.6", "--epochs", "1")


def test_compress_writes_its_recipe_and_reruns_from_it(tmp_path: Path) -> None:
    done = neuroprune(*COMPRESS, "--recipe-only", "--out", "chosen", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "chosen/recipe.yaml"
    text = (tmp_path / "chosen" / "recipe.yaml").read_text()
    assert "fit_budget" in text
    assert TINY in text
    first = neuroprune(*COMPRESS, "--max-drop", "100", "--out", "out", cwd=tmp_path)
    assert first.returncode == 0, first.stderr
    assert "hardly more than chance" in first.stderr  # no weights were given
    assert first.stdout.splitlines()[-1] == "out/report.html"
    assert "fit_budget" in (tmp_path / "out" / "recipe.yaml").read_text()
    assert neuroprune("run", "out/recipe.yaml", "--out", "out", "--resume", cwd=tmp_path).returncode == 0


def test_a_missed_budget_keeps_the_best_and_exits_3(tmp_path: Path) -> None:
    done = neuroprune(*COMPRESS, "--budget", "params=0.0001", "--max-drop", "100", "--out", "out", cwd=tmp_path)
    assert done.returncode == 3
    assert "binding constraint: params" in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout.splitlines()[-1] == "out/report.html"
    assert (tmp_path / "out" / "artifact" / "model.onnx").is_file()
    assert neuroprune("verify", "out", cwd=tmp_path).returncode == 0


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("run", "no.yaml"), ["cannot read the recipe", "no.yaml", "demo"]),
        (("run", "r.yaml", "--set", "steps.train.epoch=3"), ["unknown key 'epoch'", "did you mean 'epochs'"]),
        (("run", "r.yaml", "--set", "steps.score.criterion=l3"), ["'l3'", "did you mean 'l2'"]),
        (("run", "r.yaml", "--set", "device=locl"), ["unknown device 'locl'", "did you mean 'local'"]),
        (("run", "r.yaml", "--set", "data.spec=digit"), ["'digit'", "digits"]),
        (("run", "r.yaml", "--set", "data.limit=0"), ["data.limit", "greater than or equal to 1"]),
        (("run", "r.yaml", "--set", "model.spec=neuroprune.tasks.nets:tiny_resnt"), ["tiny_resnt", "tiny_resnet"]),
        (("run", "r.yaml", "--set", "model.kwargs.classes=5"), ["label", "0..4"]),
        (("run", "r.yaml", "--set", "model.kwargs.channels=3"), ["model refuses the example inputs", "1, 8, 8"]),
        (("run", "r.yaml", "--out", "/proc/nowhere/out"), ["cannot write", "/proc/nowhere/out", "--out"]),
        (("run", "r.yaml", "--replay", "none.jsonl"), ["no journal", "none.jsonl"]),
        (("compress", TINY, "--data", "digits", "--budget", "latncy=0.5"), ["latncy", "did you mean 'latency'"]),
        (("compress", TINY, "--data", "digits", "--budget", "latency=2"), ["ratio above 1", "0.5"]),
        (("compress", TINY, "--data", "digits", "--budget", "memory=1MB"), ["memory", "latency, size, macs"]),
        (("compress", TINY, "--data", "digits", "--budget", "macs=0.5", "--arg", "8"), ["--arg 8", "NAME=VALUE"]),
        (
            ("compress", TINY, "--data", "digits", "--budget", "macs=0.5", "--weights", "other.safetensors"),
            ["other.safetensors", "stem"],
        ),
        (
            ("compress", TINY, "--data", "digits", "--budget", "macs=0.5", "--weights", "nan.safetensors"),
            ["NaN", "head.weight"],
        ),
        (
            ("compress", TINY, "--data", "digits", "--budget", "macs=0.5", "--weights", "pickled.pt"),
            ["pickled.pt", "state_dict"],
        ),
        (("compress", TINY, "--data", "npz:none.npz", "--budget", "macs=0.5"), ["none.npz"]),
        (("compress", TINY, "--data", "folder:mixed", "--budget", "macs=0.5"), ["--resize"]),
        (("compress", TINY, "--data", "folder:empty", "--budget", "macs=0.5"), ["empty"]),
        (("verify", "."), ["not an artifact", "manifest.json"]),
        (("report", "."), ["results.json"]),
    ],
)  # fmt: skip
def test_user_errors_are_one_message(bad_things: Path, words: tuple[str, ...], says: list[str]) -> None:
    fails(*words, cwd=bad_things, says=says)


@pytest.fixture(scope="module")
def bad_things(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a good recipe and everything that can be wrong around it."""
    from PIL import Image

    from neuroprune.tasks.nets import tiny_resnet

    folder = tmp_path_factory.mktemp("bad")
    (folder / "r.yaml").write_text(RECIPE)
    save_file({"other.weight": torch.zeros(3)}, folder / "other.safetensors")
    weights = {name: tensor.clone() for name, tensor in tiny_resnet().state_dict().items()}
    weights["head.weight"][0, 0] = float("nan")
    save_file(weights, folder / "nan.safetensors")
    torch.save(nn.Linear(2, 2), folder / "pickled.pt")
    (folder / "empty").mkdir()
    for name in ("a", "b"):
        (folder / "mixed" / name).mkdir(parents=True)
        for i in range(6):
            Image.new("L", (8 + i % 2, 8), i).save(folder / "mixed" / name / f"{i}.png")
    return folder


def test_debug_shows_the_traceback_wherever_it_stands(bad_things: Path) -> None:
    for words in (("--debug", "run", "no.yaml"), ("run", "no.yaml", "--debug")):
        done = neuroprune(*words, cwd=bad_things)
        assert done.returncode == 2
        assert "Traceback" in done.stderr


def test_an_unexpected_error_is_called_a_bug(tmp_path: Path) -> None:
    code = "import sys; sys.argv = ['neuroprune', 'list']\nimport neuroprune.cli as cli\n"
    code += "def broken(): raise ZeroDivisionError('oops')\ncli.listing._registries = broken\ncli.main()\n"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "this is a bug in neuroprune: ZeroDivisionError: oops" in done.stderr
    assert "neuroprune --debug list" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_full_disk_is_one_message_and_resume_goes_on(tmp_path: Path) -> None:
    """A limit on the size of files stands for a disk without room: the report of 5 MB does not fit."""
    (tmp_path / "r.yaml").write_text(RECIPE)
    limit = 200_000

    def small_files() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    done = in_a_process("run", "r.yaml", "--out", "out", cwd=tmp_path, before=small_files)
    assert done.returncode == 2, done.stderr
    assert "File too large" in done.stderr
    assert "mend" in done.stderr
    assert "Traceback" not in done.stderr
    assert not list((tmp_path / "out").glob("report.html"))
    done = neuroprune("run", "r.yaml", "--out", "out", "--resume", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "09-measure" in done.stderr
    assert "from the interrupted run" in done.stderr
    assert neuroprune("verify", "out", cwd=tmp_path).returncode == 0


def test_ctrl_c_keeps_what_is_finished_and_says_how_to_go_on(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text(RECIPE.replace("measure: {seconds: 0.1}", "measure: {seconds: 60}"))
    words = [sys.executable, "-m", "neuroprune", "run", "r.yaml", "--out", "my out"]
    process = subprocess.Popen(
        words, cwd=tmp_path, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # jobs in the background ignore it
    )  # fmt: skip
    deadline = time.monotonic() + 120
    while not (tmp_path / "my out" / "steps" / "08-validate").exists():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "finished and kept: 01-train, 02-initialise" in err
    assert "go on with: neuroprune run r.yaml --out 'my out' --resume" in err
    assert "Traceback" not in err


def test_without_out_each_run_gets_a_folder_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text(RECIPE.split("  - initialise")[0].replace("epochs: 2", "epochs: 0"))
    for expected in ("runs/small", "runs/small-2"):
        done = neuroprune("run", "r.yaml", cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        assert done.stdout.strip() == expected
    assert neuroprune("run", "r.yaml", "--resume", cwd=tmp_path).stdout.strip() == "runs/small-2"
