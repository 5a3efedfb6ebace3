"""A dense real matrix as an operator, with its full singular value decomposition; for toy problems and tests."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from sciinv.errors import MismatchError
from sciinv.operator import SVD, LinearOperator, Space


class Dense(LinearOperator):
    """``A x = M x`` on flattened real vectors.

    Parameters
    ----------
    matrix : real, ``(m, d)``.
    shape : shape of the unknown, of ``d`` entries in all; ``(d,)`` by default.
    """

    matrix: Tensor

    def __init__(self, matrix: Tensor, shape: tuple[int, ...] | None = None):
        shape = (matrix.shape[1],) if shape is None else tuple(shape)
        if matrix.ndim != 2 or matrix.is_complex() or math.prod(shape) != matrix.shape[1]:
            raise MismatchError(
                "matrix does not fit",
                where="Dense",
                expected=f"real (m, {math.prod(shape)})",
                found=str(tuple(matrix.shape)),
            )
        super().__init__(Space(shape), Space((matrix.shape[0],)))
        self.register_buffer("matrix", matrix.clone())

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(x.ndim - len(self.domain.shape)) @ self.matrix.to(x.dtype).T

    def adjoint(self, y: Tensor) -> Tensor:
        return (y @ self.matrix.to(y.dtype)).unflatten(-1, self.domain.shape)

    def svd(self) -> SVD:
        """Full basis from the dense decomposition; null-space directions have ``s = 0``."""
        m, d = self.matrix.shape
        _, s, vh = torch.linalg.svd(self.matrix.to(torch.float64), full_matrices=True)
        s = torch.cat([s, s.new_zeros(max(d - m, 0))])
        basis = Dense(vh, self.domain.shape).H
        basis.isometry = 1.0
        return SVD(self, s.to(self.matrix.dtype), basis)
