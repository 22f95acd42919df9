"""An allocation decides how many units of each group go, so that every budget holds."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from neuroprune.base.registry import Registry
from neuroprune.budget.problem import Problem

#: -> [groups]: how many units go; each among ``problem.allowed``. Raises UserError where no choice holds a budget
Allocation = Callable[[Problem], np.ndarray]

ALLOCATIONS: Registry[Allocation] = Registry("allocation")
