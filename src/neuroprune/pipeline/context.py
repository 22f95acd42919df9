"""What the steps hand to each other, and how it is written to and read from the folder of a step."""

from __future__ import annotations

import copy
import hashlib
import json
import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from neuroprune.base.files import load_tensors, save_tensors, write_text
from neuroprune.base.progress import Progress
from neuroprune.graph.trace import Trace, trace
from neuroprune.pipeline.folder import RunFolder
from neuroprune.pipeline.journal import Journal
from neuroprune.pipeline.recipe import Recipe
from neuroprune.pipeline.step import STEPS, Outcome
from neuroprune.pruning.cut import provable
from neuroprune.pruning.masks import Granularity
from neuroprune.pruning.plan import Plan
from neuroprune.pruning.surgery import apply
from neuroprune.tasks.task import Task


@dataclass(frozen=True)
class Correction:
    """What another attempt does otherwise: see `attempts.next_correction`."""

    variant: str  # whose figures are measured: fp32 or int8
    ratio: float  # the ratio to take
    epochs_factor: int = 1  # how much longer finetune trains
    lighter: bool = False  # look first whether int8 meets the budget with fewer units gone
    int8_tried: bool = False


@dataclass
class Context:
    """The state between two steps. Steps change ``model``, ``plan``, ``masks`` and ``scores`` in place or by
    assignment; everything else they hand on in their `Outcome`, so that a resumed run can read it back."""

    recipe: Recipe
    folder: RunFolder
    journal: Journal
    task: Task
    model: nn.Module
    dense: nn.Module  # the control and teacher: the network as loaded, or as `train` or `lottery` trained it
    plan: Plan | None = None  # what is to be cut, or was cut where ``is_cut``
    masks: dict[str, Tensor] | None = None  # state of prune.masks.Masks
    granularity: Granularity = "filter"  # of the masks
    scores: dict[str, np.ndarray] | None = None
    is_cut: bool = False
    correction: Correction | None = None
    facts: dict[str, Any] = field(default_factory=dict)
    pieces: dict[str, list[Any]] = field(default_factory=dict)
    files: dict[str, Path] = field(default_factory=dict)
    finished: list[dict[str, Any]] = field(default_factory=list)  # the records of the steps so far
    abandoned: list[dict[str, Any]] = field(default_factory=list)  # candidates of the attempts not kept
    # of the step at work
    name: str = ""
    seed: int = 0
    step_folder: Path = Path()
    work: Path = Path()
    progress: Progress = field(default_factory=lambda: _silent())
    _trace: Trace | None = None

    @property
    def trace(self) -> Trace:
        """Groups of the uncut network whose cut can be proven; computed once."""
        if self._trace is None:
            inputs = self.task.example_inputs
            self._trace = provable(self.model, trace(self.model, inputs), inputs)
        return self._trace

    def begin(self, name: str, position: int, step_folder: Path, progress: Progress) -> None:
        """Make a step's results independent of what ran before it in this process: seeds, folders, progress."""
        self.name, self.step_folder, self.progress = name, step_folder, progress
        self.work = self.folder.work(name)
        digest = hashlib.sha256(f"{self.recipe.header.seed}/{position}".encode()).digest()
        self.seed = int.from_bytes(digest[:4], "big") >> 1
        torch.manual_seed(self.seed)
        np.random.seed(self.seed)
        random.seed(self.seed)

    def absorb(self, record: Mapping[str, Any], folder: Path) -> None:
        """Merge the JSON part of a finished step; ``folder`` is where its files lie."""
        self.facts.update(record["facts"])
        for key, items in record["pieces"].items():
            self.pieces.setdefault(key, []).extend(items)
        for file in record["files"]:
            self.files[file] = folder / file
        self.granularity = record["granularity"]
        self.finished.append(dict(record))


def _silent() -> Progress:
    from neuroprune.base.progress import SilentProgress

    return SilentProgress()


@dataclass(frozen=True)
class Snapshot:
    """Enough of a context to see afterwards what a step changed."""

    weights: str
    masks: str
    plan: Plan | None
    scores: dict[str, np.ndarray] | None
    dense: nn.Module
    is_cut: bool

    @classmethod
    def of(cls, context: Context) -> Snapshot:
        return cls(
            state_digest(context.model.state_dict()),
            state_digest(context.masks or {}),
            context.plan,
            context.scores,
            context.dense,
            context.is_cut,
        )


def state_digest(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over names, shapes, types and bytes."""
    digest = hashlib.sha256()
    for name, tensor in tensors.items():
        digest.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        digest.update(flat.view(torch.uint8).numpy().tobytes() if flat.numel() else b"")
    return digest.hexdigest()


def save_step(
    context: Context, before: Snapshot, outcome: Outcome, folder: Path, head: Mapping[str, Any]
) -> dict[str, Any]:
    """Write what the step changed into ``folder``; return its record. ``head``: name, title, seconds, ..."""
    after = Snapshot.of(context)
    if after.weights != before.weights:
        save_tensors(folder / "weights.safetensors", context.model.state_dict())
    new_dense = context.dense is not before.dense
    if new_dense and state_digest(context.dense.state_dict()) != after.weights:
        save_tensors(folder / "dense.safetensors", context.dense.state_dict())
    new_cut = context.is_cut and not before.is_cut
    if context.plan is not None and (new_cut or context.plan is not before.plan):
        context.plan.save(folder / "plan.json")
    if context.masks is not None and after.masks != before.masks:
        save_tensors(folder / "masks.safetensors", context.masks)
    if context.scores is not None and context.scores is not before.scores:
        scores = {name: torch.from_numpy(np.ascontiguousarray(s)) for name, s in context.scores.items()}
        save_tensors(folder / "scores.safetensors", scores)
    record = {
        **head,
        "summary": outcome.summary,
        "facts": outcome.facts,
        "pieces": outcome.pieces,
        "files": list(outcome.files),
        "granularity": context.granularity,
        "new_dense": new_dense,
        "new_cut": new_cut,
    }
    # in its own order (tables of the report keep theirs), and read back: a resumed run sees the same values
    text = json.dumps(record, indent=2, allow_nan=False)
    write_text(folder / "record.json", text + "\n")
    read: dict[str, Any] = json.loads(text)
    return read


def load_step(context: Context, record: Mapping[str, Any], folder: Path) -> None:
    """Bring ``context`` to where it was after the step whose folder this is."""
    step = STEPS.get(folder.name.split("-", 1)[1])
    if step.again is not None:
        step.again(context, step.config.model_validate(record["options"]))
    if (folder / "plan.json").exists():
        context.plan = Plan.load(folder / "plan.json")
    if record["new_cut"]:
        assert context.plan is not None
        apply(context.plan, context.model)
        context.is_cut, context._trace, context.masks = True, None, None  # masks of before fit no longer
    if (folder / "weights.safetensors").exists():
        context.model.load_state_dict(load_tensors(folder / "weights.safetensors"))
    if (folder / "masks.safetensors").exists():
        context.masks = load_tensors(folder / "masks.safetensors")
    if (folder / "scores.safetensors").exists():
        scores = load_tensors(folder / "scores.safetensors")
        context.scores = {name: s.numpy() for name, s in scores.items()}
    if (folder / "dense.safetensors").exists():
        context.dense.load_state_dict(load_tensors(folder / "dense.safetensors"))
    elif record["new_dense"]:
        context.dense = copy.deepcopy(context.model)
    context.absorb(record, folder)
