"""Still pictures: the summary strip for README and docs, and the trace plots of the report (inline SVG)."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup, escape

from sciinv.io.atomic import atomic_path
from sciinv.report.model import ReportItem
from sciinv.report.pictures import COLOURS, Window, windows
from sciinv.report.text import clean, number

_POINTS = 400  # per line of a trace plot; longer traces are thinned
_INKS = ("#1f5f8b", "#a3521b", "#3f7d3a", "#7a4b94", "#8a6d00", "#5b5b5b")


def summary_png(path: str | os.PathLike[str], item: ReportItem, units: str) -> Path:
    """Write reference or baseline, mean, std, one sample and error side by side in fixed units; return the path.

    The intensity maps share one grey window, std and error share one colour scale, both with a bar in `units`.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # slow to import: only when a picture is asked for
    from matplotlib.figure import Figure

    truth = [key for key in ("reference", "baseline") if key in item.images][:1]
    panels = [(key.capitalize(), item.images[key], "grey") for key in truth]
    panels += [
        ("Posterior mean", item.images["mean"], "grey"),
        ("One sample", np.asarray(item.samples)[0], "grey"),
        ("Standard deviation", item.images["std"], "std"),
    ]
    if "error" in item.images:
        panels.append(("Absolute error", np.abs(item.images["error"]), "error"))
    view = windows([item], units)
    height, width = np.shape(item.images["mean"])
    inch = 2.3
    figure = Figure(figsize=(inch * len(panels), inch * height / width + 0.75), dpi=160, facecolor="white")
    FigureCanvasAgg(figure)
    axes = np.atleast_1d(figure.subplots(1, len(panels)))
    figure.subplots_adjust(left=0.006, right=0.994, top=0.91, bottom=0.24, wspace=0.03)
    drawn: dict[str, tuple[Any, list[Any]]] = {}
    for axis, (title, values, kind) in zip(axes, panels, strict=True):
        window = view[kind]
        shown = axis.imshow(
            values, cmap=COLOURS.get(kind, "gray"), vmin=window.lo, vmax=window.hi, interpolation="nearest"
        )
        axis.set_title(title, fontsize=9, pad=3)
        axis.set_axis_off()
        group = "grey" if kind == "grey" else "std"
        drawn.setdefault(group, (shown, []))[1].append(axis)
    for group, (shown, members) in drawn.items():
        boxes = [axis.get_position() for axis in members]
        left, right = boxes[0].x0, boxes[-1].x1
        bar = figure.add_axes((left + 0.2 * (right - left), 0.155, 0.6 * (right - left), 0.03))
        figure.colorbar(shown, cax=bar, orientation="horizontal")
        bar.tick_params(labelsize=7, length=2, pad=1)
        spread = "standard deviation and error" if "error" in item.images else "standard deviation"
        what = "intensity" if group == "grey" else spread
        bar.set_xlabel(f"{what} / {clean(units)}", fontsize=7, labelpad=1)
    count = number(item.stats.get("n")) or len(item.samples)
    figure.text(
        0.994, 0.008, f"{count:.0f} samples. Research use only.", fontsize=6, ha="right", va="bottom", color="#444444"
    )
    path = Path(path)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", metadata={"Software": None})
    return path


def trace_svg(traces: Any) -> list[tuple[str, Markup]]:
    """Name and line plot of each trace: numbers per step, or one such list per chain; anything else is left out."""
    if not isinstance(traces, Mapping):
        return []
    plots = []
    for name, values in traces.items():
        lines = _lines(values)
        if lines:
            plots.append((clean(str(name)), _plot(clean(str(name)), lines)))
    return plots


def _lines(values: Any) -> list[list[float]]:
    if hasattr(values, "tolist"):
        values = values.tolist()
    if not isinstance(values, Sequence) or isinstance(values, str) or not len(values):
        return []
    chains = values if isinstance(values[0], list | tuple) else [values]
    lines = [[float("nan") if (v := number(value)) is None else v for value in chain] for chain in chains[:64]]
    return [line for line in lines if np.isfinite(line).sum() > 1]


def _plot(name: str, lines: list[list[float]]) -> Markup:
    """Lines over steps in a 420 x 150 frame, the ends of both axes labelled; non-finite points are skipped."""
    flat = np.concatenate([np.asarray(line) for line in lines])
    flat = flat[np.isfinite(flat)]
    view = Window(float(flat.min()), float(flat.max() if flat.max() > flat.min() else flat.min() + 1), "")
    steps = max(len(line) for line in lines)
    parts = []
    for k, line in enumerate(lines):
        keep = np.unique(np.linspace(0, len(line) - 1, min(_POINTS, len(line))).astype(int))
        points = " ".join(
            f"{58 + 352 * i / max(steps - 1, 1):.1f},{120 - 106 * (line[i] - view.lo) / (view.hi - view.lo):.1f}"
            for i in keep
            if np.isfinite(line[i])
        )
        parts.append(f'<polyline points="{points}" fill="none" stroke="{_INKS[k % len(_INKS)]}" stroke-width="1.2"/>')
    labels = (
        f'<text x="54" y="18" text-anchor="end">{view.label(view.hi)}</text>'
        f'<text x="54" y="123" text-anchor="end">{view.label(view.lo)}</text>'
        f'<text x="58" y="138">1</text><text x="410" y="138" text-anchor="end">step {steps}</text>'
    )
    alt = escape(f"{name} over {steps} steps, from {lines[0][0]:.3g} to {lines[0][-1]:.3g}")
    return Markup(  # every part is a number of ours or escaped above
        f'<svg viewBox="0 0 420 146" role="img" aria-label="{alt}">'
        '<path d="M58 14V120H410" fill="none" stroke="#8a9299"/>'
        f"{''.join(parts)}{labels}</svg>"
    )
