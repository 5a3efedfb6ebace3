"""Figures of the report: maps of the sky, ring posteriors, data against the model's band.

East is left and North is up, offsets in micro-arcseconds; colours are afmhot from zero. Brightness temperature follows
Rayleigh and Jeans: ``T = c^2 S / (2 k nu^2 p^2)`` for S per pixel of side p.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from sciinv_vlbi import science
from sciinv_vlbi.align import blur
from sciinv_vlbi.closures import closures
from sciinv_vlbi.observation import MICRO_ARCSECOND, Observation
from sciinv_vlbi.options import VLBIOptions
from sciinv_vlbi.rings import PARAMETERS, is_ring
from sciinv_vlbi.science import BEAM

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Floats = NDArray[np.float64]
BAR = 50.0  # uas
LIGHT, BOLTZMANN = 299792458.0, 1.380649e-23
LABELS = {
    "diameter": "diameter / µas", "width": "width / µas", "position_angle": "position angle / deg",
    "asymmetry": "asymmetry", "central_brightness": "central brightness",
}  # fmt: skip
INK, FAINT = "#1f5f8b", "#8a9299"
TRIANGLES = 8
SITE = 1e4


def kelvin(frequency: float, pixel_uas: float) -> float:
    """Brightness temperature in kelvin of one jansky in a pixel."""
    side = pixel_uas * MICRO_ARCSECOND
    return LIGHT**2 * 1e-26 / (2 * BOLTZMANN * frequency**2 * side**2)


def maps(mean: Floats, std: Floats, samples: Floats, pixel_uas: float, frequency: float) -> Figure:
    """Mean, mean at 20 uas, standard deviation, relative deviation; below them single samples, all on one scale.

    Parameters
    ----------
    mean, std : ``(side, side)`` in Jy per pixel.
    samples : ``(n, side, side)``; at most four are shown.
    """
    from matplotlib.figure import Figure

    factor = kelvin(frequency, pixel_uas) / 1e9
    soft = blur(torch.from_numpy(np.asarray(mean, np.float64)), pixel_uas, BEAM).numpy()
    shown = samples[np.linspace(0, len(samples) - 1, min(4, len(samples))).round().astype(int)]
    relative = np.where(mean > 0.05 * mean.max(), std / np.maximum(mean, 1e-30), np.nan)
    top = factor * max(float(np.quantile(shown, 0.9995)), float(mean.max()))
    figure = Figure(figsize=(12.4, 6.3), dpi=100, facecolor="white")
    axes = figure.subplots(2, 4)
    figure.subplots_adjust(left=0.045, right=0.965, top=0.945, bottom=0.07, wspace=0.26, hspace=0.2)
    kelvins = "$10^9$ K"
    panels = [
        ("Posterior mean", factor * mean, "afmhot", (0, top), kelvins),
        (f"Mean at {BEAM:.0f} µas", factor * soft, "afmhot", (0, None), kelvins),
        ("Standard deviation", factor * std, "cividis", (0, None), kelvins),
        ("Deviation / mean", relative, "cividis", (0, min(2.0, float(np.nanmax(relative, initial=0.1)))), ""),
        *((f"Sample {k + 1}", factor * x, "afmhot", (0, top), kelvins) for k, x in enumerate(shown)),
    ]
    for axis, (title, values, colours, (low, high), unit) in zip(axes.flat, panels, strict=False):
        _sky(axis, values, pixel_uas, colours, low, high, unit)
        axis.set_title(title, fontsize=10)
    for axis in axes.flat[len(panels) :]:
        axis.set_axis_off()
    _beam(axes[0, 1], pixel_uas * len(mean) / 2)
    for axis in axes[:, 0]:
        axis.set_ylabel("ΔDec / µas", fontsize=8)
    for axis in axes[1]:
        axis.set_xlabel("ΔRA / µas", fontsize=8)
    return figure


def _sky(axis: Any, values: Floats, pixel: float, colours: str, low: float, high: float | None, unit: str) -> None:
    """One map, with its colour bar and a scale bar; row 0 is North, column 0 East."""
    rows, columns = (side * pixel / 2 for side in values.shape)
    drawn = axis.imshow(
        values, cmap=colours, vmin=low, vmax=high, extent=(columns, -columns, -rows, rows), interpolation="bilinear"
    )
    axis.set_facecolor("#d5dbdf")
    axis.tick_params(labelsize=7, length=2)
    bar = axis.figure.colorbar(drawn, ax=axis, fraction=0.046, pad=0.02)
    bar.ax.tick_params(labelsize=7, length=2)
    bar.ax.set_title(unit, fontsize=7)
    left, level = columns * 0.88, -rows * 0.88
    axis.plot([left, left - BAR], [level, level], color="white", lw=2)
    axis.text(left - BAR / 2, level + rows * 0.04, f"{BAR:.0f} µas", color="white", fontsize=7, ha="center")


def _beam(axis: Any, half: float) -> None:
    from matplotlib.patches import Circle

    axis.add_patch(Circle((-0.8 * half, -0.8 * half), BEAM / 2, fill=False, color="white", lw=1.2))


def corner(rings: Mapping[str, Floats], prior: Mapping[str, Floats] | None) -> Figure:
    """Histograms of the ring parameters and scatter plots of every pair, of the samples that are rings.

    What the prior alone expects is drawn in grey.
    """
    from matplotlib.figure import Figure

    def columns(of: Mapping[str, Floats], middle: float | None) -> tuple[dict[str, Floats], float]:
        ring = is_ring(of)
        out = {name: of[name][ring] for name in PARAMETERS}
        angle = science.unwrapped(out["position_angle"]) if middle is None else out["position_angle"]
        middle = float(np.median(angle)) if middle is None else middle
        out["position_angle"] = middle + (angle - middle + 180) % 360 - 180
        return out, middle

    mine, middle = columns(rings, None)
    other = None if prior is None or not is_ring(prior).any() else columns(prior, middle)[0]
    count = len(PARAMETERS)
    figure = Figure(figsize=(9.4, 9.4), dpi=100, facecolor="white")
    axes = figure.subplots(count, count)
    figure.subplots_adjust(left=0.08, right=0.985, top=0.965, bottom=0.075, wspace=0.12, hspace=0.12)
    limits = {name: _limits(mine[name], None if other is None else other[name]) for name in PARAMETERS}
    for i, down in enumerate(PARAMETERS):
        for j, across in enumerate(PARAMETERS):
            axis = axes[i, j]
            axis.tick_params(labelsize=7, length=2)
            if j > i:
                axis.set_axis_off()
                continue
            axis.set_xlim(limits[across])
            if i == j:
                _histogram(axis, mine[down], None if other is None else other[down], limits[down])
            else:
                axis.set_ylim(limits[down])
                if other is not None:
                    axis.plot(other[across], other[down], ".", color=FAINT, ms=2, alpha=0.5)
                axis.plot(mine[across], mine[down], ".", color=INK, ms=4, alpha=0.7)
            if i < count - 1:
                axis.set_xticklabels([])
            else:
                axis.set_xlabel(LABELS[across], fontsize=8)
            if j or i == 0:
                axis.set_yticklabels([])
            else:
                axis.set_ylabel(LABELS[down], fontsize=8)
    return figure


def _limits(mine: Floats, other: Floats | None) -> tuple[float, float]:
    """Room for the samples, and for most of the prior where it is wider."""
    low, high = float(mine.min()), float(mine.max())
    if other is not None:
        low, high = min(low, float(np.quantile(other, 0.05))), max(high, float(np.quantile(other, 0.95)))
    room = 0.06 * (high - low) + 1e-3 * max(abs(high), 1e-3)
    return low - room, high + room


def _histogram(axis: Any, mine: Floats, other: Floats | None, limits: tuple[float, float]) -> None:
    bins = np.linspace(*limits, 25)
    if other is not None:
        axis.hist(other, bins, density=True, histtype="step", color=FAINT)
    axis.hist(mine, bins, density=True, color=INK, alpha=0.75)
    low, middle, high = np.quantile(mine, (0.16, 0.5, 0.84))
    for place, style in ((low, ":"), (middle, "-"), (high, ":")):
        axis.axvline(place, color="#1c2328", lw=1, ls=style)
    digits = 1 if max(abs(low), abs(high)) >= 10 else 2
    title = f"{middle:.{digits}f} $^{{+{high - middle:.{digits}f}}}_{{-{middle - low:.{digits}f}}}$"
    axis.set_title(title, fontsize=9, pad=3)
    axis.set_yticks([])


def data(found: science.Fit, options: VLBIOptions) -> Figure:
    """Closure phases of the longest-followed triangles, then all amplitudes, against the samples' 68 and 95 % bands."""
    from matplotlib.figure import Figure

    obs = found.obs
    relative = obs.sigma / np.maximum(np.abs(obs.vis), 1e-300)
    chosen = closures(obs, "phase", "all", options.snr_min, relative)
    tracks = _tracks(obs.band[chosen.index[:, 0]], chosen.stations, _sites(obs)) if len(chosen) else []
    rows = 1 + -(-len(tracks) // 4)
    figure = Figure(figsize=(12.4, 2.6 * rows + 0.8), dpi=100, facecolor="white")
    grid = figure.add_gridspec(rows, 4, left=0.05, right=0.99, top=0.96, bottom=0.6 / (2.6 * rows + 0.8), hspace=0.42,
                               wspace=0.22)  # fmt: skip
    measured, sigma = np.rad2deg(chosen.values(obs.vis)), np.rad2deg(chosen.sigma(relative))
    model = np.rad2deg(np.stack([chosen.values(vis) for vis in found.model]))
    for k, track in enumerate(tracks):
        axis = figure.add_subplot(grid[k // 4, k % 4])
        track = track[np.argsort(obs.time[chosen.index[track, 0]])]
        time = obs.time[chosen.index[track, 0]]
        near = measured[track] + (model[:, track] - measured[track] + 180) % 360 - 180
        _band(axis, time, near)
        axis.errorbar(time, measured[track], sigma[track], fmt=".", color="#1c2328", ms=4, lw=1)
        axis.set_title("–".join(obs.stations[s].name for s in chosen.stations[track[0]]), fontsize=9, pad=3)
        axis.tick_params(labelsize=7, length=2)
        axis.set_xlabel("UTC / h", fontsize=7, labelpad=1)
        if k % 4 == 0:
            axis.set_ylabel("closure phase / deg", fontsize=8)
    _amplitudes(figure.add_subplot(grid[rows - 1, :]), found)
    return figure


def _sites(obs: Observation) -> NDArray[np.int64]:
    """Number of the first station within `SITE` metres of each: triangles of one site's dishes show the same."""
    place = np.array([s.position for s in obs.stations])
    near = np.linalg.norm(place[:, None] - place, axis=-1) < SITE
    known = np.abs(place).sum(1) > 0
    return np.where(known, (near & known).argmax(1), np.arange(len(place)))


def _tracks(band: NDArray[np.int64], stations: NDArray[np.int64], site: NDArray[np.int64]) -> list[NDArray[np.intp]]:
    """Rows of the triangles of different sites seen most often, one band each; at most `TRIANGLES`."""
    keys, inverse = np.unique(np.column_stack([band, stations]), axis=0, return_inverse=True)
    counts = np.bincount(inverse.reshape(-1))
    picked: dict[tuple[int, ...], int] = {}
    for place in np.argsort(-counts, kind="stable"):
        corners = tuple(sorted({int(site[s]) for s in keys[place, 1:]}))
        if len(corners) == 3:
            picked.setdefault(corners, int(place))
    return [np.flatnonzero(inverse.reshape(-1) == place) for place in list(picked.values())[:TRIANGLES]]


def _band(axis: Any, at: Floats, values: Floats) -> None:
    for low, high, shade in ((0.025, 0.975, 0.25), (0.16, 0.84, 0.45)):
        axis.fill_between(
            at, np.quantile(values, low, 0), np.quantile(values, high, 0), color=INK, alpha=shade, lw=0, zorder=0
        )
    axis.plot(at, np.median(values, 0), color=INK, lw=0.8, zorder=1)


def _amplitudes(axis: Any, found: science.Fit) -> None:
    obs, size = found.obs, np.abs(found.model)
    length = obs.distance / 1e9
    axis.errorbar(length, np.abs(obs.vis), obs.sigma, fmt=".", color="#1c2328", ms=3, lw=0.7, label="data")
    low, middle, high = np.quantile(size, (0.025, 0.5, 0.975), 0)
    axis.vlines(length, low, high, color=INK, alpha=0.55, lw=2.2, label="samples, 95 %")
    axis.plot(length, middle, "_", color=INK, ms=6)
    axis.set_yscale("log")
    axis.set_ylim(0.5 * float(np.abs(obs.vis).min()), 2 * float(np.abs(obs.vis).max()))
    axis.set_xlabel("baseline / Gλ", fontsize=8)
    axis.set_ylabel("amplitude / Jy", fontsize=8)
    axis.tick_params(labelsize=7, length=2)
    axis.legend(fontsize=8, frameon=False)
