import numpy as np
import pytest
import torch
from sciinv_mri.decoupled import DecoupledSense
from sciinv_mri.fft import crop_centre, fftc, ifftc, pad_centre
from sciinv_mri.sense import Sense

from sciinv.errors import MismatchError
from sciinv.noise import Gaussian
from sciinv.operator import inner
from sciinv.problem import Problem
from sciinv.rng import Rng
from sciinv.testing import check_operator


def random_maps(coils=3, h=6, w=8, sets=None, seed=0, dtype=torch.complex64):
    g = torch.Generator().manual_seed(seed)
    shape = (coils, h, w) if sets is None else (sets, coils, h, w)
    return torch.randn(shape, dtype=dtype, generator=g) / coils**0.5


def lines(w=8, seed=0):
    g = torch.Generator().manual_seed(seed)
    weight = 0.5 + torch.rand(w, generator=g)
    weight[torch.randperm(w, generator=g)[: w // 2]] = 0
    return weight


def dense_dft(n):
    k = np.arange(n) - n // 2
    return torch.as_tensor(np.exp(-2j * np.pi * np.outer(k, k) / n) / np.sqrt(n))


@pytest.mark.parametrize("h,w", [(6, 8), (5, 7), (6, 7)])
@pytest.mark.parametrize("sets", [None, 2])
def test_sense_is_mask_times_centred_dft_times_maps(h, w, sets):
    maps = random_maps(2, h, w, sets, dtype=torch.complex128)
    weight = torch.rand(h, w, generator=torch.Generator().manual_seed(1)).double()
    weight[0, 0] = 0
    op = Sense(maps, weight)
    x = torch.randn(3, *op.domain.shape, dtype=torch.complex128, generator=torch.Generator().manual_seed(2))
    coil_images = x[:, None] * maps if sets is None else (x[:, :, None] * maps).sum(1)
    wanted = weight * (dense_dft(h) @ coil_images @ dense_dft(w).T)
    assert (op(x) - wanted).abs().max() < 1e-12
    assert (op(x)[..., 0, 0] == 0).all()


def test_centred_dft_matches_the_dense_one():
    x = torch.randn(5, 6, dtype=torch.complex128, generator=torch.Generator().manual_seed(0))
    assert (fftc(x, (-2, -1)) - dense_dft(5) @ x @ dense_dft(6).T).abs().max() < 1e-12
    assert (ifftc(fftc(x)) - x).abs().max() < 1e-12
    assert torch.equal(crop_centre(pad_centre(x, (9, 8)), (5, 6)), x)


@pytest.mark.parametrize("cls", [Sense, DecoupledSense])
@pytest.mark.parametrize("h,w,sets", [(4, 6, None), (3, 5, None), (3, 4, 2)])
def test_contracts(cls, h, w, sets):
    check_operator(cls(random_maps(2, h, w, sets), lines(w)))


def test_contracts_of_a_two_dimensional_mask():
    mask = torch.rand(4, 6, generator=torch.Generator().manual_seed(3)) < 0.5
    check_operator(Sense(random_maps(2, 4, 6), mask))


@pytest.mark.parametrize("dtype,tol", [(torch.complex64, 1e-5), (torch.complex128, 1e-10)])
@pytest.mark.parametrize("cls", [Sense, DecoupledSense])
def test_adjoint(cls, dtype, tol):
    op = cls(random_maps(4, 24, 32, dtype=dtype), lines(32).to(dtype.to_real()))
    g = torch.Generator().manual_seed(4)
    x = torch.randn(2, *op.domain.shape, dtype=dtype, generator=g)
    y = torch.randn(2, *op.codomain.shape, dtype=dtype, generator=g)
    a, b = inner(op(x), y, 3), inner(x, op.adjoint(y), 2)
    assert ((a - b).abs() / (op(x).norm() * y.norm())).max() < tol


def test_all_coils_at_once_is_the_same(monkeypatch):
    """What runs on other devices than the host."""
    op = Sense(random_maps(3, 6, 8), lines())
    x = torch.randn(2, 6, 8, dtype=torch.complex64, generator=torch.Generator().manual_seed(0))
    images = op._coils(x)
    assert torch.allclose(op(x), op(x.clone().requires_grad_()), atol=1e-6)
    combined = op._combine(lambda c: op._coils(x, c), torch.device("meta"))
    assert torch.allclose(combined, (images * op.maps_conj[0]).sum(-3))


@pytest.mark.parametrize("sets", [None, 2])
def test_decoupled_is_sense_in_hybrid_space(sets):
    maps = random_maps(3, 6, 8, sets)
    full, rows = Sense(maps, lines()), DecoupledSense(maps, lines())
    x = torch.randn(2, *full.domain.shape, dtype=torch.complex64, generator=torch.Generator().manual_seed(5))
    assert torch.allclose(rows.normal(x), full.normal(x), atol=1e-5)
    assert torch.allclose(fftc(rows(x), -2), full(x), atol=1e-5)
    svd = rows.svd()
    assert torch.allclose(svd.apply(svd.s**2, x), full.normal(x), atol=1e-5)


def test_single_precision_eigenvalues():
    """The decomposition is made in double, so single precision costs rounding of the maps only."""
    maps = random_maps(4, 12, 48, dtype=torch.complex128)
    s64 = DecoupledSense(maps, lines(48).double()).svd().s
    s32 = DecoupledSense(maps.to(torch.complex64), lines(48)).svd().s
    assert ((s64**2 - s32**2).abs().max() / s64.max() ** 2) < 2e-6


def test_weights_along_the_readout():
    weight = 0.2 + torch.rand(6, 8, generator=torch.Generator().manual_seed(6))
    op = DecoupledSense(random_maps(3, 6, 8), weight)
    svd = op.svd()
    x = torch.randn(6, 8, dtype=torch.complex64, generator=torch.Generator().manual_seed(7))
    assert torch.allclose(svd.apply(svd.s**2, x), op.normal(x), atol=1e-5)


def covariance_gap(shift=0.0, inflate=1.0):
    """Largest deviation of mean and covariance of many exact draws from the closed form, in sampling errors."""
    maps, n, rho, sigma = random_maps(2, 3, 4), 20_000, 0.7, 0.3
    op = DecoupledSense(maps, lines(4))
    g = torch.Generator().manual_seed(9)
    x = torch.randn(3, 4, dtype=torch.complex64, generator=g)
    y = op(x) + sigma * torch.randn(op.codomain.shape, dtype=torch.complex64, generator=g)
    z, _ = Problem(y, op, Gaussian(sigma)).draw(x.expand(n, 3, 4), rho, Rng(0, range(n)))
    a = op.as_matrix()
    real = lambda v: torch.view_as_real(v).flatten(1).double()  # noqa: E731
    cov = torch.linalg.inv(a.T @ a / sigma**2 + torch.eye(24, dtype=torch.float64) / rho**2)
    mean = cov @ (a.T @ real(y[None].reshape(1, -1))[0] / sigma**2 + real(x[None].reshape(1, -1))[0] / rho**2)
    found = real(z.reshape(n, -1)) * inflate + shift
    z_mean = (found.mean(0) - mean) / (cov.diagonal() / n).sqrt()
    var = cov.diagonal()
    z_cov = (torch.cov(found.T) - cov) / ((torch.outer(var, var) + cov**2) / n).sqrt()
    return float(z_mean.abs().max()), float(z_cov.abs().max())


def test_exact_draw_has_the_closed_form_law():
    mean, cov = covariance_gap()
    assert mean < 4.5 and cov < 5


def test_exact_draw_negative_controls():
    assert covariance_gap(shift=0.02)[0] > 4.5
    assert covariance_gap(inflate=0.9)[1] > 5


def test_bad_maps_and_masks_are_refused():
    with pytest.raises(MismatchError, match="coil maps"):
        Sense(torch.ones(3, 4, 4), torch.ones(4))
    with pytest.raises(MismatchError, match="k-space weight"):
        Sense(random_maps(), torch.ones(5))
