"""The second tier: sizes that are literals of the code, cut in an exported graph; saved and loaded."""

from __future__ import annotations

import copy
import dataclasses
import json
import operator
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from commands import fails, neuroprune
from torch import Tensor, nn

import neuroprune as library
from neuroprune.base.errors import UserError
from neuroprune.graph import trace
from neuroprune.pruning import Plan, PruneResult, apply, exported, prune, restore, save_exported
from neuroprune.testing import assert_exact


class Literal(nn.Module):
    """[B, N, 16] -> [B, 5]: heads and pieces are numbers in the code."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.out, self.head = nn.Linear(16, 96), nn.Linear(32, 12), nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        b, n, _ = x.shape
        q, k, v = self.qkv(x).view(b, n, 3, 4, 8).permute(2, 0, 3, 1, 4)
        scores = (q @ k.transpose(-1, -2)).softmax(-1)
        x = (scores @ v).transpose(1, 2).reshape(b, n, 32)
        a, c = torch.split(self.out(x), [6, 6], dim=-1)
        return self.head(torch.cat([a.relu(), c], -1).mean(1))


class Convolutions(nn.Module):
    """[B, 3, 6, 6] -> [B, 4]: a literal slice to the end, a literal flatten, literal groups."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.norm = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.grouped = nn.Parameter(torch.randn(8, 2, 3, 3))
        self.b, self.out = nn.Conv2d(8, 6, 1), nn.Linear(6 * 9, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.a(x)).relu()
        x = F.conv2d(x, self.grouped, padding=1, groups=4)
        x = torch.cat([x[:, 4:], x[:, :4]], 1)
        x = F.max_pool2d(self.b(x), 2)
        return self.out(x.reshape(x.shape[0], 54))


