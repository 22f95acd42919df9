"""Results document in, one self-contained HTML page out."""

from neuroprune.report.build import build_report

__all__ = ["build_report"]
