"""The Free Spoken Digit Dataset from an npz file: log-mel spectrograms as 1-D signals."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from neuroprune.base.errors import UserError
from neuroprune.tasks.batches import TensorBatches
from neuroprune.tasks.datasets._arrays import checked, existing, read_npz
from neuroprune.tasks.datasets._base import DATASETS, DataOptions
from neuroprune.tasks.datasets._images import stratified_limit
from neuroprune.tasks.datasets._logmel import log_mel
from neuroprune.tasks.task import Task

Array = np.ndarray[Any, Any]

RATE, WINDOW, HOP, BANDS = 8000, 256, 128, 40  # Hz, samples, samples; frames of 32 ms every 16 ms
FRAMES = 64  # about a second; longer recordings lose their end
SHIFT = 6  # frames by which a training example is moved at most
_NAMES = ("audio", "length", "digit", "index")
_TEST, _VAL = range(5), range(5, 10)


@dataclass(frozen=True)
class Standardise:
    """``(x - mean) / std`` with one mean and deviation for all bands: float32, same shape."""

    mean: float
    std: float

    def __call__(self, x: Tensor) -> Tensor:
        return (x - self.mean) / self.std


@dataclass(frozen=True)
class ShiftInTime:
    """Move signals [N, C, frames] by up to ``frames`` either way; what comes in is ``silence``."""

    frames: int
    silence: float

    def __call__(self, x: Tensor, generator: torch.Generator) -> Tensor:
        count, _, length = x.shape
        padded = functional.pad(x, (self.frames, self.frames), value=self.silence)
        start = torch.randint(0, 2 * self.frames + 1, (count, 1, 1), generator=generator)
        columns = (start + torch.arange(length)).expand(-1, x.shape[1], -1)
        return padded.gather(2, columns)


@DATASETS.register(
    "fsdd",
    summary="fsdd:FILE.npz, 3,000 spoken digits as log-mel spectrograms [40, 64]",
    source="Jakobovski, Free Spoken Digit Dataset, CC BY-SA 4.0",
)
def fsdd(argument: str, options: DataOptions) -> Task:
    """Recordings 0-4 of each speaker and digit are the test (official), 5-9 validation, the others training.

    The file holds ``audio`` int16 (all recordings one after another, 8 kHz), ``length``, ``digit`` and ``index``.
    Inputs are float32 [40 bands, 64 frames]. Raises UserError for arrays that do not fit together.
    """
    if options.resize is not None:
        raise UserError("resize does not apply to spoken digits", value=options.resize, mend="leave resize out")
    path = existing(argument, "fsdd", "fsdd:path/to/fsdd.npz")
    arrays = _read(path)
    x, y, index = _spectrograms(arrays), arrays["digit"].astype(np.int64), arrays["index"]
    halves = [np.flatnonzero(np.isin(index, _TEST) == test) for test in (True, False)]
    test, rest = (rows[stratified_limit(y[rows], options.limit, options.seed)] for rows in halves)
    held = np.isin(index[rest], _VAL)
    rows = {"train": rest[~held], "val": rest[held], "test": test}
    for what, found in rows.items():
        if not len(found):
            raise UserError(
                f"{path.name} has no recordings for {what}",
                where=str(path),
                value=f"{len(y)} recordings, limit {options.limit}",
                mend="raise limit; test is index 0-4, validation 5-9, training the others",
            )
    return _task(x, torch.from_numpy(y), rows, options)


def _read(path: Path) -> dict[str, Array]:
    arrays = read_npz(path, (_NAMES,))
    audio, length = arrays["audio"], arrays["length"]
    checked(length, arrays["digit"], "the recordings", path, "digit", classes=10)
    checked(length, arrays["index"], "the recordings", path, "index")
    if audio.dtype != np.int16 or audio.ndim != 1 or int(length.min()) < 1 or int(length.sum()) != len(audio):
        raise UserError(
            f"the recordings in {path.name} are not int16 samples one after another",
            where=str(path),
            value=f"audio {audio.dtype} of shape {audio.shape}, lengths that add up to {int(length.sum())}",
            mend="save audio int16 [samples] and length [recordings], all above 0",
        )
    return arrays


def _spectrograms(arrays: dict[str, Array]) -> Tensor:
    """[recordings, bands, frames]; short recordings end in silence, whose logarithm is not 0."""
    ends = np.cumsum(arrays["length"].astype(np.int64))
    silence = float(log_mel(np.zeros(WINDOW), bands=BANDS, window=WINDOW, hop=HOP, rate=RATE).max())
    out = np.full((len(ends), BANDS, FRAMES), silence, dtype=np.float32)
    for row, (start, end) in enumerate(zip([0, *ends[:-1]], ends, strict=True)):
        signal = arrays["audio"][start:end] / 32768
        mel = log_mel(signal, bands=BANDS, window=WINDOW, hop=HOP, rate=RATE)[:, :FRAMES]
        out[row, :, : mel.shape[1]] = mel
    return torch.from_numpy(out)


def _task(x: Tensor, y: Tensor, rows: dict[str, Array], options: DataOptions) -> Task:
    train = torch.from_numpy(rows["train"])
    standard = Standardise(float(x[train].mean()), float(x[train].std()))

    def batches(what: str) -> TensorBatches:
        part = torch.from_numpy(rows[what])
        return TensorBatches(
            (x[part], y[part]),
            options.batch_size,
            shuffle=what == "train",
            seed=options.seed,
            transform=standard,
            augment=ShiftInTime(SHIFT, float(x.min())) if what == "train" else None,
        )

    notes = {
        "features": "log_mel",
        "rate_hz": RATE,
        "window": WINDOW,
        "hop": HOP,
        "bands": BANDS,
        "frames": FRAMES,
        "mean": standard.mean,
        "std": standard.std,
        "classes": [str(digit) for digit in range(10)],
    }
    return Task(
        name="spoken digits",
        train=batches("train"),
        val=batches("val"),
        test=batches("test"),
        example_inputs=(standard(x[train[:2]]),),
        preprocessing=notes,
    )
