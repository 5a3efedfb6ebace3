"""Random images of compact radio sources, the population behind the shipped prior.

An image is one of the kinds of `shapes`, sometimes with a faint neighbour, blurred, its centroid moved to within
`MAX_SHIFT` of the middle, mirrored at random, and scaled like the unknown of `problem`: the flux spread evenly over a
square of `FILL` of the field would be one everywhere on it. The total is the same for every image.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from sciinv.errors import UsageError
from sciinv_vlbi import shapes
from sciinv_vlbi.problem import FILL

NPIX, FOV = 64, 128.0
MAX_SHIFT = 5.0
CHUNK = 256

FAMILIES: dict[str, tuple[float, Callable[[Generator, int, shapes.Grid], shapes.Array]]] = {
    "ring": (0.32, shapes.ring),
    "textured_ring": (0.20, shapes.textured_ring),
    "crescent": (0.13, shapes.crescent),
    "lensed_disc": (0.17, shapes.lensed_disc),
    "disc": (0.03, shapes.disc),
    "double": (0.05, shapes.double),
    "blobs": (0.04, shapes.blobs),
    "jet": (0.04, shapes.jet),
    "cloud": (0.02, shapes.cloud),
}
"""Kinds of source: share of the population and formula, in the order of the tags."""

NAMES = tuple(FAMILIES)
SHARES = {name: share for name, (share, _) in FAMILIES.items()}
RING_FREE = {"disc": 0.2, "double": 0.2, "blobs": 0.25, "jet": 0.15, "cloud": 0.2}
"""A population without any ring, to ask whether data need one."""
RINGS = tuple(name for name in NAMES if name not in RING_FREE)


def draw(
    count: int, seed: int, shares: Mapping[str, float] | None = None, npix: int = NPIX, fov: float = FOV
) -> tuple[NDArray[np.float32], NDArray[np.int8]]:
    """Random images.

    Parameters
    ----------
    count : how many; the first images of a longer draw are those of a shorter one up to whole chunks of `CHUNK`.
    seed : root seed; chunk k depends on (seed, k).
    shares : weight of each family by name; those left out are absent. The population of the prior by default.
    npix, fov : pixels a side, micro-arcseconds.

    Returns
    -------
    images : (count, npix, npix), North up, East left, each with a total of ``(FILL npix)^2``.
    tags : (count,), positions in `NAMES`.

    Raises
    ------
    UsageError
        Unknown family, or weights that are negative or all zero.
    """
    weights = np.array([(SHARES if shares is None else shares).get(name, 0.0) for name in NAMES])
    unknown = sorted(set(shares or ()) - set(NAMES))
    if unknown or not (weights >= 0).all() or not weights.sum() > 0:
        raise UsageError(
            "families of sources cannot be drawn with these weights", expected=", ".join(NAMES),
            found=", ".join(unknown) or str(dict(shares or {})),
        )  # fmt: skip
    images, tags = np.empty((count, npix, npix), np.float32), np.empty(count, np.int8)
    g = shapes.grid(npix, fov)
    for k, start in enumerate(range(0, count, CHUNK)):
        rng, stop = np.random.default_rng([seed, k]), min(start + CHUNK, count)
        kinds = rng.choice(len(NAMES), CHUNK, p=weights / weights.sum())[: stop - start]
        tags[start:stop] = kinds
        for kind in np.unique(kinds):
            rows = np.flatnonzero(kinds == kind)
            images[start + rows] = finish(rng, FAMILIES[NAMES[kind]][1](rng, len(rows), g), g)
    return images, tags


def finish(rng: Generator, image: shapes.Array, g: shapes.Grid) -> shapes.Array:
    """Neighbour, blur, centring with a random shift, mirror, units."""
    n, p = len(image), image.shape[-1]
    share = _neighbour(rng, n)
    image = (1 - share) * shapes.unit(image) + share * shapes.gaussian(rng, n, g, 12, 45, 2.5, 22)
    # The edge fades over 3 pixels: nothing is cut there, and nothing leaves on one side to come back on the other.
    ramp = np.minimum((np.arange(p) + 0.5) / 3, 1) * np.minimum((p - 0.5 - np.arange(p)) / 3, 1)
    image = shapes.unit(image * (ramp[:, None] * ramp[None, :]).astype(np.float32))
    east, north = ((image * axis).sum((1, 2), keepdims=True) for axis in (g.east, g.north))
    angle, away = shapes.uniform(rng, n, 0, 2 * np.pi), MAX_SHIFT * np.sqrt(shapes.uniform(rng, n, 0, 1))
    # Columns run to the West, rows to the South.
    columns, rows = (east - away * np.cos(angle)) / g.pixel, (north - away * np.sin(angle)) / g.pixel
    sigma = shapes.log_uniform(rng, n, 2.5, 9) / np.float32(2.3548 * g.pixel)
    v, u = np.fft.fftfreq(p).astype(np.float32)[:, None], np.fft.rfftfreq(p).astype(np.float32)[None, :]
    transfer = np.exp(-2 * np.pi**2 * sigma**2 * (u * u + v * v)) * np.exp(-2j * np.pi * (u * columns + v * rows))
    image = np.maximum(np.fft.irfft2(np.fft.rfft2(image) * transfer, (p, p)).astype(np.float32), 0)
    mirrored = rng.random(n) < 0.5
    image[mirrored] = image[mirrored, :, ::-1]
    return shapes.unit(image) * np.float32((FILL * p) ** 2)


def _neighbour(rng: Generator, n: int) -> shapes.Array:
    """Flux of the neighbour: none for three of four, up to 0.15 else."""
    return shapes.uniform(rng, n, 0, 0.15) * (rng.random((n, 1, 1)) < 0.25)
