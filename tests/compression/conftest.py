"""One small network, exported once for all tests of this folder."""

from __future__ import annotations

import copy

import pytest
import torch
from compression.exported import Exported, X

from neuroprune.compression.quantize import quantize_onnx
from neuroprune.export import EXPORTS
from neuroprune.pruning import prune
from neuroprune.tasks.nets import tiny_resnet


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    torch.manual_seed(0)
    torch.set_num_threads(1)
    dense = tiny_resnet(8)
    with torch.no_grad():
        for _ in range(20):
            dense(torch.randn(32, 1, 16, 16))  # running statistics other than 0 and 1
    dense.eval()
    cut = prune(copy.deepcopy(dense), torch.randn(2, 1, 16, 16), 0.25)
    folder = tmp_path_factory.mktemp("exported")
    fp32, int8 = folder / "model.onnx", folder / "model.int8.onnx"
    metadata = {"scale": "0.0625", "mean": "[0.3]", "std": "[0.4]", "layout": '"NCHW"'}
    example = (torch.from_numpy(X[:1]),)
    EXPORTS.get("onnx").write(cut.model, example, fp32, metadata=metadata, keep_names=True)
    report = quantize_onnx(fp32, int8, [(X[:32],), (X[32:],)])
    return Exported(dense, cut.model, cut.plan, fp32, int8, report)
