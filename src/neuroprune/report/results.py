"""The results document (schema 1) as frozen dataclasses: what the report knows, and nothing more."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from neuroprune.base.errors import UserError
from neuroprune.report.clusterings import Clustering, read_clustering
from neuroprune.report.deployed import (
    Published,
    Quantized,
    Weights,
    read_published,
    read_quantized,
    read_weights,
)
from neuroprune.report.reader import Reader

SCHEMA = 1


@dataclass(frozen=True)
class Verdict:
    ok: bool
    text: str
    binding: str


@dataclass(frozen=True)
class Row:
    """One line of the comparison; ``kind`` is measured, modelled or unavailable."""

    metric: str
    unit: str
    kind: str
    before: float | None
    after: float | None
    change: str
    target: str
    met: bool | None
    detail: str


@dataclass(frozen=True)
class Epoch:
    epoch: float | None
    train_loss: float | None
    val_loss: float | None
    val_metric: float | None
    train_metric: float | None
    improved: bool | None = None  # with early stopping: the last such epoch is the one kept


@dataclass(frozen=True)
class Curve:
    step: str
    label: str
    metric: str
    epochs: tuple[Epoch, ...]

    @property
    def kept(self) -> Epoch | None:
        """The epoch whose weights count; None where that is the last one as a matter of course."""
        return next((epoch for epoch in reversed(self.epochs) if epoch.improved), None)


@dataclass(frozen=True)
class Round:
    round: float | None
    fraction: float | None
    sparsity: float | None
    metric: float | None
    reward: float | None
    accepted: bool | None
    note: str
    cost: float | None = None
    cost_kind: str = ""
    cost_reward: float | None = None


@dataclass(frozen=True)
class TicketRow:
    """One training of a search for lottery tickets; ``kind``: dense, ticket, reinit or random_mask."""

    kind: str
    round: float | None
    sparsity: float | None
    metric: float | None
    chosen: bool


@dataclass(frozen=True)
class Layer:
    """``before`` and ``after`` count units (channels, heads) of one tensor."""

    name: str
    before: float | None
    after: float | None
    params_before: float | None
    params_after: float | None

    @property
    def kept(self) -> float | None:
        """The kept share in 0..1, None where it cannot be told."""
        if self.before is None or self.after is None or not self.before > 0:
            return None
        share = self.after / self.before
        return share if math.isfinite(share) else None


@dataclass(frozen=True)
class Latency:
    """Milliseconds per call, median and 90th percentile."""

    cpu_p50: float | None
    cpu_p90: float | None
    wall_p50: float | None
    wall_p90: float | None
    threads: int
    batch: int
    runs: int


@dataclass(frozen=True)
class Variant:
    name: str
    role: str
    chosen: bool
    size_bytes: float | None
    latency: Latency | None
    peak_memory_bytes: float | None
    metric: float | None
    params: float | None
    macs: float | None


@dataclass(frozen=True)
class Candidate:
    label: str
    stage: str
    chosen: bool
    ratio: float | None
    params: float | None
    macs: float | None
    size_bytes: float | None
    latency_ms: float | None
    metric: float | None


@dataclass(frozen=True)
class Unit:
    group: str
    unit: int
    score: float | None
    threshold: float | None
    kept: bool
    reason: str
    constraint: str


@dataclass(frozen=True)
class Refused:
    parameter: str
    operator: str
    module: str
    where: str
    reason: str


@dataclass(frozen=True)
class Recovered:
    rung: str
    layer: str
    before: float | None
    after: float | None
    detail: str


@dataclass(frozen=True)
class Step:
    name: str
    title: str
    seconds: float | None
    summary: str


@dataclass(frozen=True)
class Results:
    """One whole run, as the report reads it; empty tuples and mappings stand for what did not happen."""

    title: str
    created: str
    seed: str
    recipe: str
    versions: Mapping[str, object]
    machine: Mapping[str, object]
    verdict: Verdict | None
    table: tuple[Row, ...]
    curves: tuple[Curve, ...]
    rounds: tuple[Round, ...]
    tickets: tuple[TicketRow, ...]
    layers: tuple[Layer, ...]
    weights: tuple[Weights, ...]
    published: tuple[Published, ...]
    clusterings: tuple[Clustering, ...]
    variants: tuple[Variant, ...]
    candidates: tuple[Candidate, ...]
    units: tuple[Unit, ...]
    refused: tuple[Refused, ...]
    recovered: tuple[Recovered, ...]
    quantized: tuple[Quantized, ...]
    steps: tuple[Step, ...]
    notes: tuple[str, ...]
    document: Mapping[str, object]

    @property
    def metric(self) -> str:
        """What the quality figure is called in this run: the curves say it; ``accuracy`` where none does."""
        return next((curve.metric for curve in self.curves if curve.metric), "accuracy")

    @property
    def control(self) -> Variant | None:
        """The dense network that was measured in the same run."""
        return next((variant for variant in self.variants if variant.role == "control"), None)


def read_results(document: object) -> Results:
    """Raises UserError, naming the spot, when ``document`` is no results document this version can read."""
    r = Reader(document)
    if r.value.get("schema", SCHEMA) != SCHEMA:
        raise UserError(
            "this results document has another schema",
            where="schema",
            value=r.value.get("schema"),
            mend=f"this version of neuroprune reads schema {SCHEMA}; use the version that wrote it",
        )
    return Results(
        title=r.text("title") or "Compression report",
        created=r.text("created"),
        seed=r.text("seed"),
        recipe=r.text("recipe"),
        versions=r.mapping("versions"),
        machine=r.mapping("machine"),
        verdict=r.child("verdict", _verdict),
        table=r.children("table", _row),
        curves=r.children("curves", _curve),
        rounds=r.children("rounds", _round),
        tickets=r.children("tickets", _ticket),
        layers=r.children("layers", _layer),
        weights=r.children("weights", read_weights),
        published=r.children("published", read_published),
        clusterings=r.children("clusters", read_clustering),
        variants=r.children("variants", _variant),
        candidates=r.children("candidates", _candidate),
        units=r.children("units", _unit),
        refused=r.children("refused", _refused),
        recovered=r.children("recovered", _recovered),
        quantized=r.children("quantized", read_quantized),
        steps=r.children("steps", _step),
        notes=r.texts("notes"),
        document=r.mapping("document"),
    )


def _verdict(r: Reader) -> Verdict:
    return Verdict(bool(r.flag("ok")), r.text("text"), r.text("binding"))


def _row(r: Reader) -> Row:
    kind = r.text("kind")
    if kind not in ("measured", "modelled", "unavailable"):
        raise UserError(
            "a figure must say how it is known",
            where=f"{r.where}.kind",
            value=kind or "(absent)",
            mend="write measured, modelled or unavailable",
        )
    return Row(
        r.text("metric"),
        r.text("unit"),
        kind,
        r.number("before"),
        r.number("after"),
        r.text("change"),
        r.text("target"),
        r.flag("met"),
        r.text("detail"),
    )


def _epoch(r: Reader) -> Epoch:
    return Epoch(
        r.number("epoch"),
        r.number("train_loss"),
        r.number("val_loss"),
        r.number("val_metric"),
        r.number("train_metric"),
        r.flag("improved"),
    )


def _curve(r: Reader) -> Curve:
    return Curve(r.text("step"), r.text("label"), r.text("metric"), r.children("epochs", _epoch))


def _round(r: Reader) -> Round:
    return Round(
        r.number("round"),
        r.number("fraction"),
        r.number("sparsity"),
        r.number("metric"),
        r.number("reward"),
        r.flag("accepted"),
        r.text("note"),
        r.number("cost"),
        r.text("cost_kind"),
        r.number("cost_reward"),
    )


def _ticket(r: Reader) -> TicketRow:
    return TicketRow(
        r.text("kind"), r.number("round"), r.number("sparsity"), r.number("metric"), bool(r.flag("chosen"))
    )


def _layer(r: Reader) -> Layer:
    return Layer(
        r.text("name"),
        r.number("before"),
        r.number("after"),
        r.number("params_before"),
        r.number("params_after"),
    )


def _latency(r: Reader) -> Latency:
    return Latency(
        r.number("cpu_p50_ms"),
        r.number("cpu_p90_ms"),
        r.number("wall_p50_ms"),
        r.number("wall_p90_ms"),
        r.whole("threads"),
        r.whole("batch"),
        r.whole("runs"),
    )


def _variant(r: Reader) -> Variant:
    return Variant(
        r.text("name"),
        r.text("role"),
        bool(r.flag("chosen")),
        r.number("size_bytes"),
        r.child("latency", _latency),
        r.number("peak_memory_bytes"),
        r.number("metric"),
        r.number("params"),
        r.number("macs"),
    )


def _candidate(r: Reader) -> Candidate:
    return Candidate(
        r.text("label"),
        r.text("stage"),
        bool(r.flag("chosen")),
        r.number("ratio"),
        r.number("params"),
        r.number("macs"),
        r.number("size_bytes"),
        r.number("latency_ms"),
        r.number("metric"),
    )


def _unit(r: Reader) -> Unit:
    return Unit(
        r.text("group"),
        r.whole("unit"),
        r.number("score"),
        r.number("threshold"),
        bool(r.flag("kept")),
        r.text("reason"),
        r.text("constraint"),
    )


def _refused(r: Reader) -> Refused:
    return Refused(r.text("parameter"), r.text("operator"), r.text("module"), r.text("where"), r.text("reason"))


def _recovered(r: Reader) -> Recovered:
    return Recovered(r.text("rung"), r.text("layer"), r.number("before"), r.number("after"), r.text("detail"))


def _step(r: Reader) -> Step:
    return Step(r.text("name"), r.text("title"), r.number("seconds"), r.text("summary"))
