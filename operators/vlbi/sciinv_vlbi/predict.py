"""All chosen products of an image, in one vector: ``concat_k P_k(A x + V_ext)`` and rows linear in the image.

The map is ``g(S x)`` with ``S x = (A x, rows x)`` linear, so that samplers can move in the row space of S.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sciinv.operator import LinearOperator, Operator, Space, to_real
from sciinv_vlbi.products import Product


class Seen(LinearOperator):
    """``S x = (Re A x, Im A x, rows x)``, real ``(2 row + k,)``: everything that the likelihood sees of an image."""

    def __init__(self, transform: LinearOperator, linear: Sequence[LinearOperator]):
        (self.visibilities,) = transform.codomain.shape
        size = 2 * self.visibilities + sum(op.codomain.size for op in linear)
        super().__init__(transform.domain, Space((size,)))
        self.transform, self.rows = transform, torch.nn.ModuleList(linear)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([to_real(self.transform(x), 1), *(op(x) for op in self.rows)], -1)

    def adjoint(self, y: Tensor) -> Tensor:
        vis, *rest = y.split([2 * self.visibilities, *(op.codomain.size for op in self.rows)], -1)  # type: ignore[operator]
        parts = torch.view_as_complex(vis.unflatten(-1, (-1, 2)).contiguous())
        image = self.transform.adjoint(parts)  # type: ignore[operator]
        for op, part in zip(self.rows, rest, strict=True):
            image = image + op.adjoint(part)  # type: ignore[operator]
        return image

    def vjp(self, x: Tensor, v: Tensor) -> Tensor:
        """``S^T v``."""
        return self.adjoint(v)

    def row_space(self, cutoff: float = 0.0) -> tuple[Tensor, Tensor]:
        """That of the transform, and what the other rows add to it (their units differ, so the cut is not theirs)."""
        rows, s = self.transform.row_space(cutoff)  # type: ignore[operator]
        for op in self.rows:
            size = int(op.codomain.size)  # type: ignore[arg-type, union-attr]
            for image in op.adjoint(torch.eye(size, dtype=torch.float64, device=rows.device)):  # type: ignore[operator]
                image, basis = image.to(rows.dtype).flatten() / image.norm(), rows.flatten(1)
                for _ in range(2):  # once more for rounding
                    image = image - (basis @ image) @ basis
                rows = torch.cat([rows, (image / image.norm()).view(1, *rows.shape[1:])])
                s = torch.cat([s, s[-1:]])
        return rows, s


class Compare(Operator):
    """``g``: from `Seen` to the products, ``concat_k P_k(V + V_ext)`` and the linear rows as they are."""

    extended: Tensor | None

    def __init__(self, products: Sequence[Product], visibilities: int, linear: int, extended: Tensor | None):
        size = sum(op.codomain.size for op in products) + linear
        super().__init__(Space((2 * visibilities + linear,)), Space((size,)))
        self.visibilities, self.products = visibilities, torch.nn.ModuleList(products)
        self.register_buffer("extended", extended)

    def forward(self, x: Tensor) -> Tensor:
        vis, rest = x[..., : 2 * self.visibilities], x[..., 2 * self.visibilities :]
        vis = torch.view_as_complex(vis.unflatten(-1, (-1, 2)).contiguous())
        if self.extended is not None:
            vis = vis + self.extended.to(vis.dtype)
        return torch.cat([*(op(vis) for op in self.products), rest], -1)


class Predict(Operator):
    """The products of an image.

    Parameters
    ----------
    transform : image to visibilities.
    products : operators on visibilities.
    linear : operators on the image (`TotalFlux`, `Centroid`).
    extended : visibilities of flux outside the image, ``(row,)``, or ``None``.
    """

    def __init__(
        self, transform: LinearOperator, products: Sequence[Product], linear: Sequence[LinearOperator] = (),
        extended: NDArray[np.complex128] | None = None,
    ):  # fmt: skip
        added = None if extended is None else torch.from_numpy(extended.astype(np.complex64))
        seen = Seen(transform, linear)
        outer = Compare(products, seen.visibilities, sum(op.codomain.size for op in linear), added)
        super().__init__(transform.domain, outer.codomain)
        self.outer, self.seen = outer, seen

    def forward(self, x: Tensor) -> Tensor:
        return self.outer(self.seen(x))  # type: ignore[no-any-return]

    def split(self) -> tuple[Operator, LinearOperator]:
        return self.outer, self.seen
