"""Inpainting: keep some entries, zero the others, ``A = diag(m)`` with ``m`` in {0, 1}.

Data keep the shape of the image (zero where nothing was measured), so ``A`` is an orthogonal projection: ``A = A^H =
A^H A``, ``V = I``, ``s = m``. Put the number of measured real entries in ``Problem.meta["n_data"]`` so that
chi-squared per datum is right.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sciinv.errors import InputError
from sciinv.generic.diagonal import Diagonal


class Mask(Diagonal):
    """Zero the entries where ``mask`` is false.

    Parameters
    ----------
    mask : boolean (or 0 and 1), broadcastable to ``shape``; true where measured.
    shape : shape of the images; by default that of ``mask``.
    dtype : ``torch.float32`` for real images, ``torch.complex64`` for complex ones.
    """

    def __init__(self, mask: Tensor, shape: tuple[int, ...] | None = None, dtype: torch.dtype = torch.float32):
        super().__init__(binary(mask, "Mask"), shape, dtype)

    @property
    def n_data(self) -> int:
        """Number of real measurements: measured entries, a complex one counting twice."""
        return int(self.entries.expand(self.domain.shape).sum()) * (2 if self.domain.dtype.is_complex else 1)

    def normal(self, x: Tensor) -> Tensor:
        return self.entries * x

    def capabilities(self) -> frozenset[str]:
        return super().capabilities() | {"mask"}


def binary(mask: Tensor, where: str) -> Tensor:
    """The mask as float32 zeros and ones; `InputError` for anything else."""
    if mask.is_complex() or not bool(((mask == 0) | (mask == 1)).all()):
        raise InputError("a mask holds only 0 and 1", where=where, hint="Diagonal for weights")
    return mask.to(torch.float32)
