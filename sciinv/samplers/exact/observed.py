"""Data in spectral coordinates, as exact observations of a diffused state.

With ``A = U s V^H`` and ``o = U^H y / s``, each coordinate of ``V^H x`` with ``s > 0`` obeys ``o = x + tau n``,
``tau = sigma / s``: the data are the state of a variance-exploding diffusion, coordinate i at its own level ``tau_i``
(Cardoso et al. 2023, arXiv:2308.07983). Elsewhere tau is infinite. Then
``p(y | x) = exp(constant) prod N(o_i; x_i, tau_i^2)``.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from sciinv.operator import LinearOperator, inner
from sciinv.problem import Problem


class Observed(NamedTuple):
    """Linear Gaussian data in the coordinates ``V^H x``.

    Attributes
    ----------
    V : from spectral coordinates to the state.
    o : ``U^H y / s``, zero on the null space.
    tau : noise level per real component of each coordinate, broadcast to ``o``; infinite on the null space.
    constant : what ``log p(y | x)`` has beyond the normal densities of the coordinates, ``()`` or ``(n,)`` float64.
    multiplicity : real degrees of freedom of the state per coordinate.
    """

    V: LinearOperator
    o: Tensor
    tau: Tensor
    constant: Tensor
    multiplicity: float

    def log_normal(self, offset: Tensor, variance: Tensor, where: Tensor | None = None) -> Tensor:
        """``sum log N(offset; 0, variance)`` over the coordinates that are observed and in ``where``, ``(n,)``."""
        power = offset.real.square() + offset.imag.square() if offset.is_complex() else offset.square()
        keep = self.tau.isfinite() if where is None else self.tau.isfinite() & where
        variance = torch.where(keep, variance, 1.0)
        terms = power / variance + self.multiplicity * (2 * math.pi * variance).log()
        return -0.5 * torch.where(keep, terms, 0.0).flatten(1).sum(1, dtype=torch.float64)

    def condition(self, mean: Tensor, at: Tensor, variance: float, noise: Tensor) -> Tensor:
        """A draw of ``N(x; mean, variance) N(at; x, tau^2)``, made of the white ``noise`` in spectral coordinates."""
        gain = variance / (variance + self.tau.square())
        return mean + gain * (at - mean) + (variance * (1 - gain)).sqrt() * noise


def observe(problem: Problem) -> Observed:
    """The data of a linear problem in spectral coordinates.

    Raises
    ------
    Unsupported : the operator is nonlinear, or offers no decomposition.
    """
    svd, m = problem.svd, problem.linear.codomain
    inverse, uy = svd.inverse_s(), svd.Uh(problem.y)
    seen = inverse > 0
    tau = torch.where(seen, problem.noise.sigma * inverse, torch.inf).expand(uy.shape)
    outside = problem.y - svd.U(uy)
    shape = svd.V.domain.shape
    multiplicity = problem.domain.size / math.prod(shape)
    axes = tuple(range(uy.ndim - len(shape), uy.ndim))
    known = tau.isfinite()
    # dy = s dx in each observed coordinate; the rest of the data is noise alone
    log_s = torch.where(known, (problem.noise.sigma / tau).log(), 0.0).sum(axes, dtype=torch.float64)
    alone = m.size - multiplicity * known.sum(axes)
    power = inner(outside, outside, len(m.shape)).to(torch.float64) / problem.noise.sigma**2
    constant = -multiplicity * log_s - 0.5 * (power + alone * math.log(2 * math.pi * problem.noise.sigma**2))
    return Observed(svd.V, inverse * uy, tau, constant, multiplicity)


def shared(x: Tensor, islands: int) -> Tensor:
    """The first row of every island, given to all its particles: what one population has in common."""
    return x.unflatten(0, (islands, -1))[:, :1].expand(islands, len(x) // islands, *x.shape[1:]).flatten(0, 1)
