"""The exact Gaussian draw by decomposition, by conjugate gradients and in closed form; pull-back; stacked problems."""

import math

import pytest
import torch
from support import Plain

from sciinv.errors import InputError, MismatchError, Unsupported
from sciinv.generic.blur import Blur
from sciinv.generic.codec import ChannelsToComplex
from sciinv.generic.dense import Dense
from sciinv.generic.fourier import Fourier, FourierMask
from sciinv.generic.mask import Mask
from sciinv.generic.phase_retrieval import PhaseRetrieval
from sciinv.noise import ComplexGaussian, Gaussian
from sciinv.operator import to_real
from sciinv.problem import Problem, Stacked
from sciinv.rng import Rng
from sciinv.testing import ProbeRng, check_operator, mean_cov_error, moments

F64, C128 = torch.float64, torch.complex128
SIGMA, RHO = 0.3, 0.7


def normal(*shape, key=0, dtype=F64):
    return Rng(11, [key]).normal(shape, dtype)[0]


OPERATORS = {
    "dense": lambda: Dense(normal(3, 6)).double(),
    "mask": lambda: Mask(normal(3, 4) > 0),
    "blur-real": lambda: Blur(normal(3, 3), (3, 4)).double(),
    "fourier-mask-real": lambda: FourierMask(normal(3, 4) > 0, real=True),
    "fourier-mask-complex": lambda: FourierMask(normal(3, 4) > 0),
    "fourier-mask-codec": lambda: FourierMask(normal(3, 4) > 0) @ ChannelsToComplex((3, 4), 1.7),
}


def make(name, plain=False):
    op = OPERATORS[name]()
    y = normal(*op.codomain.shape, key=1, dtype=C128 if op.codomain.dtype.is_complex else F64)
    return Problem(y, Plain(op) if plain else op, Gaussian(SIGMA), cg_tol=1e-12)


def closed_form(problem, x):
    a = problem.operator.as_matrix()
    y, flat = to_real(problem.y, len(problem.operator.codomain.shape)), to_real(x, len(problem.domain.shape))
    precision = a.T @ a / SIGMA**2 + torch.eye(a.shape[1]) / RHO**2
    cov = torch.linalg.inv(precision)
    return cov @ (a.T @ y / SIGMA**2 + flat / RHO**2), cov


def state(problem, n):
    dtype = C128 if problem.domain.dtype.is_complex else F64
    return normal(*problem.domain.shape, key=2, dtype=dtype).expand(n, *problem.domain.shape).contiguous()


def exact_law(problem, x1):
    """The law of the draw, exactly: zero noise, then every unit vector."""
    zero = ProbeRng(0, [-1])
    mean = problem.draw(x1, RHO, zero)[0]
    size = zero.drawn
    out = problem.draw(x1.expand(size, *x1.shape[1:]).contiguous(), RHO, ProbeRng(0, range(size)))[0]
    columns = to_real(out - mean, len(problem.domain.shape))
    return to_real(mean, len(problem.domain.shape))[0], columns.T @ columns


@pytest.mark.parametrize("plain", [False, True], ids=["svd", "cg"])
@pytest.mark.parametrize("name", OPERATORS)
def test_the_draw_has_exactly_the_closed_form_law(name, plain):
    problem = make(name, plain)
    assert problem.linear.has_svd() is not plain
    x = state(problem, 1)
    mean, cov = exact_law(problem, x)
    true_mean, true_cov = closed_form(problem, x[0])
    # singular values of a mask or a codec are exact; those of a blur are stored in the operator's own precision
    assert max(mean_cov_error(mean, cov, true_mean, true_cov)) < 1e-6
    # negative controls: the test sees a wrong coupling width, a wrong noise level and the factor 2 of complex noise
    wrong_mean, wrong_cov = closed_form(problem, 1.1 * x[0])
    assert max(mean_cov_error(mean, cov, wrong_mean, wrong_cov)) > 1e-3
    assert max(mean_cov_error(mean, 0.9 * cov, true_mean, true_cov)) > 0.05


@pytest.mark.parametrize("plain", [False, True], ids=["svd", "cg"])
@pytest.mark.parametrize("name", ["fourier-mask-real", "fourier-mask-codec"])
def test_monte_carlo_agrees(name, plain):
    problem = make(name, plain)
    draws, _ = problem.draw(state(problem, 3000), RHO, Rng(0, range(3000)))
    mean, cov = moments(draws)
    true_mean, true_cov = closed_form(problem, state(problem, 1)[0])
    floor = math.sqrt(len(mean) / 3000)
    assert max(mean_cov_error(mean, cov, true_mean, true_cov)) < 2 * floor
    assert mean_cov_error(mean, 2 * cov, true_mean, true_cov)[1] > 2 * floor


def test_white_noise_may_be_drawn_in_redundant_coordinates_too():
    """``V f(s) xi`` has covariance ``V f^2 V^H`` as soon as ``V V^H = I``, whether or not V is unitary."""
    problem = make("fourier-mask-real")
    problem.svd.V.isometry = 1.0  # take the branch of a unitary V
    mean, cov = exact_law(problem, state(problem, 1))
    assert max(mean_cov_error(mean, cov, *closed_form(problem, state(problem, 1)[0]))) < 1e-6


def test_cg_reports_its_residual_and_svd_needs_none():
    info = make("dense", plain=True).draw(state(make("dense"), 4), RHO, Rng(0, range(4)))[1]
    assert (info["cg_residual"] <= 1e-12).all() and info["cg_iterations"].shape == (4,)
    assert make("dense").draw(state(make("dense"), 4), RHO, Rng(0, range(4)))[1] == {}


