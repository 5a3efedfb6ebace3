"""The Gaussian prior ``N(m, C)`` with its exact denoiser, and its posterior under a linear operator in closed form.

``D(x, sigma) = m + C (C + sigma^2)^-1 (x - m)``, in the eigenbasis ``C = Q diag(c) Q^T``. With ``G = A^T A``, noise
covariance ``R = sigma_y^2 I + rho^2 A A^T`` (rho > 0 is the law split Gibbs leaves invariant) and ``C = L L^T``,
``H = A^T R^-1 A = (sigma_y^2 I + rho^2 G)^-1 G`` and the posterior is ``Sigma = L (I + L^T H L)^-1 L^T``,
``mu = m + Sigma A^T R^-1 (y - A m)``: no inverse of C, so singular priors are fine, and A enters through d x d arrays
only.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from sciinv.errors import MismatchError
from sciinv.operator import Identity, LinearOperator, Operator, Space, column, to_real
from sciinv.prior import Prior
from sciinv.rng import Rng


class GaussianLaw(NamedTuple):
    """Mean ``(d,)``, covariance ``(d, d)`` of flattened states in float64, and the log-evidence of the data."""

    mean: Tensor
    cov: Tensor
    log_evidence: Tensor

    def draw(self, rng: Rng) -> Tensor:
        """One exact draw per generator, ``(n, d)`` float64."""
        return self.mean + rng.normal(self.mean.shape, torch.float64) @ symmetric_root(self.cov)


class Analytic(Prior):
    """A prior with an exact denoiser and exact draws, in its own units or behind a codec."""

    def __init__(self, space: Space, to_physical: Operator | None):
        super().__init__()
        self.space = space
        self.codec = Identity(space) if to_physical is None else to_physical
        if self.codec.domain.shape != space.shape:
            raise MismatchError("codec does not fit the prior", expected=str(space), found=str(self.codec.domain))

    @property
    def to_physical(self) -> Operator:
        return self.codec


class GaussianPrior(Analytic):
    """Dense Gaussian prior.

    Parameters
    ----------
    mean : ``(channel, *space)``; its shape is the state's.
    cov : covariance of the flattened state, ``(d, d)``, symmetric positive semidefinite.
    to_physical : codec to physical units; the identity by default.
    dtype : precision of the state, and so of everything a sampler does.
    """

    mean: Tensor
    basis: Tensor
    variances: Tensor

    def __init__(
        self, mean: Tensor, cov: Tensor, to_physical: Operator | None = None, dtype: torch.dtype = torch.float32
    ):
        super().__init__(Space(tuple(mean.shape), dtype), to_physical)
        d = mean.numel()
        if cov.shape != (d, d):
            raise MismatchError("covariance does not fit the mean", expected=f"({d}, {d})", found=str(tuple(cov.shape)))
        variances, basis = eigen(cov)
        self.register_buffer("mean", mean.to(torch.float64))
        self.register_buffer("basis", basis)
        self.register_buffer("variances", variances)

    def denoise(self, x: Tensor, sigma: Tensor) -> Tensor:
        q, mean = self.basis.to(x.dtype), self.mean.to(x.dtype)
        c = self.variances.to(x.dtype)
        spectral = (x - mean).flatten(1) @ q
        return mean + ((spectral * wiener(c, levels(sigma, spectral))) @ q.T).view_as(x)

    def draw(self, rng: Rng) -> Tensor:
        xi = rng.normal((self.mean.numel(),), self.space.dtype)
        q = self.basis.to(xi.dtype)
        return self.mean.to(xi.dtype) + ((xi * self.variances.to(xi.dtype).sqrt()) @ q.T).unflatten(1, self.space.shape)

    @property
    def cov(self) -> Tensor:
        """Covariance ``(d, d)`` of the flattened state, float64."""
        return (self.basis * self.variances) @ self.basis.T

    def posterior(self, operator: LinearOperator, y: Tensor, sigma: float, rho: float = 0.0) -> GaussianLaw:
        """Closed-form law of the state given ``y = operator(to_physical(x)) + noise``; see `linear_gaussian`."""
        likelihood = LinearLikelihood(operator @ self.to_physical, y, sigma, rho)
        return linear_gaussian(self.mean.flatten(), self.basis * self.variances.sqrt(), likelihood)


class LinearLikelihood:
    """``N(y; A x, sigma^2 I + rho^2 A A^T)`` as a quadratic form in the flattened state, float64.

    Attributes
    ----------
    precision : ``H = A^T R^-1 A``, ``(d, d)``.
    """

    def __init__(self, operator: Operator, y: Tensor, sigma: float, rho: float = 0.0):
        if not isinstance(operator, LinearOperator):
            raise MismatchError("a closed form needs a linear operator", found=type(operator).__name__)
        self.sigma, self.rho, self.n_data = sigma, rho, operator.codomain.size
        a = operator.as_matrix().to(y.device)
        gram, self._data = a.T @ a, to_real(y, len(operator.codomain.shape)).to(torch.float64)
        self._matrix, (g, w) = a, torch.linalg.eigh((gram + gram.T) / 2)
        g = g.clamp_min(0)
        inflated = sigma**2 + rho**2 * g
        self.precision = (w * (g / inflated)) @ w.T
        self._whiten = (w / inflated) @ w.T
        self._log_det_noise = self.n_data * math.log(sigma**2) + torch.log1p(rho**2 / sigma**2 * g).sum()

    def gradient(self, x: Tensor) -> Tensor:
        """``A^T R^-1 (y - A x)``."""
        return self._whiten @ (self._matrix.T @ (self._data - self._matrix @ x))

    def log_constant(self, x: Tensor) -> Tensor:
        """``log N(y; A x, R)``."""
        r = self._data - self._matrix @ x
        back = self._matrix.T @ r
        # Woodbury: R^-1 = (I - rho^2 A (sigma^2 I + rho^2 G)^-1 A^T) / sigma^2
        quadratic = (r @ r - self.rho**2 * (back @ self._whiten @ back)) / self.sigma**2
        return -0.5 * (quadratic + self._log_det_noise + self.n_data * math.log(2 * math.pi))


def linear_gaussian(mean: Tensor, factor: Tensor, likelihood: LinearLikelihood) -> GaussianLaw:
    """Posterior of ``N(mean, factor factor^T)`` under ``likelihood``, with the log-evidence."""
    core = (
        torch.eye(factor.shape[1], dtype=factor.dtype, device=factor.device) + factor.T @ likelihood.precision @ factor
    )
    chol = torch.linalg.cholesky((core + core.T) / 2)
    half = torch.linalg.solve_triangular(chol, factor.T, upper=False)
    cov, gradient = half.T @ half, likelihood.gradient(mean)
    log_evidence = likelihood.log_constant(mean) + 0.5 * gradient @ cov @ gradient - chol.diagonal().log().sum()
    return GaussianLaw(mean + cov @ gradient, cov, log_evidence)


def levels(sigma: Tensor, x: Tensor) -> Tensor:
    """``sigma`` (0-dim or ``(n,)``) in the precision of ``x``, shaped to broadcast along its trailing axes."""
    sigma = sigma.to(x.real.dtype)
    return sigma if sigma.ndim == 0 else column(sigma, x)


def wiener(variance: Tensor, sigma: Tensor) -> Tensor:
    """``c / (c + sigma^2)``; zero, not NaN, where both vanish."""
    return variance / (variance + sigma.square()).clamp_min(torch.finfo(variance.dtype).tiny)


def eigen(cov: Tensor) -> tuple[Tensor, Tensor]:
    """Non-negative eigenvalues and orthonormal eigenvectors of (a batch of) covariances, float64."""
    cov = cov.to(torch.float64)
    if not torch.allclose(cov, cov.mT, atol=1e-8 * float(cov.abs().max())):
        raise MismatchError("a covariance must be symmetric")
    values, vectors = torch.linalg.eigh(cov)
    if float(values.min()) < -1e-7 * float(values.max().clamp_min(0)):
        raise MismatchError("a covariance must be positive semidefinite", found=f"eigenvalue {float(values.min()):.3g}")
    return values.clamp_min(0), vectors


def symmetric_root(cov: Tensor) -> Tensor:
    """Symmetric square root of a covariance."""
    values, vectors = eigen(cov)
    return (vectors * values.sqrt()) @ vectors.T


def anisotropic_gaussian(seed: int = 0, dtype: torch.dtype = torch.float32) -> GaussianPrior:
    """The 6-D test prior: zero mean, eigenvalues 2, 1.2, 0.8, 0.5, 0.2, 0.05 in a random rotation; state ``(1, 6)``."""
    xi = Rng(seed, [0]).normal((6, 6), torch.float64)[0]
    rotation, _ = torch.linalg.qr(xi)
    values = torch.tensor([2.0, 1.2, 0.8, 0.5, 0.2, 0.05], dtype=torch.float64)
    cov = (rotation * values) @ rotation.T
    return GaussianPrior(torch.zeros(1, 6), (cov + cov.T) / 2, dtype=dtype)
