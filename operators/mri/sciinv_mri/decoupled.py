"""Whole-readout undersampling, decoupled along the readout and solved exactly.

When the mask depends on the phase-encoding axis only, an inverse FFT along the readout takes the data to hybrid space
(x, ky), where ``y_c[x] = W[x] F_y (S_c[x] x[x])`` row by row. ``A^H A`` is one ``n x n`` Hermitian block a row,
``B_x[j, l] = sum_c conj(S_c[x, j]) g_x[j - l] S_c[x, l]``, ``g_x`` the inverse transform of ``W[x]^2``. Its
eigendecomposition is the full-basis SVD of the operator, so functions of ``A^H A`` and exact Gaussian draws cost two
batched products.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sciinv.operator import SVD, LinearOperator, Space
from sciinv_mri.sense import CoilFourier


class DecoupledSense(CoilFourier):
    """``W F_y S`` from complex images ``([sets,] h, w)`` to hybrid space ``(coil, x, ky)``.

    Parameters
    ----------
    maps : complex ``(coil, h, w)`` or ``(sets, coil, h, w)``.
    weight : real or bool, broadcastable to ``(h, w)`` = (x, ky): zero where not measured, else the whitening weight,
        free to vary along the readout.
    """

    def __init__(self, maps: Tensor, weight: Tensor):
        super().__init__(maps, weight, (-1,))
        self._svd: SVD | None = None

    def blocks(self, dtype: torch.dtype | None = None) -> Tensor:
        """The Hermitian blocks of ``A^H A``, ``(h, sets * w, sets * w)``."""
        sets, _, h, w = self.maps.shape
        s = self.maps.to(dtype or self.maps.dtype).permute(2, 1, 0, 3).reshape(h, -1, sets * w)
        lag = torch.arange(w, device=s.device)
        spread = torch.fft.ifft(self.gain.to(s.real.dtype))[:, (lag[:, None] - lag) % w]
        return (s.mH @ s).mul_(spread.repeat(1, sets, sets))

    def svd(self) -> SVD:
        """Full-basis decomposition; computed once, in double precision up to 512 unknowns a row."""
        if self._svd is None or self._svd.s.device != self.maps.device:
            double = self.domain.size // self.maps.shape[-2] <= 1024
            b = self.blocks(torch.complex128 if double else None)
            power, vectors = torch.linalg.eigh(b)
            floor = power[:, -1:].amax() * power.shape[-1] * torch.finfo(power.dtype).eps
            s = torch.where(power > floor, power, 0).sqrt().to(self.maps.real.dtype)
            self._svd = SVD(self, s, RowBasis(vectors.to(self.maps.dtype), self.domain))
        return self._svd


class RowBasis(LinearOperator):
    """Unitary change of basis in every readout row: spectral coordinates ``(h, sets * w)`` to ``([sets,] h, w)``."""

    isometry = 1.0
    vectors: Tensor

    def __init__(self, vectors: Tensor, image: Space):
        super().__init__(Space(tuple(vectors.shape[:2]), vectors.dtype), image)
        self.register_buffer("vectors", vectors)

    def forward(self, c: Tensor) -> Tensor:
        """Images from coefficients ``(*batch, h, sets * w)``."""
        x = self._rows(self.vectors, c)
        if len(self.codomain.shape) == 2:
            return x
        return x.unflatten(-1, (self.codomain.shape[0], -1)).movedim(-2, -3)

    def adjoint(self, x: Tensor) -> Tensor:
        """Coefficients of images."""
        if len(self.codomain.shape) == 3:
            x = x.movedim(-3, -2).flatten(-2)
        return self._rows(self.vectors.mH, x)

    @staticmethod
    def _rows(q: Tensor, c: Tensor) -> Tensor:
        columns = c.reshape(-1, *c.shape[-2:]).permute(1, 2, 0)
        return (q @ columns).permute(2, 0, 1).reshape(c.shape)
