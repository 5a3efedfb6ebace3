"""`Observation`: what every VLBI reader returns, and the checks that physics asks of it.

A row is one Stokes-I visibility ``V(u, v) = integral I(l, m) exp(+2 pi i (u l + v m))`` with (l, m) towards East and
North and (u, v) the separation of station `a` from station `b` in wavelengths, as in the Event Horizon Telescope's
files since 2017. Noise is white with `sigma` per real and per imaginary part.
"""

from __future__ import annotations

import dataclasses as dc
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sciinv.errors import InputError, MismatchError

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
MICRO_ARCSECOND = np.pi / 180 / 3600e6
"""Radians."""
SECOND_UV = 1.3
"""Longest baseline believed, in light seconds: 390,000 km, as far as the Moon."""


@dc.dataclass(frozen=True)
class Station:
    """A telescope: its name, geocentric position in metres, system equivalent flux density in Jy (0 when unknown)."""

    name: str
    position: tuple[float, float, float] = (0.0, 0.0, 0.0)
    sefd: float = 0.0


@dc.dataclass(frozen=True)
class Observation:
    """Visibilities of one source.

    Attributes
    ----------
    time : hours since 0 h UTC of `mjd`, ``(row,)``.
    a, b : station indices, ``(row,)``.
    u, v : wavelengths, ``(row,)``.
    vis : complex128 Jy, ``(row,)``.
    sigma : standard deviation of each part in Jy, ``(row,)``.
    tint : integration time in seconds, 0 when unknown, ``(row,)``.
    band : which intermediate frequency, channel or file a row belongs to; closures never mix bands, ``(row,)``.
    frequency : Hz, one a band.
    bandwidth : Hz, of one band.
    stations : those that `a` and `b` point at.
    source, ra, dec : name and position in degrees (``None`` when the file does not say).
    mjd : modified Julian date of the first day.
    format, sha256, label, warnings : where it comes from, and sentences for the user.
    """

    time: Floats
    a: Ints
    b: Ints
    u: Floats
    v: Floats
    vis: NDArray[np.complex128]
    sigma: Floats
    tint: Floats
    band: Ints
    frequency: tuple[float, ...]
    stations: tuple[Station, ...]
    mjd: int
    bandwidth: float = 0.0
    source: str = ""
    ra: float | None = None
    dec: float | None = None
    format: str = ""
    sha256: str = ""
    label: str = "observation"
    warnings: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.vis)

    @property
    def uv(self) -> Floats:
        """``(row, 2)`` wavelengths."""
        return np.stack([self.u, self.v], 1)

    @property
    def distance(self) -> Floats:
        """Length of each baseline in wavelengths."""
        return np.hypot(self.u, self.v)

    @property
    def snr(self) -> Floats:
        """``|V| / sigma``."""
        return np.abs(self.vis) / self.sigma

    def rows(self, keep: NDArray[Any]) -> Observation:
        """Some rows, by mask or index; the stations stay."""
        names = ("time", "a", "b", "u", "v", "vis", "sigma", "tint", "band")
        return dc.replace(self, **{name: getattr(self, name)[keep] for name in names})

    def info(self) -> dict[str, Any]:
        """Facts for ``sciinv info``, JSON-ready."""
        days, hours = divmod(float(self.time.min()), 24)
        used = sorted(set(self.a) | set(self.b))
        return {
            "format": self.format,
            "input": self.label,
            "sha256": self.sha256,
            "source": self.source,
            "ra_dec_deg": None if self.ra is None or self.dec is None else [round(self.ra, 6), round(self.dec, 6)],
            "mjd": self.mjd + int(days),
            "start_utc_hours": round(hours, 4),
            "span_hours": round(float(np.ptp(self.time)), 4),
            "frequency_ghz": [round(f / 1e9, 6) for f in self.frequency],
            "bandwidth_ghz": round(self.bandwidth / 1e9, 6),
            "visibilities": len(self),
            "times": len(np.unique(self.time)),
            "stations": [self.stations[i].name for i in used],
            "longest_baseline_gigalambda": round(float(self.distance.max()) / 1e9, 4),
            "shortest_baseline_gigalambda": round(float(self.distance.min()) / 1e9, 6),
            "integration_seconds": round(float(np.median(self.tint)), 3),
            "median_snr": round(float(np.median(self.snr)), 2),
            "warnings": list(self.warnings),
        }


