"""Weight times norm of its input."""

from __future__ import annotations

from torch import Tensor

from neuroprune.pruning.criteria._base import WeightView, criterion


@criterion(
    "wanda",
    summary="|weight| x Euclidean norm of its input over all samples",
    source="Sun et al. 2023, A simple and effective pruning approach for large language models",
    needs=("activations",),
)
def wanda(view: WeightView) -> Tensor:
    """|W_ij| ||X_j||_2. The paper compares weights within an output row; here they are compared as for every
    criterion, summed into units or within a tensor."""
    assert view.input_norm is not None
    return view.weight.abs() * view.input_norm
