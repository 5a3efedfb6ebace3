"""Gaussian mixtures ``sum_k w_k N(m_k, C_k)``: exact denoiser, draws, and posterior (a mixture again) in closed form.

``D(x, sigma) = sum_k r_k(x) [m_k + C_k (C_k + sigma^2)^-1 (x - m_k)]`` with responsibilities
``r_k ~ w_k N(x; m_k, C_k + sigma^2)``. Under a linear Gaussian likelihood each component has its Gaussian posterior,
and weight ``w_k N(y; A m_k, A C_k A^T + R)``.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from sciinv.errors import MismatchError
from sciinv.operator import LinearOperator, Operator, Space
from sciinv.priors.gaussian import Analytic, LinearLikelihood, eigen, levels, linear_gaussian, symmetric_root, wiener
from sciinv.rng import Rng


class MixtureLaw(NamedTuple):
    """Weights ``(K,)``, means ``(K, d)`` and covariances ``(K, d, d)`` of flattened states, log-evidence; float64."""

    weights: Tensor
    means: Tensor
    covs: Tensor
    log_evidence: Tensor

    @property
    def mean(self) -> Tensor:
        """Mean of the whole mixture."""
        return self.weights @ self.means

    @property
    def cov(self) -> Tensor:
        """Covariance of the whole mixture."""
        centred = self.means - self.mean
        return (self.weights[:, None, None] * self.covs).sum(0) + (self.weights[:, None] * centred).T @ centred

    def draw(self, rng: Rng) -> Tensor:
        """One exact draw per generator, ``(n, d)`` float64."""
        k = choose(self.weights, rng)
        roots = torch.stack([symmetric_root(c) for c in self.covs])
        xi = rng.normal(self.means.shape[1:], torch.float64)
        return self.means[k] + torch.einsum("nij,nj->ni", roots[k], xi)


class MixturePrior(Analytic):
    """Gaussian mixture prior.

    Parameters
    ----------
    weights : ``(K,)``, positive; normalised here.
    means : ``(K, channel, *space)``; the trailing shape is the state's.
    cov : a variance (0-dim or float) or ``(K,)`` variances for isotropic components; ``(d, d)`` or ``(K, d, d)`` for
        dense ones.
    to_physical : codec to physical units; the identity by default.
    dtype : precision of the state.
    """

    log_weights: Tensor
    means: Tensor
    variances: Tensor
    basis: Tensor | None

    def __init__(
        self,
        weights: Tensor,
        means: Tensor,
        cov: float | Tensor = 1.0,
        to_physical: Operator | None = None,
        dtype: torch.dtype = torch.float32,
    ):
        super().__init__(Space(tuple(means.shape[1:]), dtype), to_physical)
        k, d = len(means), means[0].numel()
        cov = torch.as_tensor(cov, dtype=torch.float64)
        if weights.shape != (k,) or bool((weights <= 0).any()) or cov.shape not in ((), (k,), (d, d), (k, d, d)):
            raise MismatchError(
                "weights, means and covariances do not fit",
                expected=f"positive weights ({k},); covariance (), ({k},), ({d}, {d}) or ({k}, {d}, {d})",
                found=f"{tuple(weights.shape)}, {tuple(cov.shape)}",
            )
        if cov.ndim < 2:
            variances, basis = cov.expand(k)[:, None], None
        else:
            variances, basis = eigen(cov.expand(k, d, d))
        log_weights = weights.to(torch.float64).log()
        self.register_buffer("log_weights", log_weights - log_weights.logsumexp(0))
        self.register_buffer("means", means.flatten(1).to(torch.float64))
        self.register_buffer("variances", variances.clone())
        self.register_buffer("basis", basis)

    def denoise(self, x: Tensor, sigma: Tensor) -> Tensor:
        c, means, flat = self.variances.to(x.dtype), self.means.to(x.dtype), x.flatten(1)
        if self.basis is None:
            r = self.responsibilities(x, sigma)
            pull = r * wiener(c[:, 0], levels(sigma, flat))
            return ((r - pull) @ means + pull.sum(1, keepdim=True) * flat).view_as(x)
        level = levels(sigma, flat[:, None])
        spectral, log_r = self._dense(flat, level)
        shift = torch.einsum("kij,nkj->nki", self.basis.to(x.dtype), wiener(c, level) * spectral)
        return torch.einsum("nk,nki->ni", log_r.softmax(1), means + shift).view_as(x)

    def responsibilities(self, x: Tensor, sigma: Tensor) -> Tensor:
        """``p(k | x_t = x)``, ``(n, K)``."""
        return self._log_weights(x.flatten(1), sigma).softmax(1).to(x.dtype)

    def log_marginal(self, x: Tensor, sigma: Tensor) -> Tensor:
        """``log p(x_t = x)`` at noise level ``sigma``, ``(n,)``."""
        log_p = self._log_weights(x.flatten(1), sigma).logsumexp(1) - 0.5 * x[0].numel() * math.log(2 * math.pi)
        return log_p.to(x.dtype)

    def _log_weights(self, flat: Tensor, sigma: Tensor) -> Tensor:
        """Log weights times (2 pi)^(d/2) density, ``(n, K)``."""
        if self.basis is not None:
            return self._dense(flat, levels(sigma, flat[:, None]))[1]
        # -|x - m|^2 / 2 without an array (n, K, d); the expanded square cancels, so in double precision
        wide, means = flat.to(torch.float64), self.means
        cross = torch.addmm(-0.5 * wide.square().sum(1, keepdim=True), wide, means.T)
        total = self.variances[:, 0] + levels(sigma, wide).square()
        # what has no sample in it stays small when sigma is one number
        own = self.log_weights - 0.5 * (means.square().sum(1) / total + flat.shape[1] * total.log())
        return cross / total + own

    def _dense(self, flat: Tensor, level: Tensor) -> tuple[Tensor, Tensor]:
        """``x - m_k`` in each eigenbasis ``(n, K, d)``, and log weights times (2 pi)^(d/2) density."""
        assert self.basis is not None
        offset = flat[:, None] - self.means.to(flat.dtype)
        spectral = torch.einsum("kij,nki->nkj", self.basis.to(flat.dtype), offset)
        total = self.variances.to(flat.dtype) + level.square()
        log_density = -0.5 * ((spectral.square() / total).sum(-1) + total.log().sum(-1))
        return spectral, self.log_weights.to(flat.dtype) + log_density

    def draw(self, rng: Rng) -> Tensor:
        k = choose(self.log_weights.exp(), rng)
        xi = rng.normal((self.means.shape[1],), self.space.dtype)
        xi = xi * self.variances.to(xi.dtype).sqrt()[k]
        if self.basis is not None:
            xi = torch.einsum("nij,nj->ni", self.basis.to(xi.dtype)[k], xi)
        return (self.means.to(xi.dtype)[k] + xi).unflatten(1, self.space.shape)

    def posterior(self, operator: LinearOperator, y: Tensor, sigma: float, rho: float = 0.0) -> MixtureLaw:
        """Closed-form mixture law of the flattened state given ``y = operator(to_physical(x)) + noise``.

        ``rho > 0`` inflates the noise covariance by ``rho^2 A A^T``, the law that split Gibbs leaves invariant.
        """
        likelihood, d = LinearLikelihood(operator @ self.to_physical, y, sigma, rho), self.means.shape[1]
        identity = torch.eye(d, dtype=torch.float64, device=self.means.device)
        laws = []
        for k, mean in enumerate(self.means):
            basis = identity if self.basis is None else self.basis[k]
            laws.append(linear_gaussian(mean, basis * self.variances[k].sqrt(), likelihood))
        log_w = self.log_weights + torch.stack([law.log_evidence for law in laws])
        means, covs = (torch.stack([getattr(law, what) for law in laws]) for what in ("mean", "cov"))
        return MixtureLaw(log_w.softmax(0), means, covs, log_w.logsumexp(0))


def choose(weights: Tensor, rng: Rng) -> Tensor:
    """One component number per generator, ``(n,)``, with probabilities ``weights``."""
    u = rng.uniform((), torch.float64)
    return torch.searchsorted(weights.to(u.device).cumsum(0), u).clamp_max(len(weights) - 1)


def grid_mixture(d: int = 8, seed: int = 0, spacing: float = 8.0, dtype: torch.dtype = torch.float32) -> MixturePrior:
    """The 25-mode test mixture of MCGDiff (Cardoso et al. 2024): state ``(1, d)``, d even.

    Means ``(-s i, -s j)`` repeated d/2 times for i, j in -2..2 (s is ``spacing``), unit covariance, weights from
    squared standard normals.
    """
    if d < 2 or d % 2:
        raise MismatchError("the grid mixture needs an even dimension", found=str(d))
    line = torch.arange(-2, 3, dtype=torch.float64) * -spacing
    pairs = torch.cartesian_prod(line, line)
    weights = Rng(seed, [0]).normal((25,), torch.float64)[0].square()
    return MixturePrior(weights, pairs.repeat(1, d // 2)[:, None], 1.0, dtype=dtype)
