"""A recipe: the checked description of a run. Every mistake in it is answered with its file and line."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import ErrorDetails

from neuroprune.base.errors import UserError
from neuroprune.base.nouns import Budget
from neuroprune.base.registry import nearest
from neuroprune.pipeline import marked_yaml
from neuroprune.pipeline.overrides import apply_override, profile_of, set_value
from neuroprune.pipeline.published import Published
from neuroprune.pipeline.step import STEPS, StepConfig

if TYPE_CHECKING:
    from neuroprune.tasks.task import Task

M = TypeVar("M", bound=BaseModel)


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ModelSpec(_Strict):
    """Which network: ``spec`` as `tasks.models.load_model` reads it."""

    spec: str
    weights: str | None = None
    kwargs: dict[str, Any] = Field(default_factory=dict)


class DataSpec(_Strict):
    """Which data: ``spec`` as `tasks.datasets.load_task` reads it; ``limit``: only so many examples; ``labels:
    none``: nobody looks at them, networks are judged by their agreement with the dense one; ``classes``: only
    these, numbered anew."""

    spec: str
    resize: int | None = Field(None, ge=1)
    batch_size: int = Field(64, ge=1)
    limit: int | None = Field(None, ge=1)
    labels: Literal["use", "none"] = "use"
    classes: tuple[int, ...] | None = None

    def load(self, seed: int) -> Task:
        """Raises UserError as `load_task` does."""
        from neuroprune.tasks.load import load_task  # late: it loads torch

        return load_task(
            self.spec,
            seed=seed,
            batch_size=self.batch_size,
            resize=self.resize,
            limit=self.limit,
            labels=self.labels == "use",
            classes=self.classes,
        )


class _Header(_Strict):
    """Everything but the steps."""

    name: str = Field("run", pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")
    title: str | None = None
    seed: int = Field(0, ge=0)
    threads: int = Field(1, ge=1)
    device: str = "local"
    model: ModelSpec | None = None
    data: DataSpec | None = None
    budget: dict[str, float | str] = Field(default_factory=dict)
    published: Published | None = None
    max_drop: float | None = Field(None, ge=0)
    attempts: int = Field(1, ge=1)


@dataclass(frozen=True)
class StepCall:
    """One line of the list of steps."""

    name: str
    config: StepConfig
    where: str


@dataclass(frozen=True)
class Recipe:
    """``header`` (seed, threads, model, data, budget, ...), ``steps`` in order, ``text`` as it was read."""

    header: _Header
    steps: tuple[StepCall, ...]
    text: str

    @property
    def budget(self) -> Budget:
        return Budget(**self.header.budget)

    def to_json(self) -> dict[str, Any]:
        """Everything with the defaults filled in."""
        steps = [{call.name: call.config.model_dump(mode="json")} for call in self.steps]
        return {**self.header.model_dump(mode="json"), "steps": steps}

    def digest(self) -> str:
        return hashlib.sha256(json.dumps(self.to_json(), sort_keys=True).encode()).hexdigest()


def load_recipe(path: Path, overrides: Sequence[str] = (), profile: str | None = None) -> Recipe:
    """Read a recipe file. ``overrides`` are ``key=value`` texts: ``seed=1``, ``steps.train.epochs=3``; before them
    come those that the recipe itself gathers under the name ``profile`` in ``profiles``.

    Raises UserError naming file and line for syntax errors, unknown keys (with the nearest valid one), wrong
    values, unknown steps and steps that need what no step before them gives.
    """
    try:
        text = path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"cannot read the recipe: {getattr(error, 'strerror', None) or error}",
            where=str(path),
            mend=f"give a YAML file, or one of the shipped recipes: {', '.join(shipped_recipes())}",
        ) from error
    return parse_recipe(text, str(path), overrides, profile)


def parse_recipe(
    text: str, name: str = "recipe", overrides: Sequence[str] = (), profile: str | None = None
) -> Recipe:
    """As `load_recipe`, from the text itself; ``name`` stands for the file in messages."""
    data, marks = marked_yaml.load_marked(text, name)
    if not isinstance(data, dict):
        raise UserError(f"{name} holds no recipe", where=name, mend="start with 'name:', 'model:', 'steps:'")
    chosen = profile_of(data, profile, marks, name)
    for key, value in chosen.items():
        where = marks.get(("profiles", str(profile), key))
        data = set_value(data, key, value, f"profile {profile}: {key}", where, marks)
    for override in overrides:
        data = apply_override(data, override, marks)
    if overrides or chosen:
        text = yaml.safe_dump(data, sort_keys=False, allow_unicode=True)
    return _build(data, marks, text, name)


def recipe_from(data: Mapping[str, Any], name: str = "recipe") -> Recipe:
    """A recipe from plain data (what `compress` chooses), checked like a file."""
    return parse_recipe(yaml.safe_dump(copy.deepcopy(dict(data)), sort_keys=False, allow_unicode=True), name)


def shipped_recipes() -> dict[str, Path]:
    """Name to file of the recipes that come with the package."""
    folder = Path(__file__).resolve().parents[1] / "recipes"
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def _build(data: dict[str, Any], marks: dict[marked_yaml.Path, str], text: str, name: str) -> Recipe:
    plain = {key: value for key, value in data.items() if key != "steps"}
    header = _validated(_Header, plain, (), marks, name, extra=("steps",))
    _check_budget(header, marks, name)
    _check_device(header, marks, name)
    calls = data.get("steps")
    if not isinstance(calls, list) or not calls:
        raise UserError(
            "the recipe has no list of steps",
            where=marks.get(("steps",), name),
            mend="write 'steps:' and under it lines like '  - train: {epochs: 3}'",
        )
    steps = tuple(_step_call(item, i, marks, name) for i, item in enumerate(calls))
    _check_order(steps)
    _check_attempts(header, steps, marks, name)
    return Recipe(header, steps, text)


def _step_call(item: Any, index: int, marks: dict[marked_yaml.Path, str], name: str) -> StepCall:
    import neuroprune.pipeline.steps  # noqa: F401  # fills the registry; late, because it loads torch

    where = marks.get(("steps", index), name)
    if isinstance(item, str):
        item = {item: None}
    if not isinstance(item, dict) or len(item) != 1:
        raise UserError(
            "a step is one name with its options",
            where=where,
            value=item,
            mend="write '- train: {epochs: 3}', one step per dash",
        )
    ((step_name, options),) = item.items()
    try:
        step = STEPS.get(step_name)
    except UserError as error:
        raise UserError(error.what, where=where, mend=error.mend) from None
    path = ("steps", index, step_name)
    config = _validated(step.config, {} if options is None else options, path, marks, name)
    return StepCall(step_name, config, where)


def _validated(
    kind: type[M],
    data: Any,
    path: marked_yaml.Path,
    marks: dict[marked_yaml.Path, str],
    name: str,
    extra: tuple[str, ...] = (),
) -> M:
    if not isinstance(data, dict):
        raise UserError(
            f"{path[-1]} takes options, not {data!r}",
            where=_where(path, marks, name),
            mend="write them as key: value",
        )
    try:
        return kind.model_validate(data)
    except ValidationError as error:
        raise _explain(error.errors()[0], kind, path, marks, name, extra) from None


def _explain(
    detail: ErrorDetails,
    kind: type[BaseModel],
    path: marked_yaml.Path,
    marks: dict[marked_yaml.Path, str],
    name: str,
    extra: tuple[str, ...],
) -> UserError:
    """pydantic's first complaint in our words. Raises nothing."""
    full = (*path, *detail["loc"])
    where = _where(full, marks, name)
    inside = f" in step {path[-1]}" if path else ""
    if detail["type"] == "extra_forbidden":
        valid = (*_fields(kind, detail["loc"][:-1]), *extra)
        guess = nearest(str(full[-1]), valid)
        hint = f"did you mean {guess!r}? " if guess else ""
        return UserError(
            f"unknown key {str(full[-1])!r}{inside}",
            where=where,
            mend=f"{hint}valid keys: {', '.join(valid)}",
        )
    key = ".".join(str(part) for part in detail["loc"] if isinstance(part, str))
    cause = (detail.get("ctx") or {}).get("error")
    if isinstance(cause, UserError):  # a validator of ours has said it all
        return UserError(f"{key}{inside}: {cause.what}", where=where, value=cause.value, mend=cause.mend)
    said = detail["msg"][0].lower() + detail["msg"][1:]
    value = None if detail["type"] == "missing" else detail["input"]
    return UserError(f"{key}{inside}: {said}", where=where, value=value, mend=_allowed(kind, detail))


