"""The same matrix without storing it: weights are computed for a few rays, or a few pixels, at a time.

Forwards a ray gathers its pixels (`sciinv_ct.joseph.entries`). Backwards a pixel gathers the rays whose weight on it is
not zero: it projects onto the detector at ``u``, and only cells within a pixel's shadow of ``u`` can have it
as neighbour. Both evaluate ``w hat(a + b i - j)`` in the same precision, so the pair is matched to rounding; nothing
scatters, so results do not depend on the order of threads.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import embedding_bag

from sciinv_ct.geometry import Geometry
from sciinv_ct.joseph import Lines, entries, hat, lines

CHUNK = 1 << 20  # candidate weights computed at a time on the host
CHUNK_DEVICE = 1 << 25


class FreeRows(nn.Module):
    """Rows of all rays of a geometry; the interface of `sciinv_ct.csr.CsrRows`.

    Parameters
    ----------
    geometry : its views and cells are the rows, in order.
    """

    steep: Tensor
    numbers: Tensor
    views: Tensor
    pixels: Tensor
    column: Tensor

    def __init__(self, geometry: Geometry):
        super().__init__()
        g, rays = geometry, lines(geometry)
        self.geometry = g
        self.register_buffer("steep", rays.steep)
        self.register_buffer("numbers", torch.stack(list(rays[1:])))
        self.register_buffer("views", torch.from_numpy(np.stack([np.cos(g.angles), np.sin(g.angles), g.height()], -1)))
        z, y, x = (torch.from_numpy(t) for t in g.grid.axes()[::-1])
        self.register_buffer("pixels", torch.stack(torch.meshgrid(z, y, x, indexing="ij"), -1).reshape(-1, 3))
        where = torch.full((g.n_columns,), -1)
        where[torch.arange(g.n_columns) if g.columns is None else torch.tensor(g.columns)] = torch.arange(g.shape[-1])
        self.register_buffer("column", where)
        self.shadow = _shadow(g)

    @property
    def nbytes(self) -> int:
        """Memory of the buffers."""
        return sum(b.numel() * b.element_size() for b in self.buffers())

    def rays(self, dtype: torch.dtype) -> Lines:
        """The rays in the precision of the data."""
        return Lines(self.steep, *self.numbers.to(dtype))

    def forward(self, x: Tensor) -> Tensor:
        """``(rows, m)`` of images ``(pixels, m)``."""
        g, rays = self.geometry, self.rays(x.dtype)
        per_ray = max(g.grid.rows, g.grid.columns) * (4 if g.volume else 2)
        step = max(1, _chunk(x) // per_ray)
        out = []
        for k in range(0, len(rays.a), step):
            index, weight = entries(rays.pick(slice(k, k + step)), g.grid, g.volume)
            out.append(_gather(index.flatten(1), weight.flatten(1), x))
        return torch.cat(out)

    def adjoint(self, y: Tensor) -> Tensor:
        """``(pixels, m)`` of data ``(rows, m)``."""
        rays = self.rays(y.dtype)
        step = max(1, _chunk(y) // (len(self.views) * math.prod(self.shadow[1])))
        out = []
        for k in range(0, len(self.pixels), step):
            index, weight = self._column(rays, torch.arange(k, min(k + step, len(self.pixels)), device=y.device))
            out.append(_gather(index, weight, y))
        return torch.cat(out)

    def _column(self, rays: Lines, pixel: Tensor) -> tuple[Tensor, Tensor]:
        """Rays that may see each pixel and their weights, ``(pixels, views * candidates)``."""
        g, (reach, count) = self.geometry, self.shadow
        dtype = rays.a.dtype
        u, v = _project(g, self.pixels[pixel], self.views)
        first = (u - reach[0]).ceil().to(torch.int64)
        cell = first[..., None] + torch.arange(count[0], device=u.device)
        ok = (cell >= 0) & (cell < g.n_columns)
        cell = self.column[cell.clamp(0, g.n_columns - 1)]
        ok &= cell >= 0
        if g.volume:
            row = (v - reach[1]).ceil().to(torch.int64)[..., None] + torch.arange(count[1], device=u.device)
            ok = (ok[..., None, :] & ((row >= 0) & (row < g.n_rows))[..., None]).flatten(-2)
            cell = (row.clamp(0, g.n_rows - 1)[..., None] * g.shape[-1] + cell[..., None, :]).flatten(-2)
        view = torch.arange(len(self.views), device=u.device)[:, None] * math.prod(g.shape[1:])
        index = torch.where(ok, cell + view, 0).flatten(1)
        line = rays.pick(index)
        plane = g.grid.rows * g.grid.columns
        j, i = (t[:, None] for t in (pixel % plane // g.grid.columns, pixel % g.grid.columns))
        march = torch.where(line.steep, j, i).to(dtype)
        across = torch.where(line.steep, i, j).to(dtype)
        weight = hat(torch.addcmul(line.a, line.b, march).sub_(across)) * line.w
        if g.volume:
            weight *= hat(torch.addcmul(line.c, line.d, march).sub_((pixel // plane)[:, None].to(dtype)))
        return index, torch.where(ok.flatten(1), weight, 0)


def _chunk(like: Tensor) -> int:
    return CHUNK if like.device.type == "cpu" else CHUNK_DEVICE


def _gather(index: Tensor, weight: Tensor, table: Tensor) -> Tensor:
    """``out[r] = sum_k weight[r, k] table[index[r, k]]`` without the intermediate of all products."""
    return embedding_bag(index, table, mode="sum", per_sample_weights=weight)


def _project(g: Geometry, p: Tensor, views: Tensor) -> tuple[Tensor, Tensor]:
    """Fractional column and row of points ``(n, 3)`` (z, y, x) at every view, ``(n, views)`` each."""
    cos, sin, height = views.unbind(-1)
    z, y, x = (t[:, None] for t in p.unbind(-1))
    u, v = x * cos + y * sin, torch.zeros_like(x * cos)
    if g.kind != "parallel":
        depth = g.source_origin - (x * sin - y * cos)
        v = g.source_detector * (z - height) / depth
        u = g.source_detector * (torch.atan2(u, depth) if g.kind == "fan_curved" else u / depth)
    return (
        (u - g.offset) / g.pitch_column + (g.n_columns - 1) / 2,
        (v - g.offset_row) / g.pitch_row + (g.n_rows - 1) / 2,
    )


def _shadow(g: Geometry) -> tuple[tuple[float, float], tuple[int, int]]:
    """Half-width of what a pixel can reach on the detector, in cells, along columns and rows, and how many cells.

    A ray that has a pixel as neighbour passes its centre within one pixel across the march, and one slice.
    """
    px, grid, slack = g.grid.pixel, g.grid, 1 + 1e-3
    if g.kind == "parallel":
        reach = px / g.pitch_column * slack
        return (reach, 0.0), (int(2 * reach) + 1, 1)
    far = grid.radius + math.hypot(*grid.centre[:2])
    near = g.source_origin - far - px
    near = max(near, 1e-3 * g.source_origin)  # the source is outside the image, if only just
    zoom = g.source_detector / near
    column = zoom * px * (1 + far / near) / g.pitch_column * slack
    half = grid.slices * grid.slice / 2 + abs(grid.centre[2])
    turned = np.abs(g.height()).max()
    row = zoom * (grid.slice + (half + turned) / near * px) / g.pitch_row * slack if g.volume else 0.0
    return (column, row), (int(2 * column) + 1, int(2 * row) + 1 if g.volume else 1)
