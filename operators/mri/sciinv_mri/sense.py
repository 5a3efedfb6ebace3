"""Multi-coil Cartesian MRI ``y_c = W F (sum_m S_{m,c} x_m)``: maps, centred Fourier transform, weighted mask.

Pruessmann et al., SENSE (MRM 42, 952, 1999); several map sets after Uecker et al., ESPIRiT (MRM 71, 990, 2014). ``W``
is zero where nothing was measured and a whitening weight elsewhere. The shifts of the centred transform are
modulations (`sciinv_mri.fft`): those of image space live in the maps, those of k-space in ``W``, so a call is one
product, one plain FFT and one product.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from sciinv.errors import MismatchError
from sciinv.operator import LinearOperator, Space
from sciinv_mri.fft import modulation

Coils = int | slice
ALL = slice(None)


class CoilFourier(LinearOperator):
    """``W F S`` with the Fourier transform along ``dims`` (negative axes); `Sense` and `DecoupledSense` share it.

    Parameters
    ----------
    maps : complex ``(coil, h, w)``, or ``(sets, coil, h, w)`` for several map sets; the domain is then ``(sets, h,
        w)``.
    weight : real or bool, broadcastable to ``(h, w)``: zero where nothing is measured, else the whitening weight.
    dims : axes that are transformed.
    """

    maps: Tensor
    maps_conj: Tensor
    post: Tensor
    weight: Tensor

    def __init__(self, maps: Tensor, weight: Tensor, dims: tuple[int, ...]):
        check_maps(maps, weight)
        sets = maps if maps.ndim == 4 else maps[None]
        *_, h, w = sets.shape
        super().__init__(
            Space((h, w) if maps.ndim == 3 else (len(sets), h, w), maps.dtype), Space(tuple(sets.shape[1:]), maps.dtype)
        )
        self.dims, self.multiple = dims, maps.ndim == 4
        real = maps.real.dtype
        # the scale of the orthonormal transform lives in ``post`` too: the plain FFTs below are unscaled
        post = weight.to(torch.float64).expand(h, w) / math.prod(sets.shape[d] for d in dims) ** 0.5
        pre = torch.ones((), dtype=torch.complex128)
        for d in dims:
            a, b = (v.to(maps.device).view(-1, *(1,) * (-1 - d)) for v in modulation(sets.shape[d]))
            pre, post = pre.to(a.device) * a, post * b
        self.register_buffer("maps", (sets * pre.to(maps.dtype)).contiguous())
        self.register_buffer("maps_conj", self.maps.conj().resolve_conj())
        if all(sets.shape[d] % 2 == 0 for d in dims):
            # signs: one real factor for (re, im) each costs half of a complex product
            post = post.real.to(real).repeat_interleave(2, -1)
        self.register_buffer("post", (post.to(maps.dtype) if post.is_complex() else post).contiguous())
        self.register_buffer("weight", weight.to(real).expand(h, w).contiguous())

    @property
    def gain(self) -> Tensor:
        """``|W|^2``, ``(h, w)``."""
        size = self.post.abs() if self.post.is_complex() else self.post[..., ::2]
        return size.square() * math.prod(self.maps.shape[d] for d in self.dims)

    def _pairs(self, k: Tensor) -> Tensor:
        """The view of contiguous k-space that ``post`` multiplies."""
        return k if self.post.is_complex() else torch.view_as_real(k).flatten(-2)

    def _weigh_adjoint(self, y: Tensor) -> Tensor:
        if self.post.is_complex():
            return y * self.post.conj()
        pairs = torch.view_as_real(y.resolve_conj()).flatten(-2) * self.post
        return torch.view_as_complex(pairs.unflatten(-1, (-1, 2)))

    def _coils(self, x: Tensor, c: Coils = ALL) -> Tensor:
        """``S_c x``: one coil ``(*batch, h, w)``, or all of them ``(*batch, coil, h, w)``."""
        if not self.multiple:
            return (x if isinstance(c, int) else x.unsqueeze(-3)) * self.maps[0, c]
        sets = range(len(self.maps))
        planes = [x[..., m, :, :] if isinstance(c, int) else x[..., m, None, :, :] for m in sets]
        return torch.stack([planes[m] * self.maps[m, c] for m in sets]).sum(0)

    def _combine(self, images: Callable[[Coils], Tensor], device: torch.device) -> Tensor:
        """``sum_c conj(S_c) images_c``: coil by coil on the host, where a coil fits the cache, else all at once."""
        if device.type != "cpu":
            z = images(ALL)
            total = [(z * s).sum(-3) for s in self.maps_conj]
        else:
            maps = self.maps_conj
            first = images(0)
            total = [first * s for s in maps[:, 0]]
            for c in range(1, self.codomain.shape[0]):
                z = images(c)
                for m, t in enumerate(total):
                    t.addcmul_(z, maps[m, c])
                del z  # the next coil gets this block, still in the cache
        return torch.stack(total, -3) if self.multiple else total[0]

    def forward(self, x: Tensor) -> Tensor:
        """``W F S x`` ``(*batch, coil, h, w)`` of images ``(*batch, [sets,] h, w)``; zero where not measured."""
        if x.device.type != "cpu" or x.requires_grad:
            k = torch.fft.fftn(self._coils(x), dim=self.dims)
            self._pairs(k).mul_(self.post)
            return k
        # coil by coil into one result: the temporaries stay in the cache and no large block is allocated twice
        batch = x.shape[: x.ndim - len(self.domain.shape)]
        out = x.new_empty((*batch, *self.codomain.shape))
        pairs, post = self._pairs(out), self.post
        for c in range(self.codomain.shape[0]):
            torch.mul(self._pairs(torch.fft.fftn(self._coils(x, c), dim=self.dims)), post, out=pairs[..., c, :, :])
        return out

    def adjoint(self, y: Tensor) -> Tensor:
        """``S^H F^H W y``, the coil combination of weighted k-space."""

        def images(c: Coils) -> Tensor:
            return torch.fft.ifftn(self._weigh_adjoint(y[..., c, :, :]), dim=self.dims, norm="forward")

        return self._combine(images, y.device)

    def normal(self, x: Tensor) -> Tensor:
        """``A^H A x``; the k-space modulation cancels."""
        gain = self.gain

        def images(c: Coils) -> Tensor:
            return torch.fft.ifftn(torch.fft.fftn(self._coils(x, c), dim=self.dims).mul_(gain), dim=self.dims)

        return self._combine(images, x.device)


class Sense(CoilFourier):
    """``P F S`` from complex images to complex k-space ``(coil, kx, ky)``; see `CoilFourier` for the parameters.

    No preconditioner is offered: the optimal circulant one doubles the number of conjugate-gradient steps on a real
    eight-fold Poisson-disc scan, because coils spread every image frequency over many samples.
    """

    def __init__(self, maps: Tensor, weight: Tensor):
        super().__init__(maps, weight, (-2, -1))


def check_maps(maps: Tensor, weight: Tensor) -> None:
    """Refuse maps that are not complex ``([sets,] coil, h, w)`` and weights that do not fit them."""
    if maps.ndim not in (3, 4) or not maps.is_complex():
        raise MismatchError(
            "coil maps", expected="complex ([sets,] coil, h, w)", found=f"{tuple(maps.shape)} {maps.dtype}"
        )
    plane = tuple(maps.shape[-2:])
    if weight.ndim > 2 or any(a not in (1, b) for a, b in zip(reversed(weight.shape), reversed(plane), strict=False)):
        raise MismatchError("k-space weight", expected=f"broadcastable to {plane}", found=str(tuple(weight.shape)))
