"""The CT projector: transpose, dense matrix, analytic line integrals, symmetries, masks, cache, ASTRA."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from ct_scans import BOX, FAN, FULL, HALF, SCANS, SQUARE, ellipse, indicator
from sciinv_ct.geometry import Geometry, Grid
from sciinv_ct.joseph import rays
from sciinv_ct.matrixfree import FreeRows
from sciinv_ct.projector import Projector

from sciinv.errors import MismatchError, UsageError
from sciinv.operator import inner
from sciinv.rng import Rng
from sciinv.testing import check_operator
from sciinv.testing.operators import promote

KINDS = ["stored", "free"]


def checkers(g: Geometry) -> np.ndarray:
    """A mask that is no product of views and columns."""
    return np.indices(g.shape).sum(0) % 3 > 0


def gap(p: Projector, double: bool) -> float:
    """``|<Ax, y> - <x, A^T y>| / (|Ax| |y|)`` of white noise."""
    dtype = torch.float64 if double else torch.float32
    op = promote(p) if double else p
    x, y = Rng(0, [0]).normal(p.domain.shape, dtype), Rng(1, [0]).normal(p.codomain.shape, dtype)
    nx, ny = len(p.domain.shape), len(p.codomain.shape)
    ax = op(x)
    return float((inner(ax, y, ny) - inner(x, op.adjoint(y), nx)).abs() / (ax.norm() * y.norm()))


@pytest.mark.parametrize("matrix", KINDS)
@pytest.mark.parametrize("name", SCANS)
def test_adjoint_of_every_geometry_and_mask(name: str, matrix: str) -> None:
    g = SCANS[name]
    for mask in (None, checkers(g)):
        p = Projector(g, mask, matrix=matrix)
        assert gap(p, False) < 1e-6
        assert gap(p, True) < 1e-10


@pytest.mark.parametrize("matrix", KINDS)
@pytest.mark.parametrize("name", ["parallel", "parallel, anywhere", "fan, off centre", "cone, some columns", "helix"])
def test_contract(name: str, matrix: str) -> None:
    check_operator(Projector(SCANS[name], checkers(SCANS[name]), matrix=matrix), dense_limit=200)


@pytest.mark.parametrize("name", SCANS)
def test_four_ways_to_the_same_matrix(name: str) -> None:
    g = SCANS[name]
    plain = promote(Projector(g, matrix="stored", symmetric=False)).as_matrix()
    for matrix in KINDS:
        for symmetric in (False, True):
            p = promote(Projector(g, matrix=matrix, symmetric=symmetric))
            # stored weights are single precision
            assert (p.as_matrix() - plain).abs().max() < 2e-7 * g.grid.pixel
            assert (p.H.as_matrix() - p.as_matrix().T).abs().max() < 1e-12
            if isinstance(p.rows, FreeRows):  # the way of other devices
                y = Rng(0, range(3)).normal((len(p.rows.steep),), torch.float64).T.contiguous()
                assert torch.allclose(p.rows._collect(y), p.rows._spread(y), atol=1e-12)
    mask = torch.from_numpy(checkers(g))
    masked = promote(Projector(g, mask, matrix="stored")).as_matrix()
    assert torch.equal(masked[~mask.reshape(-1)], torch.zeros_like(masked[~mask.reshape(-1)]))
    assert (masked[mask.reshape(-1)] - plain[mask.reshape(-1)]).abs().max() < 2e-7 * g.grid.pixel


def test_the_matrix_against_joseph_written_as_loops() -> None:
    for name in ("parallel, anywhere", "fan, curved", "helix"):
        g = SCANS[name]
        x, y, z = g.grid.axes()
        matrix = np.zeros((*g.shape, *g.grid.shape)).reshape(np.prod(g.shape), -1, g.grid.rows, g.grid.columns)
        points, ways = (r.reshape(-1, 3) for r in rays(g))
        for n, (p, w) in enumerate(zip(points, ways, strict=True)):
            main = int(abs(w[1]) > abs(w[0]))
            for i in range(len((x, y)[main])):
                t = ((x, y)[main][i] - p[main]) / w[main]
                at = p + t * w
                weights = [np.maximum(0, 1 - abs(line - v) / g.grid.pixel) for line, v in ((x, at[0]), (y, at[1]))]
                weights.append(np.maximum(0, 1 - abs(z - at[2]) / g.grid.slice))
                weights[main] = np.eye(len((x, y)[main]))[i]
                length = g.grid.pixel * np.linalg.norm(w) / abs(w[main])
                matrix[n] += length * np.einsum("x,y,z->zyx", *weights)
        found = promote(Projector(g, symmetric=False, matrix="free")).as_matrix().numpy()
        assert np.abs(found - matrix.reshape(found.shape)).max() < 1e-10


@pytest.mark.parametrize("kind", ["parallel", "fan", "fan_curved"])
def test_analytic_ellipse_at_the_expected_order(kind: str) -> None:
    """A sharp edge costs an order: the mean error falls with the power 1 at least; a Gaussian's with the power 2."""
    distances = FAN if kind != "parallel" else {}
    shape, errors, width = ((3.0, -2.0), (7.0, 4.0), 0.4), [], 2.0
    for n in (32, 64, 128):
        g = Geometry(
            kind,
            np.arange(20) * np.pi / 10 + 0.05,
            2 * n,
            48 / 2 / n * (1.75 if distances else 1),
            Grid((n, n), 24 / n),
            **distances,
        )
        exact = ellipse(g, *shape)
        found = Projector(g)(torch.from_numpy(indicator(g.grid, *shape)).float()).numpy()
        x, y, _ = g.grid.axes()
        blob = np.exp(-((x - 3.0) ** 2 + (y[:, None] + 2.0) ** 2) / (2 * width**2))
        point, way = (r[..., :2] for r in rays(g))
        way, point = way / np.linalg.norm(way, axis=-1, keepdims=True), point - np.array([3.0, -2.0])
        off = way[..., 0] * point[..., 1] - way[..., 1] * point[..., 0]
        smooth = np.sqrt(2 * np.pi) * width * np.exp(-(off**2) / (2 * width**2))
        again = Projector(g)(torch.from_numpy(blob).float()).numpy()
        errors.append([np.abs(a - b).mean() / b.mean() for a, b in ((found, exact), (again, smooth))])
    order = np.log2(np.array(errors[0]) / errors[-1]) / 2
    assert (np.array(errors[-1]) < (5e-3, 1e-3)).all() and (order > (0.9, 1.9)).all(), (errors, order)


