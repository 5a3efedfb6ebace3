"""Geometry of a scan: axes, units, subsets, keys, and refusals of what no scanner does."""

from __future__ import annotations

import dataclasses as dc

import numpy as np
import pytest
from ct_scans import BOX, FAN, FULL, SCANS, SQUARE
from sciinv_ct.geometry import Geometry, Grid, offset_of_centre
from sciinv_ct.joseph import rays

from sciinv.errors import InputError, MismatchError


def fan(**changes: object) -> Geometry:
    return dc.replace(SCANS["fan"], **changes)


def test_rows_go_down_in_y_and_slices_up_in_z() -> None:
    x, y, z = Grid((2, 3, 4), 0.5, (1.0, 2.0, 3.0), thickness=2.0).axes()
    assert x.tolist() == [0.25, 0.75, 1.25, 1.75]
    assert y.tolist() == [2.5, 2.0, 1.5]
    assert z.tolist() == [2.0, 4.0]


def test_the_ray_through_the_offset_meets_the_axis() -> None:
    """The cell on which the axis projects sees it: that is what the offset is for."""
    offset = offset_of_centre(7.25, 19, 2.0)
    for kind in ("parallel", "fan", "fan_curved"):
        distances = {} if kind == "parallel" else FAN
        g = Geometry(kind, FULL, 19, 2.0, SQUARE, offset=offset, **distances)
        point, way = (r[..., :2] for r in rays(g))
        way = way / np.linalg.norm(way, axis=-1, keepdims=True)
        off = way[..., 0] * point[..., 1] - way[..., 1] * point[..., 0]
        between = 0.75 * off[:, 7] + 0.25 * off[:, 8]
        assert np.abs(between).max() < (1e-9 if kind == "parallel" else 0.01)


def test_subset_keeps_coordinates() -> None:
    g = SCANS["fan"]
    part = g.subset(views=g.angles < 1, columns=np.array([2, 5]))
    assert part.shape == (3, 2) and part.u().tolist() == g.u()[[2, 5]].tolist()
    assert part.subset(columns=[True, False]).columns == (2,)
    assert g.subset(columns=slice(None)) == g and g.arc(0.0, np.pi / 2).shape[0] == 5
    point, way = rays(g)
    for whole, kept in ((point, rays(part)[0]), (way, rays(part)[1])):
        assert np.array_equal(whole[:3][:, [2, 5]], kept)


def test_equal_by_what_decides_the_matrix() -> None:
    assert fan() == SCANS["fan"] and hash(fan()) == hash(SCANS["fan"])
    for changed in (fan(offset=0.1), fan(pitch=2.1), fan(angles=FULL[::-1]), fan(grid=Grid((10, 10), 1.6))):
        assert changed != SCANS["fan"]
    assert "16 views over 337.5 degrees" in SCANS["fan"].describe()
    with pytest.raises(ValueError, match="read-only"):
        SCANS["fan"].angles[0] = 1.0


@pytest.mark.parametrize(
    "angles",
    [np.arange(0, 180.0), np.arange(0, 360.5, 0.5), np.arange(4.0), np.linspace(0, 359, 97), np.arange(0, 3, 0.25)],
)
def test_degrees_are_recognised(angles: np.ndarray) -> None:
    with pytest.raises(InputError, match=r"look like degrees.*deg2rad"):
        Geometry("parallel", angles, 17, 1.0, SQUARE)


@pytest.mark.parametrize(
    "angles", [np.zeros(1), np.arange(3) * np.pi, np.linspace(0, 2 * np.pi, 721), np.array([0.5, 0.25, 0.0])]
)
def test_radians_are_accepted(angles: np.ndarray) -> None:
    assert Geometry("parallel", angles, 17, 1.0, SQUARE).shape == (len(angles), 17)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kind": "spiral"}, "no such geometry"),
        ({"angles": np.array([0.0, np.nan])}, "angles are unusable"),
        ({"angles": np.zeros((2, 2))}, "angles are unusable"),
        ({"angles": np.zeros(0)}, "angles are unusable"),
        ({"cells": 0}, "detector is impossible"),
        ({"pitch": -1.0}, "detector is impossible"),
        ({"pitch": float("nan")}, "detector is impossible"),
        ({"source_detector": 0.0}, "two distances"),
        ({"source_origin": 5.0}, "through the image"),
        ({"offset": 200.0}, "misses the image: no ray of view 0"),
        ({"columns": (40,)}, "no such detector columns"),
        ({"kind": "parallel"}, "no source distance"),
    ],
)
def test_refusals(changes: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        fan(**changes)


def test_more_refusals() -> None:
    with pytest.raises(MismatchError, match="image of 3 axes"):
        fan(kind="cone")
    with pytest.raises(MismatchError, match="image of 2 axes"):
        fan(grid=BOX)
    with pytest.raises(InputError, match="image grid is impossible"):
        Grid((0, 4), 1.0)
    with pytest.raises(InputError, match="pixels are impossible"):
        Grid((4, 4), -1.0)
    with pytest.raises(InputError, match="misses the volume: no detector row"):
        dc.replace(SCANS["cone"], grid=Grid((3, 8, 8), 1.5, (0.0, 0.0, 40.0)))
    for bad in (np.zeros(7, bool), np.array([99]), np.array([-1])):
        with pytest.raises(MismatchError, match="views"):
            SCANS["fan"].subset(views=bad)
