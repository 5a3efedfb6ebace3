"""Stationary Gaussian random fields on a periodic grid: diagonal in the Fourier basis, so exact at image size.

``x = m + F^-1 sqrt(P) F w`` with w white and P(k) the variance of each orthonormal Fourier coefficient per real
component; ``D(x, sigma) = m + F^-1 [P / (P + sigma^2)] F (x - m)``. A power law is
``P(k) ~ (k_0^2 + |k|^2)^(-slope/2)`` with k in cycles per pixel, scaled to a given standard deviation; being defined
on any grid, it can be bound to any image size.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, fft

from sciinv.errors import MismatchError, UsageError
from sciinv.generic.codec import ChannelsToComplex
from sciinv.operator import LinearOperator, Space
from sciinv.priors.gaussian import Analytic, GaussianLaw, LinearLikelihood, levels, linear_gaussian, wiener
from sciinv.rng import Rng


class RandomFieldPrior(Analytic):
    """Gaussian random field with one real channel, or two channels that are one complex field.

    Parameters
    ----------
    spatial : image size.
    channels : 1 for a real image; 2 for a complex one, with `ChannelsToComplex` as its codec.
    slope, corner, std : power law: exponent, corner frequency in cycles per pixel, standard deviation of each real
        component.
    mean : constant, or array broadcastable to ``(channels, *space)``.
    spectrum : variances P(k) on the grid ``spatial``, zero frequency at index 0, in place of the power law.
    scale : physical units per unit of the state.
    dtype : precision of the state.
    """

    mean: Tensor
    power: Tensor

    def __init__(
        self,
        spatial: tuple[int, ...],
        channels: int = 1,
        *,
        slope: float = 3.0,
        corner: float = 0.03,
        std: float = 1.0,
        mean: float | Tensor = 0.0,
        spectrum: Tensor | None = None,
        scale: float = 1.0,
        dtype: torch.dtype = torch.float32,
    ):
        spatial = tuple(spatial)
        if channels not in (1, 2) or not spatial:
            raise UsageError("a random field has 1 or 2 channels", found=f"channels={channels}, spatial={spatial}")
        codec = ChannelsToComplex(spatial, scale) if channels == 2 else None
        if codec is None and scale != 1.0:
            raise UsageError("only a complex field carries a scale", found=f"scale={scale}")
        super().__init__(Space((channels, *spatial), dtype), codec)
        self.sigma_max = max(self.sigma_max, 20 * std)
        self._bind = dict(slope=slope, corner=corner, std=std, scale=scale, dtype=dtype) if spectrum is None else None
        power = power_law(spatial, slope, corner, std) if spectrum is None else spectrum.to(torch.float64)
        if power.shape != spatial or bool((power < 0).any()):
            raise MismatchError(
                "spectrum must be non-negative, one value a frequency", expected=str(spatial), found=str(power.shape)
            )
        self._axes = tuple(range(-len(spatial), 0))
        if channels == 1 and not torch.allclose(power, _reflect(power)):
            raise MismatchError("a real field needs a symmetric spectrum", expected="P(k) = P(-k)")
        self.register_buffer("power", power)
        self.register_buffer("mean", torch.as_tensor(mean, dtype=torch.float64).clone())

    def at(self, spatial: tuple[int, ...]) -> RandomFieldPrior:
        """The same power law on another grid; a given spectrum or a mean image binds the prior to its size."""
        if tuple(spatial) == self.space.shape[1:] or self._bind is None or self.mean.ndim:
            return super().at(spatial)  # type: ignore[return-value]
        bound = RandomFieldPrior(spatial, self.space.shape[0], mean=self.mean.cpu(), **self._bind)  # type: ignore[arg-type]
        return bound.to(self.power.device)

    def filter(self, x: Tensor, gain: Callable[[Tensor], Tensor]) -> Tensor:
        """``F^-1 gain(P) F x`` on states ``(n, channels, *space)``."""
        power = self.power.to(x.dtype)
        if self.space.shape[0] == 2:
            u = fft.ifftn(gain(power) * fft.fftn(torch.complex(x[:, 0], x[:, 1]), dim=self._axes), dim=self._axes)
            return torch.stack((u.real, u.imag), 1)
        half = power[..., : power.shape[-1] // 2 + 1]
        shape = self.space.shape[1:]
        return fft.irfftn(gain(half) * fft.rfftn(x, dim=self._axes), s=shape, dim=self._axes)

    def denoise(self, x: Tensor, sigma: Tensor) -> Tensor:
        mean = self.mean.to(x.dtype)
        # the complex field loses its channel axis inside the filter
        level = levels(sigma, x if self.space.shape[0] == 1 else x[:, 0])
        return mean + self.filter(x - mean, lambda p: wiener(p, level))

    def draw(self, rng: Rng) -> Tensor:
        xi = rng.normal(self.space.shape, self.space.dtype)
        return self.mean.to(xi.dtype) + self.filter(xi, torch.sqrt)

    def posterior(self, operator: LinearOperator, y: Tensor, sigma: float, rho: float = 0.0) -> GaussianLaw:
        """Closed-form law of the flattened state given ``y``, by dense algebra: images up to a few thousand pixels."""
        d = self.space.size
        basis = torch.eye(d, dtype=torch.float64, device=y.device).view(d, *self.space.shape)
        factor = self.filter(basis, torch.sqrt).flatten(1).T
        mean = self.mean.to(y.device).expand(self.space.shape).flatten()
        return linear_gaussian(mean, factor, LinearLikelihood(operator @ self.to_physical, y, sigma, rho))


def power_law(spatial: tuple[int, ...], slope: float, corner: float, std: float) -> Tensor:
    """``P(k) ~ (corner^2 + |k|^2)^(-slope/2)`` in float64, zero frequency at index 0, with mean ``std^2``."""
    if not (corner > 0 and std > 0):
        raise UsageError("power law is impossible", expected="corner > 0 and std > 0", found=f"{corner}, {std}")
    axes = [fft.fftfreq(n, dtype=torch.float64) for n in spatial]
    k2 = torch.stack(torch.meshgrid(*axes, indexing="ij")).square().sum(0)
    power = (corner**2 + k2) ** (-slope / 2)
    return power * (std**2 / power.mean())


def _reflect(power: Tensor) -> Tensor:
    axes = tuple(range(power.ndim))
    return power.flip(axes).roll((1,) * power.ndim, axes)
