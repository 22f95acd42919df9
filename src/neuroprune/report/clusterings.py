"""What the results document says about clustered weights."""

from __future__ import annotations

from dataclasses import dataclass

from neuroprune.report.reader import Reader


@dataclass(frozen=True)
class ClusteredLayer:
    """``before`` and ``after`` count distinct weights; ``error``: squared change over squares."""

    name: str
    entries: float | None
    before: float | None
    after: float | None
    error: float | None


@dataclass(frozen=True)
class Clustering:
    """``before`` and ``after`` are of the whole network: a value that several layers hold counts once."""

    k: float | None
    distortion: float | None
    scope: str
    entries: float | None
    before: float | None
    after: float | None
    layers: tuple[ClusteredLayer, ...]


def _clustered_layer(r: Reader) -> ClusteredLayer:
    return ClusteredLayer(
        r.text("name"), r.number("entries"), r.number("before"), r.number("after"), r.number("error")
    )


def read_clustering(r: Reader) -> Clustering:
    return Clustering(
        r.number("k"),
        r.number("distortion"),
        r.text("scope"),
        r.number("entries"),
        r.number("before"),
        r.number("after"),
        r.children("layers", _clustered_layer),
    )
