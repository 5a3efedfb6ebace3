"""Shapes of radio sources as formulae, many at once: rings, crescents, lensed discs, doubles, blobs, jets, clouds.

Every function returns non-negative brightness ``(n, p, p)`` without normalisation, at random size, shape and position
angle, roughly centred. Lengths are in micro-arcseconds. The kinds follow the models fitted to M87 and Sgr A*: ring with
azimuthal modes (EHT Collaboration 2022, ApJL 930, L14), crescent as the difference of two discs (Kamruddin and Dexter,
MNRAS 434, 2013), log-normal texture (Lee and Gammie, ApJ 906, 2021). The lensed disc is this package's own
approximation, see `lensed_disc`.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

Array = NDArray[np.floating[Any]]

MAX_RADIUS = 34.0


class Grid(NamedTuple):
    """Offsets of the pixels ``(p, p)``: towards East, towards North, and the side of a pixel."""

    east: Array
    north: Array
    pixel: float


def grid(npix: int, fov: float) -> Grid:
    """North up, East left, origin in the middle."""
    offset = ((npix - 1) / 2 - np.arange(npix, dtype=np.float32)) * np.float32(fov / npix)
    north, east = np.meshgrid(offset, offset, indexing="ij")
    return Grid(east, north, fov / npix)


def uniform(rng: Generator, n: int, low: float, high: float) -> Array:
    """Uniform numbers ``(n, 1, 1)``."""
    return rng.uniform(low, high, (n, 1, 1)).astype(np.float32)


def log_uniform(rng: Generator, n: int, low: float, high: float) -> Array:
    """Numbers ``(n, 1, 1)`` with a uniform logarithm."""
    return np.exp(uniform(rng, n, np.log(low), np.log(high)))


def turned(rng: Generator, n: int, g: Grid, stretch: float = 1.0) -> tuple[Array, Array]:
    """Coordinates ``(n, p, p)`` turned by a random angle and stretched up to `stretch` at constant area."""
    angle = uniform(rng, n, 0, 2 * np.pi)
    x = np.cos(angle) * g.east + np.sin(angle) * g.north
    y = np.cos(angle) * g.north - np.sin(angle) * g.east
    ratio = np.sqrt(uniform(rng, n, 1, stretch)) if stretch > 1 else np.float32(1)
    return x * ratio, y / ratio


def step(t: Array) -> Array:
    """A soft edge: 0 far below zero, 1 far above, over a few units."""
    return np.asarray(0.5 + 0.5 * np.tanh(t), np.float32)


def bell(squared: Array, fwhm: Array | np.floating[Any]) -> Array:
    """A Gaussian of squared distance and full width at half maximum."""
    return np.exp(np.float32(-4 * np.log(2)) * squared / fwhm**2)


def unit(image: Array) -> Array:
    """The image at a total of one."""
    return image / np.maximum(image.sum((1, 2), keepdims=True), 1e-12)


def gaussian(rng: Generator, n: int, g: Grid, low: float, high: float, stretch: float, spread: float) -> Array:
    """An elliptical Gaussian of unit flux: FWHM from `low` to `high`, centre normal with deviation `spread`."""
    moved = Grid(g.east - spread * normal(rng, n), g.north - spread * normal(rng, n), g.pixel)
    x, y = turned(rng, n, moved, stretch)
    return unit(bell(x * x + y * y, log_uniform(rng, n, low, high)))


def normal(rng: Generator, n: int) -> Array:
    """Normal numbers ``(n, 1, 1)``."""
    return rng.normal(size=(n, 1, 1)).astype(np.float32)


def texture(rng: Generator, n: int, g: Grid) -> Array:
    """Gaussian random fields of unit variance: spectrum ``(1 + (k l)^2)^(-s/2)``, l 4 to 15, s 3 to 5, periodic."""
    p = g.east.shape[-1]
    k = 2 * np.pi * np.fft.fftfreq(p, g.pixel).astype(np.float32)
    squared = k[:, None] ** 2 + k[None, : p // 2 + 1] ** 2
    power = (1 + squared * log_uniform(rng, n, 4, 15) ** 2) ** (-uniform(rng, n, 3, 5) / 2)
    white = np.fft.rfft2(rng.standard_normal((n, p, p), np.float32))
    field = np.fft.irfft2(white * np.sqrt(power), (p, p)).astype(np.float32)
    return np.asarray(field / field.std((1, 2), keepdims=True), np.float32)


def wound(field: Array, x: Array, y: Array, pixel: float, winding: Array) -> Array:
    """A periodic field looked up where ``angle + winding ln r`` stands for the angle: spiral arms (bilinear)."""
    n, p = len(field), field.shape[-1]
    turn = winding * np.log(np.hypot(x, y) + pixel)
    cos, sin = np.cos(turn), np.sin(turn)
    column, row = (cos * x - sin * y) / pixel + p / 2, (sin * x + cos * y) / pixel + p / 2
    j, i = np.floor(column), np.floor(row)
    u, v = (column - j).astype(np.float32), (row - i).astype(np.float32)
    j, i = j.astype(np.int64) % p, i.astype(np.int64) % p
    flat, start = field.ravel(), (np.arange(n) * p * p)[:, None, None]
    j2, i2 = (j + 1) % p, (i + 1) % p
    north = flat[start + i * p + j] * (1 - u) + flat[start + i * p + j2] * u
    south = flat[start + i2 * p + j] * (1 - u) + flat[start + i2 * p + j2] * u
    return np.asarray(north * (1 - v) + south * v, np.float32)


def _annulus(rng: Generator, n: int, g: Grid, modes: tuple[float, ...]) -> tuple[Array, Array, Array, Array]:
    """A Gaussian annulus times ``1 + 2 sum a_m cos m (angle - angle_m)``; also coordinates and diameter."""
    x, y = turned(rng, n, g, 1.25)
    radius = np.hypot(x, y)
    diameter = uniform(rng, n, 20, 2 * MAX_RADIUS)
    width = np.minimum(log_uniform(rng, n, 4, 26), 0.75 * diameter)
    image = bell((radius - diameter / 2) ** 2, width)
    inverse = 1 / np.maximum(radius, g.pixel)
    re, im = x * inverse, y * inverse
    around, c, s = np.ones_like(image), re, im
    for limit in modes:
        size, phase = uniform(rng, n, 0, 2 * limit), uniform(rng, n, 0, 2 * np.pi)
        around += size * (np.cos(phase) * c + np.sin(phase) * s)
        c, s = c * re - s * im, c * im + s * re
    # An azimuthal mode has no direction at the origin, where it fades away.
    fade = 1 - bell(radius**2, np.float32(0.5) * diameter)
    return image * np.maximum(1 + (around - 1) * fade, 0), x, y, diameter


def _floor(rng: Generator, n: int, image: Array, x: Array, y: Array, diameter: Array) -> Array:
    """Add light in and around two rings of three: a disc of their size, or a Gaussian, up to 0.4 of the flux."""
    squared = x * x + y * y
    disc = step((diameter / 2 - np.sqrt(squared)) / 2.5)
    halo = bell(squared, uniform(rng, n, 35, 80))
    share = np.maximum(uniform(rng, n, -0.2, 0.4), 0)
    below = np.where(rng.random((n, 1, 1)) < 0.5, unit(disc), unit(halo))
    return (1 - share) * unit(image) + share * below


def ring(rng: Generator, n: int, g: Grid) -> Array:
    """Thick ring of diameter 20 to 68, width 4 to 26, modes 1 to 4, with a floor."""
    return _floor(rng, n, *_annulus(rng, n, g, (0.45, 0.25, 0.1, 0.1)))


def textured_ring(rng: Generator, n: int, g: Grid) -> Array:
    """Ring of modes 1 and 2 times the exponential of a random field, of deviation 0.2 to 0.8, wound up."""
    image, x, y, diameter = _annulus(rng, n, g, (0.45, 0.15))
    field = wound(texture(rng, n, g), x, y, g.pixel, uniform(rng, n, -3, 3))
    image = image * np.exp(uniform(rng, n, 0.2, 0.8) * field)
    return _floor(rng, n, image, x, y, diameter)


def crescent(rng: Generator, n: int, g: Grid) -> Array:
    """Disc of radius 12 to 34 minus an inner one of 0.3 to 0.85 of it, off centre, with a gradient and a floor."""
    x, y = turned(rng, n, g, 1.15)
    outer, share = uniform(rng, n, 12, MAX_RADIUS), uniform(rng, n, 0.3, 0.85)
    inner, edge = outer * share, log_uniform(rng, n, 1, 4)
    away, angle = uniform(rng, n, 0, 1) * (outer - inner), uniform(rng, n, -np.pi, np.pi)
    hole = step((inner - np.hypot(x - away, y)) / edge)
    slash = uniform(rng, n, 0, 0.9) * (np.cos(angle) * x + np.sin(angle) * y) / outer
    dim = uniform(rng, n, 0, 0.3) * (rng.random((n, 1, 1)) < 0.5)
    return step((outer - np.hypot(x, y)) / edge) * (1 - (1 - dim) * hole) * np.maximum(1 + slash, 0)


def emission_radius(b: Array, c: Array) -> Array:
    """Radius at which light of impact parameter b left at an angle of cosine c from the line of sight, in GM/c^2."""
    below, above = (1 - c) ** 2, 1 - c * c
    return np.asarray((np.sqrt(below**2 + b * b * above) - below) / above)


def lensed_disc(rng: Generator, n: int, g: Grid) -> Array:
    """Thin disc around a black hole, seen through its gravity, with a thin photon ring.

    A ray that reaches the screen at impact parameter b (in GM/c^2) and angle t from the disc's line of nodes left the
    disc at r, where ``b^2 = r^2 (1 - c^2) + 2 r (1 - c)^2`` and ``c = cos psi``, ``tan psi = -cos i/(sin i sin t)``:
    the light bending of Beloborodov (ApJ 566, L85, 2002), inverted by `emission_radius`. Brightness is ``r^-p`` outside
    an inner edge, or a bump, times ``g^s``, with g the redshift of matter in orbit at 0.5 to 1 of Kepler's speed.
    GM/c^2 is 2.2 to 5.6 micro-arcseconds (the photon ring, 23 to 58 across), the inclination 5 to 65 degrees.
    """
    scale = uniform(rng, n, 2.2, 5.6)
    x, y = turned(rng, n, g)
    x, y = x / scale, y / scale
    sin_i = np.sin(np.radians(uniform(rng, n, 5, 65)))
    cos_i = np.sqrt(1 - sin_i**2)
    b = np.maximum(np.hypot(x, y), 1e-3)
    # psi lies in (0, pi): cos psi = a / sqrt(a^2 + cos^2 i) with a = -sin i sin t.
    a = -sin_i * y / b
    c = a / np.sqrt(a * a + cos_i**2)
    r = emission_radius(b, c)
    safe = np.maximum(r, 2.1)
    sin_alpha = np.minimum(b * np.sqrt(1 - 2 / safe) / safe, 1)
    speed = np.minimum(uniform(rng, n, 0.5, 1) / np.sqrt(safe - 2), 0.75)
    toward = speed * sin_i * sin_alpha * x / b
    shift = np.sqrt((1 - 2 / safe) * (1 - speed**2)) / (1 - toward)
    edge = uniform(rng, n, 2, 6)
    bump = bell((r - edge) ** 2, uniform(rng, n, 1, 5))
    power = (safe / 3) ** -uniform(rng, n, 2.5, 5.5) * step((r - edge) / 0.5)
    image = np.where(rng.random((n, 1, 1)) < 0.7, power, bump) * shift ** uniform(rng, n, 1.5, 4)
    image = image * step((r - 2) / 0.1)
    field = wound(texture(rng, n, g), x * scale, y * scale, g.pixel, uniform(rng, n, -3, 3))
    image = unit(image * np.exp(uniform(rng, n, 0, 0.5) * field))
    thin = bell((np.hypot(x - uniform(rng, n, -1, 1) * sin_i, y) - np.float32(27**0.5)) ** 2, np.float32(0.8))
    share = uniform(rng, n, 0, 0.25)
    return (1 - share) * image + share * unit(thin * (0.2 + np.maximum(shift, 0)) ** 2)


def disc(rng: Generator, n: int, g: Grid) -> Array:
    """Filled ellipse of radius 8 to 34, flat or Gaussian, with a gradient."""
    x, y = turned(rng, n, g, 1.8)
    radius, angle = uniform(rng, n, 8, MAX_RADIUS), uniform(rng, n, -np.pi, np.pi)
    squared = x * x + y * y
    flat = step((radius - np.sqrt(squared)) / log_uniform(rng, n, 1, 6))
    image = np.where(rng.random((n, 1, 1)) < 0.5, flat, bell(squared, 1.6 * radius))
    slash = uniform(rng, n, 0, 0.8) * (np.cos(angle) * x + np.sin(angle) * y) / radius
    return image * np.maximum(1 + slash, 0)


def double(rng: Generator, n: int, g: Grid) -> Array:
    """Two elliptical Gaussians of FWHM 7 to 30, 15 to 70 apart, the weaker 0.1 to 1 of the other."""
    angle, half = uniform(rng, n, 0, 2 * np.pi), uniform(rng, n, 7.5, 35)
    dx, dy = half * np.cos(angle), half * np.sin(angle)
    one = gaussian(rng, n, Grid(g.east - dx, g.north - dy, g.pixel), 7, 30, 1.8, 0)
    two = gaussian(rng, n, Grid(g.east + dx, g.north + dy, g.pixel), 7, 30, 1.8, 0)
    return one + log_uniform(rng, n, 0.1, 1) * two


def blobs(rng: Generator, n: int, g: Grid) -> Array:
    """One to five elliptical Gaussians of FWHM 7 to 50 around the middle."""
    image = gaussian(rng, n, g, 7, 50, 1.8, 14)
    for _ in range(4):
        weight = log_uniform(rng, n, 0.1, 1) * (rng.random((n, 1, 1)) < 0.6)
        image = image + weight * gaussian(rng, n, g, 7, 50, 1.8, 14)
    return image


def jet(rng: Generator, n: int, g: Grid, knots: int = 8) -> Array:
    """A bright core and a bent, widening, fading row of knots 25 to 85 long."""
    length, angle, bend = uniform(rng, n, 25, 85), uniform(rng, n, 0, 2 * np.pi), uniform(rng, n, -1, 1)
    thin, fade = uniform(rng, n, 7, 18), uniform(rng, n, 0.3, 3)
    image = np.zeros((n, *g.east.shape), np.float32)
    for k in range(knots):
        s = np.float32(k / (knots - 1))
        x = length * (s - 0.5) * np.cos(angle + bend * (s - 0.5))
        y = length * (s - 0.5) * np.sin(angle + bend * (s - 0.5))
        flux = np.exp(-fade * s) * log_uniform(rng, n, 0.4, 2.5)
        width = thin * (1 + s)
        image += flux / width**2 * bell((g.east - x) ** 2 + (g.north - y) ** 2, width)
    return image


def cloud(rng: Generator, n: int, g: Grid) -> Array:
    """The exponential of a random field under an elliptical Gaussian of FWHM 30 to 75."""
    x, y = turned(rng, n, g, 1.8)
    return bell(x * x + y * y, uniform(rng, n, 30, 75)) * np.exp(uniform(rng, n, 0.5, 1.3) * texture(rng, n, g))
