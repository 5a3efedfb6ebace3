"""Data products as operators on visibilities: whitened, so that their noise is white with sigma one.

Each takes the visibilities ``(row,)`` of a model and returns what the likelihood compares with `data`:

* `Visibility`: real and imaginary part over sigma.
* `Amplitude`: ``|V| / sigma`` against ``sqrt(max(|V|^2 - sigma^2, 0)) / sigma``, which removes the bias of a Rician
  amplitude to second order in sigma/|V|.
* `Bispectrum`: ``V_ab V_bc V_ca``, both parts over ``sigma_B = |B| sqrt(sum (sigma/|V|)^2)``.
* `ClosurePhase`: ``W (psi_d + f(wrap(psi - psi_d)))`` against ``W psi_d``, ``W C W^T = 1`` and wrap into (-pi, pi]: the
  residual is that of the branch nearest to the data. ``f(d) = d`` is the Gaussian in the wrapped residual;
  ``f(d) = 2 sin(d/2)`` gives ``4 sin^2(d/2)/sigma^2 = 2 (1 - cos d)/sigma^2``, the von Mises density with
  ``kappa = 1/sigma^2``, smooth where the Gaussian has a kink (exactly so for uncorrelated phases).
* `LogAmplitude`: ``W ln|V|``, W whitens noise and station gains together.
* `LogClosureAmplitude`: ``W D ln|V|``. The logarithm of the measured amplitude is biased by ``E1(s^2/2)/2`` only (0.001
  at a signal-to-noise ratio s of 3), so nothing is subtracted.

The likelihood is ``exp(-chi^2/2)``; some published codes use 2 to 4 times that exponent.
"""

from __future__ import annotations

import abc
import math
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse
from torch import Tensor

from sciinv.operator import LinearOperator, Operator, Space, to_real
from sciinv_vlbi.closures import Closures
from sciinv_vlbi.options import PhaseNoise

C64 = torch.complex64


class Product(Operator, abc.ABC):
    """A whitened product of ``row`` visibilities; `data` is its measured value, ``(codomain.size,)``."""

    data: Tensor

    def __init__(self, rows: int, data: NDArray[np.float64]):
        super().__init__(Space((rows,), C64), Space((len(data),)))
        self.register_buffer("data", torch.from_numpy(np.asarray(data, np.float32)))


class Visibility(Product):
    """Both parts of each visibility over its sigma."""

    weight: Tensor

    def __init__(self, vis: NDArray[np.complex128], sigma: NDArray[np.float64]):
        super().__init__(len(vis), _parts(vis / sigma))
        self.register_buffer("weight", _real(1 / sigma))

    def forward(self, x: Tensor) -> Tensor:
        return to_real(x * self.weight.to(x.real.dtype), 1)


class Amplitude(Product):
    """Debiased amplitudes over their sigma."""

    weight: Tensor

    def __init__(self, vis: NDArray[np.complex128], sigma: NDArray[np.float64]):
        super().__init__(len(vis), np.sqrt(np.maximum(np.abs(vis) ** 2 - sigma**2, 0)) / sigma)
        self.register_buffer("weight", _real(1 / sigma))

    def forward(self, x: Tensor) -> Tensor:
        return log_modulus(x).exp() * self.weight.to(x.real.dtype)


class Bispectrum(Product):
    """Triple products over their sigma, both parts; correlations between triangles are not modelled.

    Parameters
    ----------
    vis : measured visibilities ``(row,)``.
    closures : triangles.
    relative : ``sigma/|V|`` of each row.
    """

    weight: Tensor
    index: Tensor
    turned: Tensor

    def __init__(self, vis: NDArray[np.complex128], closures: Closures, relative: NDArray[np.float64]):
        legs = np.where(closures.sign > 0, vis[closures.index], vis[closures.index].conj())
        triple = legs.prod(1)
        sigma = np.abs(triple) * closures.sigma(relative)
        super().__init__(len(vis), _parts(triple / sigma))
        self.register_buffer("weight", _real(1 / sigma))
        self.register_buffer("index", torch.from_numpy(closures.index))
        self.register_buffer("turned", torch.from_numpy(closures.sign < 0))

    def forward(self, x: Tensor) -> Tensor:
        legs = x[..., self.index]
        legs = torch.where(self.turned, legs.conj().resolve_conj(), legs)
        return to_real(legs[..., 0] * legs[..., 1] * legs[..., 2] * self.weight.to(x.real.dtype), 1)


