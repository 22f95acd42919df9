"""Run the network beside this file on numpy and onnxruntime alone:  python run.py [input.npy ...] [model.onnx]

Arrays are raw: pixels as loaded, laid out as the metadata's "layout" says, with or without a batch dimension.
"""

import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime

TYPES = {"float": "f4", "double": "f8", "float16": "f2", "int64": "i8", "int32": "i4", "uint8": "u1", "bool": "?"}
asked = [name for name in sys.argv[1:] if name.endswith(".onnx")]
names = [Path(__file__).with_name(name) for name in [*asked, "model.int8.onnx", "model.onnx"]]
session = onnxruntime.InferenceSession(
    str(next(p for p in names if p.exists())), providers=["CPUExecutionProvider"]
)
texts = session.get_modelmeta().custom_metadata_map
constants = {key: json.loads(texts[key]) for key in ("scale", "mean", "std", "classes") if key in texts}
arrays = [np.load(name) for name in sys.argv[1:] if name.endswith(".npy")]
feed = {}
for index, value in enumerate(session.get_inputs()):
    shape = [size if isinstance(size, int) else 1 for size in value.shape]
    x = arrays[index] if arrays else np.zeros(shape)
    x = x[None] if x.ndim < len(shape) else x
    if "mean" in constants and x.ndim == 4:  # pixels [N, C, H, W]
        x = x * constants.get("scale", 1.0) - np.reshape(constants["mean"], (-1, 1, 1))
        x = x / np.reshape(constants["std"], (-1, 1, 1))
    feed[value.name] = x.astype(TYPES[value.type[7:-1]])  # "tensor(float)" -> "float"
for value, y in zip(session.get_outputs(), session.run(None, feed)):  # noqa: B905  (old Pythons)
    print(f"{value.name}: {y.dtype} {list(y.shape)}")
    if y.ndim == 2 and y.shape[1] > 1:
        classes = constants.get("classes", range(y.shape[1]))
        print("top class:", ", ".join(f"{classes[row.argmax()]} ({row.max():.3f})" for row in y))
