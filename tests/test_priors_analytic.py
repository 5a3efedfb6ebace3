"""Analytic priors: the contract kit, and closed forms against independent dense algebra."""

import math

import pytest
import torch

from sciinv.errors import MismatchError, Unsupported, UsageError
from sciinv.generic.codec import ChannelsToComplex
from sciinv.generic.dense import Dense
from sciinv.generic.fourier import FourierMask
from sciinv.generic.phase_retrieval import PhaseRetrieval
from sciinv.operator import Identity, to_real
from sciinv.priors.gaussian import GaussianPrior, anisotropic_gaussian
from sciinv.priors.mixture import MixturePrior, grid_mixture
from sciinv.priors.random_field import RandomFieldPrior, power_law
from sciinv.rng import Rng
from sciinv.testing import check_prior, mean_cov_error, moments

F64 = torch.float64


def normal(*shape, key=0, dtype=F64):
    return Rng(7, [key]).normal(shape, dtype)[0]


def covariance(d, key=0, rank=None):
    root = normal(d, rank or d, key=key)
    return root @ root.T / d


def dense_mixture(dtype=torch.float32):
    covs = torch.stack([covariance(4, key=k) + 0.05 * torch.eye(4, dtype=F64) for k in range(3)])
    return MixturePrior(torch.tensor([0.2, 0.5, 0.3]), 2 * normal(3, 2, 2, key=9), covs, dtype=dtype)


PRIORS = {
    "gaussian": lambda: GaussianPrior(normal(1, 2, 3), covariance(6)),
    "gaussian-singular": lambda: GaussianPrior(normal(1, 6), covariance(6, rank=2)),
    "gaussian-complex": lambda: GaussianPrior(normal(2, 2, 3), covariance(12), ChannelsToComplex((2, 3), 3.0)),
    "anisotropic": anisotropic_gaussian,
    "field": lambda: RandomFieldPrior((6, 8), slope=2.5, mean=0.7),
    "field-odd": lambda: RandomFieldPrior((5, 7)),
    "field-1d": lambda: RandomFieldPrior((9,), mean=normal(1, 9)),
    "field-3d": lambda: RandomFieldPrior((4, 3, 4)),
    "field-complex": lambda: RandomFieldPrior((6, 5), 2, scale=2.0),
    "field-complex-asymmetric": lambda: RandomFieldPrior((4, 5), 2, spectrum=normal(4, 5).square()),
    "mixture-isotropic": lambda: grid_mixture(4, spacing=2.0),
    "mixture-variances": lambda: MixturePrior(torch.ones(3), normal(3, 1, 4), torch.tensor([0.5, 1.0, 0.1])),
    "mixture-shared-cov": lambda: MixturePrior(torch.ones(3), 2 * normal(3, 1, 4), covariance(4)),
    "mixture-dense": dense_mixture,
}


@pytest.mark.parametrize("name", PRIORS)
def test_contract(name):
    check_prior(PRIORS[name]())


@pytest.mark.parametrize("name", PRIORS)
def test_nothing_vanishes_or_explodes_at_the_ends_of_the_noise_range(name):
    prior = PRIORS[name]()
    x = prior.draw(Rng(0, range(2)))
    for sigma in (1e-4, prior.sigma_min, prior.sigma_max, 1e4):
        assert torch.isfinite(prior.denoise(x + sigma * Rng(1, range(2)).normal_like(x), torch.tensor(sigma))).all()
    if "singular" not in name:
        assert torch.allclose(prior.denoise(x, torch.tensor(1e-4)), x, atol=2e-3)


def field_covariance(prior):
    """By the definition of a stationary field: the circulant matrix of the autocovariance."""
    *_, h, w = prior.space.shape
    auto = torch.fft.ifft2(prior.power).real
    i = torch.cartesian_prod(torch.arange(h), torch.arange(w))
    d = i[:, None] - i[None]
    return auto[d[..., 0] % h, d[..., 1] % w]


def test_field_has_the_stationary_covariance():
    prior = RandomFieldPrior((5, 6), slope=2.0, std=1.7)
    cov = field_covariance(prior)
    assert torch.allclose(cov.diagonal(), torch.full((30,), 1.7**2, dtype=F64))
    root = prior.filter(torch.eye(30, dtype=F64).view(30, 1, 5, 6), torch.sqrt).flatten(1)
    assert torch.allclose(root @ root.T, cov, atol=1e-10)
    x = normal(4, 1, 5, 6)
    gain = cov @ torch.linalg.inv(cov + 0.3**2 * torch.eye(30, dtype=F64))
    assert torch.allclose(prior.denoise(x, torch.tensor(0.3)).flatten(1), x.flatten(1) @ gain.T, atol=1e-9)


