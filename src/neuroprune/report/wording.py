"""Numbers as a reader wants them: short, with their unit, and honest where there is none."""

from __future__ import annotations

import datetime
import math
import re
from collections.abc import Sequence

ABSENT = "—"
TIMES, MINUS = "\N{MULTIPLICATION SIGN}", "\N{MINUS SIGN}"
_SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
_MONTHS = (
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
)
_BYTES = ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "KB"))
_COUNTS = ((1e12, "T"), (1e9, "G"), (1e6, "M"))
_COUNT_UNITS = {"", "count", "params", "parameters", "macs"}


def odd(value: float | None) -> str | None:
    """What stands for None, NaN and the infinities; None for an ordinary number."""
    if value is None:
        return ABSENT
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "∞" if value > 0 else "-∞"
    return None


def plain(value: float | None, digits: int = 4) -> str:
    """``digits`` significant digits, with a power of ten below 0.0001 and from a million on."""
    if (text := odd(value)) is not None or value is None:
        return text or ABSENT
    if value == 0 or 1e-4 <= abs(value) < 1e6:
        rounded = f"{value:.{digits}g}"
        if "e" in rounded:  # 12345.6 at four digits: whole numbers are never shortened to 1.235e4
            return f"{value:,.0f}"
        return f"{float(rounded):,}".removesuffix(".0") if abs(value) >= 1000 else rounded
    mantissa, exponent = f"{value:.{digits - 1}e}".split("e")
    return f"{float(mantissa):g}{TIMES}10{str(int(exponent)).translate(_SUPERSCRIPT)}"


def count(value: float | None) -> str:
    """A count: exact below a million, then M, G, T: 746,314 and 26.2 M."""
    if (text := odd(value)) is not None or value is None:
        return text or ABSENT
    if abs(value) < 1e6:
        return f"{value:,.0f}" if value == round(value) else plain(value)
    return _scaled(value, _COUNTS)


def fewer(before: float | None, after: float | None) -> str:
    """How many times; empty where there is nothing to divide."""
    return f"{plain(before / after, 3)}{TIMES}" if before and after else ""


def undrawn(rows: int, drawn: int) -> str:
    """A sentence, with a space before it, for charts that do not draw every row of their table."""
    if drawn >= rows:
        return ""
    return f" The chart draws {drawn:,} of them; {rows - drawn:,} are only in the table."


def listed(texts: Sequence[str], most: int = 40) -> str:
    """For those who cannot see a chart: its rows, as many as one can listen to."""
    rest = f"; and {len(texts) - most:,} more layers in the table." if len(texts) > most else "."
    return "; ".join(texts[:most]) + rest


def size(value: float | None) -> str:
    """Bytes in decimal units, as budgets are written (1 KB = 1,000 B)."""
    if (text := odd(value)) is not None or value is None:
        return text or ABSENT
    return f"{value:,.0f} B" if abs(value) < 1000 else _scaled(value, _BYTES)


def _scaled(value: float, scales: tuple[tuple[float, str], ...]) -> str:
    if abs(value) >= 1e16:
        return plain(value)
    factor, unit = next((f, u) for f, u in (*scales, (0.0, "")) if abs(value) >= f)
    return f"{value / factor:,.3g} {unit}" if abs(value) < 999.5 * factor else f"{value / factor:,.0f} {unit}"


def milliseconds(value: float | None) -> str:
    return odd(value) or f"{plain(value, 3)} ms"


def seconds(value: float | None) -> str:
    """0.42 s, 12.3 s, 2 min 05 s."""
    if (text := odd(value)) is not None or value is None:
        return text or ABSENT
    if value < 120 or value > 1e9:
        return f"{plain(value, 3)} s"
    return f"{int(value) // 60} min {int(value) % 60:02d} s"


def percent(share: float | None, digits: int = 1) -> str:
    """A share in 0..1 as percent."""
    if (text := odd(share)) is not None or share is None:
        return text or ABSENT
    return f"{100 * share:.{digits}f} %" if abs(share) < 1e4 else f"{plain(100 * share)} %"


def quantity(value: float | None, unit: str) -> str:
    """``value`` in ``unit``; bytes and counts are scaled, everything else keeps its unit."""
    if (text := odd(value)) is not None or value is None:
        return text or ABSENT
    if unit.lower() in ("b", "byte", "bytes"):
        return size(value)
    if unit.lower() in _COUNT_UNITS:
        return count(value)
    if unit == "%" and abs(value) < 1e4:
        return f"{value:.2f} %"
    return f"{plain(value)} {unit}"


def change(before: float | None, after: float | None, down: str, up: str) -> str:
    """``7.9x less``, ``1.3x more`` or ``the same``; empty where there is nothing to divide."""
    if not before or not after:
        return ""
    factor = max(before / after, after / before)
    if factor < 1.005:
        return "the same"
    shown = f"{factor:.1f}" if factor >= 10 else f"{factor:.2f}"
    return f"{shown}x {down if after < before else up}"


def speed(before_ms: float | None, after_ms: float | None) -> str:
    """``4.03x faster``, ``1.27x slower`` or ``as fast``."""
    return change(before_ms, after_ms, "faster", "slower").replace("the same", "as fast")


def typeset(text: str) -> str:
    """``7.9x smaller``, ``<= 8 ms`` and ``-0.28 points`` with the signs of print in place of keyboard ones."""
    text = re.sub(r"(?<=\d)\s?x\b", TIMES, text).replace("<=", "≤").replace(">=", "≥").replace("->", "→")
    return re.sub(r"(?<![\w.])-(?=\d)", MINUS, text)


def moment(text: str) -> str:
    """``2026-03-14T09:26:53Z`` as ``14 March 2026, 09:26 UTC``; what is no ISO time stays as it is."""
    try:
        at = datetime.datetime.fromisoformat(text)
    except ValueError:
        return text
    zone = f" {at.tzname()}" if at.tzinfo else ""
    return f"{at.day} {_MONTHS[at.month - 1]} {at.year}, {at:%H:%M}{zone}"


def shorten(text: str, limit: int = 28) -> str:
    """At most ``limit`` characters with the middle left out, as the ends of a layer's name tell it apart."""
    if len(text) <= limit:
        return text
    head = (limit - 1) // 2
    return f"{text[:head]}…{text[head + 1 - limit :]}"


def plural(n: int, one: str, many: str | None = None) -> str:
    return f"{n:,} {one if n == 1 else many or one + 's'}"
