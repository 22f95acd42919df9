"""What a step is: a checked set of options and a function from the context to an outcome."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field

from neuroprune.base.registry import Registry

if TYPE_CHECKING:
    from neuroprune.pipeline.context import Context


class StepConfig(BaseModel):
    """Options that every step takes. Unknown options are errors; the options never change once read."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    stage: str | None = Field(None, description="a title for the report, in place of the step's own summary")


@dataclass(frozen=True)
class Outcome:
    """What a step hands on besides the changed model, plan and masks in the context.

    ``summary`` is the one line the user sees. ``facts`` are merged into ``context.facts``; ``pieces`` are
    appended to the lists of results.json of the same name; ``files`` are names of files that the step wrote
    into ``context.step_folder``. All of it is plain JSON: a resumed run reads it back instead of the step.
    """

    summary: str
    facts: dict[str, Any] = field(default_factory=dict)
    pieces: dict[str, list[Any]] = field(default_factory=dict)
    files: tuple[str, ...] = ()


@dataclass(frozen=True)
class Step:
    """A registered step. ``needs`` and ``gives`` are words (``masks``, ``selection``, ``onnx``, ...).

    A recipe in which a step needs what no earlier step gives is refused when it is read, not after an hour.
    ``again`` is called when a resumed run passes the finished step, before weights and masks are loaded: for what
    is not in files (other data, layers of another shape).
    """

    name: str
    config: type[StepConfig]
    run: Callable[[Context, Any], Outcome]
    needs: frozenset[str]
    gives: frozenset[str]
    again: Callable[[Context, Any], None] | None = None


STEPS: Registry[Step] = Registry("step")

C = TypeVar("C", bound=StepConfig)


def step(
    name: str,
    config: type[C],
    *,
    summary: str,
    source: str,
    needs: tuple[str, ...] = (),
    gives: tuple[str, ...] = (),
    again: Callable[[Context, C], None] | None = None,
) -> Callable[[Callable[[Context, C], Outcome]], Callable[[Context, C], Outcome]]:
    """Decorator: register ``run(context, config) -> Outcome`` as the step ``name``."""

    def add(run: Callable[[Context, C], Outcome]) -> Callable[[Context, C], Outcome]:
        entry = Step(name, config, run, frozenset(needs), frozenset(gives), again)
        STEPS.register(name, summary=summary, source=source)(entry)
        return run

    return add
