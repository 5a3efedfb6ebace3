"""Noise models: the law of the data ``y`` given what the operator predicts, ``m = A(x)``.

``-2 log p(y | m) = misfit(y, m) / sigma^2 + const`` for every model, with ``residual = sigma^2 d log p / dm``: a method
that speaks of a misfit, a residual and a sigma runs on all of them, one that needs white Gaussian noise says so.

* `Gaussian`: ``sigma`` is the standard deviation of each REAL component, ``misfit = |y - m|^2``, ``residual = y - m``;
  a complex datum with ``E|n|^2 = s^2`` has ``sigma = s / sqrt(2)``.
* `PoissonTransmission`: counts behind an attenuating object, ``m`` the line integrals of the attenuation;
  ``sigma = 1``, the misfit is the deviance.
"""

from __future__ import annotations

import abc
import math
from typing import ClassVar

import torch
from torch import Tensor

from sciinv.errors import InputError
from sciinv.operator import difference, inner
from sciinv.rng import Rng


class Noise(abc.ABC):
    """What the engine asks of a noise model; sums run over the last ``ndim`` axes and return the batch shape."""

    white: ClassVar[bool] = False
    """Gaussian with one sigma: the only noise that exact Gaussian draws and most methods know."""
    sigma: float = 1.0

    @abc.abstractmethod
    def residual(self, y: Tensor, mean: Tensor) -> Tensor:
        """``sigma^2 d log p(y | mean) / d mean``, entry by entry."""

    @abc.abstractmethod
    def misfit(self, y: Tensor, mean: Tensor, ndim: int) -> Tensor:
        """``2 sigma^2 (log p(y | best) - log p(y | mean))``: zero for a perfect fit."""

    @abc.abstractmethod
    def misfit_change(self, y: Tensor, new: Tensor, old: Tensor, ndim: int) -> Tensor:
        """``misfit(new) - misfit(old)`` without the cancellation of two large numbers."""

    @abc.abstractmethod
    def chi2(self, y: Tensor, mean: Tensor, ndim: int) -> Tensor:
        """Sum of squares of the standardised data; its expectation is the number of real data."""

    @abc.abstractmethod
    def log_prob(self, y: Tensor, mean: Tensor, ndim: int) -> Tensor:
        """Log density, shape ``batch``."""

    @abc.abstractmethod
    def sample(self, mean: Tensor, rng: Rng) -> Tensor:
        """One draw of the data per sample (leading axis)."""

    @abc.abstractmethod
    def linearised(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """Data and standard deviations of the Gaussian about ``mean`` that comes nearest: where to start from."""

    def to(self, device: torch.device | str) -> Noise:
        """The same model with its tensors there."""
        return self


class Gaussian(Noise):
    """White Gaussian noise of standard deviation ``sigma`` per real component, on real or complex data."""

    white = True

    def __init__(self, sigma: float):
        if not (math.isfinite(sigma) and sigma > 0):
            raise InputError("noise level must be a positive number", expected="sigma > 0", found=str(sigma))
        self.sigma = float(sigma)

    def residual(self, y: Tensor, mean: Tensor) -> Tensor:
        """``y - mean``."""
        return y - mean

    def misfit(self, y: Tensor, mean: Tensor, ndim: int) -> Tensor:
        """``|y - mean|^2``."""
        r = y - mean
        return inner(r, r, ndim)

    def misfit_change(self, y: Tensor, new: Tensor, old: Tensor, ndim: int) -> Tensor:
        return difference(y - new, y - old, ndim)

    def chi2(self, y: Tensor, mean: Tensor, ndim: int) -> Tensor:
        """``|y - mean|^2 / sigma^2`` over the last ``ndim`` axes; its expectation is the number of real data."""
        return self.misfit(y, mean, ndim) / self.sigma**2

    def log_prob(self, y: Tensor, mean: Tensor, ndim: int) -> Tensor:
        """Log density with its true factor one half, shape ``batch``."""
        m = math.prod(mean.shape[mean.ndim - ndim :]) * (2 if mean.is_complex() else 1)
        return -0.5 * self.chi2(y, mean, ndim) - 0.5 * m * math.log(2 * math.pi * self.sigma**2)

    def sample(self, mean: Tensor, rng: Rng) -> Tensor:
        """``mean`` plus one draw of the noise per sample (leading axis)."""
        return mean + self.sigma * rng.normal_like(mean)

    def linearised(self, y: Tensor) -> tuple[Tensor, Tensor]:
        return y, torch.full_like(y.real if y.is_complex() else y, self.sigma)


class ComplexGaussian(Gaussian):
    """Circular complex noise given by its total power ``E|n|^2 = s^2``; ``sigma = s / sqrt(2)`` per component."""

    def __init__(self, s: float):
        super().__init__(s / math.sqrt(2))
        self.s = float(s)

    def sample(self, mean: Tensor, rng: Rng) -> Tensor:
        if not mean.is_complex():
            raise InputError("complex noise needs complex data", expected="complex dtype", found=str(mean.dtype))
        return super().sample(mean, rng)


class PoissonTransmission(Noise):
    """Counts behind an attenuating object: ``y ~ Poisson(I0 exp(-m) + r) + N(0, e^2)``.

    The electronic noise enters the likelihood as a shift, ``y + e^2 ~ Poisson(I0 exp(-m) + r + e^2)``, which has the
    exact mean and variance (Snyder, Hammoud and White, JOSA A 10, 1014, 1993); `sample` draws from the sum itself.
    Negative shifted counts (electronic noise on empty cells) count as zero.

    Parameters
    ----------
    blank : counts without an object, I0, broadcastable to the data; positive.
    background : expected counts that do not pass the object (scatter, dark current), r; not negative.
    electronic : standard deviation e of the read-out, in counts; a number or broadcastable to the data.
    """

    FLOOR = -10.0
    """Line integrals below (gain by a factor of 22,000) are no transmission; the bound keeps exponentials finite."""

    def __init__(self, blank: Tensor, background: Tensor | float = 0.0, electronic: Tensor | float = 0.0):
        self.blank = blank
        self.background = torch.as_tensor(background, dtype=blank.dtype, device=blank.device)
        self.variance = torch.as_tensor(electronic, dtype=blank.dtype, device=blank.device).square()
        for name, value in (
            ("blank scan", blank), ("background", self.background), ("electronic noise", self.variance)
        ):  # fmt: skip
            low, finite = float(value.min()), bool(torch.isfinite(value).all())
            if not finite or low < 0 or (low == 0 and value is blank):
                raise InputError(
                    f"the {name} is impossible", expected="finite counts, positive in every cell of the blank scan",
                    found=f"smallest {low:g}", hint="leave out dead detector cells",
                )  # fmt: skip

    def to(self, device: torch.device | str) -> PoissonTransmission:
        """The same model with its tensors there."""
        return PoissonTransmission(self.blank.to(device), self.background.to(device), self.variance.to(device).sqrt())

    def transmitted(self, mean: Tensor) -> Tensor:
        """``I0 exp(-m)``."""
        return self.blank * torch.exp(-mean.clamp_min(self.FLOOR))

    def _shifted(self, y: Tensor, mean: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Shifted counts, their expectation, and the part of it that passed the object."""
        through = self.transmitted(mean)
        return (y + self.variance).clamp_min(0), through + self.background + self.variance, through

    def residual(self, y: Tensor, mean: Tensor) -> Tensor:
        """``s (1 - y / lambda)`` with s the transmitted and lambda all expected counts."""
        counts, rate, through = self._shifted(y, mean)
        return through * (1 - counts / rate)

    def misfit(self, y: Tensor, mean: Tensor, ndim: int) -> Tensor:
        """The deviance ``2 sum(lambda - y + y log(y / lambda))``."""
        counts, rate, _ = self._shifted(y, mean)
        excess = (rate - counts) / counts.clamp_min(torch.finfo(counts.dtype).tiny)
        # as a difference of logarithms this would lose a large count's digits
        each = torch.where(counts > 0, counts * (excess - torch.log1p(excess)), rate)
        return 2 * _sum(each, ndim)

    def misfit_change(self, y: Tensor, new: Tensor, old: Tensor, ndim: int) -> Tensor:
        counts, rate, through = self._shifted(y, old)
        step = through / rate * torch.expm1(old.clamp_min(self.FLOOR) - new.clamp_min(self.FLOOR))
        return 2 * _sum((rate - counts) * step + counts * (step - torch.log1p(step)), ndim)

    def chi2(self, y: Tensor, mean: Tensor, ndim: int) -> Tensor:
        """Pearson's ``sum (y - lambda)^2 / (lambda + e^2)``."""
        rate = self.transmitted(mean) + self.background
        return _sum((y - rate).square() / (rate + self.variance), ndim)

    def log_prob(self, y: Tensor, mean: Tensor, ndim: int) -> Tensor:
        """Log probability of the shifted counts."""
        counts, rate, _ = self._shifted(y, mean)
        return _sum(torch.xlogy(counts, rate) - rate - torch.lgamma(counts + 1), ndim)

    def sample(self, mean: Tensor, rng: Rng) -> Tensor:
        """Counts with Poisson and read-out noise, one draw a sample."""
        rate = (self.transmitted(mean) + self.background).cpu()
        seeds = (rng.uniform((), torch.float64) * 2**53).long().tolist()
        drawn = [torch.poisson(r, generator=torch.Generator().manual_seed(s)) for r, s in zip(rate, seeds, strict=True)]
        return torch.stack(drawn).to(mean) + self.variance.sqrt() * rng.normal_like(mean)

    def linearised(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """``-log((y - r) / I0)`` and ``sqrt(y + e^2) / (y - r)``; a cell without counts gets half a count."""
        net = (y - self.background).clamp_min(0.5)
        return -torch.log(net / self.blank), (y.clamp_min(1.0) + self.variance).sqrt() / net


def _sum(each: Tensor, ndim: int) -> Tensor:
    return each.flatten(each.ndim - ndim).sum(-1)
