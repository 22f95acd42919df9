"""One of the techniques of S2 (or S1's rounds, or pruning before training), at a given density."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from pydantic import Field, field_validator, model_validator

from neuroprune.base.errors import UserError
from neuroprune.base.files import load_tensors
from neuroprune.graph.cost import cost
from neuroprune.pipeline.context import Context
from neuroprune.pipeline.granularity import resolved
from neuroprune.pipeline.step import Outcome, step
from neuroprune.pipeline.steps.cut import layer_sizes, unit_rows
from neuroprune.pipeline.steps.train import INITIAL
from neuroprune.pipeline.training import FitOptions
from neuroprune.pruning.plan import Plan
from neuroprune.pruning.restore import save_undo
from neuroprune.techniques import TECHNIQUES, Setting, Thinned, check_options, run_technique


class TechniqueConfig(FitOptions):
    """``name``: see `neuroprune list techniques`; ``density``: the share of the parameters that may stay;
    ``options``: of the technique; ``auto`` for ``round_to`` and ``shape`` is the device's own. ``epochs`` and the
    rest say how the thinner network is trained, in all; ``distill``: with the dense network as its teacher."""

    name: str
    density: float = Field(0.25, gt=0, lt=1)
    options: dict[str, Any] = Field(default_factory=dict)
    lr: float = Field(0.02, gt=0)
    distill: bool = False

    @field_validator("name")
    @classmethod
    def _known(cls, name: str) -> str:
        try:
            TECHNIQUES.get(name)
        except UserError as error:
            raise ValueError(" ".join(str(error).split())) from None
        return name

    @model_validator(mode="after")
    def _checked(self) -> TechniqueConfig:
        try:
            given = {key: value for key, value in self.options.items() if value != "auto"}
            check_options(self.name, given)
        except UserError as error:
            raise ValueError(" ".join(str(error).split())) from None
        return self


@step(
    "technique",
    TechniqueConfig,
    summary="prune by one technique to a density, and train what is left",
    source="S2, the ten techniques; S1",
    gives=("masks", "cut"),
)
def technique(context: Context, config: TechniqueConfig) -> Outcome:
    setting = Setting(
        context.model,
        context.task,
        config.density,
        config.fit_config(context.seed, config.epochs, None),
        distil=config.distill,
        seed=context.seed,
        initial=load_tensors(context.files[INITIAL]) if INITIAL in context.files else None,
        work=context.work,
        progress=context.progress,
    )
    thin = run_technique(config.name, setting, **resolved(context, config.options))
    before = cost(context.model, context.task.example_inputs)
    layers = [] if thin.plan is None else layer_sizes(context, thin.plan)
    _take_over(context, thin)
    after = cost(context.model, context.task.example_inputs)
    value = context.task.evaluate(context.model, context.task.val)
    left = thin.parameters_left()
    return Outcome(
        f"{config.name}: {before.params:,} -> {left:,} parameters ({left / before.params:.1%}), "
        f"{before.macs / max(after.macs, 1):.2f}x fewer MACs, "
        f"{context.task.metric} {value:.2f} {context.task.metric_unit} on val".rstrip(),
        facts={"technique": config.name, "parameters_left": left, "sparsity": sparsity_of(thin),
        **dict(thin.facts)}, pieces={"curves": curves(context, thin), "notes": list(thin.notes), "layers": layers,
                "units": [] if thin.plan is None else unit_rows(thin.plan)},
    )  # fmt: skip


def _take_over(context: Context, thin: Thinned) -> None:
    save_undo(context.folder.undo, context.dense, thin.plan or Plan.identity(context.dense))
    context.model = thin.model
    if thin.plan is not None:
        context.plan, context.is_cut, context._trace = thin.plan, True, None
    context.masks = None if thin.masks is None else thin.masks.state()
    context.granularity = "weight"


def sparsity_of(thin: Thinned) -> float:
    return 0.0 if thin.masks is None else thin.masks.sparsity()


def curves(context: Context, thin: Thinned) -> list[dict[str, Any]]:
    """``curves`` of results.json: one entry per training."""
    return [
        {"step": context.name, "label": training.label, "metric": context.task.metric,
         "epochs": [asdict(record) for record in training.records]}
        for training in thin.trainings
    ]  # fmt: skip
