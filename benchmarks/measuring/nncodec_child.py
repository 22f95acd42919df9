"""Runs in nncodec's own environment: integers as they are (no quantisation), with and without its row skipping.

python -m venv ENV && ENV/bin/pip install nncodec && ENV/bin/python nncodec_child.py levels.npz ...
"""

from __future__ import annotations

import contextlib
import io
import json
import sys
import time
from importlib.metadata import version

import numpy as np
from nncodec import nnc

#: a network of more weights is coded in the first setting only
LARGE = 5_000_000


def coded(levels: dict[str, np.ndarray], row_skipping: bool) -> tuple[int, float, float, bool]:
    """Bytes, CPU seconds of both ways, the setting."""
    with contextlib.redirect_stdout(io.StringIO()):
        begin = time.process_time()
        stream = nnc.compress(
            levels, bitstream_path=None, return_bitstream=True, use_dq=False, row_skipping=row_skipping
        )
        middle = time.process_time()
        back = nnc.decompress(stream)
        end = time.process_time()
    assert all(np.array_equal(back[name], tensor) for name, tensor in levels.items())
    return len(stream), middle - begin, end - middle, row_skipping


for path in sys.argv[1:]:
    levels = dict(np.load(path))
    large = sum(tensor.size for tensor in levels.values()) > LARGE
    size, encode, decode, row_skipping = min(coded(levels, setting) for setting in (True, False)[: 2 - large])
    found = {"bytes": size, "encode_cpu_s": encode, "decode_cpu_s": decode, "row_skipping": row_skipping}
    print(json.dumps(found | {"version": version("nncodec")}), flush=True)
