"""Diagonal operators ``A x = d x`` (entry by entry).

``A^H A = diag(|d|^2)``, so the decomposition is ``s = |d|`` with ``V = I``; the phases of ``d`` belong to
``U = A V / s``. A complex ``d`` on real images gives complex data, with ``A^H y = Re(conj(d) y)``.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sciinv.errors import MismatchError
from sciinv.operator import SVD, Identity, LinearOperator, Space


class Diagonal(LinearOperator):
    """Entrywise multiplication.

    Parameters
    ----------
    diagonal : real or complex numbers, broadcastable to ``shape``.
    shape : shape of the images; by default that of ``diagonal``.
    dtype : ``torch.float32`` for real images, ``torch.complex64`` for complex ones.
    """

    entries: Tensor

    def __init__(self, diagonal: Tensor, shape: tuple[int, ...] | None = None, dtype: torch.dtype = torch.float32):
        shape = tuple(diagonal.shape if shape is None else shape)
        fits(diagonal, shape, type(self).__name__)
        complex_data = dtype.is_complex or diagonal.is_complex()
        super().__init__(Space(shape, dtype), Space(shape, torch.complex64 if complex_data else torch.float32))
        # complex buffers do not survive Module.double(), so (re, im) pairs are stored
        self._complex = diagonal.is_complex()
        self.register_buffer(
            "entries", torch.view_as_real(diagonal.resolve_conj()) if self._complex else diagonal.clone()
        )

    @property
    def diagonal(self) -> Tensor:
        """The numbers ``d``, broadcastable to the domain."""
        return torch.view_as_complex(self.entries) if self._complex else self.entries

    def forward(self, x: Tensor) -> Tensor:
        return self.diagonal * x

    def adjoint(self, y: Tensor) -> Tensor:
        out = self.diagonal.conj() * y
        return out if self.domain.dtype.is_complex else out.real if out.is_complex() else out

    def normal(self, x: Tensor) -> Tensor:
        return self._power() * x

    def svd(self) -> SVD:
        """``s = |d|``, ``V = I``."""
        return SVD(self, self.diagonal.abs(), Identity(self.domain))

    def _power(self) -> Tensor:
        return self.entries.square().sum(-1) if self._complex else self.entries.square()


def fits(values: Tensor, shape: tuple[int, ...], where: str) -> None:
    """Raise `MismatchError` unless ``values`` broadcasts to ``shape``."""
    tail = shape[len(shape) - values.ndim :]
    if values.ndim > len(shape) or any(a not in (1, b) for a, b in zip(values.shape, tail, strict=True)):
        raise MismatchError(
            "array does not broadcast to the image", where=where, expected=str(shape), found=str(tuple(values.shape))
        )
