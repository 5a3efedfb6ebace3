"""Operators of VLBI: contracts, the sign and the pulse, closed forms, direct against non-uniform FFT, likelihoods."""

import dataclasses as dc
from itertools import pairwise

import numpy as np
import pytest
import torch
from sciinv_vlbi import gains, predict, products
from sciinv_vlbi.closures import closures, whitening
from sciinv_vlbi.dft import CROSSOVER, Dft, NonuniformDft, RowSpace, pulse_transform, visibility_operator
from sciinv_vlbi.observation import MICRO_ARCSECOND
from scipy.special import j0
from vlbi_files import FOV, crescent

from sciinv.errors import UsageError
from sciinv.noise import Gaussian
from sciinv.prior import Counted
from sciinv.priors.random_field import RandomFieldPrior
from sciinv.problem import Problem
from sciinv.rng import Rng
from sciinv.samplers import sample
from sciinv.samplers.exact import row_mcmc
from sciinv.samplers.exact.mcmc import move, start_chain
from sciinv.samplers.exact.pnpdm import PnPDM
from sciinv.testing import FakeCuda, check_operator

PIXEL = 8 * MICRO_ARCSECOND
UV = np.random.default_rng(0).uniform(-0.45, 0.45, (20, 2)) / PIXEL
OBS = crescent(seed=1)
OBS = dc.replace(OBS.rows(OBS.time == OBS.time[-1]), label="one scan")
RELATIVE = OBS.sigma / np.abs(OBS.vis)


def closure(kind, make, **how):
    chosen = closures(OBS, kind, "all")
    return make(OBS.vis, chosen, whitening(chosen.covariance(RELATIVE)), **how)


def sparse_matrix():
    return closures(OBS, "phase", "all").design(len(OBS))


def large_sparse():
    old = products.Sparse.DENSE
    products.Sparse.DENSE = 0
    try:
        return products.Sparse(sparse_matrix())
    finally:
        products.Sparse.DENSE = old


