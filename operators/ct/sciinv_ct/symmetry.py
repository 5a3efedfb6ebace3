"""Views that are the same view of a turned or mirrored image.

On a centred square grid the quarter turns and mirrors of the image map the scan onto itself: with ``R`` a clockwise
quarter turn and ``M`` the exchange of top and bottom, the view at ``beta + k pi/2`` of x is the view at beta of
``R^k x``, and the view at ``pi - beta``, read from the other end of the detector, that of ``M x``. A parallel view at
``beta + pi`` is the view at beta read from the other end. So 720 views over 180 degrees need a matrix of 181 that acts
on four images at once, which costs a quarter of the memory and, because the matrix is what a product has to fetch, less
time.
"""

from __future__ import annotations

import dataclasses as dc
import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sciinv_ct.geometry import Geometry

SHIFT = 1e-4  # pixels by which a corner may be off when two angles are taken for one
LEAST_USE = 0.75  # of the products a plan computes, the part that is asked for


@dc.dataclass(frozen=True)
class Plan:
    """``A_v x = A_base(v) (g(v) x)``, perhaps read backwards.

    Attributes
    ----------
    angles : the views that have a matrix, radians.
    elements : turns and mirrors ``(k, m)``, ``R^k`` then ``M^m``.
    base, element : of each view, its place in ``angles`` and ``elements``.
    backwards : of each view, whether its detector is read from the other end.
    """

    angles: NDArray[np.float64]
    elements: tuple[tuple[int, int], ...]
    base: NDArray[np.int64]
    element: NDArray[np.int64]
    backwards: NDArray[np.bool_]

    @property
    def use(self) -> float:
        """Views over products computed."""
        return len(self.base) / (len(self.angles) * len(self.elements))


def trivial(g: Geometry) -> Plan:
    """Every view for itself."""
    n = len(g.angles)
    return Plan(g.angles, ((0, 0),), np.arange(n), np.zeros(n, np.int64), np.zeros(n, bool))


def plan(g: Geometry) -> Plan:
    """The plan with the fewest matrix rows that wastes little; every view for itself where there is no symmetry."""
    if g.feed or g.grid.centre[:2] != (0.0, 0.0):
        return trivial(g)
    mirrored = not g.offset and (g.columns is None or g.columns == tuple(g.n_columns - 1 - k for k in g.columns[::-1]))
    swap = mirrored and g.kind == "parallel"
    # read backwards, a parallel view is also its half turn, so half of the turns do
    turns = [(0, 1, 2, 3), (0, 2), (0,)]
    if swap:
        turns.insert(1, (0, 1))
    if g.grid.rows != g.grid.columns:
        turns = [(0, 2), (0,)]
    groups = [(k, m) for k in turns for m in ((0, 1), (0,)) if mirrored or m == (0,)]
    found = [_reduce(g, k, m, swap) for k, m in groups]
    good = [p for p in found if p.use >= LEAST_USE]
    return min(good, key=lambda p: (len(p.angles), len(p.elements)), default=trivial(g))


def _reduce(g: Geometry, turns: tuple[int, ...], mirrors: tuple[int, ...], swap: bool) -> Plan:
    """Bring every view as close to ``pi / 2`` as the group allows: rays along image rows, contiguous in memory."""
    tolerance = SHIFT * g.grid.pixel / (g.grid.radius + 1e-12)
    tried = []
    for s in (0, 1) if swap else (0,):
        for m in mirrors:
            for k in turns:
                turned = g.angles - s * math.pi - k * math.pi / 2
                gap = (math.pi - turned if m else turned) - math.pi / 2
                tried.append(((k, m, m ^ s), (gap + math.pi) % (2 * math.pi) - math.pi))
    gaps = np.stack([gap for _, gap in tried])
    # of two equally close ones take the same side always, and the first in order
    cost = np.abs(gaps) + 8 * tolerance * (gaps > tolerance) + tolerance * 1e-3 * np.arange(len(tried))[:, None]
    best = cost.argmin(0)
    gap = gaps[best, np.arange(len(best))]
    order = gap.argsort(kind="stable")
    new = np.diff(gap[order], prepend=-np.inf) > tolerance
    base = np.empty(len(gap), np.int64)
    base[order] = new.cumsum() - 1
    choice = np.array([t for t, _ in tried])[best]
    elements, element = np.unique(choice[:, :2], axis=0, return_inverse=True)
    angles = gap[order][new] + math.pi / 2
    # a view that was taken twice needs a row of its own
    _, first = np.unique(element.reshape(-1) * len(angles) + base, return_index=True)
    again = np.setdiff1d(np.arange(len(base)), first)
    base[again] = len(angles) + np.arange(len(again))
    angles = np.concatenate([angles, gap[again] + math.pi / 2])
    return Plan(
        angles,
        tuple((int(k), int(m)) for k, m in elements),
        base,
        element.reshape(-1),
        choice[:, 2].astype(bool),
    )


def turn(x: Tensor, element: tuple[int, int]) -> Tensor:
    """``M^m R^k x`` on rows and columns, the two axes before the last."""
    k, m = element
    x = torch.rot90(x, -k, (-3, -2)) if k else x
    return x.flip(-3) if m else x


def turn_back(x: Tensor, element: tuple[int, int]) -> Tensor:
    """The inverse (and transpose) of `turn`."""
    k, m = element
    x = x.flip(-3) if m else x
    return torch.rot90(x, k, (-3, -2)) if k else x
