"""Reference posteriors against independent algebra: `Prior.posterior`, quadrature, moments of the draws."""

import pytest
import torch

from sciinv.certify import references
from sciinv.certify.metrics import mode_weight_error, moment_errors
from sciinv.certify.models import LinearMixture
from sciinv.certify.quadrature import Banana, Ring, quadrature
from sciinv.generic.dense import Dense
from sciinv.noise import Gaussian
from sciinv.priors.mixture import MixturePrior
from sciinv.problem import Problem
from sciinv.testing import check_operator

F64 = torch.float64
BUILD = {
    "gaussian": references.gaussian_dense,
    "fourier": references.gaussian_fourier,
    "mixture": lambda: references.mixture(8, 2, 3),
    "overlap": lambda: references.mixture(8, 1, 0, spacing=2.0),
    "inpaint": references.inpaint,
    "ring": references.ring,
    "banana": references.banana,
}


@pytest.mark.parametrize("name", ["gaussian", "mixture", "overlap", "fourier", "inpaint"])
def test_closed_forms_agree_with_the_priors_own(name: str) -> None:
    ref = BUILD[name]()
    law = ref.prior.posterior(ref.problem.operator, ref.problem.y, ref.problem.noise.sigma)
    assert torch.allclose(ref.mean, law.mean, atol=1e-6)
    assert torch.allclose(ref.cov, law.cov, atol=1e-6 * float(law.cov.abs().max()) + 1e-9)
    assert ref.log_evidence == pytest.approx(float(law.log_evidence), abs=1e-6)
    if ref.weights is not None:
        assert torch.allclose(ref.weights, law.weights, atol=1e-8)


@pytest.mark.parametrize("name", BUILD)
def test_draws_have_the_stated_moments(name: str) -> None:
    ref, n = BUILD[name](), 60_000
    x = ref.draw(n, 2)
    # E |mean - mu|^2 = tr Sigma / n for any law
    found = moment_errors(x, None, ref.mean, ref.cov)
    assert found[0] < 4 / n**0.5 and found[1] < 0.03, found
    narrow, moved = ref.mean + 0.8 * (x - ref.mean), x + 0.1 * ref.cov.diagonal().sqrt()
    assert moment_errors(narrow, None, ref.mean, ref.cov)[1] > 0.3
    assert moment_errors(moved, None, ref.mean, ref.cov)[0] > 4 / n**0.5
    assert torch.equal(x, ref.draw(n, 2)) and not torch.equal(x, ref.draw(n, 1))


def test_mixture_draws_visit_the_modes_with_their_weights() -> None:
    ref = BUILD["mixture"]()
    assert ref.weights is not None and ref.responsibilities is not None
    assert mode_weight_error(ref.draw(4000, 1), None, ref.weights, ref.responsibilities) < 0.03
    one = ref.draw(4000, 1)
    one = one[ref.responsibilities(one)[:, int(ref.weights.argmax())] > 0.5]
    assert mode_weight_error(one, None, ref.weights, ref.responsibilities) > 0.2


def test_responsibilities_are_those_of_the_prior() -> None:
    ref = BUILD["overlap"]()
    x = ref.draw(50, 0)
    expected = ref.prior.responsibilities(x[:, None], torch.zeros((), dtype=F64))
    assert torch.allclose(ref.responsibilities(x), expected, atol=1e-6)


def test_problem_in_many_dimensions_is_drawn_in_moments() -> None:
    ref = references.mixture(800, 4, 0)
    x, r = ref.draw(400, 0), ref.problem
    # the data fit: |y - A x|^2 / sigma^2 averages to the trace of the posterior's predictive spread plus the bias
    seen = r.operator.matrix.to(F64)
    gap = (r.y.to(F64) - x @ seen.T).square().sum(-1).mean()
    expected = (r.y.to(F64) - seen @ ref.mean).square().sum() + (seen @ ref.cov @ seen.T).diagonal().sum()
    assert float(gap) == pytest.approx(float(expected), rel=0.15)


def test_operator_of_the_mixture_problem_is_the_published_one() -> None:
    ref = references.mixture(8, 4, 7)
    s = torch.linalg.svdvals(ref.problem.operator.matrix)
    assert bool((s > 0).all()) and bool((s <= 1).all()) and bool((s.diff() <= 0).all())
    assert 0 < ref.problem.noise.sigma <= float(s.max())
    assert ref.problem.linear.svd().s.shape == (8,)  # the full basis, null space included


def test_quadrature_reproduces_a_linear_posterior() -> None:
    means = torch.tensor([[-1.0, 0.5], [1.0, 0.0]], dtype=F64)
    prior = MixturePrior(torch.tensor([0.4, 0.6], dtype=F64), means[:, None], 0.5, dtype=F64)
    operator = Dense(torch.tensor([[1.0, 0.5]], dtype=F64), (1, 2))
    problem = Problem(torch.tensor([0.3], dtype=F64), operator, Gaussian(0.4))
    grid, law = quadrature(problem, prior, 7.0, 600), prior.posterior(operator, problem.y, 0.4)
    assert torch.allclose(grid.mean, law.mean, atol=1e-6) and torch.allclose(grid.cov, law.cov, atol=1e-4)
    assert grid.log_evidence == pytest.approx(float(law.log_evidence), abs=1e-6)
    # a square that cuts the posterior off does not
    assert quadrature(problem, prior, 1.5, 600).log_evidence < float(law.log_evidence) - 0.05


@pytest.mark.parametrize("operator", [Ring, Banana])
def test_nonlinear_operators_keep_the_contract(operator) -> None:
    check_operator(operator())


def test_suites_are_named_and_complete() -> None:
    fast = references.suite(True)
    assert {key.split("-")[0] for key in fast} == set(BUILD)
    assert all(r.name == key for key, group in fast.items() for r in group)


def test_components_of_different_width_are_refused() -> None:
    prior = MixturePrior(torch.ones(2), torch.zeros(2, 1, 2), torch.tensor([1.0, 2.0]))
    with pytest.raises(ValueError, match="isotropic"):
        LinearMixture.of(prior, Dense(torch.eye(2)), 0.1)
