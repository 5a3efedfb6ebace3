"""Line integrals by interpolation (Joseph, IEEE Trans. Med. Imaging 1, 192, 1982).

A ray marches along the image axis that it is closest to, one pixel a step. With ``i`` the step, it crosses the line (or
plane) of pixel centres at row ``r(i) = a + b i`` and, in a volume, at slice ``s(i) = c + d i``; the integral is
``w sum_i sum_jk hat(r(i) - j) hat(s(i) - k) x[i, j, k]`` with ``hat(t) = max(0, 1 - |t|)``, zero beyond the edge, and
``w`` the length of a step in mm. So a ray is six numbers, and every weight follows from them by one expression: the
projection and its transpose cannot disagree by more than rounding.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from sciinv.errors import Unsupported
from sciinv_ct.geometry import Floats, Geometry, Grid


class Lines(NamedTuple):
    """Rays as numbers, each ``(n,)``: ``steep`` where the march goes down the rows instead of along the columns."""

    steep: Tensor
    a: Tensor
    b: Tensor
    w: Tensor
    c: Tensor
    d: Tensor

    def pick(self, index: Tensor | slice) -> Lines:
        """Some of the rays."""
        return Lines(*(t[index] for t in self))


def rays(g: Geometry) -> tuple[Floats, Floats]:
    """A point and a direction of every ray, in mm: ``(views, cells, 3)`` each, cells of a cone flattened row by row."""
    cos, sin = np.cos(g.angles), np.sin(g.angles)
    flat = np.zeros_like(cos)
    e, n = np.stack([cos, sin, flat], -1)[:, None], np.stack([sin, -cos, flat], -1)[:, None]
    u, z = g.u()[None, :, None], np.array([0.0, 0.0, 1.0])
    if g.kind == "parallel":
        return u * e, np.broadcast_to(-n, (len(cos), u.shape[1], 3))
    if g.kind == "fan_curved":
        turn = u / g.source_detector
        direction = np.sin(turn) * e - np.cos(turn) * n
    else:
        direction = u * e - g.source_detector * n
    if g.volume:
        direction = direction[:, None] + (g.v()[:, None] * z)[None, :, None]
        direction = direction.reshape(len(cos), -1, 3)
    point = g.source_origin * n + g.height()[:, None, None] * z
    return np.broadcast_to(point, direction.shape), direction


def lines(g: Geometry) -> Lines:
    """The rays of a geometry as `Lines`, view by view, in float64."""
    point, way = (r.reshape(-1, 3) for r in rays(g))
    steep = np.abs(way[:, 1]) > np.abs(way[:, 0])
    if g.volume and bool((np.abs(way[:, 2]) > np.maximum(np.abs(way[:, 0]), np.abs(way[:, 1]))).any()):
        raise Unsupported("rays steeper than 45 degrees to the plane of rotation", hint="fewer detector rows")
    x, y, z = g.grid.axes()
    px, dz = g.grid.pixel, g.grid.slice
    main = np.where(steep, way[:, 1], way[:, 0])
    cross = np.where(steep, way[:, 0], way[:, 1]) / main
    rise = way[:, 2] / main
    # distance along the march from the ray's point to step 0, and the sign of a step
    start = np.where(steep, y[0] - point[:, 1], x[0] - point[:, 0])
    step = np.where(steep, -px, px)
    other = np.where(steep, point[:, 0], point[:, 1]) + start * cross
    a = np.where(steep, (other - x[0]) / px, (y[0] - other) / px)
    b = np.where(steep, step * cross / px, -step * cross / px)
    c = (point[:, 2] + start * rise - z[0]) / dz
    d = step * rise / dz
    w = px * np.sqrt(1 + cross**2 + rise**2)
    return Lines(torch.from_numpy(steep), *(torch.from_numpy(np.ascontiguousarray(t)) for t in (a, b, w, c, d)))


def hat(t: Tensor) -> Tensor:
    """``max(0, 1 - |t|)``, in place of ``t``."""
    return t.abs_().neg_().add_(1).clamp_min_(0)


def entries(rays: Lines, grid: Grid, volume: bool, first: int = 0, last: int | None = None) -> tuple[Tensor, Tensor]:
    """Rows of the projection matrix: pixel index and weight, ``(rays, steps, 2)``, or 4 in a volume.

    Of all steps, or those from ``first`` to before ``last``. Beyond the edge the weight is zero and the index that of
    some pixel.
    """
    rows, columns = grid.rows, grid.columns
    dtype, device = rays.a.dtype, rays.a.device
    i = torch.arange(first, max(rows, columns) if last is None else last, device=device)
    steep = rays.steep[:, None]
    inside = i < torch.where(steep, rows, columns)
    r = torch.addcmul(rays.a[:, None], rays.b[:, None], i.to(dtype))
    limit = torch.where(steep, columns, rows)
    step_i, step_j = torch.where(steep, columns, 1), torch.where(steep, 1, columns)
    base = i * step_i
    index, weight = [], []
    low = r.floor()
    for k in (0, 1):
        j = low + k
        ok = (j >= 0) & (j < limit) & inside
        weight.append(torch.where(ok, hat(r - j) * rays.w[:, None], 0))
        index.append(torch.where(ok, base + j.to(torch.int64) * step_j, 0))
    if volume:
        s = torch.addcmul(rays.c[:, None], rays.d[:, None], i.to(dtype))
        floor, flat = s.floor(), list(zip(index, weight, strict=True))
        index, weight = [], []
        for k in (0, 1):
            level = floor + k
            ok = (level >= 0) & (level < grid.slices)
            height = torch.where(ok, hat(s - level), 0)
            shift = torch.where(ok, level, 0).to(torch.int64) * (rows * columns)
            index += [n + shift for n, _ in flat]
            weight += [v * height for _, v in flat]
    return torch.stack(index, -1), torch.stack(weight, -1)


def steps_inside(rays: Lines, grid: Grid) -> Tensor:
    """How many steps of each ray may touch the image, ``(n,)``: an upper bound without going through them."""
    rows, columns = grid.rows, grid.columns
    steps = torch.where(rays.steep, rows, columns)
    low, high = torch.zeros_like(rays.a), (steps - 1).to(rays.a.dtype)
    for at, slope, size in ((rays.a, rays.b, torch.where(rays.steep, columns, rows)), (rays.c, rays.d, grid.slices)):
        if isinstance(size, int) and size == 1 and not bool(slope.any()) and not bool(at.any()):
            continue  # an image: no slices to leave
        tilt = torch.where(slope.abs() > 1e-12, slope, 1e-12)
        ends = torch.stack([(-1 - at) / tilt, (size - at) / tilt])
        low, high = torch.maximum(low, ends.amin(0)), torch.minimum(high, ends.amax(0))
    return (high.floor() - low.ceil() + 1).clamp_min(0).to(torch.int64)
