"""Results as FITS images in Jy per pixel with a celestial WCS: mean, standard deviation, bounds, and all samples."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from torch import Tensor

from sciinv.results import ItemResult, RunContext
from sciinv_vlbi.io.image import write_image
from sciinv_vlbi.observation import MICRO_ARCSECOND, Observation


def write(out: Path, data: Observation, results: Sequence[ItemResult], context: RunContext) -> list[Path]:
    """Write the maps and the samples of the observation; return the paths."""
    (result,) = results
    maps = {name: result.summary[name] for name in ("mean", "std", "lower", "upper")} | {"samples": result.samples}
    pixel = float(result.meta["pixel_uas"]) * MICRO_ARCSECOND
    cards = {
        "OBJECT": data.source, "FREQ": data.frequency[0], "MJD": float(data.mjd), "TELESCOP": "VLBI", "STOKES": "I",
        "METHOD": context.method[:60], "NSAMPLES": len(result.samples),
    }  # fmt: skip
    return [
        write_image(out / f"{name}.fits", _sky(value), pixel, ra=data.ra, dec=data.dec, cards=cards)
        for name, value in maps.items()
    ]


def _sky(x: Tensor) -> np.ndarray:
    """Without the channel axis."""
    return x.float().squeeze(-3).numpy()
