"""PMC: the law of both variants, annealed or not, against the posterior under the blurred prior."""

import pytest
import torch
from known import Quadrature, Ring
from support import gaussian_problem

from sciinv.certify.stream import OneStream
from sciinv.errors import MismatchError
from sciinv.noise import Gaussian
from sciinv.priors.gaussian import GaussianPrior
from sciinv.priors.mixture import MixturePrior
from sciinv.problem import Problem
from sciinv.samplers import sample
from sciinv.samplers.exact.pmc import PMC, largest_curvature
from sciinv.testing import affine_law, check_sampler, mean_cov_error

END = 0.4


@pytest.mark.parametrize("variant", ["red", "pnp"])
@pytest.mark.parametrize("anneal", [0, 40])
def test_law_is_the_posterior_under_the_blurred_prior(variant: str, anneal: int) -> None:
    problem, prior = gaussian_problem(1.0)
    prior.sigma_max = 5.0
    eye = torch.eye(6, dtype=torch.float64)
    blurred = GaussianPrior(torch.zeros(1, 6), prior.cov + END**2 * eye, dtype=torch.float64)
    want = blurred.posterior(problem.operator, problem.y, 1.0)[:2]
    plain = prior.posterior(problem.operator, problem.y, 1.0)[:2]
    sampler = PMC(variant=variant, anneal=anneal, stationary=160, sigma_end=END, size=0.4)
    law = affine_law(sampler, problem, prior)
    mean, cov = mean_cov_error(*law, *want)
    assert mean < 0.03 and cov < 0.03, (mean, cov)
    assert mean_cov_error(*law, *plain)[1] > 0.15  # the blur of the prior is seen
    if not anneal and variant == "red":
        coarse = affine_law(PMC(anneal=0, stationary=60, sigma_end=END, size=1.2), problem, prior)
        assert mean_cov_error(*coarse, *want)[1] > 2.5 * cov  # bias in proportion to the step


def test_curvature_is_the_largest_eigenvalue() -> None:
    problem, _ = gaussian_problem(0.3)
    want = torch.linalg.matrix_norm(problem.linear.as_matrix(), 2) ** 2 / 0.09
    found = largest_curvature(problem, torch.zeros(2, 1, 6, dtype=torch.float64))
    assert torch.allclose(found, want, rtol=1e-4)


def test_nonlinear_law_by_quadrature() -> None:
    prior = MixturePrior(torch.ones(2), torch.tensor([[[0.9, 0.2]], [[0.2, -0.8]]]), 0.3, dtype=torch.float64)
    prior.sigma_max, sigma, n = 3.0, 0.4, 400
    problem = Problem(torch.tensor([1.2], dtype=torch.float64), Ring(), Gaussian(sigma))
    with pytest.raises(MismatchError, match="curvature"):
        sample(PMC(), problem, prior, 2, seed=0)
    fields = {"sigma_end": 0.3, "size": 0.4, "curvature": sigma**-2}
    out = sample(PMC(anneal=40, stationary=200, **fields), problem, prior, n, 0, rng_factory=OneStream)
    end = torch.tensor(0.3, dtype=torch.float64)
    law = Quadrature(lambda x: problem.log_likelihood(x) + prior.log_marginal(x, end), points=120)
    assert law.distance(out.x) < 2 * law.floor(n)
    early = sample(PMC(anneal=40, stationary=1, **fields), problem, prior, n, 0, rng_factory=OneStream)
    assert law.distance(early.x) > 2 * law.floor(n)  # the annealed phase alone is a tempered prior
    check_sampler(PMC(anneal=3, stationary=4, **fields), problem, prior, n=3)
