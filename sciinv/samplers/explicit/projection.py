"""Replacement of what the data see, ``x -> (I - P) x + A^+ (y + s A xi)`` with ``P = A^+ A``: the projection family.

In spectral coordinates (`spectral`) the data are ``o = U^H y / s`` where ``s > 0``; there ``V^H x`` becomes
``o + s V^H xi``, elsewhere it stays. The noise is shaped by A (Song et al. 2021 draw it on the mask), so that
``P x_s = A^+ y + s P xi`` whatever the singular values are. The data are taken as noiseless, ``A x_0 = y``.

A ladder may climb: from level t up to s > t the state takes fresh noise, ``x_s = x_t + sqrt(s^2 - t^2) xi``
(Lugmayr et al. 2022).
"""

from __future__ import annotations

import dataclasses as dc
import math
from collections.abc import Sequence
from typing import ClassVar

from torch import Tensor

from sciinv.errors import UsageError
from sciinv.operator import power
from sciinv.prior import Counted
from sciinv.problem import Info, Problem
from sciinv.rng import Rng
from sciinv.samplers.base import Leveled, Sampler, State
from sciinv.samplers.kernels import ancestral

PROJECTED = frozenset({"linear", "gaussian", "svd"})


def replace(problem: Problem, x: Tensor, level: float, rng: Rng, share: float = 1.0) -> tuple[Tensor, Tensor]:
    """Put the data, noised to ``level``, in place of what they see of ``x``.

    Parameters
    ----------
    x : states ``(n, channel, *space)``.
    share : how much of the way the state moves there; 1 replaces.

    Returns
    -------
    The states, and how far they were from the data, ``(n,)``: root mean square over the state's entries.
    """
    seen = problem.observed
    gap = seen.gap(x - level * rng.normal_like(x) if level else x)
    return x + (seen.V(gap) if share == 1 else share * seen.V(gap)), distance(gap, x)


def distance(gap: Tensor, x: Tensor) -> Tensor:
    """Root mean square of a gap in spectral coordinates over the entries of the states ``x``, ``(n,)``."""
    return (power(gap).flatten(1).sum(1) / math.prod(x.shape[1:])).sqrt()


def climb(x: Tensor, t: float, s: float, rng: Rng) -> Tensor:
    """From level ``t`` up to ``s``, by the forward process."""
    return x + math.sqrt(s * s - t * t) * rng.normal_like(x)


def jump_ladder(levels: Sequence[float], length: int, repeats: int) -> list[float]:
    """The ladder that walks every stretch of ``length`` steps ``repeats`` times, jumping back up in between.

    ``levels`` end with 0; the last positive level and every ``length``-th above it are jumped from, as far as the jump
    stays on the ladder: 250 levels with length 10 and 10 repeats are 2410 denoiser calls.
    """
    last = len(levels) - 2
    left = dict.fromkeys(range(last, length - 1, -length), repeats - 1)
    out, i = [levels[0]], 0
    while i < last:
        i += 1
        out.append(levels[i])
        if left.get(i, 0) > 0:
            left[i] -= 1
            i -= length
            out.append(levels[i])
    return [*out, levels[-1]]


def at_least_one(sampler: Sampler, *names: str) -> None:
    """Refuse counts below one."""
    for name in names:
        if getattr(sampler, name) < 1:
            raise UsageError(
                f"{sampler.name}: {name} is impossible", expected=f"{name} >= 1", found=str(getattr(sampler, name))
            )


@dc.dataclass(frozen=True)
class Projected(Leveled):
    """An ancestral step, then the replacement; the ladder may climb.

    Attributes
    ----------
    steps : number of noise levels; one network call each.
    """

    requires: ClassVar[frozenset[str]] = PROJECTED

    steps: int = 200

    def __post_init__(self) -> None:
        at_least_one(self, "steps")

    def predict(self, problem: Problem, prior: Counted, x: Tensor, t: float, s: float, rng: Rng) -> Tensor:
        """The state at ``s`` before the data are put in."""
        return ancestral(x, prior.denoise(x, t), t, s, rng)

    def step(self, problem: Problem, prior: Counted, state: State, t: float, s: float, rng: Rng) -> tuple[State, Info]:
        if s > t:
            return State(climb(state.x, t, s, rng)), {"gap": state.x.new_zeros(len(state.x))}
        x, gap = replace(problem, self.predict(problem, prior, state.x, t, s, rng), s, rng)
        return State(x), {"gap": gap}
