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

from sciinv.operator import inner
from sciinv.problem import Problem


class InflatedResidual(NamedTuple):
    """Residuals of ``n`` states in spectral coordinates, from which the density at any rho follows.

    Attributes
    ----------
    power : ``|U^H y - s V^H x|^2``, ``(n, q)``, zero on the null space.
    s2 : squared singular values, ``(q,)`` or, for stacked problems, ``(n, q)``.
    outside : ``|y - U U^H y|^2``, ``()`` or ``(n,)``.
    sigma : noise level per real component.
    n_data : real numbers in the data, as in `Problem.log_likelihood`.
    multiplicity : real degrees of freedom of the domain per spectral coordinate (below 1 in redundant bases).
    """

    power: Tensor
    s2: Tensor
    outside: Tensor
    sigma: float
    n_data: int
    multiplicity: float

    def log_density(self, rho: float | Tensor) -> Tensor:
        """``log N(y; A x, sigma^2 I + rho^2 A A^H)``, normalised, ``(n,)`` float64; rho is a number or ``(n,)``."""
        constant = self.outside / self.sigma**2 + self.n_data * math.log(2 * math.pi * self.sigma**2)
        return -0.5 * (self._varying(rho) + constant)

    def log_ratio(self, to: float | Tensor, frm: float | Tensor) -> Tensor:
        """``log_density(to) - log_density(frm)`` without what cancels, ``(n,)`` float64."""
        return -0.5 * (self._varying(to) - self._varying(frm))

    def _varying(self, rho: float | Tensor) -> Tensor:
        if isinstance(rho, Tensor) and rho.ndim:
            rho = rho[:, None]
        gain = (rho / self.sigma) ** 2 * self.s2
        quadratic = (self.power / (1 + gain)).sum(-1, dtype=torch.float64) / self.sigma**2
        return quadratic + self.multiplicity * torch.log1p(gain).sum(-1, dtype=torch.float64)


def inflated_residual(problem: Problem, x: Tensor) -> InflatedResidual:
    """Spectral residuals of the states ``x``, ``(n, *space)``; needs an operator with an svd.

    Raises
    ------
    Unsupported : the operator is nonlinear, or offers no decomposition.
    """
    svd, ndim = problem.svd, len(problem.linear.codomain.shape)
    shape = svd.V.domain.shape
    uy = svd.Uh(problem.y)
    s = torch.where(svd.inverse_s() > 0, svd.s, torch.zeros_like(svd.s))
    c = uy - s * svd.V.adjoint(x)
    power = c.real.square() + c.imag.square() if c.is_complex() else c.square()
    outside = problem.y - svd.U(uy)
    s2 = s.square()
    s2 = s2.expand(*s2.shape[: max(s2.ndim - len(shape), 0)], *shape)
    return InflatedResidual(
        power.flatten(1),
        s2.flatten(s2.ndim - len(shape)),
        inner(outside, outside, ndim).to(torch.float64),
        problem.noise.sigma,
        problem.linear.codomain.size,
        problem.domain.size / math.prod(shape),
    )


def log_inflated(problem: Problem, x: Tensor, rho: float | Tensor) -> Tensor:
    """``log N(y; A x, sigma^2 I + rho^2 A A^H)`` per sample, ``(n,)`` float64; equals `log_likelihood` at rho = 0."""
    return inflated_residual(problem, x).log_density(rho)


def rho_correction(problem: Problem, x: Tensor, rho: float | Tensor) -> Tensor:
    """Log-weights ``(n,)`` that turn draws of the split-Gibbs law at rho into draws of the posterior.

    ``log N(y; A x, sigma^2) - log N(y; A x, sigma^2 + rho^2 A A^H)``. Their effective sample size falls with the
    number of data that rho blurs, so they suit few data or a small rho.
    """
    return inflated_residual(problem, x).log_ratio(0.0, rho)
