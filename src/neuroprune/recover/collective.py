"""What several processes do together, and what is said when one of them is gone."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from neuroprune.base.errors import Interrupted


def gone() -> Interrupted:
    return Interrupted(
        "a process that shared the training is gone; whole epochs are kept",
        where=f"process {os.environ.get('RANK', '0')} of {os.environ.get('WORLD_SIZE', '1')}",
        mend="look at its own message above; start torchrun again with --resume",
    )


@contextmanager
def together() -> Iterator[None]:
    """Around a collective operation, which fails with a bare RuntimeError when another process is gone."""
    try:
        yield
    except RuntimeError as error:
        raise gone() from error
