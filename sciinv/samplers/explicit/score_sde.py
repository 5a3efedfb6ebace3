"""Score-SDE projection (Song et al. 2021): each step of the unconditional sampler, then the noised data put in place.

Predictor from t to s, ``x' = r x_t + (1 - r) D + s sqrt(1 - r) xi``, ``r = (s/t)^2``; corrector at s,
``x' = x + 2 snr^2 (D(x, s) - x) + 2 snr s xi``; after each ``x_s = x' + relax A^+ (y + s A xi - A x')``
(`projection`).

* The published corrector has step ``2 (snr |xi| / |score|)^2`` with norms averaged over the batch; for the score of
  noise that ratio is s, which is what stands here: no sample sees another. The published inpainting code noises the
  data to the level the step came from instead of the one it goes to.
* Exact as steps grow only if the prior decorrelates what the data see from what they do not, ``P C (I - P) = 0``.
  Otherwise, for two unit variances of correlation r, one of them seen as y, the other has mean
  ``(y/r)(1 - sqrt(1 - r^2))`` and variance ``(1 - r^2)/(2r) ln((1 + r)/(1 - r))`` (truth ``r y``, ``1 - r^2``). Many
  corrector steps a level take the bias of the mean away, because the data are noised afresh before each.
"""

from __future__ import annotations

import dataclasses as dc
from typing import ClassVar

from sciinv.errors import UsageError
from sciinv.prior import Counted
from sciinv.problem import Info, Problem
from sciinv.rng import Rng
from sciinv.samplers.base import State
from sciinv.samplers.explicit.projection import Projected, replace


@dc.dataclass(frozen=True)
class ScoreSDE(Projected):
    """Projection with predictor and corrector.

    Attributes
    ----------
    steps : number of noise levels.
    corrector : Langevin steps a level, one network call each; 0 leaves the predictor alone.
    snr : size of a corrector step.
    relax : share of the projection taken, 1 for the whole; less for noisy data, which then no longer fit exactly.
    """

    name: ClassVar[str] = "score_sde"
    paper: ClassVar[str] = "Song, Sohl-Dickstein, Kingma, Kumar, Ermon, Poole, ICLR 2021 (arXiv 2011.13456)"
    technique: ClassVar[str] = "projection"
    claims: ClassVar[str] = (
        "approximate: takes the data as noiseless and fits them exactly; right only where the prior decorrelates what "
        "the data see from what they do not"
    )

    corrector: int = 1
    snr: float = 0.16
    relax: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (self.corrector >= 0 and 0 < self.snr < 0.7 and 0 < self.relax <= 1):
            raise UsageError(
                "score_sde settings are impossible",
                expected="corrector >= 0, 0 < snr < 0.7, 0 < relax <= 1",
                found=repr(self),
            )

    def step(self, problem: Problem, prior: Counted, state: State, t: float, s: float, rng: Rng) -> tuple[State, Info]:
        x, gap = replace(problem, self.predict(problem, prior, state.x, t, s, rng), s, rng, self.relax)
        for _ in range(self.corrector if s else 0):
            x = x + 2 * self.snr**2 * (prior.denoise(x, s) - x) + 2 * self.snr * s * rng.normal_like(x)
            x, gap = replace(problem, x, s, rng, self.relax)
        return State(x), {"gap": gap}
