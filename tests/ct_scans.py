"""Small scans of every kind, shared by the tests of computed tomography."""

from __future__ import annotations

import numpy as np
from sciinv_ct.geometry import Geometry, Grid

SQUARE = Grid((10, 10), 1.5)
BOX = Grid((3, 8, 8), 1.5, thickness=2.0)
HALF = np.arange(12) * np.pi / 12
FULL = np.arange(16) * np.pi / 8
FAN = {"source_origin": 40.0, "source_detector": 70.0}

SCANS: dict[str, Geometry] = {
    "parallel": Geometry("parallel", HALF, 17, 1.1, SQUARE),
    "parallel, off centre": Geometry("parallel", HALF, 17, 1.1, SQUARE, offset=0.6),
    "parallel, no square": Geometry("parallel", HALF, 17, 1.1, Grid((7, 10), 1.5)),
    "parallel, all round": Geometry("parallel", np.linspace(0, 2 * np.pi, 17), 17, 1.1, SQUARE),
    "parallel, anywhere": Geometry(
        "parallel", np.array([0.3, 5.1, 2.2, 0.31]), 17, 1.1, Grid((9, 7), 1.5, centre=(1.0, 2.0))
    ),
    "fan": Geometry("fan", FULL, 19, 2.0, SQUARE, **FAN),
    "fan, off centre": Geometry("fan", FULL, 19, 2.0, SQUARE, offset=0.7, **FAN),
    "fan, curved": Geometry("fan_curved", FULL, 19, 2.0, SQUARE, **FAN),
    "cone": Geometry("cone", FULL[::2], (6, 15), 2.0, BOX, **FAN),
    "cone, rows off": Geometry("cone", FULL[::4], (5, 15), (2.5, 2.0), BOX, offset_row=1.1, **FAN),
    "helix": Geometry("cone", np.arange(7) * 1.3, (6, 15), 2.0, BOX, feed=3.0, start=-2.0, **FAN),
}
SCANS["fan, some columns"] = SCANS["fan"].subset(views=slice(1, 9), columns=np.array([2, 3, 7, 8, 9, 14]))
SCANS["cone, some columns"] = SCANS["cone"].subset(columns=slice(0, 15, 2))


def ellipse(g: Geometry, centre: tuple[float, float], axes: tuple[float, float], tilt: float) -> np.ndarray:
    """Chord length (mm) of every ray of a planar scan with an ellipse: exact line integrals of its indicator."""
    from sciinv_ct.joseph import rays

    point, way = (r[..., :2] for r in rays(g))
    turn = np.array([[np.cos(tilt), np.sin(tilt)], [-np.sin(tilt), np.cos(tilt)]]) / np.array(axes)[:, None]
    way = way / np.linalg.norm(way, axis=-1, keepdims=True)
    # in coordinates where the ellipse is the unit circle, |p + t w| = 1 has two roots; their distance is the chord
    p, w = (point - np.array(centre)) @ turn.T, way @ turn.T
    a, b, c = (w * w).sum(-1), (p * w).sum(-1), (p * p).sum(-1) - 1
    return 2 * np.sqrt(np.maximum(b * b - a * c, 0)) / a


def indicator(
    grid: Grid, centre: tuple[float, float], axes: tuple[float, float], tilt: float, over: int = 8
) -> np.ndarray:
    """The part of each pixel that an ellipse covers, by ``over`` x ``over`` points a pixel."""
    fine = Grid((grid.rows * over, grid.columns * over), grid.pixel / over, grid.centre)
    x, y, _ = fine.axes()
    dx, dy = x[None] - centre[0], y[:, None] - centre[1]
    along, across = dx * np.cos(tilt) + dy * np.sin(tilt), dy * np.cos(tilt) - dx * np.sin(tilt)
    inside = (along / axes[0]) ** 2 + (across / axes[1]) ** 2 <= 1
    return inside.reshape(grid.rows, over, grid.columns, over).mean((1, 3))
