"""Metropolis-corrected draws of ``p(y | z)^beta N(z; x, rho^2 I)`` where the data see few directions of z.

The operator splits into ``g(S z)`` and V spans the row space of S (`reduced`). With ``c = V^T z``, ``m = V^T x`` and w
the rest of z, one call is a Gibbs sweep over (w, c), each with its own exact correction:

* w: a fresh draw of the complement of ``N(x, rho^2)``, accepted by the change of likelihood. What S sees of w lies
  under the cut of the row space, so nearly all are accepted; ``hidden_accept`` says when the cut is too coarse.
* c: Hamiltonian Monte Carlo that integrates exactly the Gaussian of the Gauss-Newton step at x,
  ``N(mu, H^-1)``, ``H = beta J^T J / sigma^2 + I / rho^2``, ``mu = m + beta H^-1 J^T (y - g) / sigma^2``, J and g at
  (m, w), and splits off the rest of the energy. In ``u = L^T (c - mu)``, ``H = L L^T``, a leap of angle a is a kick
  ``v -= a/2 (dE/du - u)``, a rotation of (u, v) by a, and a kick. For linear g the rest is zero: every draw is
  accepted, and a quarter turn is an independent exact draw. H and mu depend on x and w, which are held fixed while c
  moves, so the kernel is exact whatever they are (Neal 2011; Beskos et al. 2011 for the splitting).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from sciinv.operator import column, difference
from sciinv.problem import Info, Problem
from sciinv.reduced import Reduced
from sciinv.rng import Rng


def row_move(
    problem: Problem, x: Tensor, rho: float, z: Tensor, log_step: Tensor, rng: Rng, *, leaps: int, steps: int,
    beta: float, learn: Callable[[Tensor], Tensor],
) -> tuple[Tensor, Info]:  # fmt: skip
    """``steps`` transitions of c after one of w; ``learn`` takes acceptance probabilities and returns the log angle.

    Returns
    -------
    The moved z and, per sample, the mean acceptance probabilities ``accept`` and ``hidden_accept`` and the angle
    ``mcmc_step``.
    """
    seen, precision = problem.reduced, beta / problem.noise.sigma**2
    m, c = seen.coordinates(x), seen.coordinates(z)
    hidden, kept = _refresh_hidden(problem, seen, x, rho, z, c, precision, rng)
    offset = seen.linear(hidden)
    target = _Target(problem.y, seen, offset, m, rho, precision)
    slope, residual = target.slope(c)
    u, accepted = target.to_reference(c), torch.zeros_like(log_step)
    for _ in range(steps):
        v = rng.normal((seen.rank,), x.dtype)
        chance = rng.uniform((2,)).to(x.dtype)
        # a random length keeps HMC from returning to where it started
        angle = log_step.exp() * (1 - 0.4 * chance[:, 1]) if leaps > 1 else log_step.exp()
        a = angle[:, None]
        cos, sin = a.cos(), a.sin()
        u_new, v_new, c_new, s_new, r_new = u, v, c, slope, residual
        for _ in range(leaps):
            v_new = v_new - 0.5 * a * (s_new - u_new)
            u_new, v_new = cos * u_new + sin * v_new, cos * v_new - sin * u_new
            c_new = target.from_reference(u_new)
            s_new, r_new = target.slope(c_new)
            v_new = v_new - 0.5 * a * (s_new - u_new)
        change = 0.5 * precision * difference(r_new, residual)
        change = change + 0.5 * difference(c_new - m, c - m) / rho**2 + 0.5 * difference(v_new, v)
        probability = torch.exp(-change.clamp_min(0)).nan_to_num(0.0)
        accept = chance[:, :1] < probability[:, None]
        u, c, slope = (torch.where(accept, b, a) for a, b in ((u, u_new), (c, c_new), (slope, s_new)))
        residual = torch.where(column(accept, residual), r_new, residual)
        log_step = learn(probability)
        accepted = accepted + probability / steps
    info = {"accept": accepted, "hidden_accept": kept, "mcmc_step": log_step.exp()}
    return seen.states(c) + hidden, info


class _Target:
    """The energy ``E(c)`` and its Gauss-Newton Gaussian in the coordinates u."""

    def __init__(self, y: Tensor, seen: Reduced, offset: Tensor, m: Tensor, rho: float, precision: float):
        self.y, self.seen, self.offset, self.m, self.rho, self.precision = y, seen, offset, m, rho, precision
        here = offset + seen.of_coordinates(m)
        scale = precision * rho * rho
        # in units of rho and in double precision: eigenvalues run from one to the squared signal-to-noise ratio
        h = scale * seen.curvature(here)
        h.diagonal(dim1=1, dim2=2).add_(1.0)
        factor, _ = torch.linalg.cholesky_ex(h)  # a sample gone non-finite must not end the others
        eye = torch.eye(seen.rank, dtype=h.dtype, device=h.device)
        inverse = torch.linalg.solve_triangular(factor, eye.expand_as(h), upper=False)
        _, pull = seen.residual_and_pull(y, here)
        step = (inverse.mT @ (inverse @ (scale * pull)[..., None].to(h.dtype)))[..., 0]
        self.centre = m + step.to(m.dtype)
        self.factor, self.inverse = factor.to(m.dtype), inverse.to(m.dtype)

    def to_reference(self, c: Tensor) -> Tensor:
        return torch.einsum("nij,ni->nj", self.factor, c - self.centre) / self.rho

    def from_reference(self, u: Tensor) -> Tensor:
        return self.centre + self.rho * torch.einsum("nij,ni->nj", self.inverse, u)

    def slope(self, c: Tensor) -> tuple[Tensor, Tensor]:
        """``dE/du`` and ``y - g``."""
        residual, pull = self.seen.residual_and_pull(self.y, self.offset + self.seen.of_coordinates(c))
        gradient = (c - self.m) / self.rho**2 - self.precision * pull
        return self.rho * torch.einsum("nij,nj->ni", self.inverse, gradient), residual


def _refresh_hidden(
    problem: Problem, seen: Reduced, x: Tensor, rho: float, z: Tensor, c: Tensor, precision: float, rng: Rng
) -> tuple[Tensor, Tensor]:
    """The complement of z, moved, ``(n, *space)``, and the probability that it was accepted."""
    old, new = z - seen.states(c), seen.hidden(x + rho * rng.normal_like(x))
    chance = rng.uniform().to(x.dtype)
    at = seen.of_coordinates(c)
    r_old, r_new = (problem.y - seen.data(at + seen.linear(w)) for w in (old, new))
    probability = torch.exp(-(0.5 * precision * difference(r_new, r_old)).clamp_min(0)).nan_to_num(0.0)
    return torch.where(column(chance < probability, x), new, old), probability
