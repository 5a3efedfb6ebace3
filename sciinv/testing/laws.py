"""The exact law of an affine sampler, and distances between Gaussian laws.

With a Gaussian prior and a linear operator nearly every method is affine in its noise: ``x = m + sum_i c_i xi_i``.
Feeding noise that is zero gives m; the i-th unit vector gives ``m + c_i``; so ``(m, sum_i c_i c_i^T)`` is the law of
the *implemented* sampler with no Monte-Carlo error. Errors: ``|mu - mu*| / sqrt(tr Sigma*)`` and
``|Sigma - Sigma*|_F / |Sigma*|_F``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from sciinv.operator import to_real
from sciinv.prior import Prior
from sciinv.problem import Problem
from sciinv.rng import Key, Rng
from sciinv.samplers.base import Sampler, sample

ZERO, RANDOM = -1, -2


class ProbeRng(Rng):
    """Noise chosen by the sample's key: k >= 0 is the k-th unit vector of everything drawn, -1 zero, -2 white noise.

    Attributes
    ----------
    drawn : real numbers drawn so far, per sample.
    noise : what key -2 was given, in order.
    """

    def __init__(self, seed: int, index: Sequence[Key], device: torch.device | str = "cpu", mode: str = "cpu"):
        super().__init__(seed, index, device, mode)
        self.drawn = 0
        self.noise: list[Tensor] = []
        self._white = Rng(seed, [RANDOM])
        self._keys = torch.tensor(self.index)
        self._random_rows = [i for i, key in enumerate(self.index) if key == RANDOM]

    def normal(self, shape: Sequence[int], dtype: torch.dtype = torch.float32) -> Tensor:
        real = {torch.complex64: torch.float32, torch.complex128: torch.float64}.get(dtype, dtype)
        full = (*shape, 2) if dtype.is_complex else tuple(shape)
        size = math.prod(full)
        out = torch.zeros((len(self), size), dtype=real)
        position = self._keys - self.drawn
        hit = ((self._keys >= 0) & (position >= 0) & (position < size)).nonzero()[:, 0]
        out[hit, position[hit]] = 1.0
        for row in self._random_rows:
            out[row] = self._white.normal((size,), real)[0]
            self.noise.append(out[row].to(torch.float64))
        self.drawn += size
        out = out.view(len(self), *full).to(self.device)
        return torch.view_as_complex(out) if dtype.is_complex else out

    def uniform(self, shape: Sequence[int] = (), dtype: torch.dtype = torch.float32) -> Tensor:
        """Refused: a sampler that branches on uniform draws is not affine."""
        raise AssertionError("this sampler draws uniform numbers, so it is not affine in its noise")


def affine_law(
    sampler: Sampler, problem: Problem, prior: Prior, *, chunk: int = 512, seed: int = 0, tol: float | None = 1e-3
) -> tuple[Tensor, Tensor]:
    """Exact mean ``(d,)`` and covariance ``(d, d)`` of the output, in physical units, flattened to real; float64.

    Parameters
    ----------
    sampler, problem, prior : as for `sample`; the sampler must be affine in its noise, so a Gaussian prior, a linear
        operator.
    chunk : unit vectors run at once.
    tol : relative error allowed when one white-noise run is predicted from the unit vectors; ``None`` skips this check.
    """
    made: list[ProbeRng] = []

    def factory(*args: object) -> ProbeRng:
        made.append(ProbeRng(*args))  # type: ignore[arg-type]
        return made[-1]

    def run(keys: Sequence[Key]) -> Tensor:
        out = sample(sampler, problem, prior, keys, seed, rng_factory=factory)
        if out.failed is not None and bool(out.failed.any()):
            raise AssertionError(f"{sampler.name}: a probe run became non-finite")
        return to_real(out.x, out.x.ndim - 1).to(torch.float64)

    mean, white = run([ZERO, RANDOM])
    size, xi = made[-1].drawn, torch.cat(made[-1].noise).to(mean.device)
    cov, predicted = mean.new_zeros(len(mean), len(mean)), mean.clone()
    for start in range(0, size, chunk):
        columns = run(range(start, min(start + chunk, size))) - mean
        cov += columns.T @ columns
        predicted += xi[start : start + chunk] @ columns
    error = float((predicted - white).norm() / (white - mean).norm().clamp_min(1e-300))
    if tol is not None and error > tol:
        raise AssertionError(f"{sampler.name}: not affine in its noise, relative error {error:.1e}, allowed {tol:.0e}")
    return mean, cov


def mean_cov_error(mean: Tensor, cov: Tensor, ref_mean: Tensor, ref_cov: Tensor) -> tuple[float, float]:
    """``|mu - mu*| / sqrt(tr Sigma*)`` and ``|Sigma - Sigma*|_F / |Sigma*|_F``."""
    mean_error = (mean - ref_mean).norm() / ref_cov.diagonal().sum().sqrt()
    return float(mean_error), float((cov - ref_cov).norm() / ref_cov.norm())


def moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and unbiased covariance over the first axis, complex numbers as (re, im), flattened; float64."""
    flat = to_real(x, x.ndim - 1).to(torch.float64)
    return flat.mean(0), torch.cov(flat.T).reshape(flat.shape[1], flat.shape[1])


class Law(Protocol):
    """A reference posterior: `GaussianLaw` or `MixtureLaw`."""

    @property
    def mean(self) -> Tensor:
        """``(d,)``."""

    @property
    def cov(self) -> Tensor:
        """``(d, d)``."""

    def draw(self, rng: Rng) -> Tensor:
        """``(n, d)``."""


def sampling_floor(law: Law, n: int, repeats: int = 8, seed: int = 0) -> tuple[float, float]:
    """Mean and covariance error that ``n`` exact draws show, averaged over ``repeats``: what no sampler can beat."""
    errors = []
    for r in range(repeats):
        x = law.draw(Rng(seed, [(r, i) for i in range(n)]))
        errors.append(mean_cov_error(*moments(x), law.mean, law.cov))
    a, b = torch.tensor(errors).square().mean(0).sqrt().tolist()
    return a, b
