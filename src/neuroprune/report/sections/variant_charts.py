"""Bars of bytes and of milliseconds, one row per measured network, the dense control in grey."""

from __future__ import annotations

from neuroprune.report.bars import bars, end_labels, room, whiskers
from neuroprune.report.figures import Chart, any_drawable, drawable, figure, reversed_rows, titled
from neuroprune.report.results import Results, Variant
from neuroprune.report.wording import TIMES, milliseconds, plain, size

_ROW = 46  # pixels per variant, enough for two bars and their labels


def size_chart(results: Results) -> Chart | None:
    variants = results.variants
    values = [v.size_bytes for v in variants]
    if not any_drawable(values):
        return None
    factor, unit = (1e6, "MB") if max(drawable(v) or 0 for v in values) >= 1e6 else (1e3, "KB")
    control = results.control.size_bytes if results.control else None
    lengths = [None if v is None else v / factor for v in values]
    rows = [float(i) for i in range(len(variants))]
    texts = [size(v) + _factor(v, control) for v in values]
    return Chart(
        "chart-size",
        figure(
            [
                bars("file size", lengths, rows, [colour(v) for v in variants], 0.5),
                end_labels(lengths, rows, texts),
            ],
            x=titled(f"file size, {unit}", range=room(lengths)),
            y=_names(variants),
            showlegend=False,
        ),
        alt="File size by variant. " + _spoken(variants, texts),
        caption="File size; the factor is how many times smaller than the dense control.",
        height=_height(variants),
    )


def latency_chart(results: Results) -> Chart | None:
    variants = results.variants
    cpu, cpu90, wall, wall90 = (
        _latencies(variants, key) for key in ("cpu_p50", "cpu_p90", "wall_p50", "wall_p90")
    )
    if not any_drawable([*cpu, *wall]):
        return None
    control = results.control.latency if results.control else None
    colours = [colour(v) for v in variants]
    traces = []
    texts = {}
    for name, p50, p90, dense, shift in (
        ("CPU", cpu, cpu90, control.cpu_p50 if control else None, -0.2),
        ("wall", wall, wall90, control.wall_p50 if control else None, 0.2),
    ):
        rows = [i + shift for i in range(len(variants))]
        texts[name] = [f"{name} {plain(v, 3)}{_factor(v, dense)}" for v in p50]
        shown = {**bars(name, p50, rows, colours, 0.34), "error_x": whiskers(p50, p90)}
        traces += [
            {**shown, "opacity": 1.0 if name == "CPU" else 0.6},
            end_labels([_later(a, b) for a, b in zip(p50, p90, strict=True)], rows, texts[name]),
        ]
    return Chart(
        "chart-latency",
        figure(
            traces,
            x=titled("median latency, ms", range=room([*cpu, *wall, *cpu90, *wall90], 0.85)),
            y=_names(variants),
            showlegend=False,
        ),
        alt="Median latency by variant. " + _spoken(variants, [f"CPU time {milliseconds(v)}" for v in cpu]),
        caption="Median latency, CPU time above wall time; the whisker reaches to the 90th percentile. "
        + _conditions(variants),
        height=_height(variants),
    )


def colour(variant: Variant) -> str:
    if variant.role == "control":
        return "@dense"
    return "@accent" if variant.chosen else "@accent-soft"


def _names(variants: tuple[Variant, ...]) -> dict[str, object]:
    """The chosen one carries a mark that does not depend on colour."""
    return reversed_rows([f"★ {v.name}" if v.chosen else v.name for v in variants])


def _factor(value: float | None, control: float | None) -> str:
    """How many times smaller than the control, or nothing for the control itself."""
    small, large = drawable(value), drawable(control)
    if not small or not large or min(small, large) <= 0 or small == large:
        return ""
    return f" · {plain(large / small, 3)}{TIMES}"


def _latencies(variants: tuple[Variant, ...], key: str) -> list[float | None]:
    return [getattr(v.latency, key) if v.latency else None for v in variants]


def _later(p50: float | None, p90: float | None) -> float | None:
    first, second = drawable(p50), drawable(p90)
    return max(first, second) if first is not None and second is not None else first


def same_conditions(variants: tuple[Variant, ...]) -> tuple[int, int] | None:
    """Threads and batch when all measured variants agree on them."""
    seen = {(v.latency.threads, v.latency.batch) for v in variants if v.latency}
    return seen.pop() if len(seen) == 1 else None


def _conditions(variants: tuple[Variant, ...]) -> str:
    same = same_conditions(variants)
    if same is None:
        return "Threads and batch are in the table below."
    runs = [v.latency.runs for v in variants if v.latency]
    low, high = min(runs), max(runs)
    span = f"{low:,}" if low == high else f"{low:,} to {high:,}"
    return f"Threads {same[0]}, batch {same[1]}, {span} runs of each variant."


def _spoken(variants: tuple[Variant, ...], texts: list[str]) -> str:
    return "; ".join(f"{v.name}: {text}" for v, text in zip(variants, texts, strict=True)) + "."


def _height(variants: tuple[Variant, ...]) -> int:
    return 66 + _ROW * len(variants)
