"""OIFITS 2 from an `Observation`: OI_TARGET, OI_ARRAY, one OI_WAVELENGTH and OI_VIS a band, OI_T3 for the closures.

The phase error is ``sigma/|V|`` radians, the amplitude error sigma; (u, v) point from the first station to the second.
"""

from __future__ import annotations

import os
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np

from sciinv.io.atomic import atomic_path
from sciinv_vlbi.closures import closures
from sciinv_vlbi.io.oifits import LIGHT
from sciinv_vlbi.io.uvfits_out import MJD_ZERO
from sciinv_vlbi.observation import Observation


def write_oifits(path: str | os.PathLike[str], obs: Observation) -> Path:
    """Write an observation atomically and return the path; triangles are written for observations without repeats."""
    from astropy.io import fits

    column = fits.Column
    day = (MJD_ZERO + timedelta(obs.mjd)).isoformat()
    file = fits.HDUList([fits.PrimaryHDU(), _target(fits, obs), _array(fits, obs)])
    file[0].header["CONTENT"], file[0].header["OBJECT"] = "OIFITS2", obs.source
    wavelength = LIGHT / np.array(obs.frequency)
    relative = obs.sigma / np.maximum(np.abs(obs.vis), 1e-300)
    triangles = closures(obs, "phase", "all")
    for band, length in enumerate(wavelength):
        rows = np.flatnonzero(obs.band == band)
        width = length**2 * obs.bandwidth / LIGHT
        table = fits.BinTableHDU.from_columns(
            [column("EFF_WAVE", "1E", "m", array=[length]), column("EFF_BAND", "1E", "m", array=[width])],
            name="OI_WAVELENGTH",
        )
        _head(table, INSNAME=f"BAND{band}")
        file.append(table)
        phase_error = np.minimum(np.rad2deg(relative[rows]), 180.0)
        columns = [
            *_when(column, obs, rows),
            column("VISAMP", "1D", "Jy", array=np.abs(obs.vis[rows])),
            column("VISAMPERR", "1D", "Jy", array=obs.sigma[rows]),
            column("VISPHI", "1D", "deg", array=np.rad2deg(np.angle(obs.vis[rows]))),
            column("VISPHIERR", "1D", "deg", array=phase_error),
            column("UCOORD", "1D", "m", array=-obs.u[rows] * length),
            column("VCOORD", "1D", "m", array=-obs.v[rows] * length),
            column("STA_INDEX", "2I", array=np.stack([obs.a[rows], obs.b[rows]], 1) + 1),
            column("FLAG", "1L", array=np.zeros(len(rows), bool)),
        ]
        table = fits.BinTableHDU.from_columns(columns, name="OI_VIS")
        _head(table, INSNAME=f"BAND{band}", ARRNAME="ARRAY", AMPTYP="absolute", PHITYP="absolute", **{"DATE-OBS": day})
        file.append(table)
        mine = obs.band[triangles.index[:, 0]] == band if len(triangles) else np.zeros(0, bool)
        if mine.any():
            index, sign = triangles.index[mine], triangles.sign[mine]
            legs = np.where(sign > 0, obs.vis[index], obs.vis[index].conj())
            error = np.sqrt((relative[index] ** 2).sum(1))
            uv = -sign[:, :2, None] * obs.uv[index[:, :2]] * length
            triple = legs.prod(1)
            columns = [
                *_when(column, obs, index[:, 0]),
                column("T3AMP", "1D", array=np.abs(triple)), column("T3AMPERR", "1D", array=np.abs(triple) * error),
                column("T3PHI", "1D", "deg", array=np.rad2deg(np.angle(triple))),
                column("T3PHIERR", "1D", "deg", array=np.minimum(np.rad2deg(error), 180.0)),
                *(column(f"{axis}{leg + 1}COORD", "1D", "m", array=uv[:, leg, k])
                  for leg in (0, 1) for k, axis in enumerate("UV")),
                column("STA_INDEX", "3I", array=triangles.stations[mine] + 1),
                column("FLAG", "1L", array=np.zeros(len(index), bool)),
            ]  # fmt: skip
            table = fits.BinTableHDU.from_columns(columns, name="OI_T3")
            _head(table, INSNAME=f"BAND{band}", ARRNAME="ARRAY", **{"DATE-OBS": day})
            file.append(table)
    with atomic_path(path) as temporary:
        file.writeto(temporary)
    return Path(path)


def _when(column: Any, obs: Observation, rows: Any) -> list[Any]:
    return [
        column("TARGET_ID", "1I", array=np.ones(len(rows))),
        column("TIME", "1D", "s", array=np.zeros(len(rows))),
        column("MJD", "1D", "day", array=obs.mjd + obs.time[rows] / 24),
        column("INT_TIME", "1D", "s", array=obs.tint[rows]),
    ]


def _target(fits: Any, obs: Observation) -> Any:
    column = fits.Column
    zero = ("EQUINOX", "RA_ERR", "DEC_ERR", "SYSVEL", "PMRA", "PMDEC", "PMRA_ERR", "PMDEC_ERR", "PARALLAX", "PARA_ERR")
    table = fits.BinTableHDU.from_columns(
        [
            column("TARGET_ID", "1I", array=[1]), column("TARGET", "16A", array=[obs.source[:16] or "SOURCE"]),
            column("RAEP0", "1D", "deg", array=[np.nan if obs.ra is None else obs.ra]),
            column("DECEP0", "1D", "deg", array=[np.nan if obs.dec is None else obs.dec]),
            *(column(name, "1D", array=[2000.0 if name == "EQUINOX" else 0.0]) for name in zero),
            column("VELTYP", "8A", array=["LSR"]), column("VELDEF", "8A", array=["OPTICAL"]),
            column("SPECTYP", "16A", array=["UNKNOWN"]),
        ],
        name="OI_TARGET",
    )  # fmt: skip
    _head(table)
    return table


def _array(fits: Any, obs: Observation) -> Any:
    column, names = fits.Column, [s.name for s in obs.stations]
    table = fits.BinTableHDU.from_columns(
        [
            column("TEL_NAME", "16A", array=names), column("STA_NAME", "16A", array=names),
            column("STA_INDEX", "1I", array=np.arange(1, len(names) + 1)),
            column("DIAMETER", "1E", "m", array=np.zeros(len(names))),
            column("STAXYZ", "3D", "m", array=np.array([s.position for s in obs.stations])),
        ],
        name="OI_ARRAY",
    )  # fmt: skip
    _head(table, ARRNAME="ARRAY", FRAME="GEOCENTRIC", ARRAYX=0.0, ARRAYY=0.0, ARRAYZ=0.0)
    return table


def _head(table: Any, **cards: Any) -> None:
    table.header["OI_REVN"] = 2
    for key, value in cards.items():
        table.header[key] = value
