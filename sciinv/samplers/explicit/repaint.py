"""RePaint (Lugmayr et al. 2022): projection with jumps back up the ladder, so that the two parts grow together.

Down from t to s: the ancestral step, then the noised data put in place (`projection`). Every ``jump_length`` steps the
state climbs that stretch again, ``x_t = x_s + sqrt(t^2 - s^2) xi``, and walks it ``repeats`` times in all.

* Published for masks; any operator with a decomposition will do here. The published code noises the data to the level
  that the denoiser is about to see instead of the one that the step arrives at.
* One repeat is `score_sde` without its corrector, bit for bit. More repeats take away its bias, slowly: for two unit
  variances of correlation 0.8 with one seen as 1, the mean of the other is .474, .669, .762, .791 with 1, 3, 10, 40
  repeats of single steps on 60 levels (truth .8).
"""

from __future__ import annotations

import dataclasses as dc
from collections.abc import Sequence
from typing import ClassVar

from sciinv.prior import Counted
from sciinv.samplers.explicit.projection import Projected, at_least_one, jump_ladder


@dc.dataclass(frozen=True)
class RePaint(Projected):
    """Projection with resampling; ``steps + ((steps - 1) // jump_length) (repeats - 1) jump_length`` calls.

    Attributes
    ----------
    steps : number of noise levels.
    jump_length : steps of a jump.
    repeats : times that a stretch is walked.
    """

    name: ClassVar[str] = "repaint"
    paper: ClassVar[str] = "Lugmayr, Danelljan, Romero, Yu, Timofte, Van Gool, CVPR 2022 (arXiv 2201.09865)"
    technique: ClassVar[str] = "projection"
    claims: ClassVar[str] = (
        "approximate: takes the data as noiseless and fits them exactly; the bias of replacement falls with repeats"
    )

    steps: int = 100
    jump_length: int = 10
    repeats: int = 10

    def __post_init__(self) -> None:
        at_least_one(self, "steps", "jump_length", "repeats")

    def grid(self, prior: Counted) -> Sequence[float]:
        return jump_ladder(super().grid(prior), self.jump_length, self.repeats)
