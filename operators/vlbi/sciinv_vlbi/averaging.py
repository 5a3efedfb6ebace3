"""Scans, coherent averages with their errors, systematic noise, and what is larger than the image.

Average of n visibilities with weights ``w = 1/sigma^2``: ``V = sum w V / sum w``, ``sigma = (sum w)^-1/2``; u, v and
time are averaged with the same weights. Systematic noise adds in quadrature: ``sigma^2 + (f |V|)^2`` for a fraction f
of the visibility, or ``sigma^2 + (f_a^2 + f_b^2) |V|^2`` for fractions of the stations' gains.
"""

from __future__ import annotations

import dataclasses as dc
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from sciinv.errors import InputError, UsageError
from sciinv_vlbi.observation import Floats, Ints, Observation
from sciinv_vlbi.options import Short


def scans(obs: Observation, gap: float = 60.0) -> Ints:
    """Scan number of each row: a scan ends where nothing is recorded for more than `gap` seconds, ``(row,)``."""
    times, inverse = np.unique(obs.time, return_inverse=True)
    number = np.concatenate([[0], np.cumsum(np.diff(times) * 3600 > gap)])
    return np.asarray(number[inverse], np.int64)


def moments(obs: Observation) -> Ints:
    """Number of the instant of each row; instants closer than a tenth of an integration are one, ``(row,)``."""
    times, inverse = np.unique(obs.time, return_inverse=True)
    close = max(0.1 * float(np.median(obs.tint)), 0.05)
    number = np.concatenate([[0], np.cumsum(np.diff(times) * 3600 > close)])
    return np.asarray(number[inverse], np.int64)


def average(obs: Observation, over: float | Literal["scan", "none"] = "scan", gap: float = 60.0) -> Observation:
    """Coherent average of each baseline and band over scans or intervals.

    Parameters
    ----------
    obs : the observation.
    over : ``scan``; a number of seconds, never across scans; or ``none``, which only merges rows that repeat a
        baseline at one instant. Rows (b, a) count as conjugated rows (a, b).
    gap : seconds of silence that end a scan.

    Returns
    -------
    Observation
        One row a baseline, band and interval, in order of band, time and stations; `tint` is the time on source.
    """
    if not (over in ("scan", "none") or (isinstance(over, (int, float)) and over > 0)) or not gap > 0:
        raise UsageError(
            "averaging is impossible", expected="scan, none, or seconds above 0; gap above 0", found=f"{over}, {gap}"
        )
    scan = scans(obs, gap)
    if over == "scan":
        cell = scan
    elif over == "none":
        cell = moments(obs)
    else:
        start = np.full(int(scan.max()) + 1, np.inf)
        np.minimum.at(start, scan, obs.time)
        # a hundredth of an interval of slack: times are rounded to single-precision days
        step = np.floor((obs.time - start[scan]) * 3600 / float(over) + 0.01).astype(np.int64)
        cell = scan * (int(step.max()) + 1) + step
    flip = obs.a > obs.b
    a, b = np.minimum(obs.a, obs.b), np.maximum(obs.a, obs.b)
    u, v, vis = np.where(flip, -obs.u, obs.u), np.where(flip, -obs.v, obs.v), np.where(flip, obs.vis.conj(), obs.vis)
    keys, group = np.unique(np.stack([obs.band, cell, a, b], 1), axis=0, return_inverse=True)
    group, count = group.reshape(-1), len(keys)
    # weights relative to the group's best row: the sum of 1/sigma^2 of tiny sigmas would overflow
    best = np.full(count, np.inf)
    np.minimum.at(best, group, obs.sigma)
    w = (best[group] / obs.sigma) ** 2
    total = np.bincount(group, w, count)

    def mean(column: Floats) -> Floats:
        return np.asarray(np.bincount(group, w * column, count) / total)

    merged = dc.replace(
        obs, time=mean(obs.time), a=keys[:, 2], b=keys[:, 3], u=mean(u), v=mean(v),
        vis=mean(vis.real) + 1j * mean(vis.imag), sigma=best / np.sqrt(total),
        tint=np.asarray(np.bincount(group, obs.tint, count), np.float64), band=keys[:, 0],
    )  # fmt: skip
    return _same_time(merged, keys[:, 1])


