"""What a user does with a network, done with a cut one: train, save, copy, compile, export."""

from __future__ import annotations

import copy
import io
import pickle
import warnings
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from graph.nets import Residual, Tied
from safetensors.torch import load_file
from torch import Tensor, nn

from neuroprune.base.files import save_tensors
from neuroprune.pruning import AttributeEdit, Plan, apply, fingerprint, prune, restore
from neuroprune.pruning.tensors import masked, named_tensors


class Attention(nn.Module):
    """Heads counted in a config that two modules share, and the widths of q, k and v in a list."""

    def __init__(self) -> None:
        super().__init__()
        self.config = SimpleNamespace(heads=4, width=8)
        self.sizes = [8, 8, 8]
        self.norm = nn.LayerNorm(8)
        self.qkv, self.proj = nn.Linear(8, 24), nn.Linear(8, 8)
        self.proj.config = self.config

    def forward(self, x: Tensor) -> Tensor:
        batch, length, _ = x.shape
        q, k, v = (
            part.view(batch, length, self.config.heads, -1).transpose(1, 2)
            for part in self.qkv(self.norm(x)).split(self.sizes, dim=-1)
        )
        mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(batch, length, -1)
        return x + self.proj(mixed)


def without_heads_1_and_3(model: nn.Module) -> Plan:
    """Written by hand: head h of q, k and v is rows 2h and 2h + 1 of its third, and the same columns of proj."""
    gone = (2, 3, 6, 7)
    rows = tuple(8 * third + row for third in range(3) for row in gone)
    edits = [("", f"sizes[{i}]", 8, 4) for i in range(3)]
    edits += [("", "config.heads", 4, 2), ("qkv", "out_features", 24, 12), ("proj", "in_features", 8, 4)]
    removed = {"qkv.weight": {0: rows}, "qkv.bias": {0: rows}, "proj.weight": {1: gone}}
    return Plan(fingerprint(model), removed, tuple(AttributeEdit(*edit) for edit in edits))


def found_by_tracing(model: nn.Module) -> Plan:
    inputs = next(case.inputs for case in CASES.values() if isinstance(model, case.make))
    return prune(model, inputs, criterion="random").plan


class Case(NamedTuple):
    make: Callable[[], nn.Module]
    inputs: Tensor
    plan: Callable[[nn.Module], Plan]


CASES = {
    "convolutions": Case(Residual, torch.randn(2, 3, 8, 8), found_by_tracing),
    "tied": Case(Tied, torch.randint(0, 11, (2, 5)), found_by_tracing),
    "attention": Case(Attention, torch.randn(2, 3, 8), found_by_tracing),
    "attention by hand": Case(Attention, torch.randn(2, 3, 8), without_heads_1_and_3),
}


class Cut(NamedTuple):
    dense: nn.Module
    small: nn.Module
    plan: Plan
    inputs: Tensor
    make: Callable[[], nn.Module]


@pytest.fixture(params=CASES)
def cut(request: pytest.FixtureRequest) -> Cut:
    make, inputs, plan_of = CASES[request.param]
    dense = make()
    plan = plan_of(dense)
    return Cut(dense, apply(plan, copy.deepcopy(dense)).eval(), plan, inputs, make)


def close(a: Any, b: Any) -> None:
    torch.testing.assert_close(torch.as_tensor(a), torch.as_tensor(b), rtol=1e-4, atol=1e-5)


def test_it_computes_what_the_masked_network_computes(cut: Cut) -> None:
    with torch.no_grad():
        for name, tensor in named_tensors(cut.dense).items():
            tensor.copy_(masked(tensor, cut.plan.removed.get(name, {})))
    close(cut.small(cut.inputs), cut.dense.eval()(cut.inputs))


def test_it_trains(cut: Cut) -> None:
    cut.small.train()
    optimizer = torch.optim.AdamW(cut.small.parameters(), lr=0.01)
    target = torch.randn_like(cut.small(cut.inputs))
    losses = []
    for _ in range(20):
        optimizer.zero_grad()
        loss = F.mse_loss(cut.small(cut.inputs), target)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert all(p.grad is not None and p.grad.shape == p.shape for p in cut.small.parameters())
    assert losses[-1] < 0.9 * losses[0]


