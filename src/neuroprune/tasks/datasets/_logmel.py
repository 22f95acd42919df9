"""Log-mel spectrograms: how loud a recording is in each band of pitch, frame by frame."""

from __future__ import annotations

from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

_FLOOR = 1e-6  # of the power of a full-scale recording: what is below counts as silence


def mel_filters(bands: int, window: int, rate: int) -> Array:
    """[bands, window // 2 + 1]: triangles of equal width on the mel scale from 0 Hz to half of ``rate`` (Hz).

    mel = 2595 log10(1 + f / 700) (O'Shaughnessy 1987); their weights reach 1, as in HTK (Young et al. 2002).
    """
    top = 2595 * np.log10(1 + rate / 2 / 700)
    edges = 700 * (10 ** (np.linspace(0, top, bands + 2) / 2595) - 1)  # Hz
    bins = np.fft.rfftfreq(window, 1 / rate)
    rising = (bins - edges[:-2, None]) / (edges[1:-1] - edges[:-2])[:, None]
    falling = (edges[2:, None] - bins) / (edges[2:] - edges[1:-1])[:, None]
    filters: Array = np.clip(np.minimum(rising, falling), 0, None)
    return filters


def log_mel(signal: Array, *, bands: int, window: int, hop: int, rate: int) -> Array:
    """float32 [bands, frames] of one signal [samples] in -1..1: log of the power in each band.

    ``window`` and ``hop`` are in samples; frames are weighted by Hann's window. A signal shorter than a window is
    padded with silence.
    """
    signal = np.pad(signal, (0, max(window - len(signal), 0)))
    frames = np.lib.stride_tricks.sliding_window_view(signal, window)[::hop]  # [frames, window]
    power = np.abs(np.fft.rfft(frames * np.hanning(window), axis=1)) ** 2 / window  # [frames, window // 2 + 1]
    mel: Array = np.log(mel_filters(bands, window, rate) @ power.T + _FLOOR)
    return mel.astype(np.float32)