class Attention(nn.Module):
    """Tokens [B, N] -> {"logits": [B, N, 11]}: PyTorch's attention, an LSTM, a tied weight, keywords."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.attend = nn.Embedding(11, 8), nn.MultiheadAttention(8, 4, batch_first=True)
        self.recur, self.norm = nn.LSTM(8, 8, batch_first=True), nn.LayerNorm(8)
        self.up, self.down = nn.Linear(8, 16), nn.Linear(16, 8)
        self.head = nn.Linear(8, 11, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, tokens: Tensor, *, scale: Tensor) -> dict[str, Tensor]:
        x = self.embed(tokens) * scale
        x = x + self.attend(x, x, x, need_weights=False)[0]
        x = self.recur(x)[0] + x
        a, b = self.up(self.norm(x)).view(x.shape[0], -1, 2, 8).unbind(2)
        return {"logits": self.head(x + self.down(torch.cat([a, b.relu()], -1).float()))}


def words(batch: int = 2) -> dict[str, Tensor]:
    return {"tokens": torch.randint(0, 11, (batch, 5)), "scale": torch.rand(batch, 5, 1)}


NETS = {
    "literal": (Literal, lambda: torch.randn(2, 7, 16)),
    "convolutions": (Convolutions, lambda: torch.randn(2, 3, 6, 6)),
    "attention": (Attention, words),
}


def second_tier(name: str, ratio: float = 0.5) -> tuple[nn.Module, object, PruneResult]:
    torch.manual_seed(0)
    make, inputs = NETS[name]
    model, example = make(), inputs()
    return model, example, prune(model, example, ratio=ratio, criterion="random", tier="exported")


@pytest.mark.parametrize("ratio", [0.3, 0.5])
@pytest.mark.parametrize("name", NETS)
def test_cuts_are_exact_and_the_model_stays_as_it_was(name: str, ratio: float) -> None:
    torch.manual_seed(0)
    make, inputs = NETS[name]
    model, example = make(), inputs()
    before = copy.deepcopy(model.state_dict())
    result = prune(model, example, ratio=ratio, criterion="random", tier="exported")
    assert (result.tier, result.plan.tier) == ("exported", "exported")
    assert_exact(exported(model, example), result.model, result.plan, example)
    assert result.model.state_dict().keys() == model.state_dict().keys()
    assert sum(map(Tensor.numel, result.model.parameters())) < sum(map(Tensor.numel, model.parameters()))
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    assert model.training


def test_literal_heads_and_pieces_are_refused_by_the_first_tier_and_cut_by_the_second() -> None:
    model, example, result = second_tier("literal")
    first = prune(model, example, ratio=0.5)
    assert [tuple(p.shape) for p in first.model.parameters()] == [tuple(p.shape) for p in model.parameters()]
    assert result.model.qkv.weight.shape == (48, 16)
    assert result.model.out.weight.shape == (6, 16)
    assert result.model.head.weight.shape == (5, 6)
    edits = {edit.name: (edit.before, edit.after) for edit in result.plan.attributes}
    assert edits["graph_sizes['split_with_sizes'][0]"] == (6, 3)
    assert edits["graph_sizes['reshape'][1]"] == (32, 16)


def test_the_cut_graph_computes_what_the_module_computes_with_zeros_in_place_of_what_went() -> None:
    """An independent truth: the user's own module, its weights zeroed at the plan's indices."""
    model, _, result = second_tier("literal", ratio=0.3)
    zeroed = copy.deepcopy(model).double().eval()
    for name, dims in result.plan.removed.items():
        for dim, indices in dims.items():
            dict(zeroed.named_parameters())[name].data.index_fill_(dim, torch.tensor(indices), 0)
    small = copy.deepcopy(result.model).double()
    for batch in (1, 2, 5):
        x = torch.randn(batch, 7, 16, dtype=torch.float64)
        assert torch.allclose(small(x), zeroed(x), rtol=1e-10, atol=1e-12)


def test_a_wrong_size_is_noticed() -> None:
    """The proof can fail: a plan that misses one edit, or has it wrong, is not exact."""
    model, example, result = second_tier("literal")
    net = exported(model, example)
    for number, edit in enumerate(result.plan.attributes):
        wrong = list(result.plan.attributes)
        wrong[number] = dataclasses.replace(edit, after=edit.after + 1)
        assert not library.verify(net, dataclasses.replace(result.plan, attributes=tuple(wrong)), example).exact


@pytest.mark.parametrize("name", NETS)
def test_the_saved_program_loads_and_runs_equal(name: str, tmp_path: Path) -> None:
    _, example, result = second_tier(name)
    save_exported(result, tmp_path / "cut")
    assert sorted(p.name for p in (tmp_path / "cut").iterdir()) == ["model.pt2", "plan.json"]
    again = torch.export.load(tmp_path / "cut" / "model.pt2").module()
    args, kwargs = ((), example) if isinstance(example, dict) else ((example,), {})
    wanted, got = result.model(*args, **kwargs), again(*args, **kwargs)
    assert torch.equal(*(x["logits"] if isinstance(x, dict) else x for x in (wanted, got)))
    assert Plan.load(tmp_path / "cut" / "plan.json") == result.plan


def test_the_batch_stays_free_and_other_sizes_are_refused() -> None:
    _, _, result = second_tier("literal")
    assert result.model(torch.randn(5, 7, 16)).shape == (5, 5)
    with pytest.raises(UserError, match=r"shape \(None, 7, 16\)"):
        result.model(torch.randn(2, 6, 16))
    with pytest.raises(UserError, match="built in another way"):
        result.model(x=torch.randn(2, 7, 16), y=1)


def test_a_module_with_its_batch_size_in_the_code_keeps_it() -> None:
    class Fixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 8), nn.Linear(8, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.b(self.a(x).view(2, 2, 4).relu().reshape(2, 8))

    result = prune(Fixed(), torch.randn(2, 4), ratio=0.5, tier="exported")
    assert result.model.b.weight.shape == (3, 4)
    with pytest.raises(UserError, match=r"shape \(2, 4\)"):
        result.model(torch.randn(3, 4))


def test_the_plan_is_no_plan_of_the_plain_constructor() -> None:
    model, example, result = second_tier("literal")
    with pytest.raises(UserError, match=r"cannot be applied to the module itself[\s\S]*torch\.export\.load"):
        apply(result.plan, Literal())
    first = prune(model, example, ratio=0.5)
    with pytest.raises(UserError, match="this is an exported graph"):
        apply(first.plan, exported(model, example))


def test_plan_applies_to_an_export_of_a_fresh_model_and_is_undone(tmp_path: Path) -> None:
    model, example, result = second_tier("convolutions")
    result.plan.save(tmp_path / "plan.json")
    plan = Plan.load(tmp_path / "plan.json")
    assert json.loads((tmp_path / "plan.json").read_text())["schema"] == 3
    small = apply(plan, exported(model, example))
    assert torch.equal(small(example), result.model(example))
    dense = restore(plan, small, model.state_dict())
    assert torch.equal(dense(example), model.eval()(example))
    first = prune(model, example, ratio=0.5).plan.to_json()
    assert "tier" not in first
    with pytest.raises(UserError, match="there is no tier 'third'"):
        Plan.from_json({**first, "tier": "third"})


def test_refusals_name_the_line_of_the_users_code() -> None:
    found = trace(exported(Literal(), torch.randn(2, 7, 16)), torch.randn(2, 7, 16))
    places = [r.where for r in found.refused if r.parameter.startswith("qkv")]
    line = Path(__file__).read_text().splitlines()[int(places[0].rpartition(":")[2]) - 1]
    assert "self.qkv(x).view" in line


def test_what_training_would_do_is_no_longer_there() -> None:
    _, _, result = second_tier("convolutions")
    assert not result.model.training
    with pytest.raises(UserError, match="inference only"):
        result.model.train()


def test_what_the_module_remembers_between_calls_is_as_it_was() -> None:
    class Remembers(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 8), nn.Linear(8, 3)
            self.register_buffer("seen", torch.zeros(8))

        def forward(self, x: Tensor) -> Tensor:
            x = self.a(x).view(-1, 8)
            self.seen.mul_(0.5).add_(x.mean(0))
            return self.b(x - self.seen)

    model, x = Remembers(), torch.randn(2, 4)
    result = prune(model, x, ratio=0.5, tier="exported")
    assert result.model.seen.tolist() == [0.0] * 4
    assert model.seen.tolist() == [0.0] * 8


def test_what_a_program_file_cannot_hold_is_said() -> None:
    class Texts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 8), nn.Linear(8, 3)

        def forward(self, x: Tensor) -> dict[str, Any]:
            return {"y": self.b(self.a(x)), "kind": "text"}

    result = prune(Texts(), torch.randn(2, 4), tier="exported")
    with pytest.raises(UserError, match="cannot be saved"):
        save_exported(result, "nowhere")
    assert not Path("nowhere").exists()


def test_what_cannot_be_exported_is_said() -> None:
    class Branch(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x + 1 if x.sum() > 0 else x

    class Nested(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.cond(x.sum() > 0, operator.neg, torch.sin, (x,))

    with pytest.raises(UserError, match="cannot be exported"):
        exported(Branch(), torch.ones(2, 2))
    with pytest.raises(UserError, match=r"hides what it computes|something else than tensors"):
        exported(Nested(), torch.ones(2, 2))
    with pytest.raises(UserError, match="that of one call"):
        exported(nn.Linear(2, 2), [torch.ones(1, 2), torch.ones(2, 2)])


def test_options_that_do_not_go_together() -> None:
    model, x = nn.Sequential(OrderedDict(a=nn.Linear(3, 4), b=nn.Linear(4, 2))), torch.randn(1, 3)
    with pytest.raises(UserError, match="unknown tier 'second'"):
        prune(model, x, tier="second")  # type: ignore[arg-type]
    with pytest.raises(UserError, match="another object"):
        prune(model, x, tier="exported", inplace=True)
    with pytest.raises(UserError, match="only a second-tier result"):
        save_exported(prune(model, x), "nowhere")


NET = """
from torch import nn


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 6), nn.Linear(6, 3)

    def forward(self, x):
        return self.b(self.a(x).relu().view(-1, 6))
"""


def test_command_line_writes_the_program(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(NET)
    words = ("prune", "net.py:Net", "--input", "1,4", "--tier")
    done = neuroprune(*words, "exported", "--out", "cut", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "model.pt2" in done.stdout
    names = sorted(p.name for p in (tmp_path / "cut").iterdir())
    assert names == ["model.pt2", "plan.json", "report.json", "undo"]
    program = torch.export.load(tmp_path / "cut" / "model.pt2").module()
    assert program.b.weight.shape == (3, 3)
    assert program(torch.randn(7, 4)).shape == (7, 3)
    assert json.loads((tmp_path / "cut" / "report.json").read_text())["tier"] == "exported"
    fails(*words, "second", "--out", "other", cwd=tmp_path, says=["unknown tier 'second'"])
