"""The plan: what is removed from which tensor, as plain data. Search proposes it, surgery applies it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from neuroprune.base.errors import UserError
from neuroprune.base.files import read_json, write_json
from neuroprune.graph.attributes import AttributeEdit
from neuroprune.pruning.paths import parse

SCHEMA = 1
SCHEMA_OF_BYPASSES = 2  # an older version must refuse such a plan, not overlook the blocks
SCHEMA_OF_TIERS = 3  # nor what it was made for
TIERS = ("module", "exported")


@dataclass(frozen=True)
class GroupDecision:
    """Why the units of one group went or stayed.

    ``scores[i]`` belongs to unit i; units with a score below ``threshold`` went. ``constraint`` names what
    bound the choice (a ratio, a budget), ``reason`` says it in words.
    """

    group: str
    criterion: str
    kept: tuple[int, ...]
    removed: tuple[int, ...]
    scores: tuple[float, ...]
    threshold: float
    reason: str
    constraint: str


@dataclass(frozen=True)
class Plan:
    """``removed[tensor name][dim]`` = indices that go, ascending; tensors are named as in ``state_dict``.

    ``bypassed[module]``: a block that goes as a whole, and which of its arguments its callers get instead, such as
    ``args[0]`` or ``(args[0], None)``. ``removed`` may name tensors of such a block: they are cut, then dropped
    with it, so that a plan of widths stays the same whichever blocks go.

    ``tier``: ``module`` for a plan that cuts the user's own module; ``exported`` for one that cuts the exported
    graph of it (see `neuroprune.pruning.exported`), whose sizes the module itself does not have.
    """

    fingerprint: str
    removed: Mapping[str, Mapping[int, tuple[int, ...]]] = field(default_factory=dict)
    attributes: tuple[AttributeEdit, ...] = ()
    decisions: tuple[GroupDecision, ...] = ()
    bypassed: Mapping[str, str] = field(default_factory=dict)
    tier: str = "module"

    @classmethod
    def identity(cls, model: nn.Module) -> Plan:
        """The plan that removes nothing."""
        return cls(fingerprint(model), tier=tier_of(model))

    def kept_fraction(self) -> dict[str, float]:
        """Share of the units that stay, per group."""
        return {d.group: len(d.kept) / (len(d.kept) + len(d.removed)) for d in self.decisions}

    def to_json(self) -> dict[str, Any]:
        bypassed = {"bypassed": dict(self.bypassed)} if self.bypassed else {}
        tier = {"tier": self.tier} if self.tier != "module" else {}
        return {
            "schema": SCHEMA_OF_TIERS if tier else SCHEMA_OF_BYPASSES if bypassed else SCHEMA,
            "fingerprint": self.fingerprint,
            "removed": {
                name: {str(dim): list(indices) for dim, indices in dims.items()}
                for name, dims in self.removed.items()
            },
            "attributes": [vars(edit).copy() for edit in self.attributes],
            "decisions": [
                {key: list(value) if isinstance(value, tuple) else value for key, value in vars(d).items()}
                for d in self.decisions
            ],
            **bypassed,
            **tier,
        }

    @classmethod
    def from_json(cls, data: Any, *, where: str = "plan") -> Plan:
        """Raises UserError when the document is no plan or comes from a newer version."""
        if not isinstance(data, dict) or "schema" not in data:
            raise UserError(
                "this is not a neuroprune plan (no key 'schema')",
                where=where,
                mend="name the plan.json of an artifact or run",
            )
        if data["schema"] not in (SCHEMA, SCHEMA_OF_BYPASSES, SCHEMA_OF_TIERS):
            raise UserError(
                f"the plan has schema {data['schema']}, this version reads {SCHEMA} to {SCHEMA_OF_TIERS}",
                where=where,
                mend="install the version of neuroprune that wrote it",
            )
        try:
            removed = {
                str(name): {int(dim): _ascending(indices) for dim, indices in dims.items()}
                for name, dims in data["removed"].items()
            }
            decisions = tuple(_decision(d) for d in data["decisions"])
            attributes = tuple(_edit(e) for e in data["attributes"])
            bypassed = {str(name): str(returns) for name, returns in data.get("bypassed", {}).items()}
            tier = str(data.get("tier", "module"))
            if tier not in TIERS:
                raise ValueError(f"there is no tier {tier!r}")
            return cls(str(data["fingerprint"]), removed, attributes, decisions, bypassed, tier)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise UserError(
                f"the plan is damaged: {error!r}", where=where, mend="take it again from the run that made it"
            ) from error

    def save(self, path: Path | str) -> None:
        write_json(Path(path), self.to_json())

    @classmethod
    def load(cls, path: Path | str) -> Plan:
        return cls.from_json(read_json(Path(path)), where=str(path))


def _ascending(indices: list[int]) -> tuple[int, ...]:
    found = tuple(int(i) for i in indices)
    if not found or found[0] < 0 or any(a >= b for a, b in pairwise(found)):
        raise ValueError(f"these indices are not ascending: {indices[:5]}")
    return found


def _edit(data: dict[str, Any]) -> AttributeEdit:
    edit = AttributeEdit(**data)
    parse(edit.name)
    if not all(isinstance(value, int) for value in (edit.before, edit.after)):
        raise ValueError(f"{edit.module}.{edit.name} is set to something that is no size")
    return edit


def _decision(data: dict[str, Any]) -> GroupDecision:
    fields: dict[str, Any] = {key: tuple(v) if isinstance(v, list) else v for key, v in data.items()}
    return GroupDecision(**fields)


def tier_of(model: nn.Module) -> str:
    """``exported`` for an exported graph, ``module`` for any other network."""
    return str(getattr(type(model), "neuroprune_tier", "module"))


def fingerprint(model: nn.Module) -> str:
    """SHA-256 over names and shapes of all parameters and buffers: which architecture, not which weights."""
    return fingerprint_of(model.state_dict())


def fingerprint_of(state: Mapping[str, Any]) -> str:
    """The same from a state dict; extra state, which is no tensor, does not count."""
    shapes = {name: list(value.shape) for name, value in state.items() if isinstance(value, Tensor)}
    return hashlib.sha256(json.dumps(shapes, sort_keys=True).encode()).hexdigest()