def _fields(kind: type[BaseModel], loc: tuple[int | str, ...]) -> tuple[str, ...]:
    """The keys that are valid at ``loc``: those of ``kind``, or of the model that one of its fields holds."""
    for part in loc:
        held = kind.model_fields[str(part)].annotation if str(part) in kind.model_fields else None
        inner = [held, *getattr(held, "__args__", ())]
        models = [m for m in inner if isinstance(m, type) and issubclass(m, BaseModel)]
        if not models:
            break
        kind = models[0]
    return tuple(kind.model_fields)


def _allowed(kind: type[BaseModel], detail: ErrorDetails) -> str:
    context = detail.get("ctx") or {}
    if "expected" in context:
        guess = nearest(
            str(detail["input"]), str(context["expected"]).replace("'", "").replace(" or ", ", ").split(", ")
        )
        return (f"did you mean {guess!r}? " if guess else "") + f"valid: {context['expected']}"
    field = kind.model_fields.get(str(detail["loc"][0])) if detail["loc"] else None
    if field is not None and field.description:
        return field.description
    return "see the options of the steps in the recipes that come with neuroprune, or `neuroprune list steps`"


def _where(path: marked_yaml.Path, marks: dict[marked_yaml.Path, str], name: str) -> str:
    """The line of the longest part of ``path`` that stands in the file."""
    for end in range(len(path), 0, -1):
        if path[:end] in marks:
            return marks[path[:end]]
    return name


