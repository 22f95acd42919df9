"""What a section of the page is made of: a title, a template, the values for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

#: a table on the page never draws more rows than this; what is left out is said below it
ROWS = 300


@dataclass(frozen=True)
class Column:
    """``numeric`` columns are set flush right in tabular figures, ``code`` ones in the monospaced face; ``short``
    ones hold a word or two and are not wrapped."""

    title: str
    numeric: bool = False
    code: bool = False
    short: bool = False


@dataclass(frozen=True)
class Table:
    """Rows of finished text. ``caption`` is what a screen reader announces."""

    caption: str
    columns: tuple[Column, ...]
    rows: Sequence[Sequence[str]]
    limit: int = ROWS
    marked: frozenset[int] = frozenset()

    @property
    def shown(self) -> Sequence[Sequence[str]]:
        return self.rows[: self.limit]

    @property
    def left_out(self) -> int:
        return max(0, len(self.rows) - self.limit)


@dataclass(frozen=True)
class Section:
    """``template`` is a file in templates/sections; ``short`` is the entry in the table of contents."""

    id: str
    title: str
    short: str
    template: str
    values: Mapping[str, object] = field(repr=False)


def text_column(title: str) -> Column:
    return Column(title)


def short_column(title: str) -> Column:
    return Column(title, short=True)


def number_column(title: str) -> Column:
    return Column(title, numeric=True)


def code_column(title: str) -> Column:
    return Column(title, code=True)
