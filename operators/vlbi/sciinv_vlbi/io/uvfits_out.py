"""UVFITS from an `Observation`, in the layout of the Event Horizon Telescope's public files.

Stokes I is written as ``RR = LL = I`` with weights ``1/(2 sigma^2)``, cross hands with weight zero. u and v are stored
in wavelengths with ``PSCAL = 1/frequency``; bands of one observation become IFs of one row.
"""

from __future__ import annotations

import os
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np

from sciinv.errors import MismatchError
from sciinv.io.atomic import atomic_path
from sciinv_vlbi.averaging import moments
from sciinv_vlbi.observation import Observation

MJD_ZERO = date(1858, 11, 17)
APART = 5e-5
"""Of the longest baseline: averages of two bands have other weights, so low and high band of the EHT's releases differ
by 1e-5 (1e5 wavelengths, a phase of 1e-3 at 1 milli-arcsecond); bands of different observations differ by far more."""


def write_uvfits(path: str | os.PathLike[str], obs: Observation) -> Path:
    """Write an observation as single-source UVFITS, atomically, and return the path.

    Raises
    ------
    MismatchError
        Two rows of one baseline, band and time; or bands whose baselines differ by more than `APART`.
    """
    from astropy.io import fits

    instant = moments(obs)
    keys, row = np.unique(np.stack([instant, obs.a, obs.b], 1), axis=0, return_inverse=True)
    row, bands = row.reshape(-1), len(obs.frequency)
    if len(np.unique(row * bands + obs.band)) != len(obs):
        raise MismatchError(
            "a baseline appears twice at one time", where=obs.label, hint="average the observation first"
        )
    hertz = np.array(obs.frequency)
    first = np.unique(row, return_index=True)[1]
    # parameters are shared by the bands of a row: baselines in seconds must agree; the mean is written
    seconds = np.stack([obs.u, obs.v], 1) / hertz[obs.band][:, None]
    middle = np.stack([np.bincount(row, part) for part in seconds.T], 1) / np.bincount(row)[:, None]
    apart = np.abs(seconds - middle[row]).max()
    if apart > APART * np.abs(seconds).max() + 1e-12:
        raise MismatchError("the bands of one baseline and time have different u and v", where=obs.label)
    data = np.zeros((len(keys), 1, 1, bands, 1, 4, 3), np.float32)
    for hand in (0, 1):
        data[row, 0, 0, obs.band, 0, hand, 0] = obs.vis.real
        data[row, 0, 0, obs.band, 0, hand, 1] = obs.vis.imag
        data[row, 0, 0, obs.band, 0, hand, 2] = 0.5 / obs.sigma**2
    hours = obs.time[first]
    day = np.floor(hours / 24)
    scale = float(1 / hertz[0])
    names = ["UU---SIN", "VV---SIN", "WW---SIN", "BASELINE", "DATE", "DATE", "INTTIM", "TAU1", "TAU2"]
    zero = np.zeros(len(keys))
    large = len(obs.stations) > 255
    code = (2048 if large else 256) * (keys[:, 1] + 1) + keys[:, 2] + 1 + (65536 if large else 0)
    values = [
        *(middle.T / scale), zero, code, 2400000.5 + obs.mjd + day, hours / 24 - day, obs.tint[first],
        zero, zero,
    ]  # fmt: skip
    scales = [scale] * 3 + [1.0] * 6
    # stored numbers go in as they are; astropy would divide by scales that it is told of
    raw = [np.asarray(v, np.float32) for v in values]
    groups = fits.GroupData(data, bitpix=-32, parnames=names, pardata=raw)
    main = fits.GroupsHDU(groups)
    for number, (name, value, step) in enumerate(
        [
            ("COMPLEX", 1.0, 1.0), ("STOKES", -1.0, -1.0), ("FREQ", obs.frequency[0], obs.bandwidth or 1.0),
            ("IF", 1.0, 1.0), ("RA", obs.ra or 0.0, 1.0), ("DEC", obs.dec or 0.0, 1.0),
        ],
        2,
    ):  # fmt: skip
        for key, content in (("CTYPE", name), ("CRVAL", value), ("CDELT", step), ("CRPIX", 1.0)):
            main.header[f"{key}{number}"] = content
    for i, factor in enumerate(scales, 1):
        main.header[f"PSCAL{i}"], main.header[f"PZERO{i}"] = factor, 0.0
    day_one = (MJD_ZERO + timedelta(obs.mjd)).isoformat()
    cards: dict[str, Any] = {
        "OBJECT": obs.source, "OBSRA": obs.ra or 0.0, "OBSDEC": obs.dec or 0.0, "DATE-OBS": day_one,
        "MJD": float(obs.mjd), "BUNIT": "JY", "EQUINOX": 2000.0,
    }  # fmt: skip
    for key, card in cards.items():
        main.header[key] = card
    file = fits.HDUList([main, _antennas(fits, obs, day_one), _bands(fits, obs)])
    with atomic_path(path) as temporary:
        file.writeto(temporary)
    return Path(path)


