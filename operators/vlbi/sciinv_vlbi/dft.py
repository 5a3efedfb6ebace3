"""From an image to visibilities: a dense matrix for few, a non-uniform FFT for many.

``V(u, v) = B(u, v) sum_ij x_ij exp(+2 pi i (u l_j + v m_i))`` with x in Jy per pixel (times `scale`), row 0 in the
North, column 0 in the East, ``l_j = ((n-1)/2 - j) p``, ``m_i = ((n-1)/2 - i) p`` and B the transform of the pixel's
shape: 1 (delta), ``sinc(up) sinc(vp)`` (rect), ``sinc^2(up) sinc^2(vp)`` (triangle, linear interpolation).

The other sign in the exponent turns the image by 180 degrees.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

from sciinv.errors import UsageError
from sciinv.operator import SVD, LinearOperator, Space
from sciinv_vlbi.options import Pulse

CROSSOVER = 700
"""Visibilities above which `NonuniformDft` is clearly cheaper for 16 images of 64 x 64 (`benchmarks/vlbi_forward.py`
measures it); below, `Dft` also offers its row space."""


def visibility_operator(
    uv: NDArray[np.float64], n: int, pixel: float, *, pulse: Pulse = "triangle",
    scale: float | NDArray[np.float64] = 1.0,
) -> LinearOperator:  # fmt: skip
    """`Dft` for few visibilities, `NonuniformDft` for many.

    Parameters
    ----------
    uv : wavelengths, ``(row, 2)``.
    n : image side in pixels.
    pixel : radians.
    pulse : shape of a pixel.
    scale : Jy per pixel of an image value of one; or one factor a row, to whiten.
    """
    make = Dft if len(uv) <= CROSSOVER else NonuniformDft
    return make(uv, n, pixel, pulse=pulse, scale=scale)


def pulse_transform(uv: NDArray[np.float64], pixel: float, pulse: Pulse) -> NDArray[np.float64]:
    """``B(u, v)``, ``(row,)``; real, for a pixel is symmetric."""
    power = {"delta": 0, "rect": 1, "triangle": 2}.get(pulse)
    if power is None:
        raise UsageError("no such pixel shape", expected="triangle, rect, delta", found=str(pulse))
    return np.asarray((np.sinc(uv[:, 0] * pixel) * np.sinc(uv[:, 1] * pixel)) ** power)


def _check(uv: NDArray[np.float64], n: int, pixel: float, scale: float | NDArray[np.float64]) -> NDArray[np.float64]:
    uv = np.asarray(uv, np.float64)
    if uv.ndim != 2 or uv.shape[1] != 2 or not len(uv) or not np.isfinite(uv).all():
        raise UsageError("visibilities need coordinates", expected="finite (row, 2)", found=str(uv.shape))
    if not (n >= 2 and pixel > 0 and np.all(np.asarray(scale) > 0) and np.isfinite(scale).all()):
        raise UsageError("the image grid is impossible", expected="n >= 2, pixel > 0, scale > 0", found=f"{n}, {pixel}")
    longest = float(np.abs(uv).max())
    if longest * pixel >= 0.5:
        raise UsageError(
            "the pixels are too large for the longest baseline", expected=f"below {0.5 / longest:.3g} radians",
            found=f"{pixel:.3g}", hint="more pixels, or a smaller field of view",
        )  # fmt: skip
    return uv


class Dft(LinearOperator):
    """Direct transform, ``(1, n, n)`` real to ``(row,)`` complex, by two real matrix products.

    The grid is symmetric about the origin, so real parts come from the even half of the image, ``x(r) + x(-r)``, and
    imaginary parts from the odd half: half the multiplications of one product with the whole image.

    Parameters
    ----------
    uv, n, pixel, pulse, scale : as in `visibility_operator`.
    """

    cosine: Tensor
    sine: Tensor

    def __init__(
        self, uv: NDArray[np.float64], n: int, pixel: float, *, pulse: Pulse = "triangle",
        scale: float | NDArray[np.float64] = 1.0,
    ):  # fmt: skip
        uv = _check(uv, n, pixel, scale)
        super().__init__(Space((1, n, n)), Space((len(uv),), torch.complex64))
        offset = ((n - 1) / 2 - np.arange(n)) * pixel
        half = (n * n + 1) // 2
        east, north = (np.exp(2j * np.pi * np.outer(uv[:, k], offset)) for k in (0, 1))
        weight = scale * pulse_transform(uv, pixel, pulse)
        rows = -(-half // n)  # whole image rows that hold the first half
        full = (weight[:, None, None] * north[:, :rows, None] * east[:, None, :]).reshape(len(uv), -1)[:, :half]
        for name, part in (("cosine", full.real), ("sine", full.imag)):
            self.register_buffer(name, torch.from_numpy(np.ascontiguousarray(part, np.float32)))

    def forward(self, x: Tensor) -> Tensor:
        return _Folded.apply(x.flatten(-3), self.cosine.to(x.dtype), self.sine.to(x.dtype))  # type: ignore[no-any-return]

    def adjoint(self, y: Tensor) -> Tensor:
        cosine, sine = self.cosine.to(y.real.dtype), self.sine.to(y.real.dtype)
        return _unfolded(y, cosine, sine, self.domain.size).unflatten(-1, self.domain.shape)

    def vjp(self, x: Tensor, v: Tensor) -> Tensor:
        """``A^H v``."""
        return self.adjoint(v)

    def row_space(self, cutoff: float = 0.0) -> tuple[Tensor, Tensor]:
        """Orthonormal images ``(r, *domain.shape)`` that the data see, and their singular values, largest first.

        Parameters
        ----------
        cutoff : singular values at or below this fraction of the largest are left out; with 0 those that are zero to
            the precision of the decomposition, which is in float64.
        """
        size = self.domain.size
        found, values = [], []
        # even and odd images are orthogonal, and each part of the data sees one kind only
        for matrix, sign in ((self.cosine, 1.0), (self.sine, -1.0)):
            wide = matrix.to(torch.float64)
            first = torch.cat([wide, sign * wide[:, : size - wide.shape[1]].flip(-1)], -1)
            _, s, rows = torch.linalg.svd(first, full_matrices=False)
            found.append(rows)
            values.append(s)
        s, order = torch.cat(values).sort(descending=True)
        rows = torch.cat(found)[order]
        least = max(cutoff, size * torch.finfo(torch.float64).eps)
        # the rank decides a shape, so the host waits here, once an operator
        keep = len(s) if isinstance(s, FakeTensor) else int((s > least * s[0]).sum())
        return rows[:keep].unflatten(-1, self.domain.shape), s[:keep]

    def svd(self) -> SVD:
        """Row space, then all images with the row space taken out; ``s`` is zero on the latter."""
        rows, s = self.row_space()
        dtype = self.cosine.dtype
        return SVD(self, torch.cat([s, s.new_zeros(self.domain.size)]).to(dtype), RowSpace(rows.to(dtype)))


class _Folded(torch.autograd.Function):
    """Visibilities ``(*batch, row)`` of flat images ``(*batch, pixel)``."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
        ctx.save_for_backward(cosine, sine)
        ctx.size = x.shape[-1]
        flat, half = x.reshape(-1, x.shape[-1]), cosine.shape[1]
        first, mirrored = flat[:, :half], flat[:, half:].flip(-1)
        if mirrored.shape[1] < half:  # the pixel in the middle of an odd grid is its own mirror image
            mirrored = torch.nn.functional.pad(mirrored, (0, 1))
        # the matrix on the left is the layout that is fastest for a small batch
        real, imaginary = cosine @ (first + mirrored).T, sine @ (first - mirrored).T
        return torch.view_as_complex(torch.stack([real.T, imaginary.T], -1)).view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        cosine, sine = ctx.saved_tensors
        return _unfolded(g, cosine, sine, ctx.size), None, None


