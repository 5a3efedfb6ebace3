"""DDNM, denoising diffusion null-space model (Wang et al. 2023): the denoised image, its seen part put right.

``D_y = D + A^+ (y - A D)``, then ``x_s = D_y + s (sqrt(1 - eta^2) e + eta xi)`` with the PRIOR's ``e = (x_t - D) / t``.

* Every sample fits the data exactly, ``A x_0 = y``; `ddnm_plus` knows their noise.
* Without noise, for a Gaussian prior, the law tends to the posterior's mean with ``(1 + sqrt(1 - eta^2)) / 2`` of its
  covariance as steps grow: .76 at the published eta = 0.85. At ``eta = 0`` the spread is right, because the steps hold
  ``A D = y`` at every level instead of drawing the data's noise afresh (`score_sde`), but the start is never forgotten:
  for two unit variances of correlation 0.8, one seen as 1, the mean of the other is .777 from a widest level of 20 and
  .795 from 80 (truth .8; replacement .5).
* Time travel (``travel_repeats > 1``) walks stretches of the ladder again, as `repaint` does. ``travel="forward"``
  noises the state up, ``"denoised"`` noises the last denoised image, as the published code does, which forgets more.
"""

from __future__ import annotations

import dataclasses as dc
from collections.abc import Sequence
from typing import ClassVar, Literal

from torch import Tensor

from sciinv.errors import UsageError
from sciinv.prior import Counted
from sciinv.problem import Info, Problem
from sciinv.rng import Rng
from sciinv.samplers.base import State
from sciinv.samplers.explicit.projection import Projected, at_least_one, climb, jump_ladder, replace
from sciinv.samplers.kernels import transition


@dc.dataclass(frozen=True)
class DDNM(Projected):
    """Null-space diffusion; one network call a step.

    Attributes
    ----------
    steps : number of noise levels.
    eta : share of fresh noise; below 1 the spread shrinks as described above.
    travel_length, travel_repeats : steps of a stretch, and how often it is walked.
    travel : what is noised at the start of a stretch, ``"forward"`` the state or ``"denoised"`` the denoised image.
    """

    name: ClassVar[str] = "ddnm"
    paper: ClassVar[str] = "Wang, Yu, Zhang, ICLR 2023 (arXiv 2212.00490)"
    technique: ClassVar[str] = "projection"
    claims: ClassVar[str] = (
        "approximate: takes the data as noiseless and fits them exactly; spread too small wherever eta > 0"
    )

    steps: int = 100
    eta: float = 0.85
    travel_length: int = 1
    travel_repeats: int = 1
    travel: Literal["forward", "denoised"] = "forward"

    def __post_init__(self) -> None:
        at_least_one(self, "steps", "travel_length", "travel_repeats")
        if not 0 <= self.eta <= 1:
            raise UsageError(f"{self.name}: eta is impossible", expected="0 <= eta <= 1", found=str(self.eta))

    def grid(self, prior: Counted) -> Sequence[float]:
        return jump_ladder(super().grid(prior), self.travel_length, self.travel_repeats)

    def move(self, problem: Problem, x: Tensor, d: Tensor, t: float, s: float, rng: Rng) -> tuple[Tensor, Tensor]:
        """From ``t`` down to ``s``, given the denoised ``d``; and how far d was from the data, ``(n,)``."""
        d_y, gap = replace(problem, d, 0.0, rng)
        return transition(x, d_y, t, s, eta=self.eta, rule="renoise", rng=rng, eps_of=d), gap

    def step(self, problem: Problem, prior: Counted, state: State, t: float, s: float, rng: Rng) -> tuple[State, Info]:
        if s > t:
            x, below = (state.x, t) if self.travel == "forward" else (state.aux["d"], 0.0)
            return State(climb(x, below, s, rng), aux=state.aux), {"gap": x.new_zeros(len(x))}
        d = prior.denoise(state.x, t)
        x, gap = self.move(problem, state.x, d, t, s, rng)
        return State(x, aux={} if self.travel == "forward" else {"d": d}), {"gap": gap}
