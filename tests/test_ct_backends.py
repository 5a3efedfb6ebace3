"""Optional projectors: chosen by name, refused in a sentence, and called as their two interfaces want it."""

from __future__ import annotations

import sys
import types
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from ct_scans import FULL, SCANS
from sciinv_ct import backends
from sciinv_ct.backends import projector
from sciinv_ct.geometry import Geometry, Grid
from sciinv_ct.projector import Projector

from sciinv.errors import Unsupported, UsageError

PLAIN = Geometry("fan", FULL, 40, 3.0, Grid((32, 32), 2.0), source_origin=100.0, source_detector=160.0)


@pytest.fixture
def fake_radon(monkeypatch) -> Iterator[types.ModuleType]:
    """A package of that name whose operators are our own, in units of pixels, on a machine that claims CUDA."""
    package = types.ModuleType("torch_radon")
    package.calls = []
    monkeypatch.setitem(sys.modules, "torch_radon", package)
    monkeypatch.setitem(sys.modules, "torch_radon_cuda", types.ModuleType("torch_radon_cuda"))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    backends.torch_radon_version.cache_clear()
    yield package
    backends.torch_radon_version.cache_clear()


class Ours:
    """Fan or parallel beam in pixel units by the native projector."""

    def __init__(self, n: int, angles, cells: int, pitch: float, source: float = 0.0, detector: float = 0.0):
        kind = "fan" if source else "parallel"
        total = {"source_origin": source, "source_detector": source + detector} if source else {}
        self.native = Projector(Geometry(kind, angles, cells, pitch, Grid((n, n), 1.0), **total))

    def forward(self, x):
        return self.native(x)

    def backward(self, y):
        return self.native.adjoint(y)


class Volume2D:
    """The part of version 2 that holds the size of an image."""

    def set_size(self, height: int, width: int) -> None:
        self.width = width


def version_2(package: types.ModuleType) -> None:
    package.Volume2D = Volume2D
    package.ParallelBeam = lambda det_count, angles, det_spacing, volume: Ours(
        volume.width, angles, det_count, det_spacing
    )
    package.FanBeam = lambda det_count, angles, src_dist, det_dist, det_spacing, volume: Ours(
        volume.width, angles, det_count, det_spacing, src_dist, det_dist
    )


def version_1(package: types.ModuleType) -> None:
    package.Radon = lambda resolution, angles, det_count, det_spacing: Ours(resolution, angles, det_count, det_spacing)
    package.RadonFanbeam = lambda resolution, angles, source_distance, det_distance, det_count, det_spacing: Ours(
        resolution, angles, det_count, det_spacing, source_distance, det_distance
    )


@pytest.mark.parametrize("version", [version_1, version_2])
@pytest.mark.parametrize("kind", ["parallel", "fan"])
def test_both_interfaces_of_torch_radon_give_mm(fake_radon, version, kind: str) -> None:
    version(fake_radon)
    g = PLAIN if kind == "fan" else Geometry("parallel", FULL, 40, 3.0, PLAIN.grid)
    ours, theirs = Projector(g), projector(g, backend="torch_radon")
    x, y = torch.rand(2, 32, 32, generator=torch.Generator().manual_seed(0)), torch.ones(2, *g.shape)
    assert torch.allclose(theirs(x), ours(x), rtol=1e-4, atol=1e-3)
    assert torch.allclose(theirs.adjoint(y), ours.adjoint(y), rtol=1e-4, atol=1e-3)


def test_what_torch_radon_cannot_do_is_said(fake_radon, monkeypatch) -> None:
    with pytest.raises(Unsupported, match="neither of its known interfaces"):
        projector(PLAIN, backend="torch_radon")
    version_1(fake_radon)
    with pytest.raises(Unsupported, match="multiple of 16"):
        projector(SCANS["fan"], backend="torch_radon")
    with pytest.raises(Unsupported, match="no such geometry"):
        projector(SCANS["cone"], backend="torch_radon")
    backends.torch_radon_version.cache_clear()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(Unsupported, match="CUDA only"):
        projector(PLAIN, backend="torch_radon")


def test_a_package_without_its_extension_does_not_count(fake_radon, monkeypatch) -> None:
    version_2(fake_radon)
    monkeypatch.setitem(sys.modules, "torch_radon_cuda", None)
    with pytest.raises(Unsupported, match=r"carterbox-torch-radon"):
        projector(PLAIN, backend="torch_radon")


def test_names() -> None:
    assert isinstance(projector(SCANS["fan"]), Projector) and isinstance(
        projector(SCANS["fan"], backend="native"), Projector
    )
    with pytest.raises(UsageError, match="no such backend"):
        projector(SCANS["fan"], backend="numpy")  # type: ignore[arg-type]


def test_astra_missing_is_said(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "astra", None)
    with pytest.raises(Unsupported, match="pip install astra-toolbox"):
        projector(SCANS["fan"], backend="astra")


@pytest.mark.parametrize(
    "name", ["parallel", "parallel, off centre", "parallel, no square", "parallel, anywhere", "fan", "fan, off centre"]
)
def test_astra_behind_the_same_contract(name: str) -> None:
    pytest.importorskip("astra", reason="astra-toolbox is not installed")
    g = SCANS[name]
    mask = np.indices(g.shape).sum(0) % 3 > 0
    theirs, ours = projector(g, mask, backend="astra"), Projector(g, mask)
    generator = torch.Generator().manual_seed(0)
    x, y = 5 + torch.randn(2, *g.grid.shape, generator=generator), torch.randn(2, *g.shape, generator=generator)
    ax, aty = theirs(x), theirs.adjoint(y)
    assert abs((ax * y).sum() - (x * aty).sum()) < 1e-5 * ax.norm() * y.norm()
    # the parallel kernel is the same, the fan one is line driven
    assert (ax - ours(x)).norm() < (1e-5 if g.kind == "parallel" else 0.05) * ax.norm()
