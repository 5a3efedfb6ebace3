"""A Gaussian fitted to measurements by EM: where the EM of a diffusion prior starts.

E-step, for each item with data y of operator A: ``Sigma_i = (C^-1 + A^T A / sigma^2)^-1``,
``mu_i = m + Sigma_i A^T (y - A m) / sigma^2``. M-step: ``m = mean mu_i``, ``C = mean [Sigma_i + (mu_i - m)(mu_i -
m)^T]`` (Dempster, Laird and Rubin 1977). Small states are done by dense algebra. Images get a stationary field: the
E-step is one draw by perturb and solve, ``x = x' + (A^T A + sigma^2 C^-1)^-1 A^T (y - A x' - sigma n)`` with
``x' ~ N(m, C)``, the M-step a mean image and a power spectrum.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, fft

from sciinv.linalg import cg
from sciinv.operator import to_real
from sciinv.priors.gaussian import Analytic, GaussianPrior
from sciinv.priors.random_field import RandomFieldPrior
from sciinv.rng import Rng
from sciinv.training.ambient.items import Batch, Measurements, rows_like

DENSE = 256
"""Largest state that is fitted with a dense covariance."""

_FIELD_STEPS, _FIELD_ITEMS, _NUMBERS, _CG = 10, 12, 1 << 20, 60


@dataclass(frozen=True)
class Moments:
    """Mean ``(d,)`` and covariance ``(d, d)`` of flattened states, float64."""

    mean: Tensor
    cov: Tensor


def matrices(batch: Batch) -> tuple[Tensor, Tensor]:
    """``A_i^T A_i / sigma_i^2`` ``(n, d, d)`` and ``A_i^T y_i / sigma_i^2`` ``(n, d)``, float64, by dense probing."""
    space, n = batch.operator.domain, len(batch.y)
    operator, columns = batch.operator, []
    for basis in torch.eye(space.size, dtype=torch.float64).view(-1, *space.shape):
        out = operator(basis.expand(n, *space.shape))
        columns.append(to_real(out, out.ndim - 1))
    a = torch.stack(columns, -1).double()
    weight = batch.sigma.double().square().reciprocal()
    y = to_real(batch.y, batch.y.ndim - 1).double()
    return torch.einsum("nmd,nme,n->nde", a, a, weight), torch.einsum("nmd,nm,n->nd", a, y, weight)


def dense_em(batches: Sequence[Batch], start: Moments, iterations: int) -> list[Moments]:
    """Mean and covariance after every iteration, by the exact steps."""
    parts = [matrices(batch) for batch in batches]
    gram, back = torch.cat([g for g, _ in parts]), torch.cat([b for _, b in parts])
    out, now = [], start
    eye = torch.eye(len(start.mean), dtype=torch.float64)
    for _ in range(iterations):
        inside = torch.linalg.solve(eye + now.cov @ gram, now.cov.expand_as(gram))  # (I + C G)^-1 C
        means = now.mean + torch.einsum("nde,ne->nd", inside, back - gram @ now.mean)
        mean = means.mean(0)
        gap = means - mean
        cov = inside.mean(0) + gap.T @ gap / len(gap)
        now = Moments(mean, (cov + cov.T) / 2)
        out.append(now)
    return out


def fit(data: Measurements, seed: int, iterations: int = 25) -> dict[int, Analytic]:
    """A Gaussian prior for each group of items of equal shape, by the group's number."""
    scale = data.least_squares_scale()
    return {g: _fit(data, items, scale, seed, iterations) for g, items in enumerate(data.groups)}


def _fit(data: Measurements, items: list[int], scale: float, seed: int, iterations: int) -> Analytic:
    space = data.state_space(items[0])
    if space.size <= DENSE and len(items) * space.size**2 <= 2e7:
        start = Moments(torch.zeros(space.size, dtype=torch.float64),
                        scale**2 * torch.eye(space.size, dtype=torch.float64))  # fmt: skip
        moments = dense_em([data.batch(items)], start, iterations)[-1]
        codec = data.codec(data.problems[items[0]].domain)
        return GaussianPrior(moments.mean.view(space.shape), moments.cov, codec)
    channels, spatial = space.shape[0], space.shape[1:]
    prior = RandomFieldPrior(spatial, channels, std=scale, corner=0.05)
    chosen = items[:: -(-len(items) // _FIELD_ITEMS)]
    together = max(1, _NUMBERS // data.problems[items[0]].operator.codomain.size)
    parts = [chosen[k : k + together] for k in range(0, len(chosen), together)]
    for step in range(_FIELD_STEPS):
        drawn = [field_draw(prior, data.batch(some), Rng(seed, [(step, i) for i in some]), 1e-3) for some in parts]
        draws = torch.cat(drawn).double()
        mean = draws.mean(0)
        prior = RandomFieldPrior(spatial, channels, mean=mean, spectrum=spectrum(draws - mean))
        prior.sigma_max = 20 * scale
    return prior


def deviation(priors: Iterable[Analytic]) -> float:
    """Standard deviation about zero of the fitted images per real component, over the groups."""
    values = []
    for prior in priors:
        if isinstance(prior, GaussianPrior):
            values.append(float(prior.variances.mean() + prior.mean.square().mean()))
        elif isinstance(prior, RandomFieldPrior):
            values.append(float(prior.power.mean() + prior.mean.square().mean()))
    return math.sqrt(sum(values) / len(values))


def spectrum(x: Tensor) -> Tensor:
    """Variance of each orthonormal Fourier coefficient per real component, of states ``(n, channel, *space)``."""
    axes = tuple(range(-(x.ndim - 2), 0))
    if x.shape[1] == 2:
        power = fft.fftn(torch.complex(x[:, 0], x[:, 1]), dim=axes, norm="ortho").abs().square().mean(0) / 2
    else:
        power = fft.fftn(x[:, 0], dim=axes, norm="ortho").abs().square().mean(0)
        power = (power + power.flip(axes).roll((1,) * len(axes), axes)) / 2
    # few items make a ragged spectrum: the mean of neighbours, and never zero
    for axis in axes:
        power = (power.roll(1, axis) + 2 * power + power.roll(-1, axis)) / 4
    return power.clamp_min(1e-8 * float(power.max()))


@torch.no_grad()
def field_draw(prior: RandomFieldPrior, batch: Batch, rng: Rng, tol: float = 1e-4) -> Tensor:
    """One draw of ``p(x_0 | y)`` an item under a stationary field, ``(n, channel, *space)``."""
    x = prior.draw(rng)
    a, variance = batch.operator, rows_like(batch.sigma, batch.y).square()
    noise = variance.sqrt() * rng.normal_like(batch.y)
    rest = a.adjoint((batch.y - a(x) - noise) * batch.measured)
    # (A^T A + sigma^2 C^-1) z = A^T rest, solved about its stationary part: spectra of images span so many decades that
    # the plain equation needs thousands of iterations
    level = rows_like(batch.sigma, x).square()
    least = 1e-6 * float(batch.sigma.min()) ** 2
    probe = rng.normal_like(x)
    mean = float((probe * a.normal(probe)).sum() / probe.square().sum())
    typical = float(batch.sigma.square().mean())

    def matrix(v: Tensor) -> Tensor:
        return a.normal(v) + level * prior.filter(v, lambda p: 1 / p.clamp_min(least))

    solved = cg(
        matrix, rest, tol=tol, max_iter=_CG,
        precondition=lambda v: prior.filter(v, lambda p: p / (mean * p + typical)),
    )  # fmt: skip
    return x + solved.x
