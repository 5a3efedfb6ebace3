"""Further corruption ``A~ = B A``: B keeps a random part of what was measured (Daras et al., Ambient Diffusion, 2023).

B is drawn anew at every visit. By default it drops a fixed share of the groups that not every item measures, at least
one of them: when all scans have the same number of lines, an ``A~`` with as many lines would betray that nothing was
hidden, and ``E[A^T A | A~]`` would be singular. ``exact=False`` drops each group on its own.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sciinv.errors import UsageError
from sciinv.priors.partial import describe
from sciinv.training.ambient.items import Batch


@dataclass(frozen=True)
class Further:
    """How much is hidden again.

    Attributes
    ----------
    share : part of the droppable groups that B drops.
    exact : drop exactly that many (rounded, at least one), or each with that probability.
    """

    share: float = 0.2
    exact: bool = True

    def __post_init__(self) -> None:
        if not 0 <= self.share < 1:
            raise UsageError("the share that is dropped is out of range", expected="0 <= share < 1",
                             found=str(self.share))  # fmt: skip

    def dropped(self, droppable: int) -> int:
        """How many of so many groups an exact B drops."""
        return min(droppable, max(1, round(self.share * droppable))) if self.share > 0 else 0

    def keep(self, pattern: Tensor, always: Tensor, uniform: Tensor) -> Tensor:
        """What B keeps of these items, bool ``(n, *grid)``; ``uniform`` are numbers on [0, 1) of that shape."""
        droppable = pattern & ~always
        if not self.exact:
            return pattern & ~(droppable & (uniform < self.share))
        order = torch.where(droppable, uniform, torch.inf).flatten(1).argsort(1).argsort(1)  # rank of each number
        count = droppable.flatten(1).sum(1, keepdim=True)
        drop = (self.share * count).round().clamp_min(1 if self.share > 0 else 0).minimum(count)
        return pattern & ~(order < drop).view_as(pattern)


def side(batch: Batch, keep: Tensor) -> Tensor:
    """What the network is told of ``A~``, ``(n, 1, *space)``; see `sciinv.priors.partial.describe`."""
    like = torch.empty((len(keep), *batch.operator.domain.shape), dtype=batch.y.real.dtype, device=batch.y.device)
    return describe(batch.operator, keep & batch.measured, like)
