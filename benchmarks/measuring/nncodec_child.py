"""Runs in nncodec's own environment: integers as they are (no quantisation), with and without its row skipping.

python -m venv ENV && ENV/bin/pip install nncodec && ENV/bin/python nncodec_child.py levels.npz
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

levels = dict(np.load(sys.argv[1]))
found = []
for row_skipping in (False, True):
    with contextlib.redirect_stdout(io.StringIO()):
        begin = time.process_time()
        stream = nnc.compress(
            levels, bitstream_path=None, return_bitstream=True, use_dq=False, row_skipping=row_skipping
        )
        middle = time.process_time()
        back = nnc.decompress(stream)
        end = time.process_time()
    assert all(np.array_equal(back[name], tensor) for name, tensor in levels.items())
    found.append((len(stream), middle - begin, end - middle, row_skipping))
size, encode, decode, row_skipping = min(found)
print(
    json.dumps(
        {
            "bytes": size,
            "encode_cpu_s": encode,
            "decode_cpu_s": decode,
            "row_skipping": row_skipping,
            "version": version("nncodec"),
        }
    )
)