def test_its_state_dict_goes_onto_the_constructor_with_the_plan(cut: Cut, tmp_path: Path) -> None:
    """Without pickle and without tracing: plan.json and safetensors."""
    cut.plan.save(tmp_path / "plan.json")
    save_tensors(tmp_path / "model.safetensors", cut.small.state_dict())
    again = apply(Plan.load(tmp_path / "plan.json"), cut.make())
    again.load_state_dict(load_file(tmp_path / "model.safetensors"))
    assert torch.equal(again.eval()(cut.inputs), cut.small(cut.inputs))
    torch.save(cut.small.state_dict(), tmp_path / "model.pt")
    again.load_state_dict(torch.load(tmp_path / "model.pt", weights_only=True))


def test_it_is_copied_and_pickled(cut: Cut) -> None:
    expected = cut.small(cut.inputs)
    for again in (copy.deepcopy(cut.small), pickle.loads(pickle.dumps(cut.small))):
        assert torch.equal(again(cut.inputs), expected)
        assert named_tensors(again).keys() == named_tensors(cut.small).keys()  # tied weights stay tied
    stream = io.BytesIO()
    torch.save(cut.small, stream)
    stream.seek(0)
    assert torch.equal(torch.load(stream, weights_only=False)(cut.inputs), expected)


@pytest.mark.parametrize("when", ["after the cut", "before the cut"])
def test_it_is_compiled(cut: Cut, when: str) -> None:
    """A network that was compiled and used before it was cut is compiled anew, not run with its old sizes."""
    torch.compiler.reset()
    network = cut.small if when == "after the cut" else cut.dense.eval()
    compiled = torch.compile(network, backend="eager", fullgraph=True)
    close(compiled(cut.inputs), network(cut.inputs))
    if when == "before the cut":
        apply(cut.plan, network)
        close(compiled(cut.inputs), cut.small(cut.inputs))


def test_it_is_exported_by_torch(cut: Cut, tmp_path: Path) -> None:
    program = torch.export.export(cut.small, (cut.inputs,))
    close(program.module()(cut.inputs), cut.small(cut.inputs))
    torch.export.save(program, tmp_path / "small.pt2")
    close(torch.export.load(tmp_path / "small.pt2").module()(cut.inputs), cut.small(cut.inputs))


def test_it_is_exported_to_onnx(cut: Cut, tmp_path: Path) -> None:
    path = tmp_path / "small.onnx"
    with warnings.catch_warnings(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        warnings.filterwarnings("ignore", category=FutureWarning)  # onnxscript's, about itself
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        torch.onnx.export(cut.small, (cut.inputs,), path, dynamo=True, verbose=False)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (got,) = session.run(None, {session.get_inputs()[0].name: cut.inputs.numpy()})
    close(np.asarray(got), cut.small(cut.inputs).detach())


def test_it_is_cut_again_and_restored_in_two_steps(cut: Cut) -> None:
    first_state = {name: tensor.clone() for name, tensor in cut.dense.state_dict().items()}
    second_state = {name: tensor.clone() for name, tensor in cut.small.state_dict().items()}
    expected, dense_output = cut.small(cut.inputs), cut.dense.eval()(cut.inputs)
    again = prune(cut.small, cut.inputs, criterion="random")
    both = again.model
    if again.plan.removed:
        assert sum(p.numel() for p in both.parameters()) < sum(p.numel() for p in cut.small.parameters())
    restore(again.plan, both, second_state)
    assert torch.equal(both.eval()(cut.inputs), expected)
    restore(cut.plan, both, first_state)
    assert torch.equal(both.eval()(cut.inputs), dense_output)


def test_it_moves_between_data_types(cut: Cut) -> None:
    doubled = copy.deepcopy(cut.small).double()
    inputs = cut.inputs.double() if cut.inputs.is_floating_point() else cut.inputs
    assert doubled(inputs).dtype == torch.float64
    close(doubled(inputs).float(), cut.small(cut.inputs))


def test_a_network_on_the_meta_device_is_cut(cut: Cut) -> None:
    """Sizes can be planned and read where the weights would not fit into memory."""
    with torch.device("meta"):
        network = cut.make()
    apply(cut.plan, network)
    assert {n: t.shape for n, t in network.state_dict().items()} == {
        n: t.shape for n, t in cut.small.state_dict().items()
    }
