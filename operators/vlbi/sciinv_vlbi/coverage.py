"""Where an array samples the (u, v) plane, and how noisily.

With the Greenwich hour angle H of the source and the baseline ``(X, Y, Z)`` in geocentric coordinates (metres),
``u = X sin H + Y cos H`` and ``v = -X sin d cos H + Y sin d sin H + Z cos d`` (Thompson, Moran, Swenson 2017,
equation 4.1), here of station a minus station b, over the wavelength. Thermal noise of Stokes I, each part:
``sigma = sqrt(SEFD_a SEFD_b / (2 bw t)) / (eta sqrt 2)``, eta = 0.88 for two-bit sampling and two hands averaged.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sciinv.errors import UsageError
from sciinv_vlbi.io.uvfits_out import sidereal_degrees
from sciinv_vlbi.observation import Floats, Observation, Station, checked

LIGHT = 299792458.0
TWO_BIT = 0.88

EHT2017 = (
    Station("AA", (2225060.8, -5440059.6, -2481681.2), 74.0),
    Station("AP", (2225039.5, -5441197.6, -2479303.4), 4700.0),
    Station("AZ", (-1828796.2, -5054406.8, 3427865.2), 17100.0),
    Station("JC", (-5464584.7, -2493001.2, 2150654.0), 10500.0),
    Station("LM", (-768715.6, -5988507.1, 2063354.9), 4500.0),
    Station("PV", (5088967.8, -301681.2, 3825012.2), 1900.0),
    Station("SM", (-5464555.5, -2492928.0, 2150797.2), 6200.0),
)
"""The Event Horizon Telescope that saw M87 in 2017, with median system equivalent flux densities (EHT paper III)."""


def observe(
    stations: Sequence[Station],
    ra: float,
    dec: float,
    *,
    mjd: int = 57854,
    start: float = 0.5,
    hours: float = 8.0,
    step: float = 600.0,
    tint: float = 300.0,
    frequency: float = 227.0707e9,
    bandwidth: float = 1.856e9,
    elevation: float = 10.0,
    source: str = "SIMULATED",
) -> Observation:
    """An observation with thermal errors and visibilities of zero.

    Parameters
    ----------
    stations : the array.
    ra, dec : of the source, degrees.
    mjd, start, hours : first day, UTC hours on it at which the track starts, and its length.
    step, tint : seconds between scans, and seconds on source.
    frequency, bandwidth : Hz.
    elevation : degrees above which a station observes.

    Raises
    ------
    UsageError
        Settings are impossible, or no two stations see the source at once.
    """
    limits = (
        ("stations", len(stations), 2, 255), ("dec", dec, -90, 90), ("hours", hours, 1e-3, 240), ("step", step, 1, 1e5),
        ("tint", tint, 1e-3, 1e5), ("frequency", frequency, 1e6, 1e16), ("bandwidth", bandwidth, 1, 1e13),
        ("elevation", elevation, -90, 90), ("mjd", mjd, 15020, 88069), ("start", start, 0, 24), ("ra", ra, -360, 360),
    )  # fmt: skip
    for name, value, low, high in limits:
        if not low <= value <= high:
            raise UsageError(f"{name} is out of range", expected=f"{low} to {high}", found=str(value))
    if any(not s.sefd > 0 for s in stations):
        raise UsageError("a station has no system equivalent flux density", expected="SEFD above 0 Jy")
    time = start + np.arange(int(hours * 3600 / step) + 1) * step / 3600
    sidereal = np.array([sidereal_degrees(mjd + t / 24) for t in time])
    hour_angle = np.deg2rad(sidereal - ra)
    place = np.array([s.position for s in stations])
    d = np.deg2rad(dec)
    towards = np.stack([np.cos(d) * np.cos(hour_angle), -np.cos(d) * np.sin(hour_angle), np.full(len(time), np.sin(d))])
    zenith = place / np.linalg.norm(place, axis=1, keepdims=True)
    up = zenith @ towards > np.sin(np.deg2rad(elevation))
    a, b = np.triu_indices(len(stations), 1)
    which, when = np.nonzero(up[a] & up[b])
    if not len(which):
        raise UsageError("no two stations see the source at once", hint="another declination, start or elevation")
    a, b = a[which], b[which]
    x, y, z = ((place[a] - place[b]) * (frequency / LIGHT)).T
    s, c = np.sin(hour_angle[when]), np.cos(hour_angle[when])
    sefd = np.array([station.sefd for station in stations])
    order = np.lexsort((b, a, when))
    obs = Observation(
        time=time[when], a=a, b=b, u=x * s + y * c, v=-x * np.sin(d) * c + y * np.sin(d) * s + z * np.cos(d),
        vis=np.zeros(len(a), np.complex128), sigma=thermal(sefd[a], sefd[b], bandwidth, tint),
        tint=np.full(len(a), tint), band=np.zeros(len(a), np.int64), frequency=(frequency,), bandwidth=bandwidth,
        stations=tuple(stations), mjd=mjd, source=source, ra=ra, dec=dec, format="simulated", label="simulated",
    )  # fmt: skip
    return checked(obs.rows(order))


def thermal(sefd_a: Floats, sefd_b: Floats, bandwidth: float, tint: float) -> Floats:
    """Standard deviation of each part of a Stokes-I visibility in Jy."""
    return np.asarray(np.sqrt(sefd_a * sefd_b / (2 * bandwidth * tint)) / (TWO_BIT * np.sqrt(2)))
