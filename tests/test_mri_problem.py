import dataclasses as dc

import numpy as np
import pytest
import torch
from sciinv_mri import baselines, masks
from sciinv_mri.decoupled import DecoupledSense
from sciinv_mri.fft import fftc
from sciinv_mri.io.kspace import KSpace
from sciinv_mri.phantom import head
from sciinv_mri.problem import MRIOptions, build, prepare, problem
from sciinv_mri.sense import Sense
from sciinv_mri.sigpy_adapter import FromSigpy, ToSigpy
from test_mri_maps import smooth_maps

from sciinv.diagnostics import metrics
from sciinv.errors import InputError, UsageError
from sciinv.rng import Rng

N, SIGMA, UNIT = 64, 0.01, 50.0


def psnr(image: torch.Tensor, reference: torch.Tensor) -> float:
    """Of magnitudes."""
    return float(metrics.psnr(image.abs(), reference.abs()))


@pytest.fixture(scope="module")
def image():
    return torch.as_tensor(head((N, N), (18.0,), fov_mm=(220.0, 220.0))[0]) * UNIT


def scan(image, seed=0, prescan=False, slices=1, sigma=SIGMA):
    """Fully sampled k-space of known maps; noise of sigma * UNIT per real part."""
    g = torch.Generator().manual_seed(seed)
    k = fftc(smooth_maps(8, N) * image, (-2, -1))
    noise = sigma * UNIT * torch.randn((slices, *k.shape), dtype=torch.complex64, generator=g)
    eta = sigma * UNIT * torch.randn((8, 4000), dtype=torch.complex64, generator=g)
    # torch's complex normal has E|n|^2 = 1: times sqrt(2) is one per real part
    k, eta = k + 2**0.5 * noise, 2**0.5 * eta
    return KSpace(
        k.numpy(), np.ones((1, 1, N), bool), (0, N), (N, N), "test",
        noise=eta.numpy() if prescan else None, sha256="0" * 8,
    )  # fmt: skip


def test_noise_convention_and_units(image):
    """Thermal noise in file units per real part, with and without a noise scan; a factor sqrt(2) would fail."""
    for prescan, tol in ((True, 0.05), (False, 0.15)):
        p = problem(masks.undersample(scan(image, prescan=prescan), 3, 12), 0, MRIOptions(noise_model="thermal"))
        assert abs(p.meta["noise_std"] / (SIGMA * UNIT) - 1) < tol
        assert abs(p.noise.sigma * p.meta["scale"] / (SIGMA * UNIT) - 1) < tol


def test_chi_squared_of_the_truth_is_one(image):
    """With exact maps and the thermal sigma the residual of the true image is noise and nothing else."""
    data = masks.undersample(scan(image, prescan=True), 3, 12)
    ready = prepare(data, MRIOptions(noise_model="thermal"))
    # swap in the true maps, in the units of this slice
    true_maps = torch.einsum("vc,cxy->vxy", ready.matrix, smooth_maps(8, N)) * ready.scale
    ready = dc.replace(ready, maps=true_maps[None])
    operator, y, sigma = build(ready)
    r = (y - operator(image / ready.scale)).abs().square().sum() / sigma**2
    assert abs(float(r) / (2 * 8 * N * int(data.mask.sum())) - 1) < 0.03


@pytest.mark.parametrize("kind", ["thermal", "scalar", "spectral"])
def test_noise_models_whiten_the_residual(image, kind):
    full = scan(image, prescan=True, sigma=0.001)
    p = problem(full, 0, MRIOptions(noise_model=kind, acceleration=3, calib_lines=8))
    ready = prepare(masks.undersample(full, 3, 8), MRIOptions(noise_model=kind))
    truth = ready.combine(ready.to_data(torch.as_tensor(full.kspace[0])))
    chi2 = float(p.chi2(truth)) / p.n_data
    assert p.n_data == 2 * 8 * N * round(N / 3)
    if kind == "thermal":
        assert chi2 > 2  # the maps of eight lines are not exact: thermal noise alone is over-confident
    else:
        assert 0.3 < chi2 < 2


