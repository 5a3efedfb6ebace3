"""Distances between a weighted sample and a known law. Samples are ``(n, d)`` float64, weights ``(n,)`` or ``None``.

* sliced Wasserstein-1: mean over random directions u of ``int |F_u(t) - G_u(t)| dt``; its *floor* is what two exact
  sets of the same size show.
* mode weights: total variation between ``E p(k | x)`` and the exact weights.
* coverage: probability that an exact draw lies in the sample's central interval, per coordinate, averaged.
* C2ST: cross-validated accuracy of a logistic regression on quadratic features that tells the sample from exact draws
  (Lopez-Paz and Oquab 2017); one half when it cannot.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from sciinv.rng import Rng
from sciinv.testing.laws import mean_cov_error

F64 = torch.float64
Draw = Callable[[int, int], Tensor]


def sliced_wasserstein(
    x: Tensor, y: Tensor, wx: Tensor | None = None, wy: Tensor | None = None, *, slices: int = 100, seed: int = 0
) -> float:
    """Mean over ``slices`` random directions of the Wasserstein-1 distance of the projections.

    Parameters
    ----------
    x, y : ``(n, d)`` and ``(m, d)``; the numbers may differ.
    wx, wy : weights, normalised here; equal by default.
    """
    directions = Rng(seed, [(6, slices)]).normal((x.shape[1], slices), F64)[0]
    directions = directions / directions.norm(dim=0)
    a, b = x.to(F64) @ directions, y.to(F64) @ directions
    if wx is None and wy is None and len(a) == len(b):
        return float((a.sort(0).values - b.sort(0).values).abs().mean())
    values, order = torch.cat([a, b]).sort(0)
    mass = torch.cat([_normal(wx, len(a)), -_normal(wy, len(b))])
    gap = mass[order].cumsum(0)[:-1].abs()
    return float((gap * values.diff(dim=0)).sum(0).mean())


def wasserstein_floor(draw: Draw, n: int, m: int | None = None, repeats: int = 4, seed: int = 0) -> float:
    """Mean sliced Wasserstein distance of two exact sets of ``n`` and ``m`` draws (``m = n`` by default)."""
    pairs = [(draw(n, 7919 * (seed + 1) + 2 * r), draw(m or n, 7919 * (seed + 1) + 2 * r + 1)) for r in range(repeats)]
    return sum(sliced_wasserstein(a, b, seed=r) for r, (a, b) in enumerate(pairs)) / repeats


def wasserstein_error(
    x: Tensor, w: Tensor | None, draw: Draw, m: int | None = None, repeats: int = 4, seed: int = 0
) -> float:
    """Mean sliced Wasserstein distance of a sample from ``repeats`` exact sets of ``m`` draws (its own size)."""
    exact = [draw(m or len(x), 104729 * (seed + 1) + r) for r in range(repeats)]
    return sum(sliced_wasserstein(x, e, w, seed=r) for r, e in enumerate(exact)) / repeats


def mode_weight_error(
    x: Tensor, w: Tensor | None, weights: Tensor, responsibilities: Callable[[Tensor], Tensor]
) -> float:
    """Total variation between the sample's mode weights and the exact ``weights``; in [0, 1]."""
    found = _normal(w, len(x)) @ responsibilities(x.to(F64))
    return float(0.5 * (found - weights).abs().sum())


