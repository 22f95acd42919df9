"""What calls take on one example after the other: where the answer takes as long as the input is hard, one input
says nothing."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Mapping

import numpy as np

#: examples in a row that one network answers before it is another's turn
BLOCK = 8


def time_examples(
    calls: Mapping[str, Callable[[int], object]], examples: int, *, rounds: int = 3
) -> dict[str, np.ndarray]:
    """Milliseconds of CPU time of ``call(i)`` for every example i: name -> [examples], the median of ``rounds``.

    Names take turns every few examples, each turn begun by another one, so that drift of the machine meets all of
    them alike. The first call of a turn finds the caches cold and is not counted.
    """
    samples = {name: np.empty((rounds, examples)) for name in calls}
    order = list(calls)
    collecting = gc.isenabled()
    gc.disable()
    try:
        for turn in range(rounds):
            for start in range(0, examples, BLOCK):
                for name in order:
                    call = calls[name]
                    call(start)
                    for example in range(start, min(start + BLOCK, examples)):
                        began = time.process_time_ns()
                        call(example)
                        samples[name][turn, example] = time.process_time_ns() - began
                order.append(order.pop(0))
    finally:
        if collecting:
            gc.enable()
    return {name: np.median(found, axis=0) / 1e6 for name, found in samples.items()}
