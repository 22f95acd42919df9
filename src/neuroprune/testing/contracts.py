"""Contract tests that every variant of a kind must pass; third parties subclass them for their own."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from neuroprune.base.errors import UserError
from neuroprune.devices import DEVICES
from neuroprune.export import EXPORTS


class ExportContract:
    """Subclass, set ``name`` to a registered export, and let pytest collect it."""

    name: str

    def written(self, folder: Path) -> tuple[nn.Module, Path]:
        """A small convolutional network with random weights, and the file it was written to."""
        torch.manual_seed(0)
        model = nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(36, 3))
        export = EXPORTS.get(self.name)
        path = folder / f"model{export.suffix}"
        export.write(model, (torch.randn(2, 2, 5, 5),), path, metadata={"classes": '["a", "b", "c"]'})
        return model, path

    def test_the_file_computes_what_pytorch_computes_at_other_batch_sizes(self, tmp_path: Path) -> None:
        model, path = self.written(tmp_path)
        session = EXPORTS.get(self.name).load(path)
        for batch in (1, 5):
            x = torch.randn(batch, 2, 5, 5)
            (got,) = session.run([x.numpy()])
            with torch.no_grad():
                expected = model.eval()(x)
            assert torch.allclose(torch.from_numpy(got), expected, atol=1e-5)

    def test_metadata_travels_and_the_model_keeps_its_mode(self, tmp_path: Path) -> None:
        model, path = self.written(tmp_path)
        assert model.training
        assert EXPORTS.get(self.name).load(path).metadata["classes"] == '["a", "b", "c"]'

    def test_a_file_that_is_no_network_is_an_error_of_the_user(self, tmp_path: Path) -> None:
        broken = tmp_path / "broken"
        broken.write_bytes(b"no network")
        with pytest.raises(UserError):
            EXPORTS.get(self.name).load(broken)
        with pytest.raises(UserError):
            EXPORTS.get(self.name).load(tmp_path / "absent")


class DeviceContract:
    """Subclass, set ``name`` to a registered device and ``export`` to a runtime it can run."""

    name: str
    export = "onnx"

    def test_every_file_is_timed_in_one_call_and_memory_has_a_source(self, tmp_path: Path) -> None:
        paths = {}
        for label, width in (("narrow", 2), ("wide", 8)):
            paths[label] = tmp_path / label
            EXPORTS.get(self.export).write(nn.Linear(4, width), (torch.randn(2, 4),), paths[label])
        device, inputs = DEVICES.get(self.name), [torch.randn(1, 4).numpy()]
        found = device.measure(paths, inputs, threads=1, seconds=0.05)
        assert set(found) == {"narrow", "wide"}
        for latency in found.values():
            assert latency.runs > 0
            assert (latency.threads, latency.batch) == (1, 1)
            assert 0 < latency.cpu_p50_ms <= latency.cpu_p90_ms
            assert 0 < latency.wall_p50_ms <= latency.wall_p90_ms
        memory = device.memory(paths["wide"], inputs, threads=1)
        assert memory.peak >= memory.baseline > 0
        assert memory.source

    def test_files_with_inputs_of_their_own_are_timed_in_one_call(self, tmp_path: Path) -> None:
        paths, inputs = {}, {}
        for label, width in (("narrow", 2), ("wide", 8)):
            paths[label], inputs[label] = tmp_path / label, [torch.randn(width, width).numpy()]
            EXPORTS.get(self.export).write(nn.Linear(width, 3), (torch.randn(2, width),), paths[label])
        found = DEVICES.get(self.name).measure(paths, inputs, threads=1, seconds=0.05)
        assert {name: latency.batch for name, latency in found.items()} == {"narrow": 2, "wide": 8}

    def test_it_says_what_its_figures_rest_on(self) -> None:
        facts = DEVICES.get(self.name).facts()
        assert facts == DEVICES.get(self.name).facts() != {}
        assert json.loads(json.dumps(facts)) == facts
