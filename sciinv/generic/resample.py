"""Super-resolution from block averages: each datum is the mean of one ``f x f`` (x f) block.

With B the number of pixels in a block, ``A A^H = I / B``. A discrete cosine basis (DCT-II, orthonormal) inside every
block has the constant vector first, so ``V`` is block-diagonal and orthonormal, ``s = B^-1/2`` on each block's first
coefficient and 0 on the others. Spectral coordinates keep the image's shape, block by block.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from sciinv.errors import MismatchError
from sciinv.operator import SVD, LinearOperator, Space


class BlockAverage(LinearOperator):
    """Mean over blocks of ``factor`` pixels along the last ``ndim`` axes.

    Parameters
    ----------
    shape : shape of the images, leading axes (channels) included.
    factor : block edge in pixels; must divide the last ``ndim`` axes.
    ndim : number of averaged axes.
    dtype : ``torch.float32`` for real images, ``torch.complex64`` for complex ones.
    """

    weights: Tensor

    def __init__(self, shape: tuple[int, ...], factor: int, ndim: int = 2, dtype: torch.dtype = torch.float32):
        shape = tuple(shape)
        if not 1 <= ndim <= len(shape) or factor < 1 or any(n % factor for n in shape[-ndim:]):
            raise MismatchError(
                "blocks do not tile the image",
                where="BlockAverage",
                expected=f"the last {ndim} axes to be multiples of {factor}",
                found=str(shape),
            )
        lead, small = shape[:-ndim], tuple(n // factor for n in shape[-ndim:])
        super().__init__(Space(shape, dtype), Space((*lead, *small), dtype))
        self.factor, self.ndim, self.small = factor, ndim, small
        self.basis = BlockCosine(shape, factor, ndim, dtype)
        first = torch.zeros(factor)
        first[0] = 1.0
        keep = torch.ones(())
        for n in small:
            keep = (keep[..., None] * first.repeat(n)) if keep.ndim else first.repeat(n)
        self.register_buffer("weights", keep)

    def forward(self, x: Tensor) -> Tensor:
        return self._blocks(x).mean(tuple(range(-2 * self.ndim + 1, 0, 2)))

    def adjoint(self, y: Tensor) -> Tensor:
        wide = y / self.factor**self.ndim
        for axis in range(-self.ndim, 0):
            wide = wide.repeat_interleave(self.factor, axis)
        return wide

    def svd(self) -> SVD:
        """``V`` is the in-block cosine basis; ``s`` is ``factor**(-ndim/2)`` on block means, else zero."""
        return SVD(self, self.weights * self.factor ** (-self.ndim / 2), self.basis)

    def _blocks(self, x: Tensor) -> Tensor:
        pairs = [size for n in self.small for size in (n, self.factor)]
        return x.reshape(*x.shape[: x.ndim - self.ndim], *pairs)


class BlockCosine(LinearOperator):
    """Orthonormal synthesis from in-block DCT-II coefficients; the shape does not change."""

    matrix: Tensor

    def __init__(self, shape: tuple[int, ...], factor: int, ndim: int, dtype: torch.dtype = torch.float32):
        super().__init__(Space(tuple(shape), dtype), Space(tuple(shape), dtype))
        self.factor, self.ndim, self.isometry = factor, ndim, 1.0
        k = torch.arange(factor, dtype=torch.float64)
        rows = torch.cos(math.pi * (k + 0.5) * k[:, None] / factor) * math.sqrt(2 / factor)
        rows[0] = 1 / math.sqrt(factor)
        self.register_buffer("matrix", rows)

    def forward(self, x: Tensor) -> Tensor:
        return self._along(x, self.matrix)

    def adjoint(self, y: Tensor) -> Tensor:
        return self._along(y, self.matrix.T)

    def _along(self, x: Tensor, m: Tensor) -> Tensor:
        m = m.to(x.dtype)
        for axis in range(-self.ndim, 0):
            x = (x.movedim(axis, -1).unflatten(-1, (-1, self.factor)) @ m).flatten(-2).movedim(-1, axis)
        return x
