"""`build_report`: one results document in, one HTML file out that asks the network for nothing."""

from __future__ import annotations

import base64
import functools
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from neuroprune.base import files
from neuroprune.report.results import Results, Verdict, read_results
from neuroprune.report.section import Section
from neuroprune.report.sections import make_sections
from neuroprune.report.wording import moment, typeset


def build_report(results: Mapping[str, Any], out: Path) -> None:
    """Write the report of one run to ``out``, whole or not at all; the same results give the same bytes.

    ``results`` is the results document, schema 1. Absent keys and empty lists leave their section out; numbers
    may be None, NaN or infinite. All text in it is taken for hostile: it is escaped, and the page's own content
    security policy lets the browser run the two scripts of this library and no other.

    Raises UserError when the document is malformed (it names the spot) or ``out`` cannot be written.

    >>> build_report({"schema": 1, "title": "digits"}, Path("report.html"))  # doctest: +SKIP
    """
    files.write_text(out, render(read_results(results)))


def render(results: Results) -> str:
    """The whole page as text."""
    return page(results.title, _facts(results), make_sections(results), results.verdict)


def page(
    title: str,
    facts: Sequence[str],
    sections: Sequence[Section],
    verdict: Verdict | None = None,
    kind: str = "compression report",
) -> str:
    """A page of any sections. ``facts``: the line under the title; ``kind``: what it says above it."""
    environment = _environment()
    plotly, script = _plotly(), environment.get_template("page.js.j2").render()
    return environment.get_template("page.html.j2").render(
        title=title,
        kind=kind,
        facts=facts,
        verdict=verdict,
        sections=[_rendered(environment, section) for section in sections],
        policy=_policy(plotly, script),
        plotly=Markup(plotly),
        script=Markup(script),
    )


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("neuroprune.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["typeset"] = typeset
    environment.policies["json.dumps_kwargs"] = {"allow_nan": False, "separators": (",", ":")}
    return environment


def _rendered(environment: Environment, section: Section) -> dict[str, object]:
    body = environment.get_template(f"sections/{section.template}").render(**section.values)
    # the template has escaped its values already, so its result is markup
    return {"id": section.id, "title": section.title, "short": section.short, "body": Markup(body)}


def _facts(results: Results) -> list[str]:
    """The line under the title: when, with which seed."""
    pairs = (("", moment(results.created)), ("seed ", results.seed))
    return [prefix + text for prefix, text in pairs if text]


@functools.cache
def _plotly() -> str:
    """plotly.js as the plotly package ships it (MIT), with the line ends an HTML parser would give it."""
    from plotly.offline import get_plotlyjs  # 5 MB of text, needed only here

    return str(get_plotlyjs()).replace("\r\n", "\n")


def _policy(*scripts: str) -> str:
    """Nothing may be fetched; only these very scripts run; styles are inline because plotly sets them so."""
    hashes = " ".join(f"'sha256-{_digest(script)}'" for script in scripts)
    return (
        f"default-src 'none'; script-src {hashes}; style-src 'unsafe-inline'; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )


def _digest(script: str) -> str:
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
