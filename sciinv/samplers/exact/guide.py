"""Moment-matched guidance by nonlinear data that see few directions (operators that ``split``).

Given ``x_t``, the coordinates c of x_0 in the row space of the data are taken as normal, ``c ~ N(V^T D, C_t)``, and the
data as linear about D, ``y - g = J (c - V^T D) + n``. Then the data have the density

``log g_t(x_t) = -(|r|^2 / sigma^2 - a^T N^-1 a + log det N) / 2``,
``C_t = K K^T``, ``a = K^T J^T r / sigma^2``, ``N = 1 + K^T J^T J K / sigma^2``,

with the slope w = K^-T N^-1 a in c; c has the mean ``V^T D + C_t w``, and what the data do not see follows by linear
regression on c. ``C_t`` and the regression are those of the denoiser's errors x_0 - D, averaged over draws of the prior
(shrunk, for the draws are few). The network's Jacobian would give both without draws, but networks overshoot: on
closures it lost the flux and chi-squared was three times as large. Exact for a Gaussian prior and linear data, an
approximation otherwise; what is left is for sweeps.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Sequence
from typing import NamedTuple, cast

import torch
from torch import Tensor

from sciinv.operator import inner
from sciinv.prior import Counted
from sciinv.problem import Problem
from sciinv.reduced import Reduced
from sciinv.rng import Rng
from sciinv.samplers.kernels import prior_step
from sciinv.schedule import geometric

DRAWS = 192  # of the prior, for the covariance of its errors
LEVELS = 8  # at which it is measured; between them it is interpolated in log t
COARSE = 0.7  # log step of those draws
FEWEST = 1e-6  # of t^2: the least variance of a direction


class Guess(NamedTuple):
    """``log g_t`` ``(n,)`` float64 and its slope w in the coordinates ``(n, r)``."""

    value: Tensor
    slope: Tensor


class Errors(NamedTuple):
    """What the denoiser's errors are like in the row space and beside it, at falling levels.

    Attributes
    ----------
    levels : noise levels.
    moments : second moments over t^2 of the coordinates, ``(level, r, r)``, float64.
    follows : regression of the rest of the state on the coordinates, ``(level, r, d)``.
    """

    levels: Sequence[float]
    moments: Tensor
    follows: Tensor

    def at(self, t: float) -> tuple[Tensor, Tensor]:
        """``K_t``, ``(r, r)`` lower triangular in float64, and the regression ``(r, d)``, both between two levels."""
        after = bisect.bisect_left([-v for v in self.levels], -t)
        high, low = max(after - 1, 0), min(after, len(self.levels) - 1)
        span = math.log(self.levels[high] / self.levels[low])
        share = math.log(self.levels[high] / t) / span if span else 0.0
        moments = torch.lerp(self.moments[high], self.moments[low], share)
        return t * torch.linalg.cholesky(moments), torch.lerp(self.follows[high], self.follows[low], share)


def denoising_errors(prior: Counted, seen: Reduced) -> Errors:
    """Measure the errors on draws of the prior; kept in ``seen.measured``.

    The draws have their own seed: every sample of every run finds the same.
    """
    if prior.prior not in seen.measured:
        device, top = seen.basis.device, prior.sigma_max
        rng = Rng(0, [(-1, k) for k in range(DRAWS)], device)
        like = torch.zeros((DRAWS, *prior.space.shape), dtype=prior.space.dtype, device=device)
        x = prior_step(prior, top * rng.normal_like(like), top, rng, COARSE)
        levels = geometric(top, prior.sigma_min, LEVELS)
        found = [_regress(seen, (x - prior.denoise(x + t * rng.normal_like(x), t)) / t) for t in levels]
        seen.measured[prior.prior] = Errors(levels, *(torch.stack(part) for part in zip(*found, strict=True)))
    return cast(Errors, seen.measured[prior.prior])


def _regress(seen: Reduced, errors: Tensor) -> tuple[Tensor, Tensor]:
    """Moments of the coordinates, shrunk towards their diagonal as the number of draws asks, and the regression."""
    c, hidden = seen.coordinates(errors).to(torch.float64), seen.hidden(errors).flatten(1)
    share = len(c) / (len(c) + c.shape[1])
    moments = c.T @ c / len(c)
    diagonal = moments.diagonal().clamp_min(FEWEST).diag()
    moments = share * (moments - moments.diagonal().diag()) + diagonal
    across = share * (c.T @ hidden.to(torch.float64)) / len(c)
    return moments, torch.linalg.solve(moments, across).to(errors.dtype)


def guess(problem: Problem, d: Tensor, factor: Tensor) -> Guess:
    """What the data say about ``x_t`` whose denoised image is d, with the covariance ``K K^T`` of its error."""
    seen, precision = problem.reduced, problem.noise.sigma**-2
    s = seen.linear(d)
    r, pull = seen.residual_and_pull(problem.y, s)
    k = factor.to(torch.float64)
    a = (precision * pull).to(torch.float64) @ k
    n = precision * (k.mT @ seen.curvature(s) @ k)
    n.diagonal(dim1=1, dim2=2).add_(1.0)
    root = torch.linalg.cholesky_ex(n).L  # a sample gone non-finite must not end the others
    solved = torch.cholesky_solve(a[..., None], root)[..., 0]
    spread = 2 * root.diagonal(dim1=1, dim2=2).log().sum(1)
    chi2 = precision * inner(r, r, 1).to(torch.float64)
    value = -0.5 * (chi2 - (a * solved).sum(1) + spread)
    slope = torch.linalg.solve_triangular(k.mT, solved.mT, upper=True).mT
    return Guess(value, slope.to(d.dtype))


def matched_mean(problem: Problem, prior: Counted, x: Tensor, t: float) -> tuple[Tensor, Guess, Tensor]:
    """``E[x_0 | x_t, y]``, the guess, and ``D``."""
    k, follows = denoising_errors(prior, problem.reduced).at(t)
    d = prior.denoise(x, t)
    found = guess(problem, d, k)
    k = k.to(d.dtype)
    step = found.slope @ k @ k.mT
    return d + problem.reduced.states(step) + (step @ follows.to(d.dtype)).view_as(d), found, d
