"""Reward, sparsity and quality of every round of pruning by masks; refused rounds stay visible."""

from __future__ import annotations

from neuroprune.report.figures import Chart, Trace, any_drawable, drawables, figure, titled
from neuroprune.report.results import Results, Round
from neuroprune.report.section import Section, Table, number_column, short_column, text_column
from neuroprune.report.wording import percent, plain, plural

#: of what the cost is counted or measured
NAMES = {"macs": "MACs", "latency": "latency"}


def section(results: Results) -> Section | None:
    if not results.rounds:
        return None
    rounds = results.rounds
    wanted = (
        ("reward", "reward", [r.reward for r in rounds]),
        ("sparsity", "sparsity, %", [None if r.sparsity is None else 100 * r.sparsity for r in rounds]),
        ("metric", results.metric, [r.metric for r in rounds]),
    )
    charts = [_chart(key, title, rounds, values) for key, title, values in wanted if any_drawable(values)]
    return Section(
        "rounds",
        "Reward and sparsity, round by round",
        "Rounds",
        "rounds.html.j2",
        {"charts": charts, "lead": _lead(rounds), "table": _table(rounds)},
    )


def _lead(rounds: tuple[Round, ...]) -> str:
    refused = sum(r.accepted is False for r in rounds)
    text = f"{plural(len(rounds), 'round')} of pruning by masks"
    return f"{text}; {refused:,} not accepted (crosses, off the line)." if refused else f"{text}, all accepted."


def _chart(key: str, title: str, rounds: tuple[Round, ...], values: list[float | None]) -> Chart:
    taken = [i for i, r in enumerate(rounds) if r.accepted is not False]
    refused = [i for i, r in enumerate(rounds) if r.accepted is False]
    numbers = [r.round for r in rounds]
    ticks = {"dtick": 1} if len(rounds) <= 10 else {}
    known = [v for v in values if v is not None]
    return Chart(
        f"chart-round-{key}",
        figure(
            [_accepted(numbers, values, taken), _refused(numbers, values, refused)],
            x=titled("round", **ticks),
            y=titled(title),
            showlegend=False,
        ),
        alt=f"{title} over {plural(len(rounds), 'round')}, from {plain(known[0])} to {plain(known[-1])}.",
        caption=f"{title.split(',')[0].capitalize()} per round",
        height=250,
    )


def _accepted(numbers: list[float | None], values: list[float | None], members: list[int]) -> Trace:
    """The line that the run followed."""
    return {
        "type": "scatter",
        "mode": "lines+markers" if len(members) <= 60 else "lines",
        "name": "accepted",
        "x": drawables(numbers[i] for i in members),
        "y": drawables(values[i] for i in members),
        "line": {"color": "@accent", "width": 2},
        "marker": {"color": "@accent", "size": 6},
    }


def _refused(numbers: list[float | None], values: list[float | None], members: list[int]) -> Trace:
    """Rounds that were tried and taken back: seen, but not on the line."""
    return {
        "type": "scatter",
        "mode": "markers",
        "name": "not accepted",
        "x": drawables(numbers[i] for i in members),
        "y": drawables(values[i] for i in members),
        "marker": {
            "symbol": "x-thin",
            "size": 9,
            "color": "@contrast",
            "line": {"color": "@contrast", "width": 2.5},
        },
    }


def _table(rounds: tuple[Round, ...]) -> Table:
    columns = (
        number_column("Round"),
        number_column("Fraction"),
        number_column("Sparsity"),
        number_column("Quality"),
        number_column("Reward"),
        number_column("Cost, of dense"),
        number_column("Reward by cost"),
        short_column("Accepted"),
        text_column("Note"),
    )
    words = {True: "yes", False: "no", None: "—"}
    rows = [
        (
            plain(r.round),
            percent(r.fraction),
            percent(r.sparsity),
            plain(r.metric),
            plain(r.reward),
            f"{percent(r.cost)} {NAMES.get(r.cost_kind, '')}".rstrip(),
            plain(r.cost_reward),
            words[r.accepted],
            r.note,
        )
        for r in rounds
    ]
    return Table("All rounds", columns, rows)
