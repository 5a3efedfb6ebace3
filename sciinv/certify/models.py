"""Linear inverse problems with a Gaussian mixture prior of one shared covariance: everything in closed form.

``theta ~ sum_k w_k N(m_k, C)``, ``y = A theta + sigma n``. With ``S = A C A^T + sigma^2 I`` and ``K = C A^T S^-1`` the
posterior is the mixture of weights ``w_k(y) ~ w_k N(y; A m_k, S)``, means ``m_k + K (y - A m_k)`` and covariance
``C - K A C``; it is drawn without any root of that covariance by Matheron's rule,
``theta' + K (y - A theta' - sigma n')`` with ``(theta', n')`` from the prior of the component (Doucet 2010). One
component is the Gaussian case.
"""

from __future__ import annotations

import dataclasses as dc
import functools
import math

import torch
from torch import Tensor

from sciinv.operator import LinearOperator
from sciinv.priors.gaussian import GaussianPrior, symmetric_root
from sciinv.priors.mixture import MixturePrior
from sciinv.rng import Rng

F64 = torch.float64


@dc.dataclass(frozen=True)
class LinearMixture:
    """The joint law of ``(theta, y)``; all arrays float64.

    Attributes
    ----------
    weights, means : ``(K,)`` and ``(K, d)``.
    cov : covariance ``(d, d)`` of every component.
    matrix : the operator, ``(m, d)``.
    sigma : standard deviation of the noise.
    """

    weights: Tensor
    means: Tensor
    cov: Tensor
    matrix: Tensor
    sigma: float

    @classmethod
    def of(cls, prior: GaussianPrior | MixturePrior, operator: LinearOperator, sigma: float) -> LinearMixture:
        """The model of a prior (a mixture with one isotropic variance, or a Gaussian) and an operator on its state."""
        matrix = operator.as_matrix()
        if isinstance(prior, GaussianPrior):
            return cls(torch.ones(1, dtype=F64), prior.mean.reshape(1, -1), prior.cov, matrix, sigma)
        variance = prior.variances.flatten()
        if prior.basis is not None or bool((variance != variance[0]).any()):
            raise ValueError("the mixture's components must share one isotropic variance")
        cov = variance[0] * torch.eye(prior.means.shape[1], dtype=F64)
        return cls(prior.log_weights.exp(), prior.means, cov, matrix, sigma)

    @functools.cached_property
    def _root(self) -> Tensor:
        return symmetric_root(self.cov)

    @functools.cached_property
    def _data_root(self) -> Tensor:
        """Cholesky factor of S."""
        s = self.matrix @ self.cov @ self.matrix.T + self.sigma**2 * torch.eye(len(self.matrix), dtype=F64)
        return torch.linalg.cholesky(s)

    @functools.cached_property
    def gain(self) -> Tensor:
        """``K = C A^T S^-1``, ``(d, m)``."""
        return torch.cholesky_solve(self.matrix @ self.cov, self._data_root).T

    def draw_prior(self, n: int, seed: int) -> Tensor:
        """``(n, d)``."""
        rng = Rng(seed, [(1, n)])
        return self._component(self.weights.log().expand(n, -1), rng)

    def simulate(self, n: int, seed: int) -> tuple[Tensor, Tensor]:
        """Truths ``(n, d)`` and their data ``(n, m)``."""
        theta = self.draw_prior(n, seed)
        noise = Rng(seed, [(2, n)]).normal((n, len(self.matrix)), F64)[0]
        return theta, theta @ self.matrix.T + self.sigma * noise

    def log_weights(self, y: Tensor) -> Tensor:
        """``log w_k N(y; A m_k, S)`` for data ``(..., m)``, shape ``(..., K)``."""
        gap = y[..., None, :] - self.means @ self.matrix.T
        white = torch.linalg.solve_triangular(self._data_root, gap.mT, upper=False)
        log_det = 2 * self._data_root.diagonal().log().sum() + len(self.matrix) * math.log(2 * math.pi)
        return self.weights.log() - 0.5 * (white.square().sum(-2) + log_det)

    def log_evidence(self, y: Tensor) -> Tensor:
        """``log p(y)``."""
        return self.log_weights(y).logsumexp(-1)

    def log_likelihood(self, theta: Tensor, y: Tensor) -> Tensor:
        """``log p(y | theta)`` up to a constant; arguments broadcast over their leading axes."""
        return -0.5 * (y - theta @ self.matrix.T).square().sum(-1) / self.sigma**2

    def draw(self, y: Tensor, n: int, seed: int = 0) -> Tensor:
        """``n`` exact posterior draws for every row of the data ``(s, m)``, shape ``(s, n, d)``."""
        s = len(y)
        rng = Rng(seed, [(3, n)])
        theta = self._component(self.log_weights(y).repeat_interleave(n, 0), rng).view(s, n, -1)
        noisy = theta @ self.matrix.T + self.sigma * rng.normal((s, n, len(self.matrix)), F64)[0]
        return theta + (y[:, None] - noisy) @ self.gain.T

    def posterior_mean(self, y: Tensor) -> Tensor:
        """Mean ``(d,)`` of the posterior given one datum ``(m,)``."""
        return self.log_weights(y).softmax(-1) @ self._component_means(y)

    def posterior_cov(self, y: Tensor) -> Tensor:
        """Covariance ``(d, d)`` of the posterior given one datum."""
        centred = self._component_means(y) - self.posterior_mean(y)
        between = (self.log_weights(y).softmax(-1)[:, None] * centred).T @ centred
        return self.cov - self.gain @ self.matrix @ self.cov + between

    def responsibilities(self, theta: Tensor) -> Tensor:
        """``p(k | theta)``, ``(n, K)``; the data add nothing to it, because they see k only through theta."""
        gap = theta[:, None] - self.means
        white = torch.linalg.solve(self._root, gap.flatten(0, 1).T).T.view(gap.shape)
        return (self.weights.log() - 0.5 * white.square().sum(-1)).softmax(-1)

    def _component(self, log_weights: Tensor, rng: Rng) -> Tensor:
        """One prior draw for every row of the component log-weights ``(n, K)``."""
        n = len(log_weights)
        u = rng.uniform((n, 1), F64)[0]
        k = torch.searchsorted(log_weights.softmax(-1).cumsum(-1), u)[:, 0].clamp_max(len(self.weights) - 1)
        return self.means[k] + rng.normal((n, self.means.shape[1]), F64)[0] @ self._root.T

    def _component_means(self, y: Tensor) -> Tensor:
        return self.means + (y - self.means @ self.matrix.T) @ self.gain.T
