"""Plane shapes as signed distances, negative inside, and their antialiased coverage of pixels.

A pixel of side ``h`` whose centre is a distance ``d`` outside a straight edge is covered by ``1/2 - d/h``, cut to
[0, 1]: exact for an edge along an axis, within a few per cent for others, and far cheaper than supersampling.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]
Plane = tuple[Array, Array]
"""Coordinates x (columns, to the right) and y (rows, upwards) of every pixel centre."""


def plane(n: int) -> Plane:
    """Pixel centres of an ``n x n`` image over the square [-1, 1]^2; row 0 is the top."""
    c = ((np.arange(n, dtype=np.float32) + 0.5) / n * 2 - 1).astype(np.float32)
    return np.broadcast_to(c, (n, n)), np.broadcast_to(-c[:, None], (n, n))


def coverage(distance: Array, pixel: float) -> Array:
    """Share of each pixel that lies inside."""
    return np.clip(0.5 - distance / pixel, 0.0, 1.0).astype(np.float32)


def turned(p: Plane, centre: Sequence[float], angle: float) -> Plane:
    """Coordinates about ``centre`` with the axes turned by ``angle`` radians."""
    x, y = p[0] - np.float32(centre[0]), p[1] - np.float32(centre[1])
    c, s = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    return x * c + y * s, y * c - x * s


def circle(p: Plane, radius: float) -> Array:
    """A disc about the origin."""
    return np.hypot(p[0], p[1]) - np.float32(radius)


def ellipse(p: Plane, a: float, b: float) -> Array:
    """An ellipse with half axes a and b; first-order distance (implicit function over the length of its gradient)."""
    u, v = p[0] / np.float32(a), p[1] / np.float32(b)
    k = np.sqrt(u * u + v * v)
    slope = np.sqrt((u / np.float32(a)) ** 2 + (v / np.float32(b)) ** 2)
    return np.where(slope > 1e-6, k * (k - 1) / np.maximum(slope, 1e-6), -np.float32(min(a, b)))


def box(p: Plane, a: float, b: float, rounding: float = 0.0) -> Array:
    """A rectangle with half sides a and b and rounded corners."""
    u, v = np.abs(p[0]) - np.float32(a - rounding), np.abs(p[1]) - np.float32(b - rounding)
    outside = np.hypot(np.maximum(u, 0), np.maximum(v, 0))
    return outside + np.minimum(np.maximum(u, v), 0) - np.float32(rounding)


def polygon(p: Plane, corners: NDArray[np.floating]) -> Array:
    """A simple polygon, corners ``(m, 2)`` in order; exact distance."""
    x, y = p
    nearest = np.full(x.shape, np.inf, np.float32)
    inside = np.zeros(x.shape, bool)
    for (ax, ay), (bx, by) in zip(corners, np.roll(corners, -1, axis=0), strict=True):
        ex, ey = np.float32(bx - ax), np.float32(by - ay)
        px, py = x - np.float32(ax), y - np.float32(ay)
        t = np.clip((px * ex + py * ey) / max(float(ex * ex + ey * ey), 1e-12), 0, 1)
        nearest = np.minimum(nearest, (px - ex * t) ** 2 + (py - ey * t) ** 2)
        if ey != 0:
            inside ^= ((ay > y) != (by > y)) & (px < ex * py / ey)
    return np.where(inside, -1, 1).astype(np.float32) * np.sqrt(nearest)


def blob(p: Plane, radius: float, waves: Sequence[tuple[int, float, float]]) -> Array:
    """A star-shaped outline ``radius (1 + sum a cos(k angle + phase))``, waves ``(k, a, phase)``; rough."""
    rho, angle = np.hypot(p[0], p[1]), np.arctan2(p[1], p[0])
    edge, slope = np.ones_like(rho), np.zeros_like(rho)
    for k, a, phase in waves:
        edge += np.float32(a) * np.cos(k * angle + np.float32(phase))
        slope -= np.float32(k * a) * np.sin(k * angle + np.float32(phase))
    return (rho - np.float32(radius) * edge) / np.sqrt(1 + (slope / np.maximum(edge, 0.1)) ** 2)


def smooth_field(rng: np.random.Generator, p: Plane, waves: int = 6, highest: float = 1.5) -> Array:
    """A smooth random function over the plane, about within [-1, 1]: a few plane waves."""
    field = np.zeros(p[0].shape, np.float32)
    for _ in range(waves):
        kx, ky = rng.normal(0, highest, 2).astype(np.float32)
        field += np.cos(kx * p[0] + ky * p[1] + np.float32(rng.uniform(0, 2 * np.pi)))
    return field / np.float32(waves**0.5 * 1.4)
