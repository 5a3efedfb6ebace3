"""SNIPS (Kawar et al. 2021): Langevin dynamics in spectral coordinates, the data's noise shared with the diffusion's.

The noise of the data is a part of the noise at level t where t is the larger, and the other way round. For coordinate
i (`spectral`: ``o_i = x_i + tau_i n``) with ``r = t^2 / tau_i^2`` (0 where nothing is seen), a step of size c is

    ``r <= 1``: ``x_i <- x_i + c [r (o_i - x_i) + (1 - r)(D_i - x_i)] + sqrt(2 c t^2 (1 - r)) xi_i``
    ``r > 1``:  ``x_i <- x_i + c (o_i - x_i) + sqrt(2 c t^2 (1 - 1/r)) xi_i``

which is the published drift times the published step ``c t^2 |1 - r|`` or ``c (t^2 - tau_i^2)``, written so that
nothing is divided by ``t^2 - tau_i^2``; above tau_i the datum alone moves the coordinate, without the prior.

* Below every tau_i the drift is the exact score of ``p(x_t | y)``: for a Gaussian variance c_i in coordinate i the law
  has variance ``(c_i + t^2)(sigma^2 - s^2 t^2) / (s^2 c_i + sigma^2)``, which tends to the posterior's. The last
  levels decide, if the steps are many and small enough to follow them.
* Where tau_i lies under the prior's last level nothing is shared in the end: the coordinate keeps its datum.
"""

from __future__ import annotations

import dataclasses as dc
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from sciinv.errors import UsageError
from sciinv.prior import Counted
from sciinv.problem import Info, Problem
from sciinv.rng import Rng
from sciinv.samplers.base import Sampler, State
from sciinv.samplers.explicit.projection import PROJECTED
from sciinv.schedule import geometric


@dc.dataclass(frozen=True)
class SNIPS(Sampler):
    """Spectral annealed Langevin; ``steps * inner`` network calls.

    Attributes
    ----------
    steps : number of noise levels.
    inner : Langevin steps a level.
    step_size : c above; the published code has 0.033 with 500 levels of 5 steps.
    """

    name: ClassVar[str] = "snips"
    paper: ClassVar[str] = "Kawar, Vaksman, Elad, NeurIPS 2021 (arXiv 2105.14951)"
    technique: ClassVar[str] = "gradient"
    claims: ClassVar[str] = (
        "approximate: an annealed chain that follows its levels only as far as its steps allow; the last levels tend "
        "to the posterior as steps grow"
    )
    requires: ClassVar[frozenset[str]] = PROJECTED

    steps: int = 200
    inner: int = 3
    step_size: float = 0.3

    def __post_init__(self) -> None:
        if not (self.steps >= 1 and self.inner >= 1 and 0 < self.step_size <= 1):
            raise UsageError(
                "snips settings are impossible", expected="steps, inner >= 1; 0 < step_size <= 1", found=repr(self)
            )

    def grid(self, prior: Counted) -> Sequence[float]:
        levels = geometric(prior.sigma_max, prior.sigma_min, self.steps)
        return [*(level for level in levels for _ in range(self.inner)), 0.0]

    def init(self, problem: Problem, prior: Counted, rng: Rng, like: Tensor) -> State:
        """The law at the first level, as far as it is known: noise about the data, noise where nothing is seen."""
        seen, top = problem.observed, self.grid(prior)[0]
        return State(seen.V(start(seen.o, seen.tau, top, seen.V.adjoint(rng.normal_like(like)))))

    def step(self, problem: Problem, prior: Counted, state: State, t: float, s: float, rng: Rng) -> tuple[State, Info]:
        seen, c = problem.observed, self.step_size
        x, d, noise = (seen.V.adjoint(v) for v in (state.x, prior.denoise(state.x, t), rng.normal_like(state.x)))
        r = t**2 / seen.tau.square()
        drift = torch.where(r > 1, seen.o - x, r * (seen.o - x) + (1 - r) * (d - x))
        shared = torch.where(r > 1, 1 - 1 / r.clamp_min(1), 1 - r).clamp_min(0)
        return State(seen.V(x + c * drift + t * (2 * c * shared).sqrt() * noise)), {}


def start(o: Tensor, tau: Tensor, top: float, noise: Tensor) -> Tensor:
    """``N(o, top^2 - tau^2)`` where the data are less noisy than the level ``top``, else ``N(0, top^2)``."""
    known = tau <= top
    return torch.where(known, o, 0.0) + torch.where(known, top**2 - tau.square(), top**2).sqrt() * noise
