"""Is a sampler affine in its noise? Four runs say so, before the exact law is computed from thousands.

``x(a + b) - x(a) - x(b) + x(0) = 0`` for two white-noise inputs a and b, if and (almost surely) only if the map from
noise to samples is affine.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from sciinv.operator import to_real
from sciinv.prior import Prior
from sciinv.problem import Problem
from sciinv.rng import Key, Rng
from sciinv.samplers.base import Sampler, sample


class _Sums(Rng):
    """Key 0 gets zeros, 1 and 2 white noise, 3 their sum."""

    def __init__(self, seed: int, index: Sequence[Key], device: torch.device | str = "cpu", mode: str = "cpu"):
        super().__init__(seed, index, device, mode)
        self._white = Rng(seed, [1, 2])

    def normal(self, shape: Sequence[int], dtype: torch.dtype = torch.float32) -> Tensor:
        a, b = self._white.normal(shape, dtype)
        return torch.stack([torch.zeros_like(a), a, b, a + b])

    def uniform(self, shape: Sequence[int] = (), dtype: torch.dtype = torch.float32) -> Tensor:
        raise _Branches


class _Branches(Exception):
    """The sampler draws uniform numbers."""


def is_affine(sampler: Sampler, problem: Problem, prior: Prior, tol: float = 1e-6) -> bool:
    """Whether four probe runs are affine to a relative ``tol``; meant for references in double precision.

    A sampler that divides by a norm is nearly affine in high dimension: the tolerance must not be loose.
    """
    try:
        out = sample(sampler, problem, prior, range(4), 0, rng_factory=_Sums)
    except _Branches:
        return False
    zero, a, b, both = to_real(out.x, out.x.ndim - 1).to(torch.float64)
    gap = (both - a - b + zero).norm() / ((a - zero).norm() + (b - zero).norm()).clamp_min(1e-300)
    return bool(gap <= tol)
