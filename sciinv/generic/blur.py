"""Circular convolution ``A x = k * x``, diagonal in the Fourier basis.

``A = F^H diag(h) F`` with ``h`` the transfer function of the kernel, so ``A^H A = F^H |h|^2 F``: ``s = |h|`` and
``V = F^H``. A real kernel has ``|h(k)| = |h(-k)|``, so on real images ``V c = Re(F^H c)`` holds the same law (see
`sciinv.generic.fourier`).
"""

from __future__ import annotations

import torch
from torch import Tensor, fft

from sciinv.errors import MismatchError, UsageError
from sciinv.generic.fourier import Fourier
from sciinv.operator import SVD, LinearOperator, Space


class Blur(LinearOperator):
    """Convolution with periodic boundaries over the trailing axes of the kernel.

    Parameters
    ----------
    kernel : real kernel whose origin is at index ``n // 2`` of each axis; no larger than the image.
    shape : shape of the images, leading axes (channels) included.
    dtype : ``torch.float32`` for real images, ``torch.complex64`` for complex ones.
    """

    response: Tensor

    def __init__(self, kernel: Tensor, shape: tuple[int, ...], dtype: torch.dtype = torch.float32):
        shape, ndim = tuple(shape), kernel.ndim
        if (
            kernel.is_complex()
            or ndim > len(shape)
            or any(k > n for k, n in zip(kernel.shape, shape[-ndim:], strict=True))
        ):
            raise MismatchError(
                "kernel does not fit the image",
                where="Blur",
                expected=f"a real kernel within {shape}",
                found=f"{tuple(kernel.shape)} {kernel.dtype}",
            )
        super().__init__(Space(shape, dtype), Space(shape, dtype))
        self.spectrum = Fourier(shape, ndim, real=not dtype.is_complex, centred=False)
        axes = self.spectrum.axes
        padded = torch.zeros(shape[-ndim:], dtype=torch.float64)
        padded[tuple(slice(n) for n in kernel.shape)] = kernel.to(torch.float64)
        padded = padded.roll(tuple(-(n // 2) for n in kernel.shape), axes)
        # the transform of the kernel is not orthonormal: h multiplies F x; kept as (re, im) so that Module.double()
        # keeps it
        response = torch.view_as_real(fft.fftn(padded, dim=axes))
        self.register_buffer("response", response.to(torch.float32))

    @property
    def transfer(self) -> Tensor:
        """Complex transfer function, zero frequency at index 0."""
        return torch.view_as_complex(self.response)

    def forward(self, x: Tensor) -> Tensor:
        return self._filter(self.transfer, x)

    def adjoint(self, y: Tensor) -> Tensor:
        return self._filter(self.transfer.conj(), y)

    def normal(self, x: Tensor) -> Tensor:
        return self._filter(self.response.square().sum(-1), x)

    def _filter(self, h: Tensor, x: Tensor) -> Tensor:
        axes = self.spectrum.axes
        if x.is_complex():
            return fft.ifftn(h * fft.fftn(x, dim=axes), dim=axes)
        # a real kernel on a real image: half of the spectrum holds everything
        sizes = [x.shape[axis] for axis in axes]
        return fft.irfftn(h[..., : sizes[-1] // 2 + 1] * fft.rfftn(x, dim=axes), s=sizes, dim=axes)

    def svd(self) -> SVD:
        """``s = |h|`` with ``V = F^H`` (its real part on real images)."""
        return SVD(self, self.transfer.abs(), self.spectrum.H)


def gaussian_kernel(width: float, size: int, ndim: int = 2) -> Tensor:
    """Gaussian of standard deviation ``width`` pixels on ``size`` points per axis, summing to one."""
    if not (width > 0 and size >= 1):
        raise UsageError("kernel is impossible", expected="width > 0 and size >= 1", found=f"{width}, {size}")
    line = torch.exp(-0.5 * ((torch.arange(size) - size // 2) / width) ** 2)
    grid = torch.stack(torch.meshgrid(*[line] * ndim, indexing="ij")).prod(0)
    return grid / grid.sum()
