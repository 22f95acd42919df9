"""The artifact: one folder with everything that leaves the house, and the check that it still is what it was."""

from __future__ import annotations

import copy
import json
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import nn

from neuroprune.base.errors import NeuropruneError, UserError
from neuroprune.base.files import atomic_path, save_tensors, write_json
from neuroprune.base.versions import versions
from neuroprune.compression.constructor import NotConstructed, construct, verify_command
from neuroprune.compression.manifest import (
    NAME,
    Manifest,
    ModelSpec,
    describe_inputs,
    entry_of,
    made_up_inputs,
    read_manifest,
)
from neuroprune.compression.npc import unpack
from neuroprune.export import EXPORTS
from neuroprune.export.compare import Difference, compare_outputs
from neuroprune.pruning.head import Head, set_head
from neuroprune.pruning.plan import Plan
from neuroprune.pruning.surgery import apply
from neuroprune.tasks.models import load_weights

__all__ = ["Check", "ModelSpec", "VerifyReport", "add_file", "verify_artifact", "write_artifact"]

PLAN, WEIGHTS, FLOAT, INT8 = "plan.json", "weights.safetensors", "model.onnx", "model.int8.onnx"
CODED = "model.npc"
RUN, MEASUREMENTS, REPORT = "run.py", "measurements.json", "report.html"

#: relative to the largest absolute output
FLOAT_TOLERANCE = 1e-4
#: int8 kernels differ between machines (saturation, rounding): twice the error at writing, and some
INT8_FACTOR, INT8_SLACK = 2.0, 0.02
_CHECKED_EXAMPLES = 16


@dataclass(frozen=True)
class Check:
    name: str
    ok: bool
    detail: str = ""


@dataclass(frozen=True)
class VerifyReport:
    """Checks in the order they were made. A check that fails ends the verification.

    ``completed_by``: where nothing failed but that the manifest's constructor could not be called, the command
    that does the checks which are left.
    """

    checks: tuple[Check, ...]
    completed_by: str | None = None

    @property
    def ok(self) -> bool:
        return all(check.ok for check in self.checks)

    def __str__(self) -> str:
        return "\n".join(f"{'ok  ' if c.ok else 'FAIL'} {c.name}: {c.detail}" for c in self.checks)


