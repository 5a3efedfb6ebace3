"""ILVR, iterative latent variable refinement (Choi et al. 2021): low frequencies from a reference, the rest generated.

``x_s = x' - phi(x') + phi(y_s)``, x' the ancestral step and y_s the reference noised to s. The published phi shrinks
and enlarges an image with a bicubic filter, which is no projection (applied twice it changes the image again), and the
reference is a full image. Here ``phi = A^+ A`` and the reference is ``A^+ y``: then this is `score_sde` without its
corrector, bit for bit, as long as no level is left out.
"""

from __future__ import annotations

import dataclasses as dc
from typing import ClassVar

from sciinv.errors import UsageError
from sciinv.prior import Counted
from sciinv.problem import Info, Problem
from sciinv.rng import Rng
from sciinv.samplers.base import State
from sciinv.samplers.explicit.projection import Projected


@dc.dataclass(frozen=True)
class ILVR(Projected):
    """Refinement by the pseudo-inverse.

    Attributes
    ----------
    steps : number of noise levels; one network call each.
    range_end : levels below it go without the data (the published ``range_t``): more natural images that no longer fit.
    """

    name: ClassVar[str] = "ilvr"
    paper: ClassVar[str] = "Choi, Kim, Jeong, Gwon, Yoon, ICCV 2021 (arXiv 2108.02938)"
    technique: ClassVar[str] = "projection"
    claims: ClassVar[str] = (
        "approximate: takes the data as noiseless; the law of score_sde without corrector while range_end is 0"
    )

    range_end: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.range_end >= 0:
            raise UsageError("ilvr: no such level", expected="range_end >= 0", found=str(self.range_end))

    def step(self, problem: Problem, prior: Counted, state: State, t: float, s: float, rng: Rng) -> tuple[State, Info]:
        if s >= self.range_end:
            return super().step(problem, prior, state, t, s, rng)
        x = self.predict(problem, prior, state.x, t, s, rng)
        return State(x), {"gap": x.new_zeros(len(x))}