def _unfolded(y: Tensor, cosine: Tensor, sine: Tensor, size: int) -> Tensor:
    """The transpose: flat images of visibilities ``(*batch, row)``."""
    even, odd = y.real @ cosine, y.imag @ sine
    return torch.cat([even + odd, (even - odd)[..., : size - cosine.shape[1]].flip(-1)], -1)


class RowSpace(LinearOperator):
    """``V (c, d) = Q c + (1 - Q Q^T) d``: ``V V^T = 1``, and ``V f(s^2) V^T`` is f on the row space, f(0) off it.

    Parameters
    ----------
    rows : orthonormal images ``(r, *image)``, the columns of Q.
    """

    rows: Tensor

    def __init__(self, rows: Tensor):
        image = tuple(rows.shape[1:])
        self.rank = rows.shape[0]
        size = int(np.prod(image))
        super().__init__(Space((self.rank + size,), rows.dtype), Space(image, rows.dtype))
        self.register_buffer("rows", rows.flatten(1))

    def forward(self, x: Tensor) -> Tensor:
        rows = self.rows.to(x.dtype)
        c, d = x.split([self.rank, rows.shape[1]], -1)
        return (d + (c - d @ rows.T) @ rows).unflatten(-1, self.codomain.shape)

    def adjoint(self, y: Tensor) -> Tensor:
        rows, flat = self.rows.to(y.dtype), y.flatten(-3)
        c = flat @ rows.T
        return torch.cat([c, flat - c @ rows], -1)