def _antennas(fits: Any, obs: Observation, day: str) -> Any:
    count = len(obs.stations)
    column, zero = fits.Column, np.zeros(count)
    table = fits.BinTableHDU.from_columns(
        [
            column("ANNAME", "8A", array=[s.name for s in obs.stations]),
            column("STABXYZ", "3D", "METERS", array=np.array([s.position for s in obs.stations])),
            column("NOSTA", "1J", array=np.arange(1, count + 1)),
            column("MNTSTA", "1J", array=zero), column("STAXOF", "1E", "METERS", array=zero),
            column("POLTYA", "1A", array=["R"] * count), column("POLAA", "1E", "DEGREES", array=zero),
            column("POLCALA", "3E", array=np.zeros((count, 3))),
            column("POLTYB", "1A", array=["L"] * count), column("POLAB", "1E", "DEGREES", array=zero + 90),
            column("POLCALB", "3E", array=np.zeros((count, 3))),
            column("SEFD", "1D", array=[s.sefd for s in obs.stations]),
        ],
        name="AIPS AN",
    )  # fmt: skip
    cards = {
        "EXTVER": 1, "ARRAYX": 0.0, "ARRAYY": 0.0, "ARRAYZ": 0.0, "GSTIA0": sidereal_degrees(obs.mjd),
        "DEGPDY": 360.98564736629, "FREQ": obs.frequency[0], "RDATE": day, "POLARX": 0.0, "POLARY": 0.0,
        "UT1UTC": 0.0, "DATUTC": 0.0, "TIMSYS": "UTC", "ARRNAM": "VLBI", "NUMORB": 0, "NOPCAL": 3, "POLTYPE": "APPROX",
        "FRAME": "ITRF", "XYZHAND": "RIGHT", "FREQID": 1,
    }  # fmt: skip
    for key, content in cards.items():
        table.header[key] = content
    return table


def _bands(fits: Any, obs: Observation) -> Any:
    count = len(obs.frequency)
    column = fits.Column
    offset, width = np.array(obs.frequency) - obs.frequency[0], np.full(count, obs.bandwidth or 1.0)

    def row(values: Any, code: str) -> Any:
        # a column of one number a row must not have an axis of length one
        array = np.asarray(values).reshape((1, count) if count > 1 else (1,))
        return {"format": f"{count}{code}", "array": array}

    table = fits.BinTableHDU.from_columns(
        [
            column("FRQSEL", "1J", array=[1]), column("IF FREQ", unit="HZ", **row(offset, "D")),
            column("CH WIDTH", unit="HZ", **row(width, "E")), column("TOTAL BANDWIDTH", unit="HZ", **row(width, "E")),
            column("SIDEBAND", **row(np.ones(count), "J")),
        ],
        name="AIPS FQ",
    )  # fmt: skip
    table.header["EXTVER"], table.header["NO_IF"] = 1, count
    return table


def sidereal_degrees(mjd: float) -> float:
    """Greenwich mean sidereal time in degrees at a modified Julian date, UT1 taken as UTC (IAU 1982, linear part)."""
    return float((280.46061837 + 360.98564736629 * (mjd - 51544.5)) % 360.0)
