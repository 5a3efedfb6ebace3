"""Images of the sky: FITS with a celestial WCS, or a bare array; always row 0 in the North, column 0 in the East.

FITS stores the southern row first (CDELT2 > 0) and the eastern column first (CDELT1 < 0); whatever the signs say is
turned. Units are Jy per pixel.
"""

from __future__ import annotations

import dataclasses as dc
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sciinv.errors import InputError
from sciinv.io.atomic import atomic_path
from sciinv.io.limits import check_file, reading
from sciinv.io.safe_fits import is_fits, open_fits
from sciinv.io.safe_npy import is_npy, read_npy
from sciinv_vlbi.io.antennas import finite
from sciinv_vlbi.observation import MICRO_ARCSECOND

MAX_SIDE = 16384


@dc.dataclass(frozen=True)
class SkyImage:
    """A square-pixel image.

    Attributes
    ----------
    data : Jy per pixel, ``(rows, columns)``.
    pixel : radians; 0 when the file does not say.
    source, ra, dec : name, and position of the middle in degrees.
    """

    data: NDArray[np.float64]
    pixel: float
    source: str = ""
    ra: float | None = None
    dec: float | None = None


def read_image(path: str | os.PathLike[str], *, max_bytes: int | None = None) -> SkyImage:
    """Read a FITS image (the first plane of its primary unit) or a two-dimensional ``.npy`` array.

    Raises
    ------
    InputError
        Not an image, NaN, no flux, pixels that are not square.
    """
    path = check_file(path)
    if is_npy(path):
        image = SkyImage(np.asarray(read_npy(path, max_bytes=max_bytes), np.float64), 0.0)
    elif is_fits(path):
        image = _fits(path, max_bytes)
    else:
        raise InputError("this is no image", where=path.name, expected="FITS, or a two-dimensional .npy array")
    if image.data.ndim != 2 or not 2 <= min(image.data.shape) <= max(image.data.shape) <= MAX_SIDE:
        raise InputError(
            "the image has the wrong shape", where=path.name, found=str(image.data.shape), expected="(rows, columns)"
        )
    if not np.isfinite(image.data).all() or not 1e-30 < image.data.sum() < 1e30:
        raise InputError("the image has NaN or no positive flux", where=path.name, expected="finite Jy per pixel")
    return image


def _fits(path: Path, max_bytes: int | None) -> SkyImage:
    with open_fits(path, max_bytes=max_bytes) as (units, opened):
        main, header = units[0], units[0].header
        if main.kind != "image" or len(main.shape) < 2 or 0 in main.shape:
            raise InputError("the primary unit holds no image", where=path.name, found=f"{main.kind} {main.shape}")
        data = np.asarray(opened[0].data, np.float64).reshape(-1, *main.shape[-2:])[0]
        steps = [finite(header.get(f"CDELT{i}")) for i in (1, 2)]
        if steps[0] and not np.isclose(abs(steps[0]), abs(steps[1]), rtol=1e-4):
            raise InputError("the pixels are not square", where=path.name, found=f"CDELT {steps}")
        data = data[::-1] if steps[1] >= 0 else data
        data = data if steps[0] <= 0 else data[:, ::-1]
        place = [header.get("OBSRA", header.get("CRVAL1")), header.get("OBSDEC", header.get("CRVAL2"))]
        ra, dec = (None if value is None else finite(value) for value in place)
        return SkyImage(data.copy(), float(np.deg2rad(abs(steps[0]))), str(header.get("OBJECT", ""))[:32], ra, dec)


def write_image(
    path: str | os.PathLike[str],
    data: NDArray[Any],
    pixel: float,
    *,
    ra: float | None = None,
    dec: float | None = None,
    cards: Mapping[str, Any] | None = None,
) -> Path:
    """Write one image ``(rows, columns)`` or a stack of samples, with WCS, in Jy per pixel; atomically.

    Parameters
    ----------
    path : FITS file.
    data : North first, East first.
    pixel : radians.
    ra, dec : degrees of the middle of the image.
    cards : further keywords.
    """
    from astropy.io import fits

    array = np.asarray(data, np.float32)
    unit = fits.PrimaryHDU(np.ascontiguousarray(array[..., ::-1, :]))
    step, side = float(np.rad2deg(pixel)), array.shape[-2:]
    entries: dict[str, Any] = {
        "CTYPE1": "RA---SIN", "CRVAL1": ra or 0.0, "CDELT1": -step, "CRPIX1": side[1] / 2 + 0.5, "CUNIT1": "deg",
        "CTYPE2": "DEC--SIN", "CRVAL2": dec or 0.0, "CDELT2": step, "CRPIX2": side[0] / 2 + 0.5, "CUNIT2": "deg",
        "BUNIT": "JY/PIXEL", "OBSRA": ra or 0.0, "OBSDEC": dec or 0.0, "RADESYS": "ICRS",
    }  # fmt: skip
    if array.ndim == 3:
        entries |= {"CTYPE3": "SAMPLE", "CRVAL3": 1.0, "CDELT3": 1.0, "CRPIX3": 1.0}
    for key, value in {**entries, **dict(cards or {})}.items():
        unit.header[key] = value
    with atomic_path(path) as temporary, reading(path, "FITS"):
        unit.writeto(temporary)
    return Path(path)


def regrid(image: SkyImage, n: int, pixel: float, fov_uas: float = 0.0) -> NDArray[np.float64]:
    """The image on another grid about the same middle, flux conserved: each pixel gives to those it overlaps.

    Parameters
    ----------
    n, pixel : side and pixel (radians) of the result.
    fov_uas : field of view of an image that does not know its pixel, micro-arcseconds; 0 takes that of the result.
    """
    own = image.pixel or (fov_uas * MICRO_ARCSECOND or n * pixel) / max(image.data.shape)
    rows, columns = (_overlap(side, own, n, pixel) for side in image.data.shape)
    return np.asarray(rows @ image.data @ columns.T)


def _overlap(side: int, own: float, n: int, pixel: float) -> NDArray[np.float64]:
    """Share of each of `side` old pixels that falls into each of `n` new ones, ``(n, side)``."""
    old, new = (np.arange(-k / 2, k / 2 + 0.5) * size for k, size in ((side, own), (n, pixel)))
    low = np.maximum(new[:-1, None], old[None, :-1])
    high = np.minimum(new[1:, None], old[None, 1:])
    return np.asarray(np.clip(high - low, 0, None) / own)