class ClosurePhase(Product):
    """Whitened closure phases in the branch nearest to the data.

    Parameters
    ----------
    vis : measured visibilities ``(row,)``.
    closures : triangles.
    roots : ``W`` of each block, ``(rank, size)``, in the order of the closures (`closures.whitening`).
    noise : ``wrapped`` or ``von_mises``.
    """

    measured: Tensor

    def __init__(
        self,
        vis: NDArray[np.complex128],
        closures: Closures,
        roots: Sequence[NDArray[np.float64]],
        noise: PhaseNoise = "wrapped",
    ):
        measured, whiten = closures.values(vis), sparse.block_diag(roots, "csr")
        super().__init__(len(vis), whiten @ measured)
        self.noise = noise
        self.combine, self.whiten = Sparse(closures.design(len(vis))), Sparse(whiten)
        self.register_buffer("measured", _real(measured))

    def forward(self, x: Tensor) -> Tensor:
        measured = self.measured.to(x.real.dtype)
        off = torch.remainder(self.combine(x.angle()) - measured + math.pi, 2 * math.pi) - math.pi
        if self.noise == "von_mises":
            off = 2 * (off / 2).sin()
        return self.whiten(measured + off)


class LogClosureAmplitude(Product):
    """Whitened log closure amplitudes; parameters as of `ClosurePhase`."""

    def __init__(self, vis: NDArray[np.complex128], closures: Closures, roots: Sequence[NDArray[np.float64]]):
        whiten = sparse.block_diag(roots, "csr")
        super().__init__(len(vis), whiten @ closures.values(vis))
        self.combine = Sparse(whiten @ closures.design(len(vis)))

    def forward(self, x: Tensor) -> Tensor:
        return self.combine(log_modulus(x))


class LogAmplitude(Product):
    """Whitened log amplitudes ``W ln|V|`` of the rows `kept`; W of each block as in `ClosurePhase`.

    The covariance of a block holds the gains (`gains.log_amplitude_covariance`), so gains are marginalised exactly to
    first order in sigma/|V|.
    """

    def __init__(self, vis: NDArray[np.complex128], kept: NDArray[np.int64], roots: Sequence[NDArray[np.float64]]):
        pick = sparse.csr_array((np.ones(len(kept)), (np.arange(len(kept)), kept)), shape=(len(kept), len(vis)))
        whiten = sparse.block_diag(roots, "csr")
        super().__init__(len(vis), whiten @ np.log(np.abs(vis[kept])))
        self.combine = Sparse(whiten @ pick)

    def forward(self, x: Tensor) -> Tensor:
        return self.combine(log_modulus(x))


class Sparse(LinearOperator):
    """A real matrix with few entries, ``(columns,)`` to ``(rows,)``.

    Small ones are stored dense: one product of a few hundred columns is cheaper than any gather. Large ones keep the
    entries of each row, padded, and those of each column, so that sums have a fixed order both ways on every device.
    """

    DENSE: ClassVar[int] = 1 << 19

    def __init__(self, matrix: Any):
        matrix = sparse.csr_array(matrix)
        super().__init__(Space((matrix.shape[1],)), Space((matrix.shape[0],)))
        self.small = matrix.shape[0] * matrix.shape[1] <= self.DENSE
        if self.small:
            self.register_buffer("dense", _real(matrix.toarray()))
            return
        for name, side in (("row", matrix), ("column", sparse.csr_array(matrix.T))):
            counts = np.diff(side.indptr)
            owner = np.repeat(np.arange(len(counts)), counts)
            place = np.arange(side.nnz) - side.indptr[owner]
            index = np.zeros((int(counts.max(initial=1)), len(counts)), np.int64)
            value = np.zeros(index.shape)
            index[place, owner], value[place, owner] = side.indices, side.data
            self.register_buffer(f"{name}_index", torch.from_numpy(index))
            self.register_buffer(f"{name}_value", _real(value))

    def forward(self, x: Tensor) -> Tensor:
        if self.small:
            return x @ self.get_buffer("dense").to(x.dtype).T
        rows, columns = self._tables(x.dtype)
        return _GatherSum.apply(x, *rows, *columns)  # type: ignore[no-any-return]

    def adjoint(self, y: Tensor) -> Tensor:
        if self.small:
            return y @ self.get_buffer("dense").to(y.dtype)
        rows, columns = self._tables(y.dtype)
        return _GatherSum.apply(y, *columns, *rows)  # type: ignore[no-any-return]

    def _tables(self, dtype: torch.dtype) -> list[tuple[Tensor, Tensor]]:
        return [
            (self.get_buffer(f"{name}_index"), self.get_buffer(f"{name}_value").to(dtype)) for name in ("row", "column")
        ]


