"""Two-dimensional posteriors with a nonlinear operator, known by quadrature.

The unnormalised density ``p(x) N(y; A(x), sigma^2)`` is summed over the midpoints of a fine grid; a draw picks a cell
by its mass and a uniform point in it, so its law differs from the truth by the second order of the cell size only.
``Ring``: ``A(x) = |x|``. ``Banana``: ``A(x) = x_1^2 + x_2``.
"""

from __future__ import annotations

import dataclasses as dc

import torch
from torch import Tensor

from sciinv.operator import Operator, Space
from sciinv.priors.mixture import MixturePrior
from sciinv.problem import Problem
from sciinv.rng import Rng

F64 = torch.float64


class Ring(Operator):
    """``A(x) = |x|`` on states ``(1, 2)``; one datum."""

    def __init__(self) -> None:
        super().__init__(Space((1, 2)), Space((1,)))

    def forward(self, x: Tensor) -> Tensor:
        # the floor keeps the gradient finite at the origin
        return x.square().sum(-1).clamp_min(torch.finfo(x.dtype).tiny).sqrt()


class Banana(Operator):
    """``A(x) = x_1^2 + x_2`` on states ``(1, 2)``; one datum."""

    def __init__(self) -> None:
        super().__init__(Space((1, 2)), Space((1,)))

    def forward(self, x: Tensor) -> Tensor:
        return x[..., 0].square() + x[..., 1]


@dc.dataclass(frozen=True)
class GridLaw:
    """A density on a square grid.

    Attributes
    ----------
    points : midpoints ``(cells, 2)``.
    mass : probability of each cell.
    width : side of a cell.
    log_evidence : log of the integral before normalisation.
    """

    points: Tensor
    mass: Tensor
    width: float
    log_evidence: float

    @property
    def mean(self) -> Tensor:
        """``(2,)``."""
        return self.mass @ self.points

    @property
    def cov(self) -> Tensor:
        """``(2, 2)``, the spread within a cell included."""
        centred = self.points - self.mean
        return (self.mass[:, None] * centred).T @ centred + self.width**2 / 12 * torch.eye(2, dtype=F64)

    def draw(self, n: int, seed: int) -> Tensor:
        """``(n, 2)`` float64."""
        rng = Rng(seed, [(4, n)])
        cell = torch.searchsorted(self.mass.cumsum(0), rng.uniform((n,), F64)[0]).clamp_max(len(self.mass) - 1)
        return self.points[cell] + self.width * (rng.uniform((n, 2), F64)[0] - 0.5)


def quadrature(problem: Problem, prior: MixturePrior, extent: float, cells: int = 800) -> GridLaw:
    """Posterior on the square of half side ``extent`` centred at zero, with ``cells`` cells a side."""
    width = 2 * extent / cells
    line = (torch.arange(cells, dtype=F64) + 0.5) * width - extent
    points = torch.cartesian_prod(line, line)
    states = points[:, None]
    log_density = prior.log_marginal(states, torch.zeros((), dtype=F64)) + problem.log_likelihood(states)
    log_total = log_density.logsumexp(0)
    return GridLaw(points, (log_density - log_total).exp(), width, float(log_total + 2 * torch.tensor(width).log()))
