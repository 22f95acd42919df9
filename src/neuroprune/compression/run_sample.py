"""Run the network beside this file on numpy and onnxruntime alone:  python run.py [input.npy ...] [model.onnx]

One array per input, raw: pixels as loaded, of the network's size, laid out as the metadata's "layout" says;
batch and channel dimensions of size 1 may be left out. The default model is the one that manifest.json calls best.
"""

# ruff: noqa: B905  (older Pythons have no strict zip)
import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime

TYPES = {"float": "f4", "double": "f8", "float16": "f2", "int64": "i8", "int32": "i4", "uint8": "u1", "bool": "?"}
manifest = Path(__file__).with_name("manifest.json")
best = json.loads(manifest.read_text()).get("best") if manifest.exists() else None
asked = [name for name in sys.argv[1:] if name.endswith(".onnx")]
models = asked or [name for name in (best, "model.int8.onnx", "model.onnx") if name]
found = [str(manifest.parent / name) for name in models if (manifest.parent / name).exists()]
found = found or sys.exit(f"there is no {models[0]} beside run.py")
session = onnxruntime.InferenceSession(found[0], providers=["CPUExecutionProvider"])
texts = session.get_modelmeta().custom_metadata_map
constants = {key: json.loads(texts[key]) for key in ("layout", "scale", "mean", "std", "classes") if key in texts}
shapes = [[n if isinstance(n, int) else 1 for n in value.shape] for value in session.get_inputs()]
arrays = [np.load(name) for name in sys.argv[1:] if name not in asked] or [np.zeros(shape) for shape in shapes]
wanted = ", ".join(f"{value.name} {value.type[7:-1]} {value.shape}" for value in session.get_inputs())
wanted = f"the network takes {len(shapes)} array(s): {wanted}, layout {constants.get('layout', 'as trained')}"
feed = {}
for value, x in zip(session.get_inputs(), arrays if len(arrays) == len(shapes) else sys.exit(wanted)):
    s = x.shape  # as it is, without batch dimension, without both, without channel dimension
    fits = [w for w in (s, (1, *s), (1, 1, *s), (*s[:1], 1, *s[1:])) if len(w) == len(value.shape)]
    fits = [w for w in fits if all(n == m or not isinstance(n, int) for n, m in zip(value.shape, w))]
    x = x.reshape(fits[0] if fits else sys.exit(f"{wanted}; {value.name} was given as {list(s)}: resize it first"))
    if "mean" in constants and x.ndim == 4:  # pixels [N, C, H, W]
        x = x * constants.get("scale", 1.0) - np.reshape(constants["mean"], (-1, 1, 1))
        x = x / np.reshape(constants["std"], (-1, 1, 1))
    feed[value.name] = x.astype(TYPES[value.type[7:-1]])  # "tensor(float)" -> "float"
for value, y in zip(session.get_outputs(), session.run(None, feed)):
    print(f"{value.name}: {y.dtype} {list(y.shape)}")
    if y.ndim == 2 and y.shape[1] > 1:
        names = dict(enumerate(constants.get("classes", ())))  # a number where the class has no name
        top = [f"{names.get(row.argmax(), row.argmax())} ({row.max():.3f})" for row in y]
        print("top class:", ", ".join(top))