@pytest.mark.parametrize("plain", [False, True], ids=["svd", "cg"])
def test_a_draw_does_not_depend_on_the_batch(plain):
    problem = make("fourier-mask-codec", plain)
    x = Rng(4, range(5)).normal(problem.domain.shape, F64)
    together = problem.draw(x, RHO, Rng(0, range(5)))[0]
    alone = torch.cat([problem.draw(x[k : k + 1], RHO, Rng(0, [k]))[0] for k in range(5)])
    assert torch.allclose(together, alone, atol=1e-10)


def test_pullback_is_composition():
    codec = ChannelsToComplex((3, 4), 1.7)
    problem = make("fourier-mask-complex")
    pulled = problem.pullback(codec)
    u = normal(2, 2, 3, 4)
    assert torch.allclose(pulled.log_likelihood(u), problem.log_likelihood(codec(u)))
    assert torch.allclose(pulled.residual(u), problem.residual(codec(u)))
    assert torch.allclose(pulled.aty, codec.adjoint(problem.aty))
    assert torch.allclose(pulled.normal(u), codec.adjoint(problem.normal(codec(u))))
    assert pulled.capabilities() == problem.capabilities() and pulled.domain == codec.domain
    with pytest.raises(MismatchError):
        problem.pullback(ChannelsToComplex((4, 4)))


def test_log_likelihood_carries_its_true_factors():
    problem = make("dense")
    x = normal(1, 6, key=3)
    mean = problem.operator(x[0])
    direct = torch.distributions.Normal(mean, SIGMA).log_prob(problem.y).sum()
    assert torch.allclose(problem.log_likelihood(x)[0], direct)
    assert torch.allclose(problem.chi2(x)[0], ((problem.y - mean) / SIGMA).square().sum())


def test_complex_noise_counts_each_part():
    noise = ComplexGaussian(0.5)
    assert math.isclose(noise.sigma, 0.5 / math.sqrt(2))
    n = noise.sample(torch.zeros(4, 5000, dtype=torch.complex64), Rng(0, range(4)))
    assert abs(float(n.abs().square().mean()) - 0.25) < 0.01
    chi2 = noise.chi2(n, torch.zeros_like(n), 1)
    assert (chi2 / 10000 - 1).abs().max() < 0.06
    y, mean = normal(3, dtype=C128), normal(3, key=1, dtype=C128)
    r = to_real(y - mean, 1)
    assert torch.allclose(noise.log_prob(y, mean, 1), torch.distributions.Normal(0.0, noise.sigma).log_prob(r).sum())
    with pytest.raises(InputError):
        noise.sample(torch.zeros(2, 3), Rng(0, range(2)))


@pytest.mark.parametrize("sigma", [0.0, -1.0, float("nan"), float("inf")])
def test_impossible_noise_is_refused(sigma):
    with pytest.raises(InputError):
        Gaussian(sigma)


def stackable(plain=False):
    problems = []
    for k, sigma in enumerate((0.3, 0.05)):
        op = FourierMask(normal(3, 4, key=k) > 0) @ ChannelsToComplex((3, 4))
        y = normal(3, 4, key=5 + k, dtype=C128)
        problems.append(Problem(y, Plain(op) if plain else op, Gaussian(sigma), cg_tol=1e-12))
    return problems


@pytest.mark.parametrize("plain", [False, True], ids=["svd", "cg"])
def test_stacked_problems_give_what_each_gives_alone(plain):
    problems, n = stackable(plain), 3
    stack = Problem.stack(problems, n)
    x = Rng(4, range(2 * n)).normal((2, 3, 4), F64)
    keys = [(s, k) for s in range(2) for k in range(n)]
    together = stack.draw(x, RHO, Rng(0, keys))[0]
    chi2 = stack.chi2(x)
    for s, p in enumerate(problems):
        part = slice(s * n, (s + 1) * n)
        alone = p.draw(x[part], RHO, Rng(0, keys[part]))[0]
        assert torch.allclose(together[part], alone, atol=1e-8)
        assert torch.allclose(chi2[part], p.chi2(x[part]))


def test_a_stack_is_a_linear_operator():
    problems = stackable()
    stack = Problem.stack(problems, 2)
    op = stack.operator
    assert isinstance(op, Stacked) and op.has_svd()
    x, y = normal(4, 2, 3, 4), normal(4, 3, 4, key=1, dtype=C128)
    assert torch.allclose((op(x).conj() * y).real.sum(), (x * op.adjoint(y)).sum())
    assert torch.allclose(op.normal(x), op.adjoint(op(x)))
    base = op.svd()
    assert torch.allclose(base.apply(base.s**2, x), op.normal(x), atol=1e-5)
    with pytest.raises(MismatchError):
        Problem.stack([problems[0], make("dense")], 2)


def test_impossible_problems_are_refused():
    with pytest.raises(MismatchError):
        Problem(torch.zeros(4), Dense(torch.ones(3, 6)), Gaussian(1.0))
    with pytest.raises(MismatchError):
        Problem(torch.zeros(3, 4), Fourier((3, 4)), Gaussian(1.0))  # real data for complex measurements
    problem = Problem(torch.zeros(6, 8), PhaseRetrieval((3, 4)), Gaussian(1.0))
    with pytest.raises(Unsupported):
        problem.draw(torch.zeros(1, 3, 4, dtype=torch.complex64), 1.0, Rng(0, [0]))
    assert "linear" not in problem.capabilities()


def test_number_of_data_can_be_declared():
    m = Mask(normal(3, 4) > 0)
    assert Problem(torch.zeros(3, 4), m, Gaussian(1.0)).n_data == 12
    assert Problem(torch.zeros(3, 4), m, Gaussian(1.0), {"n_data": m.n_data}).n_data == m.n_data < 12


def test_helper_operator_is_itself_sound():
    check_operator(Plain(Dense(torch.ones(3, 6))), fake_cuda=False)
