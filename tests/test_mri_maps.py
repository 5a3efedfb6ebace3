import numpy as np
import pytest
import torch
from sciinv_mri import coils
from sciinv_mri.espirit import espirit, map_residual, residual_images
from sciinv_mri.fft import fftc
from sciinv_mri.phase import lowres_phase, reference_phase, unit

from sciinv.errors import InputError

N = 48


def smooth_maps(count=6, n=N):
    """Gaussian sensitivities around the field of view with linear phases, unit power in every pixel."""
    y, x = torch.meshgrid(*[torch.linspace(-1, 1, n)] * 2, indexing="ij")
    angle = torch.arange(count) * 2 * torch.pi / count
    cy, cx = angle.sin().view(-1, 1, 1), angle.cos().view(-1, 1, 1)
    maps = torch.polar(torch.exp(-((y - cy) ** 2 + (x - cx) ** 2) / 2), 1.5 * (cx * y - cy * x) + angle.view(-1, 1, 1))
    return maps / maps.abs().square().sum(0).sqrt()


def object_image(n=N):
    y, x = torch.meshgrid(*[torch.linspace(-1, 1, n)] * 2, indexing="ij")
    disc = torch.sigmoid((0.7 - (y**2 + x**2).sqrt()) * 30)
    return disc * (1 + 0.5 * torch.cos(9 * x) * torch.sin(7 * y))


def kspace(maps, image):
    return fftc(maps * image, (-2, -1))