def test_ball_in_a_cone() -> None:
    """The chord of every ray with a ball, and its height on the detector: z rises with the row."""
    n, radius, centre = 40, 6.0, np.array([2.0, -3.0, 2.5])
    g = Geometry("cone", FULL[::3] + 0.1, (40, 60), 1.0, Grid((n, n, n), 0.6), **FAN)
    x, y, z = g.grid.axes()
    r = np.sqrt((x - centre[0]) ** 2 + (y[:, None] - centre[1]) ** 2 + (z[:, None, None] - centre[2]) ** 2)
    soft = np.clip((radius - r) / 0.6 + 0.5, 0, 1)
    point, way = rays(g)
    way = way / np.linalg.norm(way, axis=-1, keepdims=True)
    p = point - centre
    chord = 2 * np.sqrt(np.maximum((p * way).sum(-1) ** 2 - (p * p).sum(-1) + radius**2, 0)).reshape(g.shape)
    found = Projector(g, matrix="free")(torch.from_numpy(soft).float()).numpy()
    assert (
        np.abs(found - chord).mean() < 0.04 * chord.mean()
    )  # a tenth of the radius a voxel; upside down it would be 1.3


def test_long_rays_are_cut_and_add_up() -> None:
    g = Geometry("fan", FULL[::4], 40, 4.0, Grid((131, 131), 0.4), **FAN)
    stored, free = Projector(g, matrix="stored"), Projector(g, matrix="free", symmetric=False)
    assert stored.rows.strips == 2
    # 70 images: several groups, and wide tables that take the other kernel
    x, y = Rng(0, range(70)).normal(stored.domain.shape), Rng(1, range(70)).normal(stored.codomain.shape)
    for a, b in ((stored(x), free(x)), (stored.adjoint(y), free.adjoint(y))):
        assert (a - b).norm() < 1e-5 * b.norm()
    assert (stored(x[:1]) - stored(x)[:1]).abs().max() < 1e-4


def test_symmetry_saves_rows() -> None:
    full = np.deg2rad(np.arange(0, 360.5, 0.5))
    g = Geometry("fan", full, 560, 1.35, Grid((64, 64), 8.0), source_origin=2769.0, source_detector=3733.0)
    assert len(Projector(g, matrix="free").plan.angles) == 92  # 45 degrees and the view that is measured twice
    half = Geometry("parallel", np.arange(180) * np.pi / 180, 91, 1.0, Grid((64, 64), 1.0))
    assert len(Projector(half, matrix="free").plan.angles) == 46
    assert len(Projector(half.on(Grid((64, 60), 1.0)), matrix="free").plan.angles) == 91


