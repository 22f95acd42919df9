"""How much of a model can go, and how much went: counts over groups and plans, nothing else."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from torch import nn

Places = dict[tuple[str, int], set[int]]


def removable_places(groups: Iterable[Any]) -> Places:
    """(tensor, dim) -> the indices that some group could remove; each index counts once."""
    places: Places = {}
    for group in groups:
        for part in group.slices:
            indices = np.unique(np.asarray(part.indices)).tolist()
            places.setdefault((part.tensor, part.dim), set()).update(indices)
    return places


def achieved(places: Places, removed: Mapping[str, Mapping[int, Iterable[int]]]) -> float:
    """Share of the removable indices that a plan removes, 0..1; 0 where nothing can be removed."""
    total = sum(map(len, places.values()))
    gone = sum(len(indices & set(removed.get(name, {}).get(dim, ()))) for (name, dim), indices in places.items())
    return gone / total if total else 0.0


def parameters(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def removable_share(model: nn.Module, places: Places) -> float:
    """Elements of the parameters that some group cuts, over all elements of all parameters."""
    touched = {name for name, _ in places}
    total = parameters(model)
    return sum(p.numel() for name, p in model.named_parameters() if name in touched) / total if total else 0.0


def commonest(refused: Sequence[Any], count: int = 3) -> list[list[Any]]:
    """The ``count`` commonest reasons of refusals, as [reason, how often], the output among them."""
    reasons = Counter(f"{r.operator}: {r.reason}"[:160] for r in refused)
    return [[reason, n] for reason, n in sorted(reasons.items(), key=lambda item: (-item[1], item[0]))[:count]]


def facts(model: nn.Module, found: Any) -> dict[str, Any]:
    """What a trace says about a model, as plain JSON."""
    places = removable_places(found.groups)
    return {
        "params": parameters(model),
        "groups": len(found.groups),
        "kinds": dict(Counter(getattr(group, "kind", "channel") for group in found.groups)),
        "removable": removable_share(model, places),
        "refused_dims": len(found.refused),
        "reasons": commonest(found.refused),
    }