def checked(obs: Observation) -> Observation:
    """Return `obs` without unused stations, after the checks that no header can promise.

    Raises
    ------
    InputError
        No rows, numbers that are not finite, impossible noise levels, baselines or frequencies, unknown stations.
    """
    where = obs.label

    def demand(good: bool, what: str, expected: str, found: str = "") -> None:
        if not good:
            raise InputError(what, where=where, expected=expected, found=found, hint="check how the file was exported")

    demand(len(obs) > 0, "there is no usable visibility", "at least one row with a positive, finite weight")
    for name in ("time", "u", "v", "sigma", "tint"):
        demand(bool(np.isfinite(getattr(obs, name)).all()), f"{name} is not finite in some rows", "finite numbers")
    demand(bool(np.isfinite(obs.vis).all()), "some visibilities are not finite", "finite numbers")
    demand(bool((np.abs(obs.vis) < 1e12).all()), "some visibilities are impossibly bright", "below 1e12 Jy")
    low, high = float(obs.sigma.min()), float(obs.sigma.max())
    demand(low > 1e-15 and high < 1e12, "the noise level is impossible", "1e-15 to 1e12 Jy", f"{low:.3g} to {high:.3g}")
    demand(bool((np.abs(obs.time) < 24 * 366).all()), "the observation lasts more than a year", "times in hours")
    demand(bool(((obs.tint >= 0) & (obs.tint < 1e6)).all()), "an integration time is impossible", "0 to 1e6 seconds")
    bands = np.array(obs.frequency)
    demand(
        len(bands) > 0 and bool(((bands > 1e6) & (bands < 1e16)).all()), "a frequency is impossible", "1 MHz to 10 PHz"
    )
    demand(0 <= int(obs.band.min()) <= int(obs.band.max()) < len(bands), "a row belongs to no band", "a known band")
    seconds = float((obs.distance / bands[obs.band]).max())
    demand(
        seconds < SECOND_UV, "a baseline is longer than the way to the Moon", "u and v in seconds after PSCAL",
        f"{seconds:.3g} light seconds",
    )  # fmt: skip
    demand(bool((obs.distance > 0).any()), "every baseline has length zero", "u and v")
    known = len(obs.stations)
    demand(
        bool(((obs.a >= 0) & (obs.b >= 0) & (obs.a < known) & (obs.b < known)).all()), "a row names an unknown station",
        f"0 to {known - 1}",
    )  # fmt: skip
    demand(bool((obs.a != obs.b).all()), "a row pairs a station with itself", "two stations")
    used = np.unique(np.concatenate([obs.a, obs.b]))
    place = np.full(known, -1, np.int64)
    place[used] = np.arange(len(used))
    return dc.replace(obs, a=place[obs.a], b=place[obs.b], stations=tuple(obs.stations[i] for i in used))


def join(observations: Sequence[Observation]) -> Observation:
    """Several observations of one source as one, their bands kept apart (low and high band, several days).

    Raises
    ------
    MismatchError
        The sources differ, or there is nothing to join.
    """
    if not observations:
        raise MismatchError("nothing to join", expected="at least one observation")
    names = {obs.source for obs in observations}
    if len(names) > 1:
        raise MismatchError("the observations are of different sources", found=", ".join(sorted(names)))
    first = min(obs.mjd for obs in observations)
    stations: dict[str, Station] = {}
    for obs in observations:
        for station in obs.stations:
            stations.setdefault(station.name, station)
    number = {name: i for i, name in enumerate(stations)}
    parts: dict[str, list[NDArray[Any]]] = {}
    frequency: list[float] = []
    for obs in observations:
        place = np.array([number[s.name] for s in obs.stations])
        columns = {
            "time": obs.time + 24.0 * (obs.mjd - first), "a": place[obs.a], "b": place[obs.b], "u": obs.u, "v": obs.v,
            "vis": obs.vis, "sigma": obs.sigma, "tint": obs.tint, "band": obs.band + len(frequency),
        }  # fmt: skip
        for name, column in columns.items():
            parts.setdefault(name, []).append(column)
        frequency += obs.frequency
    merged: dict[str, Any] = {name: np.concatenate(columns) for name, columns in parts.items()}
    notes = dict.fromkeys(note for obs in observations for note in obs.warnings)
    return dc.replace(
        observations[0], **merged, frequency=tuple(frequency), stations=tuple(stations.values()), mjd=first,
        warnings=tuple(notes),
    )  # fmt: skip
