"""The exact law of a sampler whose steps are affine in state and noise, one step at a time: for ladders too long for
`sciinv.testing.affine_law`, whose cost grows with the square of the number of steps.

Probing a step with the states ``{0, e_i}`` without noise gives F and b of ``x_s = F x_t + b + L xi``, with the state 0
and unit noise L; then ``mean <- F mean + b``, ``cov <- F cov F^T + L L^T``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor

from sciinv.prior import Counted, Prior
from sciinv.problem import Problem
from sciinv.rng import Rng
from sciinv.samplers import Sampler, State


class Unit(Rng):
    """Zeros for the first ``quiet`` rows; row ``quiet + k`` gets the k-th unit vector of all that is drawn."""

    def __init__(self, quiet: int, rows: int):
        super().__init__(0, [0] * rows)
        self.quiet, self.drawn = quiet, 0

    def normal(self, shape: Sequence[int], dtype: torch.dtype = torch.float32) -> Tensor:
        size = math.prod(shape)
        out = torch.zeros(len(self), size, dtype=dtype)
        for j in range(size):
            if self.quiet + self.drawn + j < len(self):
                out[self.quiet + self.drawn + j, j] = 1.0
        self.drawn += size
        return out.view(len(self), *shape)


def stepwise_law(
    sampler: Sampler, problem: Problem, prior: Prior, levels: Sequence[float] | None = None, draws: int = 8
) -> tuple[Tensor, Tensor]:
    """Mean ``(d,)`` and covariance ``(d, d)`` of the flattened state at the end of ``levels``; real states only.

    ``draws`` bounds the normal draws of the size of a state that one step makes.
    """
    counted, d = Counted(prior), prior.space.size
    problem = problem.pullback(prior.to_physical)
    levels = sampler.grid(counted) if levels is None else levels
    rows = 1 + d + draws * d
    like = torch.zeros(rows, *prior.space.shape, dtype=prior.space.dtype)
    basis = like.flatten(1).clone()
    basis[1 : 1 + d] = torch.eye(d, dtype=basis.dtype)
    with torch.no_grad():
        first = sampler.init(problem, counted, Unit(1 + d, rows), like)
        out = first.x.flatten(1)
        mean, cov = out[0], (out[1 + d :] - out[0]).T @ (out[1 + d :] - out[0])
        for t, s in pairwise(levels):
            rng = Unit(1 + d, rows)
            state, _ = sampler.step(problem, counted, State(basis.view_as(like), aux=first.aux), t, s, rng)
            assert rng.drawn <= draws * d, "raise draws"
            out = state.x.flatten(1)
            b, f, noise = out[0], (out[1 : 1 + d] - out[0]).T, (out[1 + d :] - out[0]).T
            mean, cov = f @ mean + b, f @ cov @ f.T + noise @ noise.T
    return mean, cov