class NonuniformDft(LinearOperator):
    """The same map by a type-2 non-uniform FFT (finufft; Barnett et al. 2019), computed on the host.

    Relative accuracy 1e-6 in single and 1e-12 in double precision.
    """

    points: Tensor
    turn: Tensor

    def __init__(
        self, uv: NDArray[np.float64], n: int, pixel: float, *, pulse: Pulse = "triangle",
        scale: float | NDArray[np.float64] = 1.0,
    ):  # fmt: skip
        uv = _check(uv, n, pixel, scale)
        super().__init__(Space((1, n, n)), Space((len(uv),), torch.complex64))
        # rows grow southwards and columns westwards, against m and l; an even grid is half a pixel off centre
        points = -2 * np.pi * pixel * uv[:, ::-1].T
        shift = np.exp(-1j * np.pi * pixel * uv.sum(1)) if n % 2 == 0 else np.ones(len(uv))
        turn = scale * pulse_transform(uv, pixel, pulse) * shift
        # float64 always: an angle rounded to single precision would cost the accuracy of the far baselines
        self.register_buffer("points", torch.from_numpy(np.ascontiguousarray(points)))
        self.register_buffer("turn", torch.from_numpy(turn.astype(np.complex128)))

    def forward(self, x: Tensor) -> Tensor:
        values = _to_points()(x.reshape(-1, *self.domain.shape[1:]), self.points)
        return (values * self.turn.to(values.dtype)).unflatten(0, x.shape[:-3] or (1,)).reshape(*x.shape[:-3], -1)

    def adjoint(self, y: Tensor) -> Tensor:
        values = (y * self.turn.conj().to(y.dtype)).reshape(-1, y.shape[-1])
        return _to_grid()(values, self.points, self.domain.shape[-1]).reshape(*y.shape[:-1], *self.domain.shape)

    def vjp(self, x: Tensor, v: Tensor) -> Tensor:
        """``A^H v``."""
        return self.adjoint(v)


@functools.cache
def _to_points() -> Any:
    """The transform as an operation that PyTorch can trace, differentiate and pretend."""

    @torch.library.custom_op("sciinv_vlbi::to_points", mutates_args=())
    def to_points(image: Tensor, points: Tensor) -> Tensor:
        import finufft

        kind = np.complex128 if image.dtype == torch.float64 else np.complex64
        real = np.float64 if kind is np.complex128 else np.float32
        x, y = points.cpu().numpy().astype(real)
        f = np.ascontiguousarray(image.detach().cpu().numpy().astype(kind))
        out = finufft.nufft2d2(x, y, f, isign=1, eps=1e-12 if kind is np.complex128 else 1e-6, nthreads=1)
        return torch.from_numpy(np.ascontiguousarray(out.reshape(len(f), -1))).to(image.device)

    @to_points.register_fake
    def _(image: Tensor, points: Tensor) -> Tensor:
        dtype = torch.complex128 if image.dtype == torch.float64 else torch.complex64
        return image.new_empty((image.shape[0], points.shape[1]), dtype=dtype)

    def keep(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.points, ctx.n = inputs[1], inputs[0].shape[-1]

    to_points.register_autograd(lambda ctx, g: (_to_grid()(g, ctx.points, ctx.n), None), setup_context=keep)
    return to_points


@functools.cache
def _to_grid() -> Any:
    @torch.library.custom_op("sciinv_vlbi::to_grid", mutates_args=())
    def to_grid(values: Tensor, points: Tensor, n: int) -> Tensor:
        import finufft

        kind = np.complex128 if values.dtype == torch.complex128 else np.complex64
        real = np.float64 if kind is np.complex128 else np.float32
        x, y = points.cpu().numpy().astype(real)
        c = np.ascontiguousarray(values.detach().resolve_conj().cpu().numpy())
        out = finufft.nufft2d1(x, y, c, (n, n), isign=-1, eps=1e-12 if kind is np.complex128 else 1e-6, nthreads=1)
        return torch.from_numpy(np.ascontiguousarray(out.real.reshape(len(c), n, n))).to(values.device)

    @to_grid.register_fake
    def _(values: Tensor, points: Tensor, n: int) -> Tensor:
        dtype = torch.float64 if values.dtype == torch.complex128 else torch.float32
        return values.new_empty((values.shape[0], n, n), dtype=dtype)

    return to_grid
