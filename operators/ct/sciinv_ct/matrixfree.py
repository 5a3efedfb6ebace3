"""The same matrix without storing it: weights are computed for a few rays, or a few pixels, at a time.

Forwards a ray gathers its pixels. Backwards, on the host, a ray spreads its value over the same pixels by the same
numbers. On other devices, where spreading would depend on the order of threads, a pixel gathers the rays that see it:
it projects onto the detector at ``u``, and only cells within a pixel's shadow of ``u`` can have it as neighbour. All
evaluate ``w hat(a + b i - j)`` of `sciinv_ct.joseph` in one precision, so the pair is matched to rounding.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import scipy.sparse
import torch
from torch import Tensor, nn
from torch.nn.functional import embedding_bag, pad

from sciinv_ct.geometry import Geometry
from sciinv_ct.joseph import Lines, hat, lines

CHUNK = 1 << 17  # samples along rays at a time on the host: their arrays stay in the cache
CHUNK_DEVICE = 1 << 25
PAD = 2  # zeros around the image, where rays that miss it land


class FreeRows(nn.Module):
    """Rows of all rays of a geometry; the interface of `sciinv_ct.csr.CsrRows`.

    Parameters
    ----------
    geometry : its views and cells are the rows, in order.
    wanted : bool, one a row; the others give zero. ``None`` for all.
    """

    steep: Tensor
    numbers: Tensor
    views: Tensor
    x: Tensor
    y: Tensor
    z: Tensor
    column: Tensor
    order: Tensor

    def __init__(self, geometry: Geometry, wanted: Tensor | None = None):
        super().__init__()
        g, rays = geometry, lines(geometry)
        self.geometry = g
        self.register_buffer("steep", rays.steep)
        self.register_buffer("numbers", torch.stack(list(rays[1:])))
        # rays that march along columns come first
        order = rays.steep.to(torch.uint8).argsort(stable=True)
        order = order if wanted is None else order[wanted[order]]
        self.n_flat = int((~rays.steep[order]).sum())
        self.register_buffer("order", order)
        self.register_buffer("views", torch.from_numpy(np.stack([np.cos(g.angles), np.sin(g.angles), g.height()], -1)))
        for name, axis in zip("xyz", g.grid.axes(), strict=True):
            self.register_buffer(name, torch.from_numpy(axis))
        where = torch.full((g.n_columns,), -1)
        where[torch.arange(g.n_columns) if g.columns is None else torch.tensor(g.columns)] = torch.arange(g.shape[-1])
        self.register_buffer("column", where)
        self.shadow = _shadow(g)
        self.padding = (0, 0, PAD, PAD, PAD, PAD, *((PAD, PAD) if g.volume else ()))
        self.padded = tuple(n + 2 * PAD for n in g.grid.shape)

    @property
    def nbytes(self) -> int:
        """Memory of the buffers."""
        return sum(b.numel() * b.element_size() for b in self.buffers())

    def rays(self, dtype: torch.dtype) -> Lines:
        """The rays in the precision of the data."""
        return Lines(self.steep, *self.numbers.to(dtype))

    def forward(self, x: Tensor) -> Tensor:
        """``(rows, m)`` of images ``(pixels, m)``."""
        table = pad(x.reshape(*self.geometry.grid.shape, -1), self.padding).flatten(0, -2)
        out = x.new_zeros((len(self.steep), x.shape[1]))
        for rows, index, weight, length in self._chunks(x):
            out[rows] = _gather(index, weight, table) * length[:, None]
        return out

    def adjoint(self, y: Tensor) -> Tensor:
        """``(pixels, m)`` of data ``(rows, m)``."""
        return self._spread(y) if y.device.type == "cpu" else self._collect(y)

    def _spread(self, y: Tensor) -> Tensor:
        size, total = math.prod(self.padded), y.new_zeros((math.prod(self.padded), y.shape[1]))
        for rows, index, weight, length in self._chunks(y):
            n, per = index.shape
            start = np.arange(0, n * per + 1, per, dtype=np.int32)
            parts = (weight.flatten().numpy(), index.flatten().numpy(), start)
            # columns of the transpose are the rows at hand: the product adds each into its pixels
            matrix = scipy.sparse.csc_matrix(parts, (size, n), copy=False)
            total += torch.from_numpy(matrix @ (y[rows] * length[:, None]).numpy())
        inside = tuple(slice(PAD, -PAD) for _ in self.padded)
        return total.reshape(*self.padded, -1)[inside].flatten(0, -2)

    def _chunks(self, like: Tensor) -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor]]:
        """Rows, pixel indices in the padded image and weights ``(rows, samples)``, and step lengths, some at a time."""
        numbers = self.numbers.to(like.dtype)
        for steep, rows in ((False, self.order[: self.n_flat]), (True, self.order[self.n_flat :])):
            steps = self.geometry.grid.rows if steep else self.geometry.grid.columns
            for part in rows.split(max(1, _chunk(like) // steps)):
                a, b, w, c, d = numbers[:, part]
                yield part, *self._samples(steep, steps, a, b, c, d), w

    def _samples(self, steep: bool, steps: int, a: Tensor, b: Tensor, c: Tensor, d: Tensor) -> tuple[Tensor, Tensor]:
        """Neighbours and weights of rays that march the same way; no masks, for the padding takes what is outside."""
        grid, (*_, height, width) = self.geometry.grid, self.padded
        along, across = (width, 1) if steep else (1, width)
        size = grid.columns if steep else grid.rows
        i = torch.arange(steps, device=a.device)
        at = torch.addcmul(a[:, None], b[:, None], i.to(a.dtype))
        low = at.floor()
        part = at.sub_(low)
        index = low.clamp_(-PAD, size).to(torch.int32).mul_(across)
        index += ((i + PAD) * along + PAD * across).to(torch.int32)
        rest = 1 - part
        if not self.geometry.volume:
            return torch.cat([index, index + across], 1), torch.cat([rest, part], 1)
        at = torch.addcmul(c[:, None], d[:, None], i.to(a.dtype))
        level = at.floor()
        up = at.sub_(level)
        plane = height * width
        index += level.clamp_(-PAD, grid.slices).to(torch.int32).add_(PAD).mul_(plane)
        down = 1 - up
        return (
            torch.cat([index, index + across, index + plane, index + (across + plane)], 1),
            torch.cat([rest * down, part * down, rest * up, part * up], 1),
        )

    def _collect(self, y: Tensor) -> Tensor:
        rays = self.rays(y.dtype)
        step = max(1, _chunk(y) // (len(self.views) * math.prod(self.shadow[1])))
        out = []
        total = math.prod(self.geometry.grid.shape)
        for k in range(0, total, step):
            index, weight = self._column(rays, torch.arange(k, min(k + step, total), device=y.device))
            out.append(_gather(index, weight, y))
        return torch.cat(out)

    def _column(self, rays: Lines, pixel: Tensor) -> tuple[Tensor, Tensor]:
        """Rays that may see each pixel and their weights, ``(pixels, views * candidates)``."""
        g, (reach, count) = self.geometry, self.shadow
        dtype = rays.a.dtype
        plane = g.grid.rows * g.grid.columns
        slices, j, i = (t[:, None] for t in (pixel // plane, pixel % plane // g.grid.columns, pixel % g.grid.columns))
        u, v = _project(g, self.x[i], self.y[j], self.z[slices], self.views)
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
        march = torch.where(line.steep, j, i).to(dtype)
        across = torch.where(line.steep, i, j).to(dtype)
        weight = hat(torch.addcmul(line.a, line.b, march).sub_(across)) * line.w
        if g.volume:
            weight *= hat(torch.addcmul(line.c, line.d, march).sub_(slices.to(dtype)))
        return index, torch.where(ok.flatten(1), weight, 0)


def _chunk(like: Tensor) -> int:
    return CHUNK if like.device.type == "cpu" else CHUNK_DEVICE


def _gather(index: Tensor, weight: Tensor, table: Tensor) -> Tensor:
    """``out[r] = sum_k weight[r, k] table[index[r, k]]`` without the intermediate of all products."""
    return embedding_bag(index, table, mode="sum", per_sample_weights=weight)


def _project(g: Geometry, x: Tensor, y: Tensor, z: Tensor, views: Tensor) -> tuple[Tensor, Tensor]:
    """Fractional column and row of points ``(n, 1)`` at every view, ``(n, views)`` each."""
    cos, sin, height = views.unbind(-1)
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
