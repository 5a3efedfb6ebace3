"""Measurements of an image: ``V' = g_a conj(g_b) A x + n`` on the coverage of a file or of an array, as UVFITS."""

from __future__ import annotations

import dataclasses as dc
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from sciinv.errors import InputError, UsageError
from sciinv.io.limits import MAX_TEXT, check_file, reading
from sciinv_vlbi import gains
from sciinv_vlbi.coverage import EHT2017, observe
from sciinv_vlbi.dft import visibility_operator
from sciinv_vlbi.io.image import read_image, regrid
from sciinv_vlbi.io.tables import clean
from sciinv_vlbi.io.uvfits_out import write_uvfits
from sciinv_vlbi.observation import MICRO_ARCSECOND, Observation, Station

PHANTOM = "phantom"
M87 = (187.705930758, 12.391123239)


def simulate(
    source: str | Path,
    out: str | Path,
    *,
    coverage: Path | None = None,
    array: Path | None = None,
    ra: float = M87[0],
    dec: float = M87[1],
    flux: float = 0.6,
    fov: float = 128.0,
    npix: int = 64,
    start: float = 0.5,
    hours: float = 7.5,
    step: float = 600.0,
    tint: float = 300.0,
    gain: float = 0.1,
    phases: bool = True,
    noise: float = 1.0,
    systematic: float = 0.0,
    seed: int = 0,
) -> Path:
    """Write simulated visibilities of an image.

    Parameters
    ----------
    source : ``"phantom"`` (a crescent), or an image: FITS, or a ``.npy`` array with North first and East first.
    out : the UVFITS file to write.
    coverage : a measurement file whose baselines, times and errors are taken over.
    array : a table of stations (name, x, y, z in metres, SEFD in Jy; one a line) in place of the EHT of 2017.
    ra, dec : of the source in degrees.
    flux : Jy in the image; 0 keeps the image's own.
    fov, npix : micro-arcseconds and pixels of the grid the image is put on.
    start, hours, step, tint : of the track, without `coverage` (`coverage.observe`).
    gain, phases : standard deviation of the logarithm of the gain amplitudes, and whether phases are random, a scan.
    noise : thermal noise as a multiple of its expected level.
    systematic : errors that the file does not state, independent, as a share of each amplitude.
    seed : of noise and gains.
    """
    limits = (
        ("flux", flux, 0, 1e9), ("fov", fov, 1e-3, 1e9), ("npix", npix, 4, 4096), ("gain", gain, 0, 2),
        ("noise", noise, 0, 1e6), ("systematic", systematic, 0, 1), ("seed", seed, 0, 2**32),
    )  # fmt: skip
    for name, value, low, high in limits:
        if not low <= value <= high:
            raise UsageError(f"{name} is out of range", expected=f"{low} to {high}", found=str(value))
    if coverage is not None and array is not None:
        raise UsageError("coverage and array exclude each other")
    pixel = fov / npix * MICRO_ARCSECOND
    image = phantom(npix, fov) if str(source) == PHANTOM else regrid(read_image(source), npix, pixel, fov)
    image = image * (flux / image.sum()) if flux else image
    if coverage is None:
        stations = EHT2017 if array is None else read_array(array)
        obs = observe(stations, ra, dec, start=start, hours=hours, step=step, tint=tint)
    else:
        from sciinv_vlbi.io import read

        obs = read(coverage)
    told = {"gain": gain, "phases": phases, "noise": noise, "systematic": systematic, "seed": seed}
    return write_uvfits(out, measure(obs, image, pixel, **told))


def measure(
    obs: Observation, image: NDArray[np.float64], pixel: float, *, gain: float = 0.0, phases: bool = False,
    noise: float = 1.0, systematic: float = 0.0, seed: int = 0,
) -> Observation:  # fmt: skip
    """The observation of an image ``(n, n)`` in Jy per pixel with the baselines and errors of `obs`."""
    transform = visibility_operator(obs.uv, image.shape[-1], pixel)
    vis = transform(torch.from_numpy(image[None].astype(np.float32))).numpy().astype(np.complex128)
    if gain or phases:
        number = gains.intervals(obs)
        g = gains.draw(obs, seed, amplitude=gain, phases=phases)
        vis = vis * g[number, obs.a] * g[number, obs.b].conj()
    if systematic:
        rng = np.random.default_rng([seed, 33])
        vis = vis + systematic * np.abs(vis) * (rng.normal(size=len(obs)) + 1j * rng.normal(size=len(obs)))
    rng = np.random.default_rng([seed, 32])
    vis = vis + noise * obs.sigma * (rng.normal(size=len(obs)) + 1j * rng.normal(size=len(obs)))
    return dc.replace(obs, vis=vis, sigma=obs.sigma * max(noise, 1e-6), source=obs.source or "SIMULATED")


def phantom(n: int, fov: float, diameter: float = 42.0, width: float = 10.0) -> NDArray[np.float64]:
    """A crescent of unit flux, brighter in the South: a ring of Gaussian profile times ``1 - 0.5 sin(angle)``.

    Parameters
    ----------
    n, fov : pixels, micro-arcseconds.
    diameter, width : of the ring, and full width at half maximum, micro-arcseconds.
    """
    offset = ((n - 1) / 2 - np.arange(n)) * fov / n
    north, east = np.meshgrid(offset, offset, indexing="ij")
    radius = np.hypot(north, east)
    profile = np.exp(-4 * np.log(2) * ((radius - diameter / 2) / width) ** 2)
    image = profile * (1 - 0.5 * north / np.maximum(radius, 1e-9))
    return np.asarray(image / image.sum())


def read_array(path: Path) -> tuple[Station, ...]:
    """Stations from a text table: name, x, y, z in metres, SEFD in Jy (of RR, where more columns follow).

    Raises
    ------
    InputError
        Not such a table.
    """
    path = check_file(path)
    if path.stat().st_size > MAX_TEXT:
        raise InputError("the table is too large", where=path.name, expected=f"at most {MAX_TEXT:,} bytes")
    found = []
    with reading(path, "array table"):
        for line in path.read_text("latin-1").splitlines():
            cells = line.partition("#")[0].replace(",", " ").split()
            if cells:
                x, y, z, sefd = (float(cell) for cell in cells[1:5])
                found.append(Station(clean(cells[0]), (x, y, z), sefd))
    good = all(np.isfinite([*s.position, s.sefd]).all() and s.sefd > 0 for s in found)
    if not 2 <= len(found) <= 255 or not good or len({s.name for s in found}) < len(found):
        raise InputError(
            "this is no table of an array", where=path.name, expected="2 to 255 stations: name x y z SEFD",
            found=f"{len(found)} stations",
        )  # fmt: skip
    return tuple(found)
