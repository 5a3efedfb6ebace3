"""Centred orthonormal Fourier transforms, and the modulation that does their shifts for free.

``X[k] = n^-1/2 sum_j x[j] exp(-2 pi i (j - c)(k - c) / n)``, ``c = n // 2``, which is ``fftshift fft ifftshift``.
Expanding the product, ``X[k] = b[k] sum_j (a[j] x[j]) exp(-2 pi i j k / n)`` with ``a[j] = exp(2 pi i c j / n)``,
``b[k] = exp(2 pi i c (k - c) / n)``: both factors are +-1 for even n. An operator that multiplies by maps before and
by a mask after can hold them there.
"""

from __future__ import annotations

import torch
from torch import Tensor


def fftc(x: Tensor, dim: int | tuple[int, ...] = -1) -> Tensor:
    """Centred orthonormal Fourier transform along ``dim``; same shape, complex."""
    dims = (dim,) if isinstance(dim, int) else dim
    return torch.fft.fftshift(torch.fft.fftn(torch.fft.ifftshift(x, dims), dim=dims, norm="ortho"), dims)


def ifftc(x: Tensor, dim: int | tuple[int, ...] = -1) -> Tensor:
    """Inverse of `fftc`."""
    dims = (dim,) if isinstance(dim, int) else dim
    return torch.fft.fftshift(torch.fft.ifftn(torch.fft.ifftshift(x, dims), dim=dims, norm="ortho"), dims)


def modulation(n: int) -> tuple[Tensor, Tensor]:
    """The factors ``a[j]`` (image side) and ``b[k]`` (k-space side) of the module head, complex128 of length ``n``."""
    j, c = torch.arange(n, dtype=torch.float64), n // 2
    angle = 2 * torch.pi * c / n
    a, b = torch.polar(torch.ones_like(j), angle * j), torch.polar(torch.ones_like(j), angle * (j - c))
    if n % 2 == 0:  # exact signs, not cosines that are off by 1e-16
        a, b = (torch.complex(v.real.round(), torch.zeros_like(j)) for v in (a, b))
    return a, b


def crop_centre(x: Tensor, shape: tuple[int, ...]) -> Tensor:
    """The central block of the last axes, centre index ``n // 2`` kept at ``shape // 2``."""
    for axis, m in zip(range(-len(shape), 0), shape, strict=True):
        x = x.narrow(axis, x.shape[axis] // 2 - m // 2, m)
    return x


def pad_centre(x: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Zeros around the last axes; the adjoint of `crop_centre`."""
    out = x.new_zeros((*x.shape[: x.ndim - len(shape)], *shape))
    crop_centre(out, tuple(x.shape[x.ndim - len(shape) :])).copy_(x)
    return out