def _same_time(obs: Observation, cell: Ints) -> Observation:
    """One time for all baselines of a cell and band, so that closures find each other."""
    _, group = np.unique(np.stack([obs.band, cell], 1), axis=0, return_inverse=True)
    group = group.reshape(-1)
    time = np.bincount(group, obs.time) / np.bincount(group)
    return dc.replace(obs, time=time[group])


def add_systematic(obs: Observation, fraction: float = 0.0, stations: Mapping[str, float] | None = None) -> Observation:
    """Add a fraction of each visibility, and of each station's gain, to the thermal noise in quadrature.

    Parameters
    ----------
    fraction : non-closing errors (leakage, band-pass) as a fraction of ``|V|`` on each part.
    stations : name to gain error.
    """
    table = dict(stations or {})
    unknown = set(table) - {s.name for s in obs.stations}
    if unknown:
        raise UsageError("no such station", found=", ".join(sorted(unknown)), expected=_names(obs))
    if not (0 <= fraction < 1 and all(0 <= f < 1 for f in table.values())):
        raise UsageError("systematic noise is a fraction", expected="0 to 1", found=f"{fraction}, {table}")
    each = np.array([table.get(s.name, 0.0) for s in obs.stations])
    share = fraction**2 + each[obs.a] ** 2 + each[obs.b] ** 2
    return dc.replace(obs, sigma=np.sqrt(obs.sigma**2 + share * np.abs(obs.vis) ** 2))


def short(obs: Observation, below: float) -> NDArray[np.bool_]:
    """Rows whose baseline is shorter than `below` wavelengths: they see flux that is larger than the image."""
    return np.asarray(obs.distance < below)


def zero_baseline(obs: Observation, below: float) -> float:
    """Median amplitude of the baselines shorter than `below` wavelengths, in Jy; the flux on all scales.

    Raises
    ------
    InputError
        There is no such baseline.
    """
    chosen = short(obs, below)
    if not chosen.any():
        raise InputError(
            "no baseline is short enough to give the total flux", where=obs.label,
            expected=f"below {below:.3g} wavelengths", found=f"{obs.distance.min():.3g}", hint="--set vlbi.flux=JANSKY",
        )  # fmt: skip
    return float(np.median(np.abs(obs.vis[chosen])))


def compact(obs: Observation, rule: Short, flux: float, below: float, fwhm: float) -> tuple[Observation, Any]:
    """Treat the flux that only the short baselines see.

    Parameters
    ----------
    rule : ``drop`` the short baselines; ``scale`` them (and their noise) to the compact `flux`; ``component``: leave
        them, and return what a Gaussian of the missing flux adds to every visibility; ``keep`` them as they are.
    flux : Jy inside the image.
    below : wavelengths.
    fwhm : of the Gaussian, radians.

    Returns
    -------
    The observation, and the visibilities of the component ``(row,)`` (``None`` without one).
    """
    near = short(obs, below)
    if rule == "keep" or not near.any():
        return obs, None
    if rule == "drop":
        if near.all():
            raise InputError("every baseline is short", where=obs.label, hint="--set vlbi.short=keep")
        return obs.rows(~near), None
    total = zero_baseline(obs, below)
    if rule == "scale":
        factor = np.where(near, flux / total, 1.0)
        return dc.replace(obs, vis=obs.vis * factor, sigma=obs.sigma * factor), None
    # Fourier transform of a round Gaussian of unit flux: exp(-pi^2 fwhm^2 |u|^2 / (4 ln 2))
    shape = np.exp(-((np.pi * fwhm * obs.distance) ** 2) / (4 * np.log(2)))
    return obs, max(total - flux, 0.0) * shape.astype(np.complex128)


def _names(obs: Observation) -> str:
    return ", ".join(s.name for s in obs.stations)