def test_espirit_recovers_known_maps():
    maps, image = smooth_maps(), object_image()
    k = kspace(maps, image)[:, :, N // 2 - 10 : N // 2 + 10]
    found = espirit(k, (N, N), kernel=5, threshold=0.01)
    inside = image > 0.3
    match = (found.maps[0].conj() * maps).sum(0).abs()[inside]
    assert match.min() > 0.99 and match.mean() > 0.999
    assert found.eigenvalues[0][inside].min() > 0.95
    # an unrelated set of maps does not explain the image
    other = residual_images(maps.flip(-1), maps * image).norm() / image.norm()
    assert residual_images(found.maps, maps * image).norm() / image.norm() < 0.03 < other


def test_two_sets_explain_an_aliased_image():
    maps, image = smooth_maps(), object_image()
    folded = maps * image + (maps * image).roll(N // 2, -1)
    k = fftc(folded, (-2, -1))[:, N // 2 - 12 : N // 2 + 12, N // 2 - 12 : N // 2 + 12]
    one, two = (espirit(k, (N, N), kernel=6, threshold=0.02, sets=m).maps for m in (1, 2))
    r1, r2 = ((residual_images(s, folded).norm() / folded.norm()).item() for s in (one, two))
    assert r2 < 0.3 * r1


def test_crop_and_soft_edges():
    k = kspace(smooth_maps(), object_image())[:, 12:36, 12:36]
    hard = espirit(k, (N, N), crop=0.9)
    power = hard.maps[0].abs().square().sum(0)
    assert torch.allclose(power, (hard.eigenvalues[0] >= 0.9).float(), atol=1e-4)
    assert 0 < power.mean() < 1
    soft = espirit(k, (N, N), crop=0.5, soft=True).maps[0].abs().square().sum(0)
    assert ((soft > 0.01) & (soft < 0.99)).any()


def test_espirit_refuses_too_little():
    with pytest.raises(InputError, match="calibration"):
        espirit(torch.ones(2, 8, 1, dtype=torch.complex64), (8, 8))
    with pytest.raises(InputError, match="map sets"):
        espirit(torch.ones(2, 8, 8, dtype=torch.complex64), (8, 8), sets=3)


def winding(phase, centre, radius):
    """Turns of the phase around a circle."""
    t = torch.linspace(0, 2 * torch.pi, 200)
    iy = (centre[0] + radius * t.sin()).round().long()
    ix = (centre[1] + radius * t.cos()).round().long()
    step = torch.diff(phase[iy, ix])
    step = torch.remainder(step + torch.pi, 2 * torch.pi) - torch.pi
    return round(float(step.sum()) / (2 * torch.pi))


def test_no_vortex_from_a_coil_that_vanishes():
    maps, image = smooth_maps(), object_image().to(torch.complex64)
    y, x = torch.meshgrid(*[torch.linspace(-1, 1, N)] * 2, indexing="ij")
    maps[0] = 0.5 * torch.complex(y - 0.1, x + 0.05)  # coil 0 winds once around a point inside the object
    maps = maps / maps.abs().square().sum(0).sqrt()
    k = kspace(maps, image)
    calibration = k[:, :, N // 2 - 6 : N // 2 + 6]
    first_coil = maps[None] * unit(maps[0]).conj()
    where = (round((0.1 + 1) / 2 * (N - 1)), round((-0.05 + 1) / 2 * (N - 1)))
    bad = (first_coil[0].conj() * (maps * image)).sum(0).angle()
    assert winding(bad, where, 5) != 0
    good = first_coil * lowres_phase(first_coil, calibration)[:, None]
    demodulated = (good[0].conj() * (maps * image)).sum(0)
    inside = object_image() > 0.3
    assert winding(demodulated.angle(), where, 5) == 0
    assert demodulated.angle()[inside].abs().max() < 0.6
    # the result does not depend on the phase the maps came with
    other = maps[None] * torch.polar(torch.ones(N, N), 5 * x * y)
    assert torch.allclose(other * lowres_phase(other, calibration)[:, None], good, atol=1e-4)
    aligned = maps[None] * reference_phase(maps[None], calibration)[:, None]
    image_phase = (aligned[0].conj() * (maps * image)).sum(0).angle()
    assert winding(image_phase, where, 5) == 0


def noise(count, samples, seed=0):
    g = torch.Generator().manual_seed(seed)
    mix = torch.randn(count, count, dtype=torch.complex64, generator=g) + 3 * torch.eye(count)
    return mix @ torch.randn(count, samples, dtype=torch.complex64, generator=g)


def test_whitening_gives_unit_complex_noise():
    eta = noise(4, 50_000)
    white = coils.whitening(eta[:, :25_000]) @ eta[:, 25_000:]
    cov = white @ white.mH / white.shape[1]
    assert (cov - torch.eye(4)).abs().max() < 0.03
    # E|n|^2 = 1 means a standard deviation of 1/sqrt(2) per real part, not 1
    assert abs(float(white.real.std()) - 0.5**0.5) < 0.01


def test_whitening_survives_a_dead_coil():
    eta = noise(4, 500)
    eta[2] = 0
    assert torch.isfinite(torch.view_as_real(coils.whitening(eta))).all()
    with pytest.raises(InputError, match="too short"):
        coils.whitening(eta[:, :6])


@pytest.mark.realdata
def test_whitening_of_a_real_noise_scan(real_data):
    path = real_data / "mri" / "bart_noise_prescan_16ch.cfl"
    dims = [int(v) for v in path.with_suffix(".hdr").read_text().splitlines()[1].split()]
    eta = np.fromfile(path, "<c8").reshape(dims, order="F").squeeze().T
    eta = torch.as_tensor(np.ascontiguousarray(eta))
    assert eta.shape == (16, 256)
    before = eta @ eta.mH / 256
    white = coils.whitening(eta) @ eta
    cov = white @ white.mH / 255
    assert (cov - torch.eye(16)).abs().max() < 0.02
    assert (before / before.abs().max() - torch.eye(16)).abs().max() > 0.1


@pytest.mark.parametrize("one_dimensional", [True, False])
def test_noise_level_from_imaging_data(one_dimensional):
    true = torch.tensor([0.02, 0.04, 0.01, 0.03, 0.02, 0.05])
    g = torch.Generator().manual_seed(1)
    k = kspace(smooth_maps(6, 96), object_image(96)) * 1.0
    k = k + true.view(-1, 1, 1) * torch.randn(k.shape, dtype=torch.complex64, generator=g)
    mask = torch.rand(1 if one_dimensional else 96, 96, generator=g) < 0.5
    mask[:, 40:56] = True
    found = coils.noise_levels(k * mask, mask)
    assert ((found / true - 1).abs() < 0.15).all()


def test_compression_keeps_energy_and_whiteness():
    k = kspace(smooth_maps(6), object_image())
    m = coils.compression(k, 3)
    assert torch.allclose(m @ m.mH, torch.eye(3, dtype=m.dtype), atol=1e-5)
    kept = coils.apply(m, k).norm() ** 2 / k.norm() ** 2
    assert kept > 0.85
    # the first rows of a longer compression are the shorter one
    assert torch.allclose(coils.compression(k, 5)[:3], m, atol=1e-5)
    with pytest.raises(InputError, match="virtual coils"):
        coils.compression(k, 7)


def test_map_residual_sees_wrong_maps():
    maps, image = smooth_maps(), object_image()
    k = kspace(maps, image)[:, 12:36, 12:36]
    good = map_residual(espirit(k, (N, N), kernel=6, threshold=0.02).maps, k)
    assert good < 0.1 < map_residual(maps.flip(-1)[None], k)
