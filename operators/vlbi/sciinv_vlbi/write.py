"""Results in the field's formats.

FITS images in Jy per pixel with a celestial WCS (mean, standard deviation, bounds, all samples); the ring parameters of
every sample as CSV and as a FITS table; their quantiles and the fit to each product as JSON.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from sciinv.io.atomic import atomic_path, write_json, write_text
from sciinv.results import ItemResult, RunContext
from sciinv_vlbi import science
from sciinv_vlbi.io.image import write_image
from sciinv_vlbi.observation import MICRO_ARCSECOND, Observation
from sciinv_vlbi.rings import is_ring

COLUMNS = {
    "diameter": "uas", "diameter_spread": "uas", "width": "uas", "position_angle": "deg", "asymmetry": "",
    "central_brightness": "", "x": "uas", "y": "uas", "ringness": "", "moved_x": "uas", "moved_y": "uas",
}  # fmt: skip
"""Ring parameters in the tables, and their units; x and y are East and North of the middle of the image. ``moved`` is
how far a sample, which the file holds as drawn, was moved for the mean, the deviation and the bounds; where ``turned``
is one it was turned by 180 degrees first, and its parameters are those of the turned image."""


def write(out: Path, data: Observation, results: Sequence[ItemResult], context: RunContext) -> list[Path]:
    """Write the maps, the samples, the ring table and the checks of the observation; return the paths."""
    (result,) = results
    maps = {name: result.summary[name] for name in ("mean", "std", "lower", "upper")} | {"samples": result.samples}
    pixel = float(result.meta["pixel_uas"]) * MICRO_ARCSECOND
    cards = {
        "OBJECT": data.source, "FREQ": data.frequency[0], "MJD": float(data.mjd), "TELESCOP": "VLBI", "STOKES": "I",
        "METHOD": context.method[:60], "NSAMPLES": len(result.samples),
    }  # fmt: skip
    paths = [
        write_image(out / f"{name}.fits", _sky(value), pixel, ra=data.ra, dec=data.dec, cards=cards)
        for name, value in maps.items()
    ]
    placed = science.placed(result.samples, result.summary["mean"], result.meta)
    rings = science.measure(result.samples, placed.turned, result.meta)
    by = placed.by.double().numpy()
    step = -float(result.meta["pixel_uas"])  # rows run South, columns West
    table = {name: rings[name] for name in COLUMNS if name in rings} | {
        "moved_x": step * by[:, 1], "moved_y": step * by[:, 0],
        "turned": placed.turned.double().numpy(),
    }  # fmt: skip
    if result.group is not None:
        table["island"] = result.group.double().numpy()
    paths += [_csv(out / "rings.csv", table), _fits_table(out / "rings.fits", table, cards)]
    return [*paths, write_json(out / "science.json", _numbers(data, result, context, rings))]


def _numbers(data: Observation, result: ItemResult, context: RunContext, rings: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {
        "samples": len(result.samples), "ring_share": float(is_ring(rings).mean()), "rings": science.summary(rings),
        "units": science.UNITS, "islands": science.islands(rings, result.group),
    }  # fmt: skip
    options = getattr(context, "options", None)
    if options is None:
        return found
    fit = science.fit(data, result.samples, options)
    found["chi2_per_datum"] = {
        name: {
            "data": fit.count[name], "mean": float(value.mean()) / fit.count[name],
            "lowest": float(value.min()) / fit.count[name], "highest": float(value.max()) / fit.count[name],
        }
        for name, value in fit.chi2.items()
    }  # fmt: skip
    return found | {"stations": science.by_station(fit, options)}


def _csv(path: Path, table: Mapping[str, np.ndarray]) -> Path:
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(["sample", *table])
    for k, row in enumerate(zip(*table.values(), strict=True)):
        rows.writerow([k, *(f"{value:.6g}" for value in row)])
    return write_text(path, text.getvalue())


def _fits_table(path: Path, table: Mapping[str, np.ndarray], cards: Mapping[str, Any]) -> Path:
    from astropy.io import fits

    columns = [
        fits.Column(name, "D", unit=COLUMNS.get(name, "") or None, array=np.asarray(value))
        for name, value in table.items()
    ]
    unit = fits.BinTableHDU.from_columns(columns, name="RINGS")
    for key, value in cards.items():
        unit.header[key] = value
    with atomic_path(path) as temporary:
        fits.HDUList([fits.PrimaryHDU(), unit]).writeto(temporary)
    return path


def _sky(x: Tensor) -> np.ndarray:
    """Without the channel axis."""
    return x.float().squeeze(-3).numpy()
