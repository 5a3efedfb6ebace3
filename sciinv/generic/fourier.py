"""Orthonormal Fourier transforms in 2-D, 3-D or any number of trailing axes, and their undersampled form.

``F = fftshift . fft(norm="ortho") . ifftshift`` over the last ``ndim`` axes, so the zero frequency sits at index
``n // 2``.

``FourierMask`` is ``A = M F``. On complex images ``A^H A = F^H M F``: ``V = F^H``, ``s = M``. On real images
``A^H A x = Re(F^H M F x) = F^H S F x`` with ``S(k) = (M(k) + M(-k)) / 2``, because the spectrum of a real image is
Hermitian; so ``s = sqrt(S)`` and ``V c = Re(F^H c)``. Those coordinates are redundant: ``V V^H = I`` but ``V^H V`` is
only a projection, and ``V.isometry`` is ``None``. Both decompositions leave the shifts out, which commute with every
function of ``A^H A``.
"""

from __future__ import annotations

import torch
from torch import Tensor, fft

from sciinv.errors import UsageError
from sciinv.generic.diagonal import fits
from sciinv.generic.mask import binary
from sciinv.operator import SVD, Identity, LinearOperator, Space


class Fourier(LinearOperator):
    """Orthonormal Fourier transform over the last ``ndim`` axes.

    Parameters
    ----------
    shape : shape of the images, leading axes (channels, coils) included.
    ndim : how many trailing axes to transform; all of them by default.
    real : whether the images are real; then ``A^H A = I`` but ``A A^H != I``, and there is no `isometry`.
    centred : zero frequency in the middle (default) or at index 0.
    """

    unit: Tensor

    def __init__(self, shape: tuple[int, ...], ndim: int | None = None, *, real: bool = False, centred: bool = True):
        shape = tuple(shape)
        self_ndim = len(shape) if ndim is None else ndim
        if not 1 <= self_ndim <= len(shape):
            raise UsageError(
                "number of transformed axes", where="Fourier", expected=f"1 to {len(shape)}", found=str(ndim)
            )
        super().__init__(Space(shape, torch.float32 if real else torch.complex64), Space(shape, torch.complex64))
        self.real, self.centred = real, centred
        self.axes = tuple(range(-self_ndim, 0))
        self.isometry = None if real else 1.0
        self.register_buffer("unit", torch.ones(()), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        if not self.centred:
            return fft.fftn(x, dim=self.axes, norm="ortho")
        return fft.fftshift(fft.fftn(fft.ifftshift(x, self.axes), dim=self.axes, norm="ortho"), self.axes)

    def adjoint(self, y: Tensor) -> Tensor:
        if self.centred:
            x = fft.fftshift(fft.ifftn(fft.ifftshift(y, self.axes), dim=self.axes, norm="ortho"), self.axes)
        else:
            x = fft.ifftn(y, dim=self.axes, norm="ortho")
        return x.real if self.real else x

    def normal(self, x: Tensor) -> Tensor:
        return x

    def svd(self) -> SVD:
        """``A^H A = I``: unit singular values, ``V = I``."""
        return SVD(self, self.unit, Identity(self.domain))


class FourierMask(LinearOperator):
    """Masked k-space of real or complex images; unmeasured entries are zero.

    Parameters
    ----------
    mask : boolean (or 0 and 1), broadcastable to the last ``ndim`` axes, zero frequency at index ``n // 2``.
    shape : shape of the images, leading axes included; by default that of ``mask``.
    ndim : how many trailing axes to transform; all of them by default.
    real : whether the images are real.
    """

    mask: Tensor
    power: Tensor

    def __init__(
        self, mask: Tensor, shape: tuple[int, ...] | None = None, ndim: int | None = None, *, real: bool = False
    ):
        transform = Fourier(tuple(mask.shape if shape is None else shape), ndim, real=real)
        super().__init__(transform.domain, transform.codomain)
        self.transform, axes = transform, transform.axes
        self.spectrum = Fourier(self.domain.shape, len(axes), real=real, centred=False)
        fits(mask, self.domain.shape[-len(axes) :], "FourierMask")
        full = binary(mask, "FourierMask").expand(self.domain.shape[-len(axes) :]).contiguous()
        power = fft.ifftshift(full, axes)
        if real:
            power = (power + power.flip(axes).roll((1,) * len(axes), axes)) / 2
        self.register_buffer("mask", full)
        self.register_buffer("power", power)

    @property
    def n_data(self) -> int:
        """Number of real measurements: two for each sampled entry of the data."""
        lead = self.codomain.size // (2 * self.mask.numel())
        return 2 * lead * int(self.mask.sum())

    def forward(self, x: Tensor) -> Tensor:
        return self.mask * self.transform(x)

    def adjoint(self, y: Tensor) -> Tensor:
        return self.transform.adjoint(self.mask * y)

    def normal(self, x: Tensor) -> Tensor:
        return self.spectrum.adjoint(self.power * self.spectrum(x))

    def svd(self) -> SVD:
        """``V = F^H`` without shifts and ``s = sqrt((M(k) + M(-k)) / 2)`` on real images, ``s = M`` on complex ones."""
        return SVD(self, self.power.sqrt(), self.spectrum.H)
