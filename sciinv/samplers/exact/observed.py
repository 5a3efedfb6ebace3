"""Data as exact observations of a diffused state (`sciinv.spectral`), and what the particles of an island share."""

from __future__ import annotations

from torch import Tensor

from sciinv.problem import Problem
from sciinv.spectral import Observed


def observe(problem: Problem) -> Observed:
    """The data of a linear problem in spectral coordinates.

    Raises
    ------
    Unsupported : the operator is nonlinear, or offers no decomposition.
    """
    return problem.observed


def shared(x: Tensor, islands: int) -> Tensor:
    """The first row of every island, given to all its particles: what one population has in common."""
    return x.unflatten(0, (islands, -1))[:, :1].expand(islands, len(x) // islands, *x.shape[1:]).flatten(0, 1)