class _GatherSum(torch.autograd.Function):
    """``out_k = sum_j value_jk x_(index_jk)``; the transpose is the same with the other two tables."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, index: Tensor, value: Tensor, back: Tensor, back_value: Tensor) -> Tensor:
        ctx.tables = (back, back_value, index, value)
        # rows of the batch side by side: gathering whole rows is ten times faster than gathering numbers
        flat = x.reshape(-1, x.shape[-1]).T.contiguous()
        total = flat.new_zeros((index.shape[1], flat.shape[1]))
        for which, weight in zip(index, value, strict=True):
            total.addcmul_(flat.index_select(0, which), weight[:, None])
        return total.T.reshape(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        return _GatherSum.apply(g, *ctx.tables), None, None, None, None

    @staticmethod
    def jvp(ctx: Any, along: Tensor, *_: None) -> Any:
        return _GatherSum.apply(along, *ctx.tables[2:], *ctx.tables[:2])


def log_modulus(x: Tensor) -> Tensor:
    """``ln |x|``, with a floor and a zero gradient where x is zero (an image of zeros has no closures)."""
    return x.abs().clamp_min(TINY).log()


TINY = 1e-15
"""Jy: far below any noise."""


class TotalFlux(LinearOperator):
    """``scale / sigma`` times the sum of the image ``(1, n, n)``, ``(1,)``: the flux over its error."""

    weight: Tensor

    def __init__(self, n: int, scale: float, sigma: float):
        super().__init__(Space((1, n, n)), Space((1,)))
        self.register_buffer("weight", torch.tensor(scale / sigma, dtype=torch.float32))

    def forward(self, x: Tensor) -> Tensor:
        return x.sum((-2, -1)) * self.weight.to(x.dtype)

    def adjoint(self, y: Tensor) -> Tensor:
        return (y * self.weight.to(y.dtype))[..., None, None].expand(*y.shape[:-1], *self.domain.shape).contiguous()


class Centroid(LinearOperator):
    """First moments of the image over ``flux sigma``: pins the position that closures leave free, ``(2,)``.

    Parameters
    ----------
    n, pixel : of the image; pixel in the unit of `sigma`.
    scale, flux : Jy per pixel of an image value of one, and Jy in all.
    sigma : how far the centroid may lie from the middle.
    """

    weight: Tensor

    def __init__(self, n: int, pixel: float, scale: float, flux: float, sigma: float):
        super().__init__(Space((1, n, n)), Space((2,)))
        offset = ((n - 1) / 2 - np.arange(n)) * pixel * scale / (flux * sigma)
        grids = np.stack([np.broadcast_to(offset, (n, n)), np.broadcast_to(offset[:, None], (n, n))])
        self.register_buffer("weight", _real(grids))

    def forward(self, x: Tensor) -> Tensor:
        return torch.einsum("...chw,khw->...k", x, self.weight.to(x.dtype))

    def adjoint(self, y: Tensor) -> Tensor:
        return torch.einsum("...k,khw->...hw", y, self.weight.to(y.dtype)).unsqueeze(-3)


def _parts(z: NDArray[np.complex128]) -> NDArray[np.float64]:
    return np.stack([z.real, z.imag], -1).reshape(-1)


def _real(a: NDArray[np.float64]) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(a, np.float32))