def weighted_moments(x: Tensor, w: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Mean and covariance, unbiased for equal weights."""
    p, x = _normal(w, len(x)), x.to(F64)
    mean = p @ x
    centred = x - mean
    return mean, (p[:, None] * centred).T @ centred / (1 - p.square().sum()).clamp_min(1e-12)


def moment_errors(x: Tensor, w: Tensor | None, mean: Tensor, cov: Tensor) -> tuple[float, float]:
    """``|mu - mu*| / sqrt(tr Sigma*)`` and ``|Sigma - Sigma*|_F / |Sigma*|_F`` of a sample."""
    return mean_cov_error(*weighted_moments(x, w), mean, cov)


def moment_floor(draw: Draw, n: int, mean: Tensor, cov: Tensor, repeats: int = 4, seed: int = 0) -> tuple[float, float]:
    """The same two errors of ``n`` exact draws, averaged."""
    errors = [moment_errors(draw(n, 15485863 * (seed + 1) + r), None, mean, cov) for r in range(repeats)]
    a, b = torch.tensor(errors, dtype=F64).mean(0).tolist()
    return a, b


def coverage(x: Tensor, w: Tensor | None, exact: Tensor, level: float = 0.9) -> float:
    """Probability that ``exact`` draws lie in the sample's central ``level`` interval, averaged over coordinates.

    Quantiles are read off the midpoint distribution function, linear between the sample's points: an interval between
    order statistics would be too narrow by ``2 / n``.
    """
    values, order = x.to(F64).sort(0)
    p = _normal(w, len(x))[order]
    # (rank - 1/2) / n with n + 1 in place of n, so that an exact sample covers its level on average
    cdf = (p.cumsum(0) - p / 2) * len(x) / (len(x) + 1) + 0.5 / (len(x) + 1)
    bounds = [_quantile(values, cdf, q) for q in ((1 - level) / 2, (1 + level) / 2)]
    return float(((bounds[0] <= exact) & (exact <= bounds[1])).to(F64).mean())


def gaussian_coverage(mean: Tensor, cov: Tensor, ref_mean: Tensor, ref_cov: Tensor, level: float = 0.9) -> float:
    """The same of a Gaussian law against a Gaussian truth, in closed form."""
    normal = torch.distributions.Normal(torch.zeros((), dtype=F64), torch.ones((), dtype=F64))
    half = normal.icdf(torch.tensor((1 + level) / 2, dtype=F64)) * cov.diagonal().clamp_min(0).sqrt()
    shift, spread = mean - ref_mean, ref_cov.diagonal().sqrt()
    return float((normal.cdf((shift + half) / spread) - normal.cdf((shift - half) / spread)).mean())


def c2st(x: Tensor, y: Tensor, *, folds: int = 5, directions: int = 6, ridge: float = 1.0, seed: int = 0) -> float:
    """Held-out accuracy of a quadratic logistic regression that tells ``x`` from ``y``; samples of equal weight.

    Above ``directions`` dimensions the features are quadratic in that many random projections.
    """
    rng = Rng(seed, [(7, len(x))])
    data = torch.cat([x, y]).to(F64)
    if data.shape[1] > directions:
        data = data @ rng.normal((data.shape[1], directions), F64)[0]
    data = (data - data.mean(0)) / data.std(0).clamp_min(1e-12)
    i, j = torch.triu_indices(data.shape[1], data.shape[1])
    features = torch.cat([torch.ones(len(data), 1, dtype=F64), data, data[:, i] * data[:, j]], 1)
    label = torch.cat([torch.ones(len(x), dtype=F64), torch.zeros(len(y), dtype=F64)])
    order = rng.uniform((len(data),), F64)[0].argsort()
    fold = torch.empty(len(data), dtype=torch.long)
    fold[order] = torch.arange(len(data)) % folds
    right = torch.zeros((), dtype=F64)
    for k in range(folds):
        beta = _logistic(features[fold != k], label[fold != k], ridge)
        right += (((features[fold == k] @ beta) > 0) == (label[fold == k] > 0.5)).sum()
    return float(right / len(data))


def _logistic(features: Tensor, label: Tensor, ridge: float, iterations: int = 12) -> Tensor:
    """Ridge logistic regression by Newton's method, damped by the ridge."""
    beta = features.new_zeros(features.shape[1])
    penalty = ridge * torch.eye(len(beta), dtype=features.dtype)
    for _ in range(iterations):
        p = (features @ beta).sigmoid()
        curvature = (features * (p * (1 - p))[:, None]).T @ features + penalty
        beta = beta + torch.linalg.solve(curvature, features.T @ (label - p) - ridge * beta)
    return beta


def _normal(w: Tensor | None, n: int) -> Tensor:
    """Normalised weights."""
    return torch.full((n,), 1 / n, dtype=F64) if w is None else w.to(F64) / w.sum()


def _quantile(values: Tensor, cdf: Tensor, q: float) -> Tensor:
    """Linear interpolation of each column's quantile; clamped to the sample."""
    above = (cdf < q).sum(0, keepdim=True).clamp(1, len(values) - 1)
    v1, v0 = values.gather(0, above), values.gather(0, above - 1)
    c1, c0 = cdf.gather(0, above), cdf.gather(0, above - 1)
    return (v0 + (v1 - v0) * ((q - c0) / (c1 - c0).clamp_min(1e-300)).clamp(0, 1))[0]


def equalised(x: Tensor, w: Tensor | None, limit: int, seed: int = 0) -> Tensor:
    """At most ``limit`` samples of equal weight: systematic resampling of weighted ones."""
    n = min(len(x), limit)
    if w is None:
        return x[:n]
    points = (torch.arange(n, dtype=F64) + Rng(seed, [8]).uniform((), F64)) / n
    chosen = torch.searchsorted(_normal(w, len(x)).cumsum(0), points).clamp_max(len(x) - 1)
    return x[chosen]
