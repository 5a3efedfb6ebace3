"""``A``: images in 1/mm to line integrals (no unit), by Joseph's interpolation, with its exact transpose.

`Projector` chooses between a stored matrix and weights that are computed on the way, whichever fits the memory, and
uses the symmetries of the scan (`sciinv_ct.symmetry`). A mask ``P`` keeps some cells of the sinogram: the others are
zero, and have no row.
"""

from __future__ import annotations

import dataclasses as dc
import hashlib
import math
import os
from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sciinv.errors import MismatchError, UsageError
from sciinv.operator import LinearOperator, Space
from sciinv_ct.csr import BYTES, CsrRows, build, cached, entry_bound
from sciinv_ct.geometry import Geometry
from sciinv_ct.joseph import lines
from sciinv_ct.matrixfree import FreeRows
from sciinv_ct.symmetry import plan, trivial, turn, turn_back

Matrix = Literal["auto", "stored", "free"]
MEMORY = 2 << 30
COLUMNS = 64  # of a table, on which the sparse product is quickest


class Linear(torch.autograd.Function):
    """A pair ``project``, ``back`` of an operator as one differentiable step; its derivative is the other one."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, pair: Any, transposed: bool) -> Tensor:
        ctx.pair, ctx.transposed = pair, transposed
        return pair.back(x) if transposed else pair.project(x)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        return Linear.apply(g, ctx.pair, not ctx.transposed), None, None


class ProjectorBase(LinearOperator):
    """What the projectors of all backends share: spaces, mask, batch axes, derivative.

    Subclasses write ``project`` and ``back`` on flat batches, ``(m, *domain.shape)`` and ``(m, *codomain.shape)``.

    Parameters
    ----------
    geometry : the scan.
    mask : bool, broadcastable to the sinogram; false where nothing is measured. ``None`` keeps all.
    """

    kept: Tensor | None

    def __init__(self, geometry: Geometry, mask: Tensor | NDArray[np.bool_] | None = None):
        super().__init__(Space(geometry.grid.shape), Space(geometry.shape))
        self.geometry = geometry
        self.register_buffer("kept", _mask(mask, geometry))

    @property
    def n_data(self) -> int:
        """Number of measurements."""
        return math.prod(self.codomain.shape) if self.kept is None else int(self.kept.sum())

    def project(self, x: Tensor) -> Tensor:
        """``A x`` of images ``(m, *domain.shape)``, before the mask or after it."""
        raise NotImplementedError

    def back(self, y: Tensor) -> Tensor:
        """``A^T y`` of masked data ``(m, *codomain.shape)``."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        """``P A x``, ``(*batch, *codomain.shape)``, of images ``(*batch, *domain.shape)`` in 1/mm."""
        self.domain.check(x, type(self).__name__)
        batch = x.shape[: x.ndim - len(self.domain.shape)]
        y = Linear.apply(x.reshape(-1, *self.domain.shape), self, False)
        return self._masked(y).reshape(*batch, *self.codomain.shape)

    def adjoint(self, y: Tensor) -> Tensor:
        """``A^T P y``: the backprojection without any filter, in mm times the unit of y."""
        self.codomain.check(y, f"{type(self).__name__}.adjoint")
        batch = y.shape[: y.ndim - len(self.codomain.shape)]
        x = Linear.apply(self._masked(y.reshape(-1, *self.codomain.shape)), self, True)
        return x.reshape(*batch, *self.domain.shape)

    def vjp(self, x: Tensor, v: Tensor) -> Tensor:
        """``A^T v``."""
        return self.adjoint(v)

    def _masked(self, y: Tensor) -> Tensor:
        # where, not a product: what was not measured may be NaN
        return y if self.kept is None else torch.where(self.kept, y, 0)


class Projector(ProjectorBase):
    """The native projector; device and precision are those of its buffers and input.

    Parameters
    ----------
    geometry, mask : as in `ProjectorBase`.
    memory : bytes that the matrix and its transpose may take; beyond, weights are computed on the way.
    matrix : ``stored``, ``free`` or ``auto`` (by ``memory``).
    cache : folder in which a stored matrix is kept for the next time; ``None`` keeps nothing.
    symmetric : whether to use the symmetries of the scan.
    """

    gather: Tensor | None
    spread: Tensor | None
    unused: Tensor | None

    def __init__(
        self, geometry: Geometry, mask: Tensor | NDArray[np.bool_] | None = None, *, memory: int = MEMORY,
        matrix: Matrix = "auto", cache: str | os.PathLike[str] | None = None, symmetric: bool = True,
    ):  # fmt: skip
        super().__init__(geometry, mask)
        if matrix not in ("auto", "stored", "free"):
            raise UsageError("no such kind of matrix", expected="auto, stored or free", found=repr(matrix))
        g = geometry
        self.plan = plan(g) if symmetric else trivial(g)
        base = dc.replace(g, angles=self.plan.angles) if self._symmetric() else g
        gather, spread, unused = self._tables()
        for name, table in (("gather", gather), ("spread", spread), ("unused", unused)):
            self.register_buffer(name, table)
        self.rows = _rows(base, self._wanted(), memory, matrix, cache)

    @property
    def stored(self) -> bool:
        """Whether the matrix is in memory."""
        return isinstance(self.rows, CsrRows)

    def _symmetric(self) -> bool:
        return len(self.plan.elements) > 1 or bool(self.plan.backwards.any())

    def _slots(self) -> Tensor:
        """Of every cell of the sinogram, its place among (base view, cell, element), flat."""
        p, (views, *cells) = self.plan, self.geometry.shape
        size = math.prod(cells)
        cell = torch.arange(size).reshape(cells)
        both = torch.stack([cell, cell.flip(-1)]).reshape(2, size)
        rows = torch.from_numpy(p.base * size)[:, None] + both[torch.from_numpy(p.backwards.astype(np.int64))]
        return (rows * len(p.elements) + torch.from_numpy(p.element)[:, None]).reshape(views * size)

    def _tables(self) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        if not self._symmetric():
            return None, None, None
        slots = self._slots()
        total = len(self.plan.elements) * len(self.plan.angles) * math.prod(self.geometry.shape[1:])
        spread = torch.full((total,), -1)
        spread[slots] = torch.arange(len(slots))
        unused = spread < 0
        return slots, spread.clamp_min(0), unused if bool(unused.any()) else None

    def _wanted(self) -> Tensor | None:
        """Rows of the base matrix that some kept cell needs."""
        if self.kept is None:
            return None
        kept = self.kept.reshape(-1)
        if self.gather is None:
            return kept
        rows = len(self.plan.angles) * math.prod(self.geometry.shape[1:])
        wanted = torch.zeros(rows, dtype=torch.bool)
        wanted[self.gather[kept] // len(self.plan.elements)] = True
        return wanted

    def project(self, x: Tensor) -> Tensor:
        """``A x`` of images ``(m, *domain.shape)``; cells outside the mask hold anything."""
        return self._in_groups(x, self._project)

    def back(self, y: Tensor) -> Tensor:
        """``A^T y`` of data ``(m, *codomain.shape)``."""
        return self._in_groups(y, self._back)

    def _in_groups(self, v: Tensor, apply: Callable[[Tensor], Tensor]) -> Tensor:
        """So many items at a time that all columns of a row of the table stay in the cache."""
        size = max(1, COLUMNS // len(self.plan.elements))
        return apply(v) if len(v) <= size else torch.cat([apply(part) for part in v.split(size)])

    def _project(self, x: Tensor) -> Tensor:
        # one row a pixel, one column an image, from here to the transpose at the end
        m, table = len(x), x.movedim(0, -1)
        if self.gather is None:
            y = self.rows(table.reshape(-1, m).contiguous())
        else:
            turned = torch.stack([turn(table.contiguous(), e) for e in self.plan.elements], -2)
            y = self.rows(turned.reshape(math.prod(self.domain.shape), -1))
            y = y.reshape(-1, m).index_select(0, self.gather)
        return y.T.contiguous().reshape(m, *self.codomain.shape)

    def _back(self, y: Tensor) -> Tensor:
        m, elements = len(y), self.plan.elements
        table = y.flatten(1).T.contiguous()
        if self.spread is None:
            x = self.rows.adjoint(table).reshape(*self.domain.shape, m)
        else:
            wide = table.index_select(0, self.spread)
            if self.unused is not None:
                wide.masked_fill_(self.unused[:, None], 0)
            turned = self.rows.adjoint(wide.reshape(-1, len(elements) * m))
            turned = turned.reshape(*self.domain.shape, len(elements), m)
            x = turn_back(turned[..., 0, :], elements[0]).clone()
            for k, e in enumerate(elements[1:], 1):
                x += turn_back(turned[..., k, :], e)
        return x.movedim(-1, 0).contiguous()


def _rows(
    g: Geometry, wanted: Tensor | None, memory: int, matrix: Matrix, cache: str | os.PathLike[str] | None
) -> CsrRows | FreeRows:
    if matrix == "free":
        return FreeRows(g, wanted)
    rays = lines(g)
    need = entry_bound(rays if wanted is None else rays.pick(wanted), g.grid, g.volume) * BYTES
    if matrix == "auto" and need > min(memory, BYTES * (2**31 - 2)):
        return FreeRows(g, wanted)
    tag = b"" if wanted is None else wanted.numpy().tobytes()
    key = hashlib.sha256(b"joseph 2" + g.key.encode() + tag).hexdigest()
    return cached(cache, key, lambda: build(rays, wanted, g.grid, g.volume))


def _mask(mask: Tensor | NDArray[np.bool_] | None, g: Geometry) -> Tensor | None:
    if mask is None:
        return None
    found = torch.as_tensor(np.asarray(mask))
    try:
        wide = found.to(torch.bool).expand(g.shape)
    except RuntimeError as error:
        raise MismatchError(
            "the mask does not fit the sinogram", expected=f"broadcastable to {g.shape}", found=str(tuple(found.shape))
        ) from error
    if not bool(((found == 0) | (found == 1)).all()) or not bool(wide.any()):
        raise MismatchError("a mask of a sinogram holds zeros and at least one one")
    return None if bool(wide.all()) else wide.contiguous()
