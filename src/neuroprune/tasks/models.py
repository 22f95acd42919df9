"""Models by name: the user's own code, timm, torchvision."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from torch import nn

from neuroprune.base.errors import UserError
from neuroprune.base.registry import nearest
from neuroprune.tasks.batches import seeded
from neuroprune.tasks.compat import prepare_torchvision
from neuroprune.tasks.importing import call
from neuroprune.tasks.weights import load_weights

__all__ = ["load_model", "load_weights"]


def load_model(
    spec: str, *, weights: Path | str | None = None, kwargs: dict[str, Any] | None = None, seed: int = 0
) -> nn.Module:
    """Construct the model that ``spec`` names, from ``seed``, and load ``weights`` where given.

    >>> load_model("neuroprune.tasks.nets:digits_resnet", kwargs={"width": 24})           # doctest: +SKIP

    ``package.module:callable``, ``path/file.py:callable``, ``timm:NAME``, ``torchvision:NAME``. Raises
    UserError for a missing file, module or name (the nearest is offered), a callable that raises or
    returns no ``nn.Module``, and weights that do not fit.
    """
    head, _, name = spec.partition(":")
    arguments = dict(kwargs or {})
    with seeded(seed):
        model = _ZOOS[head](name, arguments) if head in _ZOOS else call(spec, arguments, "model")
    if not isinstance(model, nn.Module):
        raise UserError(
            f"{spec} returned {type(model).__name__}, not a torch.nn.Module",
            mend="name a function or class that returns the network itself",
        )
    if weights is not None:
        load_weights(model, Path(weights))
    return model


def _from_timm(name: str, kwargs: dict[str, Any]) -> nn.Module:
    prepare_torchvision()
    try:
        import timm
    except ImportError as error:
        raise _not_installed("timm", error) from error
    return _construct("timm", name, timm.list_models(), lambda: timm.create_model(name, **kwargs), kwargs)


def _from_torchvision(name: str, kwargs: dict[str, Any]) -> nn.Module:
    prepare_torchvision()
    try:
        from torchvision import models
    except ImportError as error:
        raise _not_installed("torchvision", error) from error
    return _construct("torchvision", name, models.list_models(), lambda: models.get_model(name, **kwargs), kwargs)


_ZOOS: dict[str, Callable[[str, dict[str, Any]], nn.Module]] = {
    "timm": _from_timm,
    "torchvision": _from_torchvision,
}


def _construct(
    zoo: str, name: str, names: Iterable[str], make: Callable[[], Any], kwargs: dict[str, Any]
) -> nn.Module:
    known = list(names)
    # timm also takes "name.tag" (which pretrained weights) and hub addresses; torchvision is not case-sensitive
    plain = name.split(".")[0].lower() if zoo == "timm" else name.lower()
    if plain not in (entry.lower() for entry in known):
        guess = nearest(name, known)
        raise UserError(
            f"{zoo} has no model {name!r}",
            mend=f"did you mean {guess!r}?" if guess else f"see {zoo}'s list_models()",
        )
    try:
        with warnings.catch_warnings():
            # googlenet and inception warn that their future default initialisation differs
            warnings.filterwarnings("ignore", category=FutureWarning, module="torchvision")
            model: nn.Module = make()
        return model
    except Exception as error:
        raise UserError(
            f"{zoo}:{name} raised {type(error).__name__}: {error}",
            value=f"arguments {kwargs}" if kwargs else None,
            mend="check the model's arguments",
        ) from error


def _not_installed(zoo: str, error: ImportError) -> UserError:
    return UserError(f"{zoo} cannot be imported: {error}", mend="install it with: pip install 'neuroprune[zoo]'")
