"""The data of a linear problem in the coordinates of ``A = U diag(s) V^H``: all that depends on no state.

`Problem.spectral` and `Problem.observed` compute it once a problem; samplers use it at every step.

With ``o = U^H y / s``, each coordinate of ``V^H x`` with ``s > 0`` obeys ``o = x + tau n``, ``tau = sigma / s``: the
data are the state of a variance-exploding diffusion, coordinate i at its own level ``tau_i`` (Cardoso et al. 2023,
arXiv:2308.07983). Elsewhere tau is infinite. Then ``p(y | x) = exp(constant) prod N(o_i; x_i, tau_i^2)``.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from sciinv.operator import SVD, LinearOperator, inner, power


class Spectral(NamedTuple):
    """Data in spectral coordinates.

    Attributes
    ----------
    V : from spectral coordinates to the state.
    s, inverse_s : singular values, zero where they are below the cutoff of `SVD.inverse_s`, and ``1/s``, zero there.
    s2 : ``s^2`` in full and flattened, ``(q,)`` or, for stacked problems, ``(n, q)``.
    uy : ``U^H y``, zero on the null space.
    outside : ``|y - U U^H y|^2``, ``()`` or ``(n,)`` float64.
    n_data : real numbers in the data, as in `Problem.log_likelihood`.
    multiplicity : real degrees of freedom of the state per coordinate (below 1 in redundant bases).
    """

    V: LinearOperator
    s: Tensor
    inverse_s: Tensor
    s2: Tensor
    uy: Tensor
    outside: Tensor
    n_data: int
    multiplicity: float

    @classmethod
    def of(cls, svd: SVD, y: Tensor) -> Spectral:
        """The data ``y`` of the operator decomposed in ``svd``."""
        op, shape = svd.operator, svd.V.domain.shape
        inverse, uy = svd.inverse_s(), svd.Uh(y)
        s = torch.where(inverse > 0, svd.s, torch.zeros_like(svd.s))
        s2 = s.square()
        s2 = s2.expand(*s2.shape[: max(s2.ndim - len(shape), 0)], *shape)
        outside = y - svd.U(uy)
        lost = inner(outside, outside, len(op.codomain.shape)).to(torch.float64)
        multiplicity = op.domain.size / math.prod(shape)
        s2 = s2.flatten(s2.ndim - len(shape))
        return cls(svd.V, s, inverse, s2, uy, lost, op.codomain.size, multiplicity)


class Observed(NamedTuple):
    """Data as exact observations of a diffused state.

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

    @classmethod
    def of(cls, data: Spectral, sigma: float) -> Observed:
        """``data`` with noise of standard deviation ``sigma`` per real component."""
        inverse, uy = data.inverse_s, data.uy
        tau = torch.where(inverse > 0, sigma * inverse, torch.inf).expand(uy.shape)
        axes = tuple(range(uy.ndim - len(data.V.domain.shape), uy.ndim))
        known = tau.isfinite()
        # dy = s dx in each observed coordinate; the rest of the data is noise alone
        log_s = torch.where(known, (sigma / tau).log(), 0.0).sum(axes, dtype=torch.float64)
        alone = data.n_data - data.multiplicity * known.sum(axes)
        rest = data.outside / sigma**2 + alone * math.log(2 * math.pi * sigma**2)
        return cls(data.V, inverse * uy, tau, -data.multiplicity * log_s - 0.5 * rest, data.multiplicity)

    def gap(self, x: Tensor) -> Tensor:
        """``o - V^H x`` where something is seen of the states ``x``, else zero; in spectral coordinates."""
        return torch.where(self.tau.isfinite(), self.o - self.V.adjoint(x), 0.0)

    def log_normal(self, offset: Tensor, variance: Tensor, where: Tensor | None = None) -> Tensor:
        """``sum log N(offset; 0, variance)`` over the coordinates that are observed and in ``where``, ``(n,)``."""
        keep = self.tau.isfinite() if where is None else self.tau.isfinite() & where
        variance = torch.where(keep, variance, 1.0)
        terms = power(offset) / variance + self.multiplicity * (2 * math.pi * variance).log()
        return -0.5 * torch.where(keep, terms, 0.0).flatten(1).sum(1, dtype=torch.float64)

    def condition(self, mean: Tensor, at: Tensor, variance: float, noise: Tensor) -> Tensor:
        """A draw of ``N(x; mean, variance) N(at; x, tau^2)``, made of the white ``noise`` in spectral coordinates."""
        gain = variance / (variance + self.tau.square())
        return mean + gain * (at - mean) + (variance * (1 - gain)).sqrt() * noise
