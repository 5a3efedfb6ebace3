"""Noise models. ``sigma`` is always the standard deviation of each REAL component.

``log p(y | mean) = -|y - mean|^2 / (2 sigma^2) - (m/2) log(2 pi sigma^2)`` with m the number of real components, so a
complex datum with ``E|n|^2 = s^2`` has ``sigma = s / sqrt(2)``.
"""

from __future__ import annotations

import math

from torch import Tensor

from sciinv.errors import InputError
from sciinv.operator import inner
from sciinv.rng import Rng


class Gaussian:
    """White Gaussian noise of standard deviation ``sigma`` per real component, on real or complex data."""

    def __init__(self, sigma: float):
        if not (math.isfinite(sigma) and sigma > 0):
            raise InputError("noise level must be a positive number", expected="sigma > 0", found=str(sigma))
        self.sigma = float(sigma)

    def chi2(self, y: Tensor, mean: Tensor, ndim: int) -> Tensor:
        """``|y - mean|^2 / sigma^2`` over the last ``ndim`` axes; its expectation is the number of real data."""
        r = y - mean
        return inner(r, r, ndim) / self.sigma**2

    def log_prob(self, y: Tensor, mean: Tensor, ndim: int) -> Tensor:
        """Log density with its true factor one half, shape ``batch``."""
        m = math.prod(mean.shape[mean.ndim - ndim :]) * (2 if mean.is_complex() else 1)
        return -0.5 * self.chi2(y, mean, ndim) - 0.5 * m * math.log(2 * math.pi * self.sigma**2)

    def sample(self, mean: Tensor, rng: Rng) -> Tensor:
        """``mean`` plus one draw of the noise per sample (leading axis)."""
        return mean + self.sigma * rng.normal_like(mean)


class ComplexGaussian(Gaussian):
    """Circular complex noise given by its total power ``E|n|^2 = s^2``; ``sigma = s / sqrt(2)`` per component."""

    def __init__(self, s: float):
        super().__init__(s / math.sqrt(2))
        self.s = float(s)

    def sample(self, mean: Tensor, rng: Rng) -> Tensor:
        if not mean.is_complex():
            raise InputError("complex noise needs complex data", expected="complex dtype", found=str(mean.dtype))
        return super().sample(mean, rng)