def test_complex_field_with_a_symmetric_spectrum_is_two_independent_real_fields():
    real, both = RandomFieldPrior((6, 8)), RandomFieldPrior((6, 8), 2)
    x = normal(3, 2, 6, 8)
    sigma = torch.tensor(0.4)
    apart = torch.cat([real.denoise(x[:, :1], sigma), real.denoise(x[:, 1:], sigma)], 1)
    assert torch.allclose(both.denoise(x, sigma), apart, atol=1e-10)


def test_a_power_law_can_be_bound_to_another_size_and_keeps_its_scale():
    prior = RandomFieldPrior((6, 8), 2, std=0.4, scale=3.0, mean=0.2)
    other = prior.at((10, 12))
    assert other.space.shape == (2, 10, 12) and other.to_physical.codomain.shape == (10, 12)
    assert math.isclose(float(other.power.mean()), 0.16, rel_tol=1e-9)
    assert other.to_physical.isometry == 3.0 and float(other.mean) == 0.2
    with pytest.raises(Unsupported):
        RandomFieldPrior((4, 4), spectrum=torch.ones(4, 4)).at((5, 5))
    with pytest.raises(Unsupported):
        anisotropic_gaussian().at((7,))


def test_draws_have_the_stated_moments():
    for prior in (anisotropic_gaussian(), dense_mixture()):
        mean, cov = moments(prior.draw(Rng(0, range(4000))))
        law = prior.posterior(Dense(torch.zeros(1, prior.space.size), prior.space.shape), torch.zeros(1), 1.0)
        assert max(mean_cov_error(mean, cov, law.mean, law.cov)) < 0.06
        assert mean_cov_error(mean, 1.2 * cov, law.mean, law.cov)[1] > 0.1  # the same test fails for a wrong law


def dense_posterior(mean, cov, a, y, sigma, rho):
    """Textbook form, with the data-space inverse."""
    r = sigma**2 * torch.eye(len(a), dtype=F64) + rho**2 * a @ a.T
    s = a @ cov @ a.T + r
    k = cov @ a.T @ torch.linalg.inv(s)
    e = y - a @ mean
    log_evidence = -0.5 * (e @ torch.linalg.solve(s, e) + torch.logdet(s) + len(a) * math.log(2 * math.pi))
    return mean + k @ e, cov - k @ a @ cov, log_evidence


@pytest.mark.parametrize("rho", [0.0, 0.4])
@pytest.mark.parametrize("rows", [3, 9])
def test_gaussian_posterior_and_evidence_are_the_textbook_ones(rho, rows):
    a, y = normal(rows, 6, key=1), normal(rows, key=2)
    for prior in (GaussianPrior(normal(1, 6), covariance(6)), PRIORS["gaussian-singular"]()):
        law = prior.posterior(Dense(a, (1, 6)), y, 0.3, rho)
        mean, cov, log_evidence = dense_posterior(prior.mean.flatten(), prior.cov, a, y, 0.3, rho)
        assert torch.allclose(law.mean, mean, atol=1e-8) and torch.allclose(law.cov, cov, atol=1e-8)
        assert torch.allclose(law.log_evidence, log_evidence, atol=1e-7)


@pytest.mark.parametrize("rho", [0.0, 0.5])
def test_mixture_posterior_is_bayes_rule_component_by_component(rho):
    prior, a, y = dense_mixture(), normal(2, 4, key=1), normal(2, key=2)
    law = prior.posterior(Dense(a, (2, 2)), y, 0.5, rho)
    covs = (prior.basis * prior.variances[:, None]) @ prior.basis.mT
    parts = [dense_posterior(m, c, a, y, 0.5, rho) for m, c in zip(prior.means, covs, strict=True)]
    log_w = prior.log_weights + torch.stack([p[2] for p in parts])
    assert torch.allclose(law.weights, log_w.softmax(0), atol=1e-9)
    assert torch.allclose(law.log_evidence, log_w.logsumexp(0), atol=1e-8)
    assert torch.allclose(law.means, torch.stack([p[0] for p in parts]), atol=1e-8)
    assert torch.allclose(law.covs, torch.stack([p[1] for p in parts]), atol=1e-8)
    mean, cov = moments(law.draw(Rng(3, range(4000))))
    assert max(mean_cov_error(mean, cov, law.mean, law.cov)) < 0.08


def test_complex_field_posterior_uses_the_physical_units():
    prior = RandomFieldPrior((4, 5), 2, scale=2.0)
    op = FourierMask(normal(4, 5) > 0)
    y = normal(4, 5, dtype=torch.complex128)
    law = prior.posterior(op, y, 0.3)
    a = (op @ prior.to_physical).as_matrix()
    cov = torch.block_diag(field_covariance(prior), field_covariance(prior))
    mean, cov, _ = dense_posterior(torch.zeros(40, dtype=F64), cov, a, to_real(y, 2), 0.3, 0.0)
    assert torch.allclose(law.mean, mean, atol=1e-6) and torch.allclose(law.cov, cov, atol=1e-6)


