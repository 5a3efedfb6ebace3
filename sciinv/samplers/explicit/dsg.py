"""DSG: diffusion with spherical Gaussian guidance (Yang et al. 2024): the noise of each step is turned to the data.

From the ancestral step ``x_bar + tau xi``: with ``d* = sqrt(n) tau u / |u|``, ``u = J^T A^H (y - A(D))`` (minus the
gradient of the misfit at x_t), ``x_s = x_bar + sqrt(n) tau d / |d|``, ``d = (1 - g) tau xi + g d*``. Every guided step
has the length sqrt(n) tau of typical noise, n real numbers in the image, so it needs no step size; norms are per
sample. The last step has tau = 0 and ends at D.
"""

from __future__ import annotations

import dataclasses as dc
import math
from typing import ClassVar

import torch
from torch import Tensor

from sciinv.errors import UsageError
from sciinv.operator import column, inner
from sciinv.prior import Counted
from sciinv.problem import Info, Problem
from sciinv.rng import Rng
from sciinv.samplers.base import Leveled, State
from sciinv.samplers.explicit.parts import pull_of_data


@dc.dataclass(frozen=True)
class DSG(Leveled):
    """Spherical Gaussian guidance.

    Attributes
    ----------
    steps : noise levels; a network call and a vector-Jacobian product each.
    guidance : g, share of the data's direction; 0 leaves noise of fixed length, 1 no noise at all.
    """

    name: ClassVar[str] = "dsg"
    paper: ClassVar[str] = "Yang, Ding, Cai, Yu, Wang, Shi, ICML 2024 (arXiv 2402.03201)"
    technique: ClassVar[str] = "gradient"
    claims: ClassVar[str] = "approximate: steers the noise towards the data; ignores their noise level; biased"
    requires: ClassVar[frozenset[str]] = frozenset({"differentiable", "gaussian"})

    guidance: float = 0.2

    def __post_init__(self) -> None:
        if not 0 <= self.guidance <= 1:
            raise UsageError("dsg settings are impossible", expected="guidance in 0..1", found=str(self.guidance))

    def step(self, problem: Problem, prior: Counted, state: State, t: float, s: float, rng: Rng) -> tuple[State, Info]:
        x = state.x
        d, pull = prior.denoise_vjp(x, t)
        back, norm2 = pull_of_data(problem, d)
        towards = pull(back)
        r = (s / t) ** 2
        mean, tau = torch.lerp(d, x, r), s * math.sqrt(1 - r)
        if tau == 0:
            return State(mean), {"residual2": norm2}
        radius = math.sqrt(x[0].numel())
        mixed = (1 - self.guidance) * rng.normal_like(x) + self.guidance * _to_length(towards, radius)
        return State(mean + tau * _to_length(mixed, radius)), {"residual2": norm2}


def _to_length(v: Tensor, length: float) -> Tensor:
    """Every sample rescaled to ``length``; zero stays zero."""
    norm = inner(v, v, v.ndim - 1).sqrt().clamp_min(torch.finfo(v.dtype).tiny)
    return column(length / norm, v) * v