def test_scale_phase_and_reference_are_undone(image):
    p = problem(scan(image), 0, MRIOptions(acceleration=2, calib_lines=16))
    ready_scale = float(torch.quantile(image.abs(), 0.99))
    assert abs(p.meta["scale"] / ready_scale - 1) < 0.1
    out = baselines.sense(p) * p.meta["scale"] * p.meta["phase"]
    assert psnr(out, p.meta["reference"]) > 25
    assert psnr(p.meta["reference"], image) > 35
    inside = p.meta["support"]
    assert inside.dtype == torch.bool and 0.2 < inside.float().mean() < 0.8
    x = baselines.sense(p)[inside]
    assert x.imag.square().sum() < 0.1 * x.real.square().sum()  # the low-resolution phase is gone
    bare = problem(scan(image), 0, MRIOptions(acceleration=2, calib_lines=16, phase="none"))
    assert (bare.meta["phase"] == 1).all()


def test_solvers_agree(image):
    data = masks.undersample(scan(image), 3, 12)
    a, b = (problem(data, 0, MRIOptions(solver=s)) for s in ("decoupled", "cg"))
    assert isinstance(a.operator, DecoupledSense) and isinstance(b.operator, Sense)
    assert torch.allclose(baselines.sense(a), baselines.sense(b), atol=2e-3)
    z, info = dc.replace(b, cg_tol=1e-6).draw(torch.zeros(2, N, N, dtype=torch.complex64), 0.1, Rng(0, [0, 1]))
    assert float(info["cg_residual"].max()) < 1e-5 and z.shape == (2, N, N)


def test_two_dimensional_masks_use_cg(image):
    data = masks.undersample(scan(image), 4, 16, "poisson")
    p = problem(data, 0)
    assert isinstance(p.operator, Sense) and p.meta["solver"] == "cg"
    assert psnr(baselines.sense(p) * p.meta["scale"], image) > 22
    with pytest.raises(UsageError, match="decouple"):
        problem(data, 0, MRIOptions(solver="decoupled"))


def test_padded_columns_are_never_measured(image):
    full = scan(image)
    k, mask = full.kspace.copy(), full.mask.copy()
    k[..., :6], mask[..., :6] = 0, False
    data = masks.undersample(dc.replace(full, kspace=k, mask=mask, ky_range=(6, N)), 2, 12)
    assert not data.mask[..., :6].any() and data.mask.sum() == round((N - 6) / 2)
    assert data.acceleration == pytest.approx(2, rel=0.02)
    p = problem(data, 0)
    assert (p.y[..., :6] == 0).all() and (p.operator(torch.ones(N, N, dtype=torch.complex64))[..., :6] == 0).all()