def test_score_is_the_gradient_of_the_log_marginal():
    prior, sigma = dense_mixture(), torch.tensor(0.6, dtype=F64)
    x = prior.draw(Rng(0, range(5))).double().requires_grad_()
    (score,) = torch.autograd.grad(prior.log_marginal(x, sigma).sum(), x)
    assert torch.allclose((prior.denoise(x, sigma) - x) / sigma**2, score, atol=1e-9)
    r = prior.responsibilities(x, sigma)
    assert torch.allclose(r.sum(1), torch.ones(5, dtype=F64)) and r.shape == (5, 3)


def test_log_marginal_is_a_density():
    prior = MixturePrior(torch.tensor([1.0, 3.0]), torch.tensor([[[-1.0]], [[2.0]]]), torch.tensor([0.5, 0.1]))
    grid = torch.linspace(-12, 12, 4001, dtype=F64)[:, None, None]
    p = prior.log_marginal(grid, torch.tensor(0.7, dtype=F64)).exp()
    assert math.isclose(float(p.sum() * 24 / 4000), 1.0, rel_tol=1e-6)


def test_the_25_mode_mixture():
    prior = grid_mixture(8)
    assert prior.space.shape == (1, 8) and prior.means.shape == (25, 8)
    assert prior.means[0].tolist() == [16.0, 16.0] * 4 and prior.means[1].tolist() == [16.0, 8.0] * 4
    assert math.isclose(float(prior.log_weights.exp().sum()), 1.0, rel_tol=1e-12)
    with pytest.raises(MismatchError):
        grid_mixture(7)


def test_the_anisotropic_gaussian():
    prior = anisotropic_gaussian()
    values = torch.linalg.eigvalsh(prior.cov)
    assert torch.allclose(values, torch.tensor([0.05, 0.2, 0.5, 0.8, 1.2, 2.0], dtype=F64))
    assert (prior.cov - prior.cov.diagonal().diag()).abs().max() > 0.1
    assert torch.equal(prior.cov, anisotropic_gaussian().cov)


def test_float64_state_is_kept_for_exact_laws():
    prior = anisotropic_gaussian(dtype=F64)
    assert prior.space.dtype == F64 and prior.draw(Rng(0, [0])).dtype == F64


@pytest.mark.parametrize(
    ("make", "error"),
    [
        (lambda: GaussianPrior(torch.zeros(1, 3), torch.eye(4)), MismatchError),
        (lambda: GaussianPrior(torch.zeros(1, 2), torch.tensor([[1.0, 0.5], [0.0, 1.0]])), MismatchError),
        (lambda: GaussianPrior(torch.zeros(1, 2), -torch.eye(2)), MismatchError),
        (lambda: GaussianPrior(torch.zeros(2, 3), torch.eye(6), ChannelsToComplex((4,))), MismatchError),
        (lambda: MixturePrior(torch.tensor([1.0, -1.0]), torch.zeros(2, 1, 2)), MismatchError),
        (lambda: MixturePrior(torch.ones(2), torch.zeros(3, 1, 2)), MismatchError),
        (lambda: RandomFieldPrior((4, 4), 3), UsageError),
        (lambda: RandomFieldPrior((4, 4), scale=2.0), UsageError),
        (lambda: RandomFieldPrior((4, 4), spectrum=-torch.ones(4, 4)), MismatchError),
        (lambda: RandomFieldPrior((4, 4), spectrum=torch.arange(16.0).view(4, 4)), MismatchError),
        (lambda: power_law((4, 4), 2.0, 0.0, 1.0), UsageError),
        (lambda: anisotropic_gaussian().posterior(PhaseRetrieval((1, 6)), torch.ones(2, 12), 1.0), MismatchError),
    ],
)
def test_impossible_priors_are_refused(make, error):
    with pytest.raises(error):
        make()


def test_codec_is_the_identity_by_default():
    assert isinstance(anisotropic_gaussian().to_physical, Identity)


@pytest.mark.parametrize("level", [0.05, torch.tensor([0.05, 0.3, 2.0])], ids=["one", "per-sample"])
def test_isotropic_components_are_dense_ones_with_a_shorter_sum(level):
    """Expanded squares would cancel in single precision: narrow components, far from the origin."""
    weights, means, c = torch.tensor([0.5, 0.3, 0.2]), 100 + normal(3, 1, 4).double(), torch.tensor([0.01, 0.02, 0.01])
    x = (means[[0, 1, 1]] + 0.1 * normal(3, 1, 4, key=3)).float()
    sigma = torch.as_tensor(level, dtype=torch.float32)
    fast = MixturePrior(weights, means, c)
    dense = MixturePrior(weights, means, c[:, None, None] * torch.eye(4), dtype=F64)
    want = dense.denoise(x.double(), sigma.double())
    assert torch.allclose(fast.denoise(x, sigma).double(), want, atol=1e-4)
    found = fast.log_marginal(x, sigma).double()
    assert torch.allclose(found, dense.log_marginal(x.double(), sigma.double()), atol=1e-3, rtol=1e-5)
