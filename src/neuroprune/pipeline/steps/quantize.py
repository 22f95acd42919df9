"""Static int8 from the exported file, calibrated on training data."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
from pydantic import Field, model_validator
from torch import nn

from neuroprune.base.errors import UserError
from neuroprune.compression.bench import Settings
from neuroprune.compression.distinct import is_clustered
from neuroprune.compression.mixed import MixedReport, mixed_precision
from neuroprune.compression.quantize import QuantizeReport, quantize_onnx
from neuroprune.export import EXPORTS
from neuroprune.export.compare import OnnxModule, capture_inputs
from neuroprune.pipeline.context import Context
from neuroprune.pipeline.step import Outcome, StepConfig, step
from neuroprune.pipeline.steps.export import INT8, MODEL, metadata_of


class QuantizeConfig(StepConfig):
    """``calibration``: how many training examples set the ranges of the activations; ``method`` how (``auto``
    measures which is best, with equalisation and bias correction or without).

    ``max_drop`` (points of the metric on val, against the fp32 file) and ``max_bytes`` (of the file) make it
    mixed: the worst layers stay in fp32, weights go to 4 bits; ``pack`` goes to 4 bits wherever ``max_drop``
    allows.
    ``ranges: learned``: of layers' inputs those that the step `qat` has learned.
    ``optional``: a network that int8 cannot express goes on in fp32, with a note in the report.
    """

    calibration: int = Field(256, ge=1)
    method: Literal["minmax", "percentile", "entropy", "mse", "auto"] = "minmax"
    weights: Literal["channel", "tensor"] = "channel"
    activations: Literal["asymmetric", "symmetric"] = "asymmetric"
    equalize: bool = False
    correct_bias: bool = False
    weight_bits: Literal[4, 8] = 8
    max_drop: float | None = Field(None, ge=0)
    max_bytes: int | None = Field(None, ge=1)
    pack: bool = False
    exclude: tuple[str, ...] = ()
    ranges: Literal["calibrated", "learned"] = "calibrated"
    optional: bool = False

    @property
    def mixed(self) -> bool:
        return self.pack or self.max_drop is not None or self.max_bytes is not None

    @model_validator(mode="after")
    def _no_option_is_ignored(self) -> Self:
        if self.mixed and (self.weight_bits == 4 or self.ranges == "learned"):
            raise ValueError(
                "max_drop, max_bytes and pack choose the bits and calibrate: leave weight_bits and ranges out"
            )
        if self.pack and self.max_drop is None:
            raise ValueError("pack goes as far as max_drop allows: give max_drop")
        return self


@step(
    "quantize",
    QuantizeConfig,
    summary="static int8 of weights and activations (QDQ), whole or mixed with fp32 and 4-bit weights",
    source="S2; S3; S4; Jacob et al. 2018; Nagel et al. 2019",
    needs=("onnx",),
)
def quantize(context: Context, config: QuantizeConfig) -> Outcome:
    data = capture_inputs(context.model, context.task, context.task.train.epoch(None), config.calibration)
    try:
        return _mixed(context, config, data) if config.mixed else _whole(context, config, data)
    except UserError as error:
        if not config.optional:
            raise
        return Outcome(f"left out: {error.what}", pieces={"notes": [f"no int8 file: {error.what}"]})


def _whole(context: Context, config: QuantizeConfig, data: list[tuple[np.ndarray, ...]]) -> Outcome:
    learned = _learned(context) if config.ranges == "learned" else None
    report = quantize_onnx(
        _named(context) if learned else context.files[MODEL],
        context.step_folder / INT8,
        data,
        exclude=config.exclude,
        method=config.method,
        weight_bits=config.weight_bits,
        weights=config.weights,
        activations=config.activations,
        equalize=config.equalize,
        correct_bias=config.correct_bias,
        originals=clustered(context.model),
        learned=learned,
    )
    return _outcome(replace(report, source_bytes=context.files[MODEL].stat().st_size))


def _learned(context: Context) -> dict[str, tuple[float, float]]:
    if "ranges" not in context.facts:
        raise UserError(
            "no ranges were learned before this step",
            value="ranges: learned",
            mend="put a step qat before export, or take ranges: calibrated",
        )
    return {name: (low, high) for name, (low, high) in context.facts["ranges"].items()}


def _named(context: Context) -> Path:
    """The file once more, with layers called by their names."""
    context.work.mkdir(parents=True, exist_ok=True)
    path, task = context.work / "named.onnx", context.task
    metadata = metadata_of(task.preprocessing)
    EXPORTS.get("onnx").write(context.model, task.example_inputs, path, metadata=metadata, keep_names=True)
    return path


def _mixed(context: Context, config: QuantizeConfig, data: list[tuple[np.ndarray, ...]]) -> Outcome:
    onnx, task = EXPORTS.get("onnx"), context.task

    def judge(path: Path) -> float:
        return task.evaluate(OnnxModule(onnx.load(path, threads=context.recipe.header.threads)), task.val)

    found = mixed_precision(
        _named(context),
        context.step_folder / INT8,
        data,
        judge=judge,
        max_drop=config.max_drop,
        max_bytes=config.max_bytes,
        pack=config.pack,
        settings=_settings(config),
        auto=config.method == "auto",
        exclude=config.exclude,
        originals=clustered(context.model),
    )
    plain = _outcome(replace(found.report, source_bytes=context.files[MODEL].stat().st_size))
    return Outcome(
        f"{plain.summary}; {_kinds(found)}, {task.metric} {found.fp32:.2f} -> {found.metric:.2f} "
        f"{task.metric_unit} on val".rstrip()
        + (f"; misses {', '.join(found.missed)}" if found.missed else ""),
        facts=plain.facts,
        pieces={**plain.pieces, "quantized": [vars(layer) for layer in found.layers]},
        files=plain.files,
    )


def _settings(config: QuantizeConfig) -> Settings:
    method = "minmax" if config.method == "auto" else config.method
    return Settings(method, config.weights, config.activations, config.equalize, config.correct_bias)


def _kinds(found: MixedReport) -> str:
    kinds = [layer.precision for layer in found.layers]
    return ", ".join(f"{kinds.count(kind)} layers {kind}" for kind in dict.fromkeys(kinds))


def _outcome(report: QuantizeReport) -> Outcome:
    integer, floating = sum(report.integer.values()), sum(report.floating.values())
    tried: list[dict[str, Any]] = [{"words": t.settings.words, "error": t.error} for t in report.tried]
    lacking = [
        f"{kind} ({count})" for kind, count in report.floating.items() if "no integer" in report.reasons[kind]
    ]
    notes = [f"int8 has no kernel for {', '.join(lacking)}: they stay in fp32."] if lacking else []
    way = "" if report.settings == Settings() else f", {report.settings.words}"
    return Outcome(
        f"{report.source_bytes:,} -> {report.target_bytes:,} bytes, {integer} operators in int8, "
        f"{floating} in fp32, {report.examples} examples{way}",
        facts={"int8": {"way": report.settings.words, "tried": tried, "clusters": list(report.clusters)}},
        pieces={"notes": notes},
        files=(INT8,),
    )


def clustered(model: nn.Module) -> list[np.ndarray]:
    """Weights of few distinct values, as they are before the export folds batch norms into them."""
    weights = (p.detach().cpu().numpy() for p in model.parameters() if p.dim() > 1)
    return [weight for weight in weights if is_clustered(weight)]
