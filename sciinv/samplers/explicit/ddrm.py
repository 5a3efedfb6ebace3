"""DDRM, denoising diffusion restoration models (Kawar et al. 2022): a transition per spectral coordinate.

With ``o_i = x_i + tau_i n`` (`spectral`), from level t to s, ``e = (x_t - D) / t``:

    nothing seen:  ``D_i + sqrt(1 - eta^2) s e_i + eta s xi_i``
    ``s < tau_i``: ``D_i + sqrt(1 - eta^2) (s / tau_i)(o_i - D_i) + eta s xi_i``
    else:          ``(1 - eta_b) D_i + eta_b o_i + sqrt(s^2 - eta_b^2 tau_i^2) xi_i``

from ``o_i + sqrt(T^2 - tau_i^2) xi_i`` or ``T xi_i``. It is made for few steps: with eta < 1 every step pulls towards
the data again with the same weight, so more steps fit them ever closer, down to ``A^+ y`` without any shrinkage, and
the spread goes. Without noise ``A x_0 = y``, and for a Gaussian prior the law tends to the posterior's mean with
``(1 + sqrt(1 - eta^2)) / 2`` of its covariance.

The published code compares strictly, so that without noise the last step, s = tau = 0, forgets the data. Here data
whose noise lies under the prior's last level keep them in that step.
"""

from __future__ import annotations

import dataclasses as dc
import math
from typing import ClassVar

import torch
from torch import Tensor

from sciinv.errors import UsageError
from sciinv.prior import Counted
from sciinv.problem import Info, Problem
from sciinv.rng import Rng
from sciinv.samplers.base import Leveled, State
from sciinv.samplers.explicit.projection import PROJECTED
from sciinv.samplers.explicit.snips import start


@dc.dataclass(frozen=True)
class DDRM(Leveled):
    """Denoising diffusion restoration.

    Attributes
    ----------
    steps : number of noise levels; one network call each. More is not better.
    eta : share of fresh noise where the data say little or nothing.
    eta_b : weight of the datum where it is less noisy than the state.
    """

    name: ClassVar[str] = "ddrm"
    paper: ClassVar[str] = "Kawar, Elad, Ermon, Song, NeurIPS 2022 (arXiv 2201.11793)"
    technique: ClassVar[str] = "gradient"
    claims: ClassVar[str] = "approximate: made for few steps; spread too small, and over-fits noisy data as steps grow"
    requires: ClassVar[frozenset[str]] = PROJECTED

    steps: int = 20
    eta: float = 0.85
    eta_b: float = 1.0

    def __post_init__(self) -> None:
        if not (self.steps >= 1 and 0 <= self.eta <= 1 and 0 <= self.eta_b <= 1):
            raise UsageError(
                "ddrm settings are impossible", expected="steps >= 1, 0 <= eta <= 1, 0 <= eta_b <= 1", found=repr(self)
            )

    def init(self, problem: Problem, prior: Counted, rng: Rng, like: Tensor) -> State:
        seen, top = problem.observed, self.grid(prior)[0]
        return State(seen.V(start(seen.o, seen.tau, top, seen.V.adjoint(rng.normal_like(like)))))

    def step(self, problem: Problem, prior: Counted, state: State, t: float, s: float, rng: Rng) -> tuple[State, Info]:
        seen, keep = problem.observed, math.sqrt(1 - self.eta**2)
        d = prior.denoise(state.x, t)
        x, d, noise = (seen.V.adjoint(v) for v in (state.x, d, rng.normal_like(d) if s else torch.zeros_like(d)))
        # a coordinate that nothing sees has an infinite tau
        drawn = d + self.eta * s * noise
        free = drawn + (keep * s / t) * (x - d)
        weak = drawn + (keep * s / seen.tau) * (seen.o - d)
        tau2 = self.eta_b**2 * seen.tau.square()
        strong = torch.lerp(d, seen.o.expand_as(d), self.eta_b) + (s * s - tau2).clamp_min(0).sqrt() * noise
        held = seen.tau <= s if s else seen.tau < t
        return State(seen.V(torch.where(held, strong, torch.where(seen.tau.isfinite(), weak, free)))), {}
