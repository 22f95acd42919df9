"""How sure a network is, and whether that can be believed: temperature scaling and calibration error."""

from __future__ import annotations

import numpy as np
from scipy.optimize import minimize_scalar

from neuroprune.base.errors import UserError

#: of temperatures that are looked for: where every answer is right, any smaller one is better still
COLDEST, HOTTEST = 0.05, 20.0
_BINS = 15


def fit_temperature(scores: np.ndarray, labels: np.ndarray) -> float:
    """The temperature under which the softmax of ``scores`` [n, classes] fits ``labels`` [n] best.

    Least negative log likelihood, one number (Guo et al. 2017, On Calibration of Modern Neural Networks); classes
    keep their order. Examples whose scores are not finite do not count. Raises UserError where none is left.
    """
    fine = np.isfinite(scores).all(axis=1)
    if not fine.any():
        raise UserError(
            "a level gives no finite scores on the validation data",
            value=f"{len(scores)} examples",
            mend="check the data, and the scale of the inputs",
        )
    centred = scores[fine].astype(np.float64)
    centred -= centred.max(axis=1, keepdims=True)
    right = centred[np.arange(len(centred)), labels[fine]]

    def missed(log_temperature: float) -> float:
        cold = np.exp(-log_temperature)
        return float((np.log(np.exp(cold * centred).sum(axis=1)) - cold * right).mean())

    found = minimize_scalar(missed, bounds=(np.log(COLDEST), np.log(HOTTEST)), method="bounded")
    return float(np.exp(found.x))


def calibration_error(confidence: np.ndarray, right: np.ndarray) -> float:
    """Expected calibration error: |share right - mean confidence| over 15 equal bins (Guo et al. 2017), 0 to 1."""
    bins = np.minimum((np.nan_to_num(confidence) * _BINS).astype(int), _BINS - 1)
    gaps = [abs(right[bins == one].sum() - np.nan_to_num(confidence)[bins == one].sum()) for one in range(_BINS)]
    return float(sum(gaps) / max(len(right), 1))