def _check_budget(header: _Header, marks: dict[marked_yaml.Path, str], name: str) -> None:
    for kind, text in header.budget.items():
        where = _where(("budget", kind), marks, name)
        try:
            Budget(**{kind: text})
        except UserError as error:
            raise UserError(error.what, where=where, value=text, mend=error.mend) from None
        if kind in ("memory", "energy"):
            raise UserError(
                f"{kind} budget: no step of a recipe can meet one yet",
                where=where,
                value=text,
                mend="use latency, size, macs or params; neuroprune.prune_to_budget takes all kinds",
            )


def _check_device(header: _Header, marks: dict[marked_yaml.Path, str], name: str) -> None:
    from neuroprune.devices import DEVICES  # late: it loads torch

    try:
        DEVICES.get(header.device)
    except UserError as error:
        where = _where(("device",), marks, name)
        raise UserError(error.what, where=where, mend=error.mend) from None


def _check_order(steps: tuple[StepCall, ...]) -> None:
    given: set[str] = set()
    for call in steps:
        step = STEPS.get(call.name)
        for word in sorted(step.needs - given):
            givers = [entry.name for entry in STEPS.entries() if word in entry.value.gives]
            raise UserError(
                f"the step {call.name!r} needs what no step before it gives: {word}",
                where=call.where,
                mend=f"put one of these before it: {', '.join(givers)}",
            )
        if call.name == "cut" and "cut" in given:
            raise UserError(
                "the recipe cuts twice", where=call.where, mend="keep one cut; use rounds to go step by step"
            )
        if call.name == "transfer" and "onnx" in given:
            raise UserError(
                "the recipe goes to other data after it wrote files",
                where=call.where,
                mend="put transfer before export",
            )
        given |= step.gives


def _check_attempts(
    header: _Header, steps: tuple[StepCall, ...], marks: dict[marked_yaml.Path, str], name: str
) -> None:
    names = [call.name for call in steps]
    loops = "fit_budget" in names and "measure" in names[names.index("fit_budget") :]
    if header.attempts > 1 and not loops:
        raise UserError(
            "attempts repeat the steps from fit_budget to measure, and the recipe lacks one of the two",
            where=_where(("attempts",), marks, name),
            value=header.attempts,
            mend="add the step or remove attempts",
        )
    for fits in ("fit_budget", "prune_to_budget"):
        if fits in names and not header.budget:
            call = steps[names.index(fits)]
            raise UserError(f"{fits} has no budget to fit", where=call.where, mend="add 'budget: {latency: 0.5}'")
