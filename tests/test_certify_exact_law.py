"""The exact-law tool against moments propagated by hand: ``mu <- F mu + b``, ``Sigma <- F Sigma F^T + L L^T``.

For a Gaussian prior ``N(0, C)`` the denoiser is ``W x``, ``W = C (C + t^2)^-1``, and with ``D_y = P x + q`` a step is
``x_s = D_y + g (x - D_y) + tau xi``: ``g = s^2/t^2``, ``tau^2 = s^2 (1 - s^2/t^2)`` (ancestral), or ``g = s/t``,
``tau = 0`` (ODE).
"""

import math
from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
from support import gaussian_problem

from sciinv.generic.dense import Dense
from sciinv.noise import Gaussian
from sciinv.priors.gaussian import GaussianPrior
from sciinv.problem import Problem
from sciinv.samplers import DPS, MMPS
from sciinv.schedule import karras
from sciinv.testing import affine_law, mean_cov_error

F64 = torch.float64
Affine = tuple[torch.Tensor, torch.Tensor]


def propagate(prior, steps: int, eta: float, posterior: Callable[[float], Affine]) -> Affine:
    """Mean and covariance after all steps; ``posterior(t)`` gives ``(P, q)``."""
    d = prior.space.size
    eye, mean, cov = torch.eye(d, dtype=F64), torch.zeros(d, dtype=F64), prior.sigma_max**2 * torch.eye(d, dtype=F64)
    for t, s in pairwise(karras(prior.sigma_max, prior.sigma_min, steps)):
        p, q = posterior(t)
        tau2 = (eta * s) ** 2 * (1 - (s / t) ** 2)
        g = math.sqrt(s * s - tau2) / t
        f = (1 - g) * p + g * eye
        mean, cov = f @ mean + (1 - g) * q, f @ cov @ f.T + tau2 * eye
    return mean, cov


def denoisers(problem, prior, kind: str) -> Callable[[float], Affine]:
    a, y, sigma = problem.operator.matrix.to(F64), problem.y, problem.noise.sigma
    eye = torch.eye(prior.space.size, dtype=F64)

    def posterior(t: float) -> Affine:
        w = prior.cov @ torch.linalg.inv(prior.cov + t * t * eye)
        if kind == "mmps":
            inverse = torch.linalg.inv(sigma**2 * torch.eye(len(a), dtype=F64) + t * t * a @ w @ a.T)
            gain = t * t * w @ a.T @ inverse
        else:
            gain = (t / sigma) ** 2 * w @ a.T
        return w - gain @ a @ w, gain @ y

    return posterior


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("steps", [16, 64])
def test_mmps_has_the_law_of_its_affine_reference(steps: int, eta: float) -> None:
    problem, prior = gaussian_problem()
    law = affine_law(MMPS(steps=steps, eta=eta, cg_iterations=6, cg_tol=1e-13), problem, prior)
    expected = propagate(prior, steps, eta, denoisers(problem, prior, "mmps"))
    assert max(mean_cov_error(*law, *expected)) < 1e-6
    # negative control: another eta is another law
    other = propagate(prior, steps, abs(eta - 0.1), denoisers(problem, prior, "mmps"))
    assert max(mean_cov_error(*law, *other)) > 1e-4


def test_dps_theory_weight_has_the_law_of_its_affine_reference() -> None:
    problem, prior = gaussian_problem(sigma=1.0)
    law = affine_law(DPS(steps=80, weight="theory"), problem, prior)
    expected = propagate(prior, 80, 1.0, denoisers(problem, prior, "dps"))
    assert max(mean_cov_error(*law, *expected)) < 1e-6
    assert max(mean_cov_error(*law, *propagate(prior, 80, 1.0, denoisers(problem, prior, "mmps")))) > 1e-2


def one_dimension(c: float, a: float, sigma: float) -> tuple[Problem, GaussianPrior, float, float]:
    """The problem, its prior, and the posterior mean and variance."""
    eye = torch.eye(1, dtype=F64)
    prior = GaussianPrior(torch.zeros(1, dtype=F64), c * eye, dtype=F64)
    prior.sigma_min, prior.sigma_max = 2e-3, 20.0
    p = 1 / (1 / c + (a / sigma) ** 2)
    return Problem(torch.ones(1, dtype=F64), Dense(a * eye), Gaussian(sigma)), prior, p * a / sigma**2, p


@pytest.mark.parametrize(("eta", "steps"), [(0.0, 40), (1.0, 40), (1.0, 7)])
def test_one_dimensional_products(eta: float, steps: int) -> None:
    """A posterior denoiser of variance p multiplies ``x - m`` by ``(p + s t)/(p + t^2)`` (ODE) or
    ``(p + s^2)/(p + t^2)`` (ancestral) in each step.
    """
    problem, prior, m, p = one_dimension(0.8, 1.3, 0.4)
    mean, cov = affine_law(MMPS(steps=steps, eta=eta, cg_tol=1e-14), problem, prior)
    offset, variance = -m, prior.sigma_max**2
    for t, s in pairwise(karras(prior.sigma_max, prior.sigma_min, steps)):
        factor = (p + (s * s if eta else s * t)) / (p + t * t)
        offset *= factor
        variance = factor**2 * variance + eta * s * s * (1 - (s / t) ** 2)
    assert float(mean) == pytest.approx(m + offset, rel=1e-6)
    assert float(cov) == pytest.approx(variance, rel=1e-6)


def test_ode_keeps_the_error_of_its_start() -> None:
    """Starting from ``N(0, S^2)`` instead of the posterior at that level leaves ``m (1 - sqrt(p/(p + S^2)))`` and
    ``p S^2/(p + S^2)`` however fine the ladder.
    """
    problem, prior, m, p = one_dimension(0.8, 1.3, 0.4)
    prior.sigma_max, large = 1.0, 1.0
    mean, cov = affine_law(MMPS(steps=300, eta=0.0, cg_tol=1e-14), problem, prior)
    assert float(mean) == pytest.approx(m * (1 - math.sqrt(p / (p + large))), rel=1.5e-2)
    assert float(cov) == pytest.approx(p * large / (p + large), rel=1.5e-2)
    # negative control: the posterior itself is far from both
    assert float(mean) < 0.8 * m and float(cov) < 0.95 * p