def test_readout_oversampling_is_removed(image):
    full = scan(image, prescan=True)
    wide = np.zeros((1, 8, 2 * N, N), np.complex64)
    x = np.fft.fftshift(np.fft.ifft(np.fft.ifftshift(full.kspace, 2), axis=2, norm="ortho"), 2)
    wide[:, :, N // 2 : N // 2 + N] = x
    wide = np.fft.fftshift(np.fft.fft(np.fft.ifftshift(wide, 2), axis=2, norm="ortho"), 2).astype(np.complex64)
    a, b = (prepare(masks.undersample(dc.replace(full, kspace=k), 2, 12), MRIOptions()) for k in (full.kspace, wide))
    assert b.kspace.shape == a.kspace.shape
    assert psnr(b.sense.abs() * b.scale, a.sense.abs() * a.scale) > 60


def test_virtual_coils_keep_the_intensities(image):
    p = problem(scan(image), 0, MRIOptions(coils=3, acceleration=2, calib_lines=16))
    assert p.operator.codomain.shape[0] == 3 and p.meta["coils_measured"] == 8
    assert psnr(p.meta["reference"], image) > 28


def test_averages_lower_the_noise_of_their_lines(image):
    data = dc.replace(scan(image, prescan=True), averages=np.where(np.arange(N) % 2, 4, 1)[None].astype(np.int32))
    sigma = prepare(masks.undersample(data, 1, 12), MRIOptions(noise_model="thermal")).sigma[0]
    assert torch.allclose(sigma[0::2] / sigma[1::2], torch.tensor(2.0))


def test_slices_stand_alone(image):
    volume = scan(image, slices=2)
    a = problem(masks.undersample(volume, 3, 12), 1)
    b = problem(masks.undersample(volume.select([1]), 3, 12), 0)
    assert torch.equal(a.y, b.y) and a.meta["slice"] == 1
    with pytest.raises(InputError, match="slice"):
        problem(volume, 2)


def test_warnings_name_a_bad_fit(image):
    g = torch.Generator().manual_seed(0)
    full = scan(image)
    phases = torch.polar(torch.ones(8, N, N), 6 * torch.rand(8, N, N, generator=g))
    broken = fftc(torch.as_tensor(phases) * image, (-2, -1))[None]
    p = problem(dc.replace(full, kspace=broken.numpy()), 0, MRIOptions(acceleration=2, calib_lines=12))
    assert any("unexplained" in w for w in p.meta["warnings"])
    good = problem(full, 0, MRIOptions(acceleration=2, calib_lines=12))
    assert not any("unexplained" in w for w in good.meta["warnings"])


def test_baselines_beat_zero_filling(image):
    full = scan(image)
    ready = prepare(masks.undersample(full, 3, 12), MRIOptions())
    truth = (image / ready.scale).abs()
    zero = psnr(baselines.zero_filled(ready), truth)
    sense, value, lam = baselines.best(baselines.sense, ready, truth, (1e-4, 1e-3, 1e-2))
    assert value > zero + 2 and psnr(sense, truth) == value and lam in (1e-4, 1e-3, 1e-2)
    assert psnr(baselines.l1_wavelet(ready, 1e-3, 60), truth) > zero + 2


def test_sigpy_both_ways(image):
    from sigpy.mri import linop

    maps, mask = smooth_maps(4, 16), torch.rand(16, 16, generator=torch.Generator().manual_seed(1)) < 0.4
    sig = linop.Sense(maps.numpy(), weights=mask.numpy().astype(np.float32))
    ours, wrapped = Sense(maps, mask), FromSigpy(sig)
    g = torch.Generator().manual_seed(2)
    x = torch.randn(3, 16, 16, dtype=torch.complex64, generator=g)
    y = torch.randn(3, 4, 16, 16, dtype=torch.complex64, generator=g)
    assert torch.allclose(wrapped(x), ours(x), atol=1e-5)
    assert torch.allclose(wrapped.adjoint(y), ours.adjoint(y), atol=1e-5)
    assert torch.allclose(wrapped.vjp(x, y), ours.adjoint(y), atol=1e-5)
    back = ToSigpy(ours)
    assert np.allclose(back(x[0].numpy()), ours(x[0]).numpy(), atol=1e-6)
    assert np.allclose(back.H(y[0].numpy()), ours.adjoint(y[0]).numpy(), atol=1e-6)
    assert np.allclose(back.N(x[0].numpy()), ours.normal(x[0]).numpy(), atol=1e-6)


@pytest.mark.realdata
def test_real_brain_map_error_is_predicted(real_data):
    """On real data the predicted noise matches the oracle |F S (full image) - y| within 25 % at x4."""
    import h5py

    with h5py.File(real_data / "mri" / "mchiew_sense_tutorial_brain16ch_full_raw_data.mat") as f:
        raw = f["raw"][...]
    k = (raw["real"] + 1j * raw["imag"])[:, 0].astype(np.complex64)
    full = KSpace(k[None], np.ones((1, 1, 96), bool), (0, 96), (96, 96), "test", sha256="0" * 8)
    ready = prepare(masks.undersample(full, 4, 10, seed=1), MRIOptions())
    data = ready.to_data(torch.as_tensor(k))
    lines = ready.mask[0]
    error = (data - Sense(ready.maps[0], torch.ones(96))(ready.combine(data)))[:, :, lines]
    oracle = (error.abs().square().mean((0, 1)) / 2).sqrt()
    predicted = ready.sigma[0, lines]
    assert abs(float(predicted.square().mean().sqrt() / oracle.square().mean().sqrt()) - 1) < 0.25
    assert ((predicted / oracle).log().abs().median()) < 0.7  # and line by line, mostly within a factor of two
    assert psnr(baselines.sense(ready), ready.combine(data)) > 30
    assert ready.residual < 0.05
