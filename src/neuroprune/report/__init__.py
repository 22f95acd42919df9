"""Results document in, one self-contained HTML page out."""

from neuroprune.report.build import build_report
from neuroprune.report.cascade import build_cascade_page
from neuroprune.report.search import build_search
from neuroprune.report.sensitivity import build_sensitivity

__all__ = ["build_cascade_page", "build_report", "build_search", "build_sensitivity"]
