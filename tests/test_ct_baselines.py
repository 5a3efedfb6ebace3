"""Classical CT reconstructions: the analytic phantom comes back in 1/mm; optimality; the real HTC 2022 discs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from ct_scans import FAN, SCANS, ellipse, indicator
from sciinv_ct.baselines import cgls, divergence, fbp, gradient, norm, sirt, tv
from sciinv_ct.fbp import redundancy
from sciinv_ct.geometry import Geometry, Grid
from sciinv_ct.joseph import rays
from sciinv_ct.projector import Projector

from sciinv.errors import Unsupported, UsageError
from sciinv.operator import Identity, Space
from sciinv.rng import Rng

GRID = Grid((64, 64), 0.5)
HALF, FULL = np.arange(180) * np.pi / 180, np.arange(360) * np.pi / 180
SHAPE = ((3.0, -2.0), (7.0, 4.0), 0.4)
MU = 0.02
COMPLETE: dict[str, Geometry] = {
    "parallel": Geometry("parallel", HALF, 121, 0.4, GRID),
    "parallel, all round, off centre": Geometry("parallel", FULL, 121, 0.4, GRID, offset=1.3),
    "fan": Geometry("fan", FULL, 161, 0.5, GRID, **FAN),
    "fan, curved": Geometry("fan_curved", FULL, 161, 0.5, GRID, **FAN),
    "fan, short scan": Geometry("fan", FULL[20:295], 161, 0.5, GRID, **FAN),
    "fan, shorter, clockwise": Geometry("fan_curved", -FULL[20:260], 161, 0.5, GRID, **FAN),
    "fan, neighbouring columns": Geometry("fan", FULL, 161, 0.5, GRID, **FAN).subset(columns=slice(10, 140)),
}


@pytest.mark.parametrize("window", ["ram-lak", "hann"])
@pytest.mark.parametrize("name", COMPLETE)
def test_fbp_returns_the_attenuation(name: str, window) -> None:
    g = COMPLETE[name]
    y = torch.from_numpy(ellipse(g, *SHAPE) * MU)
    x = fbp(g, torch.stack([y, 2 * y]), window)
    assert torch.allclose(x[1], 2 * x[0])
    image = x[0].numpy()
    core = indicator(GRID, SHAPE[0], (5.5, 2.5), SHAPE[2]) == 1
    near = np.hypot(*np.meshgrid(*GRID.axes()[:2])) < 14
    air = near & (indicator(GRID, SHAPE[0], (9.0, 6.0), SHAPE[2]) == 0)
    assert abs(image[core].mean() / MU - 1) < 2e-3
    assert np.abs(image[core] / MU - 1).max() < 0.02
    assert np.abs(image[air]).max() < 0.1 * MU and abs(image[air].mean()) < 1e-3 * MU


def test_feldkamp_in_the_middle_of_a_cone() -> None:
    box = Grid((20, 32, 32), 0.8)
    g = Geometry("cone", FULL[::4], (50, 70), 1.0, box, **FAN)
    centre, (x, y, z) = np.array([2.0, -3.0, 1.5]), box.axes()
    point, way = rays(g)
    way, point = way / np.linalg.norm(way, axis=-1, keepdims=True), point - centre
    chord = 2 * np.sqrt(np.maximum((point * way).sum(-1) ** 2 - (point * point).sum(-1) + 36.0, 0)).reshape(g.shape)
    image = fbp(g, torch.from_numpy(chord * MU).float()).numpy()
    r = np.sqrt((x - centre[0]) ** 2 + (y[:, None] - centre[1]) ** 2 + (z[:, None, None] - centre[2]) ** 2)
    assert abs(image[r < 4].mean() / MU - 1) < 0.01
    assert abs(image[r > 8].mean()) < 0.01 * MU


@pytest.mark.parametrize("kind", ["fan", "fan_curved"])
@pytest.mark.parametrize("views", [360, 300, 260])
def test_the_two_ways_to_measure_a_line_share_it(kind, views: int) -> None:
    """Over all measured rays near a line, weights add up to one: compare with the same line from the other side."""
    g = Geometry(kind, FULL[:views], 161, 0.5, GRID, **FAN)
    weight = redundancy(g)
    gamma = g.u() / 70.0 if kind == "fan_curved" else np.arctan2(g.u(), 70.0)
    view = np.arange(views)[:, None]
    other = np.rad2deg(np.mod(np.deg2rad(view) + np.pi - 2 * gamma, 2 * np.pi))
    measured = other <= views - 1
    low = np.clip(np.floor(other).astype(int), 0, views - 2)
    mirrored = weight[:, ::-1]
    part = other - low
    partner = (1 - part) * np.take_along_axis(mirrored, low, 0) + part * np.take_along_axis(mirrored, low + 1, 0)
    if views == 360:
        assert np.allclose(weight, 0.5)
        return
    assert np.abs(weight + partner - 1)[measured].max() < 0.02
    outside = (other > views) & (other < 359.99)
    assert np.allclose(weight[outside], 1)


def test_fbp_refuses_what_it_cannot_do() -> None:
    g = SCANS["helix"]
    with pytest.raises(Unsupported, match="helix"):
        fbp(g, torch.zeros(g.shape))
    g = SCANS["fan, some columns"]
    with pytest.raises(Unsupported, match="neighbouring"):
        fbp(g, torch.zeros(g.shape))
    with pytest.raises(UsageError, match="cutoff 0"):
        fbp(SCANS["fan"], torch.zeros(SCANS["fan"].shape), "hann", 0.0)


def noisy() -> tuple[Projector, torch.Tensor, torch.Tensor]:
    grid = Grid((32, 32), 1.0)
    p = Projector(Geometry("parallel", np.arange(20) * np.pi / 20, 47, 1.0, grid))
    x = torch.from_numpy(MU * indicator(grid, *SHAPE) + MU / 2 * indicator(grid, (-4.0, 4.0), (3.0, 3.0), 0.0)).float()
    return p, x, p(x) + 0.01 * Rng(0, range(2)).normal(p.codomain.shape)


def test_norm_is_the_largest_singular_value() -> None:
    p, *_ = noisy()
    exact = torch.linalg.matrix_norm(p.as_matrix(), 2)
    assert abs(float(norm(p, torch.float32, torch.device("cpu"))) / float(exact) - 1) < 1e-4


def test_gradient_and_its_transpose() -> None:
    x, p = Rng(0, [0]).normal((4, 5, 6)), Rng(1, range(3)).normal((1, 4, 5, 6))
    left, right = (gradient(x, 3) * p).sum(), (x * divergence(p, 3)).sum()
    assert torch.allclose(left, right, atol=1e-5)
    assert gradient(torch.ones(3, 4), 2).abs().max() == 0


def test_cgls_solves_the_normal_equations_and_sirt_the_weighted_ones() -> None:
    p, x, y = noisy()
    found = cgls(p, y, 300, lam=1.0)
    rest = p.adjoint(y) - p.normal(found) - found
    assert rest.norm() < 1e-5 * p.adjoint(y).norm()
    assert torch.allclose(found[0], cgls(p, y[0], 300, lam=1.0), atol=1e-6)
    clean = sirt(p, p(x), 300)
    assert (p(clean) - p(x)).norm() < 5e-3 * p(x).norm() and bool((clean >= 0).all())
    assert (clean - x).norm() < (sirt(p, p(x), 30) - x).norm() < 0.5 * x.norm()


def test_tv_reaches_the_optimum() -> None:
    p, x, y = noisy()
    lam = 0.02

    def objective(v: torch.Tensor) -> torch.Tensor:
        return (p(v) - y[0]).square().sum() / 2 + lam * gradient(v, 2).square().sum(0).sqrt().sum()

    found = tv(p, y, lam, 400)
    assert bool((found.residual < 1e-5).all()) and bool((found.x >= 0).all())
    best = objective(found.x[0])
    for k, size in enumerate((1e-4, 1e-3, 1e-2)):
        rough = Rng(k, range(20)).normal(p.domain.shape)
        for step in (size * rough, size * fbp(p.geometry, p(rough))):
            assert all(objective((found.x[0] + s).clamp_min(0)) >= best * (1 - 1e-6) for s in step)
    assert all(objective(tv(p, y[0], lam * f, 400).x) > best for f in (0.8, 1.25))
    # the balance of the steps and the rest of the batch change the way, not the end
    other = tv(p, y[0], lam, 800, balance=0.02)
    assert (other.x - found.x[0]).abs().max() < 0.02 * MU
    assert (found.x[0] - x).norm() < 0.7 * min((cgls(p, y[0], k) - x).norm() for k in range(3, 9))


def test_tv_of_a_step_in_closed_form() -> None:
    """Two halves a and b, 4 x 8 pixels each with an edge of 8: each moves towards the other by lam 8 / 32."""
    y = torch.full((8, 8), 1.0)
    y[:, 4:] = 3.0
    found = tv(Identity(Space((8, 8))), y, 0.4, 500, balance=1.0)
    assert torch.allclose(found.x, y + torch.where(y < 2, 0.1, -0.1), atol=1e-3)
    assert found.residual < 1e-4


def test_tv_of_no_weight_is_least_squares() -> None:
    p, _, y = noisy()
    found = tv(p, y[0], 0.0, 50, nonnegative=False)
    assert found.residual < 0.05


def matthews(a: np.ndarray, b: np.ndarray) -> float:
    """Matthews correlation of two segmentations: the score of the challenge."""
    return float(np.corrcoef(a.ravel().astype(float), b.ravel().astype(float))[0, 1])


@pytest.mark.realdata
@pytest.mark.parametrize("name", ["tb", "td"])
def test_htc2022_fbp_against_the_official_segmentation(real_data: Path, name: str) -> None:
    """Real fan-beam discs: full-turn FBP, Otsu's threshold, against the published segmentation, without any flip."""
    from scipy.io import loadmat
    from skimage.filters import threshold_otsu

    folder = real_data / "ct" / "htc2022"
    scan = folder / f"htc2022_{name}_full.mat"
    if not scan.is_file():
        pytest.skip(f"no {scan.name}")
    data = loadmat(scan, struct_as_record=False, squeeze_me=True)["CtDataFull"]
    wanted = loadmat(folder / f"htc2022_{name}_full_recon_fbp_seg.mat")["reconFullFbpSeg"] > 0
    facts = data.parameters
    g = Geometry(
        "fan",
        np.deg2rad(facts.angles),
        data.sinogram.shape[1],
        facts.pixelSizePost,
        Grid((512, 512), facts.effectivePixelSizePost),
        source_origin=facts.distanceSourceOrigin,
        source_detector=facts.distanceSourceDetector,
    )
    image = fbp(g, torch.from_numpy(data.sinogram).float()).numpy()
    found = image > threshold_otsu(image)
    assert matthews(found, wanted) > 0.998
    # attenuation of acrylic at these energies; the axis of an image upside down would not correlate
    assert 0.028 < np.median(image[wanted]) < 0.037
    assert matthews(found[::-1], wanted) < 0.95 and matthews(found.T, wanted) < 0.95