OPERATORS = {
    "dft-even": lambda: Dft(UV, 12, PIXEL, scale=0.3),
    "dft-odd": lambda: Dft(UV, 11, PIXEL, pulse="rect", scale=np.linspace(1, 2, 20)),
    "nufft-even": lambda: NonuniformDft(UV, 12, PIXEL, scale=0.3),
    "nufft-odd": lambda: NonuniformDft(UV, 11, PIXEL, pulse="delta"),
    "row-space": lambda: RowSpace(Dft(UV, 6, PIXEL).row_space()[0].float()),
    "visibility": lambda: products.Visibility(OBS.vis, OBS.sigma),
    "amplitude": lambda: products.Amplitude(OBS.vis, OBS.sigma),
    "bispectrum": lambda: products.Bispectrum(OBS.vis, closures(OBS, "phase"), RELATIVE),
    "phase": lambda: closure("phase", products.ClosurePhase),
    "phase-von-mises": lambda: closure("phase", products.ClosurePhase, noise="von_mises"),
    "log-amplitude": lambda: closure("amplitude", products.LogClosureAmplitude),
    "sparse-small": lambda: products.Sparse(sparse_matrix()),
    "sparse-large": large_sparse,
    "flux": lambda: products.TotalFlux(8, 0.3, 0.05),
    "centroid": lambda: products.Centroid(8, 8.0, 0.3, 0.6, 2.0),
    "gains": lambda: gains.corruption(OBS, gains.draw(OBS, 1)),
    "predict": lambda: predict.Predict(
        Dft(OBS.uv, 12, PIXEL), [closure("phase", products.ClosurePhase), products.Amplitude(OBS.vis, OBS.sigma)],
        [products.TotalFlux(12, 1.0, 0.1)], 0.1 * np.ones(len(OBS), complex),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", OPERATORS)
def test_contract_and_pretended_gpu(name):
    check_operator(OPERATORS[name]())


def test_sparse_tables_equal_the_dense_matrix():
    small, large = OPERATORS["sparse-small"](), OPERATORS["sparse-large"]()
    assert small.small and not large.small
    assert torch.allclose(small.as_matrix(), large.as_matrix()) and np.allclose(
        small.as_matrix(), sparse_matrix().toarray()
    )


@pytest.mark.parametrize("make", [Dft, NonuniformDft])
def test_sign_a_point_source_in_the_north_east(make):
    n, p = 9, 10 * MICRO_ARCSECOND
    image = torch.zeros(1, n, n)
    image[0, 1, 2] = 2.0  # 3 rows north, 2 columns east of the middle
    uv = np.array([[1e9, 0.0], [0.0, 2e9], [3e9, -1e9]])
    vis = make(uv, n, p, pulse="delta")(image).numpy()
    east, north = 2 * p, 3 * p
    np.testing.assert_allclose(vis, 2 * np.exp(2j * np.pi * (uv[:, 0] * east + uv[:, 1] * north)), rtol=1e-5)
    assert vis[0].imag > 0 and vis[1].imag > 0


@pytest.mark.parametrize("n", [16, 15])
@pytest.mark.parametrize("pulse", ["triangle", "rect", "delta"])
def test_non_uniform_fft_equals_the_matrix(n, pulse):
    a, b = (make(UV, n, PIXEL, pulse=pulse).double() for make in (Dft, NonuniformDft))
    x = Rng(1, [0, 1]).normal((1, n, n), torch.float64)
    y = Rng(2, [0, 1]).normal((20,), torch.complex128)
    assert float((a(x) - b(x)).abs().max()) < 2e-6 * float(
        a(x).abs().max()
    )  # the matrix is rounded to single precision
    assert float((a.adjoint(y) - b.adjoint(y)).abs().max()) < 2e-6 * float(a.adjoint(y).abs().max())
    z = x.clone().requires_grad_()
    (g,) = torch.autograd.grad(b(z), z, y)
    assert torch.allclose(g, b.adjoint(y))


def test_choice_of_transform_and_refusals():
    assert isinstance(visibility_operator(UV, 8, PIXEL), Dft)
    many = np.random.default_rng(1).uniform(-1e9, 1e9, (CROSSOVER + 1, 2))
    assert isinstance(visibility_operator(many, 8, PIXEL), NonuniformDft)
    for uv, n, pixel in ((UV * 2, 8, PIXEL), (UV[:0], 8, PIXEL), (UV, 1, PIXEL), (UV, 8, 0.0), (UV * np.nan, 8, PIXEL)):
        with pytest.raises(UsageError):
            Dft(uv, n, pixel)
    with pytest.raises(UsageError, match="pixel shape"):
        Dft(UV, 8, PIXEL, pulse="square")


def test_a_thin_ring_has_its_closed_form():
    """``V = J_0(pi d |u|)`` of a ring of unit flux, times the pulse."""
    n, fov, d = 256, 128.0, 42.0
    p = fov / n * MICRO_ARCSECOND
    offset = ((n - 1) / 2 - np.arange(n)) * fov / n
    angle = 2 * np.pi * (np.arange(20000) + 0.5) / 20000
    image = np.zeros((n, n))
    # a triangle pulse is linear interpolation: share each point of the ring between its four neighbours
    place = [(offset[0] - d / 2 * f(angle)) / (fov / n) for f in (np.sin, np.cos)]
    base = [np.floor(c).astype(int) for c in place]
    for i in (0, 1):
        for j in (0, 1):
            weight = np.abs(1 - i - (place[0] - base[0])) * np.abs(1 - j - (place[1] - base[1]))
            np.add.at(image, (base[0] + i, base[1] + j), weight / 20000)
    uv = np.random.default_rng(2).uniform(-8e9, 8e9, (50, 2))
    vis = Dft(uv, n, p)(torch.from_numpy(image[None].astype(np.float32))).numpy()
    wanted = j0(np.pi * d * MICRO_ARCSECOND * np.hypot(*uv.T))
    np.testing.assert_allclose(vis.real, wanted, atol=2e-3)
    assert np.abs(vis.imag).max() < 1e-4
    assert pulse_transform(np.array([[8.3e9, 0.0]]), 2 * MICRO_ARCSECOND, "triangle")[0] == pytest.approx(
        0.98, abs=0.005
    )


def test_row_space_is_small_for_a_small_field():
    """A field of 128 micro-arcseconds seen by the Earth has about a hundred degrees of freedom, not 4096."""
    obs = crescent()
    op = Dft(obs.uv, 24, FOV / 24 * MICRO_ARCSECOND)
    rows, s = op.row_space(3e-4)
    assert 20 < len(rows) < min(2 * len(obs), 150) and bool((s[:-1] >= s[1:]).all())
    gram = rows.flatten(1) @ rows.flatten(1).T
    assert torch.allclose(gram, torch.eye(len(rows), dtype=gram.dtype), atol=1e-10)
    x = Rng(3, [0]).normal((1, 24, 24), torch.float64)
    kept = (x.flatten(1) @ rows.flatten(1).T @ rows.flatten(1)).view_as(x)
    assert float((op.double()(x) - op.double()(kept)).abs().max()) < 3e-4 * float(s[0]) * float(x.norm())


def test_wrapped_residuals_take_the_short_way_round():
    op = closure("phase", products.ClosurePhase).double()
    turned = torch.from_numpy(OBS.vis)
    assert torch.allclose(op(turned), op.data, atol=1e-3)
    rng = np.random.default_rng(5)
    for scale in (0.01, 3.0):
        vis = OBS.vis * np.exp(1j * scale * rng.normal(size=len(OBS)))
        all_ = closures(OBS, "phase", "all")
        off = np.angle(np.exp(1j * (all_.values(vis) - all_.values(OBS.vis))))
        (w,) = whitening(all_.covariance(RELATIVE))
        np.testing.assert_allclose(
            (op(torch.from_numpy(vis)) - op.data).numpy(), w @ off, atol=2e-3 * np.abs(w).sum(1).max()
        )


def test_von_mises_is_the_chi_squared_of_eht_imaging():
    chosen = closures(OBS, "phase")
    roots = whitening(chosen.covariance(RELATIVE), full=False)
    op = products.ClosurePhase(OBS.vis, chosen, roots, "von_mises").double()
    vis = OBS.vis * np.exp(1j * np.random.default_rng(6).normal(size=len(OBS)))
    off, sigma = chosen.values(vis) - chosen.values(OBS.vis), chosen.sigma(RELATIVE)
    chi2 = float((op(torch.from_numpy(vis)) - op.data).square().sum())
    assert chi2 == pytest.approx((2 * (1 - np.cos(off)) / sigma**2).sum(), rel=1e-4)


def test_amplitudes_are_debiased():
    rng, true, sigma = np.random.default_rng(7), 5.0, 1.0
    vis = true + sigma * (rng.normal(size=200000) + 1j * rng.normal(size=200000))
    op = products.Amplitude(vis, np.full(len(vis), sigma))
    assert float(op.data.mean()) == pytest.approx(true, abs=0.01) and np.abs(vis).mean() > true + 0.08


def test_an_image_of_zeros_has_a_finite_gradient():
    op = OPERATORS["predict"]()
    op.extended = None
    x = torch.zeros(1, 1, 12, 12)
    assert bool(torch.isfinite(op(x)).all()) and bool(torch.isfinite(op.vjp(x, op(x))).all())


def test_likelihood_steps_in_the_row_space_stay_on_a_gpu():
    chosen = [closures(OBS, kind, "all") for kind in ("phase", "amplitude")]
    made = [
        make(OBS.vis, c, whitening(c.covariance(RELATIVE)))
        for make, c in zip((products.ClosurePhase, products.LogClosureAmplitude), chosen, strict=True)
    ]
    op = predict.Predict(Dft(OBS.uv, 8, PIXEL), made, [products.TotalFlux(8, 0.3, 0.05)])
    y = torch.cat([*(p.data for p in made), torch.ones(1)])
    sampler = PnPDM(anneal=3, settle=2, stationary=1, rho_max=0.3)
    prior = RandomFieldPrior((8, 8))
    expected = sample(sampler, Problem(y, op, Gaussian(1.0)), prior, 2, seed=0).x
    assert expected.isfinite().all()
    with FakeCuda() as gpu, gpu.guard("pnpdm on closures"), torch.no_grad():
        problem, counted = Problem(gpu.put(y), gpu.put(op), Gaussian(1.0)), Counted(gpu.put(prior))
        rng, state = Rng(0, [0, 1], gpu.device), None
        levels = sampler.grid(counted)
        like = torch.zeros((2, 1, 8, 8), device=gpu.device)
        state = sampler.init(problem, counted, rng, like)
        for t, s in pairwise(levels):
            state, info = sampler.step(problem, counted, state, t, s, rng)
            gpu.check(state.x, "pnpdm.step")
        assert {"accept", "hidden_accept"} <= set(info)


@pytest.mark.parametrize("kernel", ["row_mala", "row_hmc", "uncorrected"])
def test_truths_stay_where_they_were_drawn(kernel, monkeypatch):
    """z ~ N(x, rho^2) and y ~ p(y | z): a kernel that leaves p(z | x, y) invariant leaves both of these laws."""
    if kernel == "uncorrected":
        monkeypatch.setattr(row_mcmc, "difference", lambda a, b, ndim=None: torch.zeros(len(a)))
    n, rho, rng = 1500, 0.5, Rng(5, range(1500))
    chosen = closures(OBS, "amplitude")
    product = products.LogClosureAmplitude(OBS.vis, chosen, whitening(chosen.covariance(RELATIVE)))
    op = predict.Predict(Dft(OBS.uv, 8, PIXEL), [product], [products.TotalFlux(8, 1.0, 5.0)])
    x = 1 + rng.normal((1, 8, 8)).abs()
    z = x + rho * rng.normal_like(x)
    y = op(z)
    problem = Problem(y + rng.normal_like(y), op, Gaussian(1.0))
    name = "row_mala" if kernel == "uncorrected" else kernel
    chain = start_chain(problem, x, rho, name)._replace(z=z)
    chain = chain._replace(log_step=torch.full((n,), -0.5 if name == "row_mala" else -1.6))
    chain, info = move(problem, x, rho, chain, rng, kernel=name, steps=6, tune=False)
    moved = problem.reduced.coordinates(chain.z - x) / rho
    misfit = problem.chi2(chain.z)
    at = moved.square().sum(1).mean() / problem.reduced.rank, misfit.mean() / problem.n_data
    spread = 3.5 * np.sqrt(2 / (n * problem.reduced.rank)), 3.5 * np.sqrt(2 / (n * problem.n_data))
    right = all(abs(float(a) - 1) < s for a, s in zip(at, spread, strict=True))
    assert right == (kernel != "uncorrected"), (at, spread, info["accept"].mean())
    assert float((chain.z - z).square().mean()) > 0.1 * rho**2
