"""The likelihood that split Gibbs sampling really uses, ``N(y; A x, R)`` with ``R = sigma^2 I + rho^2 A A^H``.

In the full basis ``A = U s V^H`` the residual has coordinates ``c = U^H y - s V^H x`` inside the range of A, and a part
``y - U U^H y`` outside it that depends on no x, so

``-2 log N = sum |c|^2 / (sigma^2 + rho^2 s^2) + |y - U U^H y|^2 / sigma^2 + m log(2 pi sigma^2)
             + tr log(1 + rho^2 A^H A / sigma^2)``.

One application of ``V^H`` serves every rho; ratios between two rho need neither the determinant's constants nor the
part outside. The ratio from rho to 0 is the importance weight that removes the bias of split Gibbs at a fixed rho.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from sciinv.operator import power
from sciinv.problem import Problem
from sciinv.spectral import Spectral


class InflatedResidual(NamedTuple):
    """Residuals of ``n`` states in spectral coordinates, from which the density at any rho follows.

    Attributes
    ----------
    data : what depends on no state.
    offset : ``U^H y - s V^H x``, ``(n, *spectral)``, zero on the null space.
    power : ``|offset|^2``, ``(n, q)``.
    sigma : noise level per real component.
    """

    data: Spectral
    offset: Tensor
    power: Tensor
    sigma: float

    def log_density(self, rho: float | Tensor) -> Tensor:
        """``log N(y; A x, sigma^2 I + rho^2 A A^H)``, normalised, ``(n,)`` float64; rho is a number or ``(n,)``."""
        constant = self.data.outside / self.sigma**2 + self.data.n_data * math.log(2 * math.pi * self.sigma**2)
        return -0.5 * (self._varying(rho) + constant)

    def log_ratio(self, to: float | Tensor, frm: float | Tensor) -> Tensor:
        """``log_density(to) - log_density(frm)`` without what cancels, ``(n,)`` float64."""
        return -0.5 * (self._varying(to) - self._varying(frm))

    def gradient(self, rho2: Tensor) -> Tensor:
        """Gradient of `log_density` with respect to x, ``A^H (sigma^2 I + rho2 A A^H)^-1 (y - A x)``; rho2 is 0-dim."""
        s = self.data.s
        return self.data.V(s * self.offset / (self.sigma**2 + rho2 * s.square()))

    def _varying(self, rho: float | Tensor) -> Tensor:
        if isinstance(rho, Tensor) and rho.ndim:
            rho = rho[:, None]
        gain = (rho / self.sigma) ** 2 * self.data.s2
        quadratic = (self.power / (1 + gain)).sum(-1, dtype=torch.float64) / self.sigma**2
        return quadratic + self.data.multiplicity * torch.log1p(gain).sum(-1, dtype=torch.float64)


def inflated_residual(problem: Problem, x: Tensor) -> InflatedResidual:
    """Spectral residuals of the states ``x``, ``(n, *space)``; needs an operator with an svd.

    Raises
    ------
    Unsupported : the operator is nonlinear, or offers no decomposition.
    """
    data = problem.spectral
    offset = data.uy - data.s * data.V.adjoint(x)
    return InflatedResidual(data, offset, power(offset).flatten(1), problem.noise.sigma)


def log_inflated(problem: Problem, x: Tensor, rho: float | Tensor) -> Tensor:
    """``log N(y; A x, sigma^2 I + rho^2 A A^H)`` per sample, ``(n,)`` float64; equals `log_likelihood` at rho = 0."""
    return inflated_residual(problem, x).log_density(rho)


def rho_correction(problem: Problem, x: Tensor, rho: float | Tensor) -> Tensor:
    """Log-weights ``(n,)`` that turn draws of the split-Gibbs law at rho into draws of the posterior.

    ``log N(y; A x, sigma^2) - log N(y; A x, sigma^2 + rho^2 A A^H)``. Their effective sample size falls with the
    number of data that rho blurs, so they suit few data or a small rho.
    """
    return inflated_residual(problem, x).log_ratio(0.0, rho)
