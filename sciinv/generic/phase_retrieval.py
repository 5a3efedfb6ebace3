"""Phase retrieval: the modulus, or squared modulus, of an oversampled Fourier transform.

``A(x) = |F P x|^p`` with P zero padding to ``oversample`` times the size (centred), F the centred orthonormal
transform and p = 1 or 2. Nonlinear: the vector-Jacobian product comes from automatic differentiation, and is zero
where the modulus is zero. A global phase (complex images), a sign (real images), a flip and shifts within the padding
leave the data unchanged.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import pad

from sciinv.errors import UsageError
from sciinv.generic.fourier import Fourier
from sciinv.operator import Operator, Space


class PhaseRetrieval(Operator):
    """Modulus of the oversampled Fourier transform over the last ``ndim`` axes.

    Parameters
    ----------
    shape : shape of the images, leading axes included.
    oversample : ratio of padded to image size, at least 1; 2 makes the data the transform of the autocorrelation.
    power : 2 for intensities, 1 for amplitudes.
    ndim : how many trailing axes to transform.
    dtype : ``torch.float32`` for real images, ``torch.complex64`` for complex ones.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        oversample: float = 2.0,
        power: int = 2,
        ndim: int = 2,
        dtype: torch.dtype = torch.complex64,
    ):
        shape = tuple(shape)
        if power not in (1, 2) or oversample < 1 or not 1 <= ndim <= len(shape):
            raise UsageError(
                "phase retrieval is impossible",
                expected=f"power 1 or 2, oversample >= 1, ndim 1 to {len(shape)}",
                found=f"power {power}, oversample {oversample}, ndim {ndim}",
            )
        wide = tuple(math.ceil(n * oversample - 1e-9) for n in shape[-ndim:])
        full = (*shape[:-ndim], *wide)
        super().__init__(Space(shape, dtype), Space(full, torch.float32))
        self.power = power
        self.transform = Fourier(full, ndim, real=not dtype.is_complex)
        # index n // 2 of the image goes to index w // 2 of the padded grid, on every axis
        before = [w // 2 - n // 2 for n, w in zip(shape[-ndim:], wide, strict=True)]
        after = [w - n - b for n, w, b in zip(shape[-ndim:], wide, before, strict=True)]
        self.padding = [p for b, a in zip(reversed(before), reversed(after), strict=True) for p in (b, a)]

    def forward(self, x: Tensor) -> Tensor:
        k = self.transform(pad(x, self.padding))
        return k.abs() if self.power == 1 else k.real.square() + k.imag.square()
