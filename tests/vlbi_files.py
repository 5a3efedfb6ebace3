"""Small observations and UVFITS files in every dialect, made here."""

from __future__ import annotations

import numpy as np
from sciinv_vlbi.coverage import EHT2017, observe
from sciinv_vlbi.observation import MICRO_ARCSECOND, Observation
from sciinv_vlbi.simulate import M87, measure, phantom

FOV, SIDE = 128.0, 32


def track(hours: float = 4.0, step: float = 1200.0, tint: float = 300.0) -> Observation:
    """A night without a source."""
    return observe(EHT2017, *M87, hours=hours, step=step, tint=tint, source="M87")


def crescent(obs: Observation | None = None, **how) -> Observation:
    """A crescent of 0.6 Jy."""
    image = 0.6 * phantom(SIDE, FOV)
    return measure(track() if obs is None else obs, image, FOV / SIDE * MICRO_ARCSECOND, **how)


def raw_uvfits(
    path, data, baselines, uv_seconds, days, *, dates=("DATE", "DATE"), names=("UU", "VV", "WW"), stokes=(-1, -1),
    axes=("COMPLEX", "STOKES", "FREQ", "IF", "RA", "DEC"), scale=1.0, zero=0.0, frequency=230e9, extra=(), tables=(),
    cards=(),
):  # fmt: skip
    """A UVFITS file written field by field: ``data`` is (group, DEC, RA, IF, FREQ, STOKES, 3) or as `axes` say."""
    from astropy.io import fits

    values = [(u - zero) / scale for u in (*np.asarray(uv_seconds).T, np.zeros(len(data)))]
    columns = [*zip(names, values, strict=True), ("BASELINE", baselines)]
    columns += [*zip(dates, days, strict=True), ("INTTIM", np.full(len(data), 10.0)), *extra]
    group = fits.GroupData(
        np.asarray(data, np.float32), bitpix=-32, parnames=[n for n, _ in columns],
        pardata=[np.asarray(v, np.float32) for _, v in columns],
    )  # fmt: skip
    main = fits.GroupsHDU(group)
    for i, axis in enumerate(axes, 2):
        value, step = {"STOKES": stokes, "FREQ": (frequency, 1e8)}.get(axis, (1.0, 1.0))
        for key, content in (("CTYPE", axis), ("CRVAL", value), ("CDELT", step), ("CRPIX", 1.0)):
            main.header[f"{key}{i}"] = content
    for i in range(1, len(columns) + 1):
        main.header[f"PSCAL{i}"] = scale if i <= 3 else 1.0
        main.header[f"PZERO{i}"] = zero if i <= 3 else 0.0
    for key, content in (("OBJECT", "TEST"), ("DATE-OBS", "2017-04-11"), *cards):
        main.header[key] = content
    fits.HDUList([main, *tables]).writeto(path, overwrite=True)
    return path


def antennas(numbers, names=None, version=1):
    """An AIPS AN table."""
    from astropy.io import fits

    names = names or [f"S{n}" for n in numbers]
    table = fits.BinTableHDU.from_columns(
        [
            fits.Column("ANNAME", "8A", array=names), fits.Column("NOSTA", "1J", array=numbers),
            fits.Column("STABXYZ", "3D", array=np.arange(3.0 * len(numbers)).reshape(-1, 3)),
        ],
        name="AIPS AN",
    )  # fmt: skip
    table.header["EXTVER"] = version
    return table


def rr_ll(values, weights):
    """RR and LL of each row as a UVFITS array: ``values`` (row, 2) complex, ``weights`` (row, 2)."""
    values, weights = np.asarray(values), np.asarray(weights, float)
    out = np.zeros((len(values), 1, 1, 1, 1, 2, 3))
    out[:, 0, 0, 0, 0] = np.stack([values.real, values.imag, weights], -1)
    return out
