"""RePaint++: the whole forward and reverse sweep repeated, in place of RePaint's short jumps.

A first pass of replacement from the prior's widest level to a clean image; then ``repeats - 1`` times: noise that
image up to ``sigma_top``, ``x = x_0 + sigma_top xi``, and walk down again with the data put in after every step
(`projection`). This is the sweep form in which surveys list the method; the corrected drift and dispersion of RePaint+
(Rout et al. 2023), made for data on a linear subspace, are not in it.

A sweep from a wide ``sigma_top`` forgets where it came from, so it is no better than the first pass: each carries the
full bias of replacement. A lower one has less bias but moves less, and forgets the first pass slowly. For two unit
variances of correlation 0.8, one seen as 1, 60 levels and 40 repeats, the mean of the other is .684, .773, .718, .621,
.475 at a ``sigma_top`` of .1, .25, .5, 1, 20 (truth .8; one pass .474).
"""

from __future__ import annotations

import dataclasses as dc
from collections.abc import Sequence
from typing import ClassVar

from sciinv.errors import UsageError
from sciinv.prior import Counted
from sciinv.samplers.explicit.projection import Projected, at_least_one


@dc.dataclass(frozen=True)
class RePaintPP(Projected):
    """Projection in repeated sweeps.

    Attributes
    ----------
    steps : noise levels of the first pass; a sweep walks those below ``sigma_top``.
    sigma_top : level that a sweep starts from, in the prior's units.
    repeats : passes in all.
    """

    name: ClassVar[str] = "repaint_pp"
    paper: ClassVar[str] = "after Lugmayr et al. 2022 (arXiv 2201.09865) and Rout et al. 2023 (arXiv 2302.01217)"
    technique: ClassVar[str] = "projection"
    claims: ClassVar[str] = (
        "approximate: takes the data as noiseless and fits them exactly; the bias of replacement falls with repeats "
        "at a low sigma_top"
    )

    steps: int = 100
    sigma_top: float = 0.1
    repeats: int = 10

    def __post_init__(self) -> None:
        at_least_one(self, "steps", "repeats")
        if not self.sigma_top > 0:
            raise UsageError("repaint_pp: no level to sweep from", expected="sigma_top > 0", found=str(self.sigma_top))

    def grid(self, prior: Counted) -> Sequence[float]:
        levels = super().grid(prior)
        top = min(self.sigma_top, levels[0])
        sweep = [top, *(level for level in levels if level < top)]
        return [*levels, *sweep * (self.repeats - 1)]
