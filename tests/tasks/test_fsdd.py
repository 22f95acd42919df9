"""Spoken digits and their spectrograms: against sums written out, and each mistake in the file named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from neuroprune.base.errors import UserError
from neuroprune.recover.fit import FitConfig, fit
from neuroprune.tasks.batches import TensorBatches
from neuroprune.tasks.check import check_task
from neuroprune.tasks.datasets._logmel import log_mel, mel_filters
from neuroprune.tasks.datasets.fsdd import BANDS, FRAMES, HOP, RATE, WINDOW, ShiftInTime
from neuroprune.tasks.load import load_task
from neuroprune.tasks.nets import speech_net


def test_the_spectrogram_is_the_sum_it_stands_for() -> None:
    """Fourier sums, Hann's window and triangles on the mel scale, one number at a time."""
    signal = np.random.default_rng(0).normal(size=40)
    window, hop, bands, rate = 16, 8, 3, 1000
    made = log_mel(signal, bands=bands, window=window, hop=hop, rate=rate)
    assert made.shape == (bands, 4)
    top = 2595 * np.log10(1 + 500 / 700)
    edges = [700 * (10 ** (i * top / 4 / 2595) - 1) for i in range(5)]
    for frame in range(4):
        piece = signal[frame * hop : frame * hop + window]
        hann = [0.5 - 0.5 * np.cos(2 * np.pi * n / (window - 1)) for n in range(window)]
        for band in range(bands):
            total = 0.0
            for k in range(window // 2 + 1):
                x = sum(piece[n] * hann[n] * np.exp(-2j * np.pi * k * n / window) for n in range(window))
                weight = float(np.interp(k * rate / window, edges[band : band + 3], [0, 1, 0], left=0, right=0))
                total += weight * abs(x) ** 2 / window
            assert made[band, frame] == pytest.approx(np.log(total + 1e-6), rel=1e-5)


def test_a_tone_is_loud_in_its_band_and_short_signals_are_padded() -> None:
    options: dict[str, int] = {"bands": BANDS, "window": WINDOW, "hop": HOP, "rate": RATE}
    for hertz in (300.0, 1000.0, 3000.0):
        tone = np.sin(2 * np.pi * hertz * np.arange(4000) / RATE)
        filters = mel_filters(BANDS, WINDOW, RATE)
        expected = int(filters[:, round(hertz * WINDOW / RATE)].argmax())
        assert np.bincount(log_mel(tone, **options).argmax(axis=0)).argmax() == pytest.approx(expected, abs=1)
    assert log_mel(np.ones(3), **options).shape == (BANDS, 1)
    assert np.isfinite(log_mel(np.zeros(WINDOW), **options)).all()


def arrays(speakers: int = 2, recordings: int = 12) -> dict[str, Any]:
    """A tone for each digit, of various lengths."""
    rng = np.random.default_rng(0)
    digit, index, audio = [], [], []
    for _ in range(speakers):
        for number in range(10):
            for take in range(recordings):
                time = np.arange(rng.integers(600, 12000)) / RATE
                tone = np.sin(2 * np.pi * 250 * (number + 1) * time) + 0.1 * rng.normal(size=time.size)
                digit.append(number), index.append(take)
                audio.append((8000 * tone).astype(np.int16))
    length = np.array([len(one) for one in audio])
    return {"audio": np.concatenate(audio), "length": length, "digit": np.array(digit), "index": np.array(index)}


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("fsdd") / "fsdd.npz"
    np.savez(path, **arrays())
    return path


def test_splits_are_by_index_and_every_recording_is_its_own(file: Path) -> None:
    task, source = load_task(f"fsdd:{file}"), arrays()
    assert [s.samples for s in (task.train, task.val, task.test)] == [40, 100, 100]
    ends = np.cumsum(source["length"])
    for split, takes in ((task.test, range(5)), (task.val, range(5, 10)), (task.train, range(10, 12))):
        assert isinstance(split, TensorBatches)
        rows = np.flatnonzero(np.isin(source["index"], takes))
        assert split.tensors[1].tolist() == source["digit"][rows].tolist()
        for row, stored in list(zip(rows, split.tensors[0].numpy(), strict=True))[::17]:
            signal = source["audio"][ends[row] - source["length"][row] : ends[row]] / 32768
            mel = log_mel(signal, bands=BANDS, window=WINDOW, hop=HOP, rate=RATE)
            count = min(FRAMES, mel.shape[1])
            np.testing.assert_array_equal(stored[:, :count], mel[:, :count])
            assert (stored[:, count:] == np.float32(np.log(1e-6))).all()
    x = next(iter(task.val.epoch(None)))[0]
    assert (x.dtype, x.shape[1:]) == (torch.float32, (BANDS, FRAMES))
    notes = task.preprocessing
    assert x[0, 0, 0] == pytest.approx((task.val.tensors[0][0, 0, 0] - notes["mean"]) / notes["std"])  # type: ignore[attr-defined]
    check_task(task, speech_net(4))
    few = load_task(f"fsdd:{file}", limit=60)
    assert few.train.samples + few.val.samples == few.test.samples == 60


def test_training_signals_move_in_time_and_what_comes_in_is_silence() -> None:
    x = torch.arange(1, 25.0).reshape(2, 2, 6)
    shift = ShiftInTime(2, silence=-1.0)
    seen = set()
    for seed in range(60):
        moved = shift(x, torch.Generator().manual_seed(seed))
        for row in range(2):
            matches = [
                start - 2
                for start in range(5)
                if torch.equal(
                    torch.nn.functional.pad(x[row], (2, 2), value=-1.0)[:, start : start + 6], moved[row]
                )
            ]
            assert len(matches) == 1  # all channels by the same
            seen.add(matches[0])
    assert seen == {-2, -1, 0, 1, 2}


def test_files_that_cannot_be_used(tmp_path: Path, file: Path) -> None:
    good = arrays(1, 11)
    cases: list[tuple[dict[str, Any], str]] = [
        ({"length": good["length"] + 1}, "one after another"),
        ({"audio": good["audio"].astype(np.float32)}, "one after another"),
        ({"length": np.r_[0, good["length"][1:-1], good["length"][0] + good["length"][-1]]}, "one after another"),
        ({"digit": good["digit"] + 1}, "a label is out of range"),
        ({"digit": good["digit"][:-1]}, "109 labels"),
        ({"index": good["index"] % 5}, "no recordings for train"),
        ({"index": good["index"] + 20}, "no recordings for val"),
    ]
    for changes, part in cases:
        np.savez(tmp_path / "bad.npz", **{**good, **changes})
        with pytest.raises(UserError, match=part):
            load_task(f"fsdd:{tmp_path}/bad.npz")
    np.savez(tmp_path / "bad.npz", x=np.zeros(3))
    with pytest.raises(UserError, match="lacks the arrays"):
        load_task(f"fsdd:{tmp_path}/bad.npz")
    with pytest.raises(UserError, match="resize does not apply"):
        load_task(f"fsdd:{file}", resize=8)
    with pytest.raises(UserError, match="fsdd needs a path"):
        load_task("fsdd")


def test_the_real_file(shared_data: Path) -> None:
    task = load_task(f"fsdd:{shared_data}/fsdd.npz")
    assert [s.samples for s in (task.train, task.val, task.test)] == [2400, 300, 300]
    for split in (task.train, task.val, task.test):
        assert isinstance(split, TensorBatches)
        assert len(set(torch.bincount(split.tensors[1]).tolist())) == 1  # as many of each digit
    torch.manual_seed(0)
    model = speech_net(16)
    fit(model, task, FitConfig(epochs=5, lr=0.05))
    assert task.evaluate(model, task.test) > 90
