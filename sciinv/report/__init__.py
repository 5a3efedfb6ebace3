"""One HTML file per reconstruction: pictures, samples, checks, coverage, cards, provenance; readable without network.

The names load on first use, so importing this package costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sciinv.report.figures import summary_png
    from sciinv.report.html import render_report, write_report
    from sciinv.report.model import DISCLAIMER, Report, ReportItem

__all__ = ["DISCLAIMER", "Report", "ReportItem", "render_report", "summary_png", "write_report"]

_HOME = {
    "DISCLAIMER": "model", "Report": "model", "ReportItem": "model",
    "render_report": "html", "write_report": "html", "summary_png": "figures",
}  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
