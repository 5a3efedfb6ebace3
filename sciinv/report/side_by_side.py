"""The figure of a comparison: mean, standard deviation and absolute error of every method in the same units."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from sciinv.io.atomic import atomic_path
from sciinv.report.model import Report
from sciinv.report.pictures import COLOURS, windows
from sciinv.report.text import clean

ROWS = (("mean", "grey", "Posterior mean"), ("std", "std", "Std. deviation"), ("error", "error", "Absolute error"))


def comparison_png(path: str | os.PathLike[str], reports: Mapping[str, Report]) -> Path:
    """Write one column a method, the reference (or baseline) first, for the first item that all of them show.

    Intensities share one window, standard deviations and errors another, over all methods.

    Parameters
    ----------
    reports : at least one, by the method's name.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # slow to import: only when a picture is asked for
    from matplotlib.figure import Figure

    labels = [{item.label: item for item in report.items} for report in reports.values()]
    shared = [label for label in labels[0] if all(label in other for other in labels)]
    chosen = shared[0] if shared else None
    items = {
        name: found[chosen] if chosen else next(iter(found.values()))
        for name, found in zip(reports, labels, strict=True)
    }
    first = next(iter(items.values()))
    units = clean(next(iter(reports.values())).units)
    view = windows(list(items.values()), units)
    truth = next((key for key in ("reference", "baseline") if key in first.images), None)
    rows = [row for row in ROWS if any(row[0] in item.images for item in items.values())]
    columns = len(items) + (truth is not None)
    height, width = np.shape(first.images["mean"])
    inch = 1.8
    size = (inch * columns + 1.1, inch * len(rows) * height / width + 0.6)
    figure = Figure(figsize=size, dpi=160, facecolor="white")
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(rows), columns, squeeze=False)
    figure.subplots_adjust(
        left=0.35 / size[0], right=1 - 0.9 / size[0], top=1 - 0.3 / size[1], bottom=0.2 / size[1],
        wspace=0.03, hspace=0.03,
    )  # fmt: skip
    for axis in axes.flat:
        axis.set_xticks([])
        axis.set_yticks([])
        axis.set_frame_on(False)
    if truth is not None:
        axes[0, 0].imshow(first.images[truth], cmap="gray", vmin=0, vmax=view["grey"].hi, interpolation="nearest")
        axes[0, 0].set_title(truth, fontsize=8, pad=3)
    for r, (key, kind, title) in enumerate(rows):
        shown = None
        for c, (name, item) in enumerate(items.items(), truth is not None):
            if r == 0:
                axes[0, c].set_title(name, fontsize=8, pad=3)
            if key in item.images:
                window = view[kind]
                shown = axes[r, c].imshow(
                    np.abs(item.images[key]) if key == "error" else item.images[key], cmap=COLOURS.get(kind, "gray"),
                    vmin=window.lo, vmax=window.hi, interpolation="nearest",
                )  # fmt: skip
        axes[r, 0].set_ylabel(title, fontsize=7)
        if shown is not None:
            box = axes[r, -1].get_position()
            beside = (box.x1 + 0.1 / size[0], box.y0, 0.08 / size[0], box.height)
            bar = figure.colorbar(shown, cax=figure.add_axes(beside))
            bar.ax.tick_params(labelsize=6, length=2, pad=1)
            bar.set_label(units, fontsize=6, labelpad=1)
    figure.text(0.995, 0.005, "Research use only.", fontsize=6, ha="right", va="bottom", color="#444444")
    path = Path(path)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", metadata={"Software": None})
    return path