def test_gradient_and_its_gradient() -> None:
    p = promote(Projector(SCANS["fan"]))
    x, v = Rng(0, [0, 1]).normal(p.domain.shape, torch.float64), Rng(1, [0, 1]).normal(p.domain.shape, torch.float64)
    x.requires_grad_()
    (g,) = torch.autograd.grad(p(x).square().sum() / 2, x, create_graph=True)
    assert torch.allclose(g, p.normal(x))
    (h,) = torch.autograd.grad(g, x, v)
    assert torch.allclose(h, p.normal(v))


def test_memory_decides_and_what_is_masked_may_be_nan() -> None:
    g = SCANS["parallel"]
    assert Projector(g).stored and not Projector(g, memory=1000).stored
    mask = checkers(g)
    for matrix in KINDS:
        p = Projector(g, mask, matrix=matrix)
        y = torch.where(p.kept, 1.0, torch.nan)
        assert torch.equal(p.adjoint(y), p.adjoint(torch.ones(g.shape)))
        assert p.n_data == mask.sum()
    dropped = Projector(g, HALF[:, None] < 0.5, matrix="stored", symmetric=False).rows.nbytes
    assert dropped < 0.3 * Projector(g, matrix="stored", symmetric=False).rows.nbytes


def test_cache_is_used_and_a_damaged_one_is_not(tmp_path) -> None:
    g = SCANS["fan"]
    first = Projector(g, cache=tmp_path)
    (file,) = tmp_path.iterdir()
    stamp, good = file.stat().st_mtime_ns, file.read_bytes()
    assert torch.equal(Projector(g, cache=tmp_path).as_matrix(), first.as_matrix())
    assert file.stat().st_mtime_ns == stamp
    Projector(g, checkers(g), cache=tmp_path)
    assert len(list(tmp_path.iterdir())) == 2
    for bad in (
        b"",
        good[: len(good) // 2],
        b"\xff" * 40,
        good.replace(first.rows.col.numpy().tobytes(), b"\x7f" * 4 * len(first.rows.col)),
    ):
        assert bad != good
        file.write_bytes(bad)
        assert torch.equal(Projector(g, cache=tmp_path).as_matrix(), first.as_matrix())
        assert file.read_bytes() == good


def test_refusals() -> None:
    g = SCANS["fan"]
    with pytest.raises(MismatchError, match="mask does not fit"):
        Projector(g, np.ones((3, 5), bool))
    with pytest.raises(MismatchError, match="zeros and at least one one"):
        Projector(g, np.zeros(g.shape))
    with pytest.raises(UsageError, match="kind of matrix"):
        Projector(g, matrix="dense")
    p = Projector(g)
    with pytest.raises(MismatchError, match="does not fit the operator"):
        p(torch.zeros(9, 9))
    with pytest.raises(MismatchError, match="does not fit the operator"):
        p.adjoint(torch.zeros(2, 19))


@pytest.mark.parametrize("kind", ["parallel", "fan"])
def test_against_astra(kind: str) -> None:
    """The same numbers as ASTRA's linear (parallel) and line-driven (fan) kernels, in units of its pixel."""
    astra = pytest.importorskip("astra", reason="astra-toolbox is not installed")
    n, angles = 48, np.arange(60) * (np.pi / 60 if kind == "parallel" else np.pi / 30)
    volume = astra.create_vol_geom(n, n)
    if kind == "parallel":
        g = Geometry("parallel", angles, 71, 1.0, Grid((n, n), 1.0))
        name, scan = "linear", astra.create_proj_geom("parallel", 1.0, 71, angles)
    else:
        g = Geometry("fan", angles, 71, 1.7, Grid((n, n), 1.0), source_origin=120.0, source_detector=200.0)
        name, scan = "line_fanflat", astra.create_proj_geom("fanflat", 1.7, 71, angles, 120.0, 80.0)
    x = indicator(g.grid, (5.0, -8.0), (9.0, 5.0), 0.5) + indicator(g.grid, (-3.0, 4.0), (14.0, 15.0), 0.0)
    projector = astra.create_projector(name, scan, volume)
    number, wanted = astra.create_sino(x.astype(np.float32), projector)
    astra.data2d.delete(number)
    found = Projector(g)(torch.from_numpy(x).float()).numpy()
    error = np.linalg.norm(found - wanted) / np.linalg.norm(wanted)
    assert error < (1e-5 if kind == "parallel" else 0.02), error


def test_grids_and_boxes_are_what_they_say() -> None:
    assert SQUARE.axes()[1][0] == -SQUARE.axes()[0][0] > 0
    assert BOX.axes()[2].tolist() == [-2.0, 0.0, 2.0]