def write_artifact(
    folder: Path,
    *,
    model: nn.Module,
    plan: Plan,
    dense_spec: ModelSpec,
    example_inputs: tuple[Any, ...],
    files: Mapping[str, Path],
    measurements: Any,
    preprocessing: Mapping[str, Any] | None = None,
    best: str | None = None,
) -> Path:
    """Write the artifact of the compact ``model`` to ``folder``, whole or not at all; return ``folder``.

    ``plan`` leads from the dense network that ``dense_spec`` constructs to ``model``. ``files`` are copied in
    under their keys: at least ``model.onnx``; usually ``model.int8.onnx``, ``model.npc`` (one of these two, coded)
    and ``report.html`` too (the report can come later, see ``add_file``). ``measurements`` is plain JSON. ``best``
    names the file that was chosen, which ``run.py`` runs by default. An artifact that is there already is
    replaced; any other folder with something in it is refused. Raises UserError.
    """
    _check_files(files)
    _check_best(best, files)
    _check_replaceable(folder)
    _check_plain("the model's arguments", dense_spec.kwargs)
    _check_plain("the measurements", measurements)
    _check_plain("the preprocessing constants", preprocessing or {})
    specs, structure = describe_inputs(example_inputs)
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)  # of a run that was killed
    try:
        save_tensors(partial / WEIGHTS, model.state_dict())
        plan.save(partial / PLAN)
        write_json(partial / MEASUREMENTS, measurements)
        for name, source in {RUN: Path(__file__).with_name("run_sample.py"), **files}.items():
            _copy(source, partial / name)
        manifest = Manifest(
            model=replace(dense_spec, class_name=dense_spec.class_name or type(model).__name__),
            inputs=specs,
            structure=structure,
            preprocessing=dict(preprocessing or {}),
            versions=versions(),
            files={path.name: entry_of(path) for path in sorted(partial.iterdir())},
            best=best,
        )
        if INT8 in files:
            manifest = replace(manifest, int8_error=_file_difference(partial / INT8, manifest, model).relative)
        write_json(partial / NAME, manifest.to_json())
        _swap(partial, folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return folder


def add_file(folder: Path, name: str, source: Path) -> None:
    """Copy ``source`` into an artifact as ``name`` (a report that was built from it) and into its manifest."""
    manifest, problems = read_manifest(folder)
    if problems:
        raise UserError(
            f"{NAME} is damaged", where=str(folder), value=problems[0], mend="make the artifact again with the run"
        )
    _check_name(name)
    _copy(source, folder / name)
    files = {**manifest.files, name: entry_of(folder / name)}
    write_json(folder / NAME, replace(manifest, files=files).to_json())


def verify_artifact(folder: Path, *, model: nn.Module | None = None) -> VerifyReport:
    """Check hashes; construct the network, cut it by the plan, load the weights; compare the files' outputs.

    ``model`` is the dense network as constructed, needed where the manifest cannot name it (it is not changed).
    A named constructor is called only if it is a network class, is annotated to return one, or belongs to timm or
    torchvision: verifying runs no other code. Raises UserError when ``folder`` is no artifact, comes from a newer
    version or reaches outside itself; everything else is a failed check.
    """
    manifest, problems = read_manifest(folder)
    checks = [Check("manifest", not problems, "; ".join(problems) or "complete, seal matches")]
    checks += [_check_hash(folder / name, manifest) for name in sorted(manifest.files)]
    checks.append(_check_unlisted(folder, manifest))
    if CODED in manifest.files and all(check.ok for check in checks):
        checks.append(_check_coded(folder, manifest))
    command: str | None = None
    if all(check.ok for check in checks):
        more, unknown = _check_network(folder, manifest, model)
        checks += more
        command = verify_command(folder, manifest.model) if unknown else None
    return VerifyReport(tuple(checks), command)


def _check_hash(path: Path, manifest: Manifest) -> Check:
    expected = manifest.files[path.name]
    if path.is_symlink() or not path.is_file():
        return Check(path.name, False, "is a link" if path.is_symlink() else "is missing")
    found = entry_of(path)
    if found != expected:
        return Check(path.name, False, f"was changed: {found.bytes:,} bytes, sha256 {found.sha256[:12]}...")
    return Check(path.name, True, f"{found.bytes:,} bytes, sha256 matches")


def _check_unlisted(folder: Path, manifest: Manifest) -> Check:
    needed = {PLAN, WEIGHTS, FLOAT, RUN, MEASUREMENTS} - set(manifest.files)
    if needed:
        return Check("files", False, f"the manifest lacks {', '.join(sorted(needed))}")
    listed = {NAME, *manifest.files}
    extra = sorted(path.name for path in folder.iterdir() if path.name not in listed)
    return Check("files", not extra, f"not in the manifest: {', '.join(extra)}" if extra else "all listed")


def _check_coded(folder: Path, manifest: Manifest) -> Check:
    """The coded file unpacks to one of the files beside it."""
    step = f"{CODED} unpacked"
    try:
        with tempfile.TemporaryDirectory() as name:
            size = unpack(folder / CODED, Path(name) / "rebuilt")
            found = entry_of(Path(name) / "rebuilt")
    except UserError as error:
        return Check(step, False, str(error))
    same = [name for name, entry in manifest.files.items() if entry == found]
    ratio = size / (folder / CODED).stat().st_size
    told = f"the same bytes as {same[0]}, which is {ratio:.2f} times as large" if same else "to no file beside it"
    return Check(step, bool(same), told)


def _check_network(folder: Path, manifest: Manifest, model: nn.Module | None) -> tuple[list[Check], bool]:
    """Construct, cut, load, compare; the first failure ends the list. True where there was nothing to cut."""
    checks: list[Check] = []
    network: nn.Module
    try:
        step = "model"
        network = _dense(folder, manifest, model)
        checks.append(Check(step, True, f"constructed {type(network).__name__}"))
        step = PLAN
        plan = Plan.load(folder / PLAN)
        network = apply(plan, network)
        checks.append(Check("plan applied", True, f"{len(plan.removed)} tensors cut"))
        step = WEIGHTS
        load_weights(network, folder / WEIGHTS)
        count = sum(parameter.numel() for parameter in network.parameters())
        checks.append(Check("weights loaded", True, f"{count:,} parameters"))
        for name in (FLOAT, INT8):
            step = f"{name} against PyTorch"
            if name in manifest.files:
                checks.append(_check_outputs(step, folder / name, manifest, network))
    except NeuropruneError as error:
        checks.append(Check(step, False, str(error)))
        return checks, isinstance(error, NotConstructed)
    except Exception as error:  # a stranger's model may raise anything; that is a failed check, not a crash
        checks.append(Check(step, False, f"{type(error).__name__}: {error}"))
    return checks, False


def _check_outputs(step: str, path: Path, manifest: Manifest, network: nn.Module) -> Check:
    found = _file_difference(path, manifest, network)
    limit = FLOAT_TOLERANCE
    if path.name == INT8:
        limit = INT8_FACTOR * (manifest.int8_error or 0.0) + INT8_SLACK
    detail = f"relative error {found.relative:.2e} (limit {limit:.2e}) on {found.values} values"
    if found.agreement is not None:
        detail += f", same arg-max in {found.agreement:.0%}"
    return Check(step, found.relative <= limit, detail)


def _file_difference(path: Path, manifest: Manifest, network: nn.Module) -> Difference:
    session = EXPORTS.get("onnx").load(path)
    batch = session.batch or _CHECKED_EXAMPLES
    return compare_outputs(network, session, made_up_inputs(manifest.inputs, manifest.structure, batch=batch))


def _dense(folder: Path, manifest: Manifest, model: nn.Module | None) -> nn.Module:
    """The dense network. Raises UserError where it cannot be named, or may not be called."""
    network = construct(manifest.model, folder) if model is None else copy.deepcopy(model)
    if manifest.model.head:
        set_head(network, Head(str(manifest.model.head["module"]), int(manifest.model.head["outputs"])))
    return network


def _check_best(best: str | None, files: Mapping[str, Path]) -> None:
    if best is not None and best not in files:
        raise UserError(
            "the chosen file is not among the artifact's files",
            where=f"files: {', '.join(files)}",
            value=best,
            mend="name one of them, or leave best out",
        )


def _check_files(files: Mapping[str, Path]) -> None:
    if FLOAT not in files:
        raise UserError(
            f"an artifact needs {FLOAT}",
            where="files",
            value=", ".join(files) or "no files",
            mend="export the network and give its file under this name",
        )
    for name, source in files.items():
        _check_name(name)
        if not source.is_file():
            raise UserError(
                f"there is no file {source.name}",
                where=str(source.parent),
                value=str(source),
                mend="write it first, or leave it out",
            )


def _check_name(name: str) -> None:
    own = (NAME, PLAN, WEIGHTS, RUN, MEASUREMENTS)
    if Path(name).name != name or name in own or name.startswith(".") or name.endswith(".py"):
        raise UserError(
            "an artifact takes no file of this name",
            where="files",
            value=name,
            mend=f"give a plain name that is none of its own ({', '.join(own)}) and no Python",
        )


def _check_replaceable(folder: Path) -> None:
    if folder.is_dir() and any(folder.iterdir()) and not (folder / NAME).is_file():
        raise UserError(
            "the folder for the artifact holds something else",
            where=str(folder),
            mend="give a new or empty folder",
        )


def _check_plain(what: str, value: Any) -> None:
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError) as error:  # an object, NaN
        raise UserError(f"{what} must be plain JSON values: {error}", mend="convert or leave them out") from error


def _copy(source: Path, target: Path) -> None:
    with atomic_path(target) as temporary:
        shutil.copyfile(source, temporary)


def _swap(partial: Path, folder: Path) -> None:
    """Put the finished folder in its place; an older one is removed afterwards."""
    old = folder.with_name(f".{folder.name}.old")
    try:
        shutil.rmtree(old, ignore_errors=True)
        if folder.exists():
            folder.rename(old)
        partial.rename(folder)
    except OSError as error:
        raise UserError(
            f"cannot write {folder.name}: {error.strerror}",
            where=str(folder.parent),
            value=folder.name,
            mend="check who may write there, or choose another folder",
        ) from error
    shutil.rmtree(old, ignore_errors=True)
