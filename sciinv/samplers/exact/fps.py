"""FPS, filtering posterior sampling: every sample follows its own noisy path of the data, without weights.

`FPSSMC` with one particle, for many samples at once: ``y_s = y + (s/t) sqrt(1 - c) (y_t - y) + s sqrt(c) A xi``, then
``x_s ~ N(x_s; mu, v) N(y_s; A x_s, sigma_y^2)``, ``mu = D + (s/t) sqrt(1 - c) (x_t - D)``, ``v = c s^2`` (Dou and Song
2024, in variance-exploding form).

Two things stand between it and the posterior, and neither goes away with more steps: a step sees the present datum and
no later one (the weights of `FPSSMC` would correct that), and the measurement noise is counted once a level.
"""

from __future__ import annotations

import dataclasses as dc
import math
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from sciinv.errors import UsageError
from sciinv.prior import Counted
from sciinv.problem import Info, Problem
from sciinv.rng import Rng
from sciinv.samplers.base import Sampler, State
from sciinv.samplers.exact.fps_smc import renewal
from sciinv.samplers.exact.observed import observe
from sciinv.schedule import karras


@dc.dataclass(frozen=True)
class FPS(Sampler):
    """Filtering posterior sampling.

    Attributes
    ----------
    steps : number of noise levels.
    c : share of the noise that a step renews; as in `FPSSMC`.
    """

    name: ClassVar[str] = "fps"
    paper: ClassVar[str] = "Dou, Song 2024"
    claims: ClassVar[str] = "no exact limit: no weights, and the measurement noise is counted once a level"
    requires: ClassVar[frozenset[str]] = frozenset({"linear", "gaussian", "svd"})

    steps: int = 100
    c: float | None = None

    def __post_init__(self) -> None:
        if not (self.steps >= 2 and (self.c is None or 0 < self.c <= 1)):
            raise UsageError("fps settings are impossible", expected="steps >= 2, 0 < c <= 1", found=repr(self))

    def grid(self, prior: Counted) -> Sequence[float]:
        return karras(prior.sigma_max, prior.sigma_min, self.steps)

    def init(self, problem: Problem, prior: Counted, rng: Rng, like: Tensor) -> State:
        seen, top = observe(problem), self.grid(prior)[0]
        path = seen.o + top * seen.V.adjoint(rng.normal_like(like))
        noise = seen.V.adjoint(rng.normal_like(like))
        return State(seen.V(seen.condition(seen.V.adjoint(like), path, top**2, noise)), aux={"path": path})

    def step(self, problem: Problem, prior: Counted, state: State, t: float, s: float, rng: Rng) -> tuple[State, Info]:
        seen, (keep, v) = observe(problem), renewal(self.c, t, s)
        mean = seen.V.adjoint(torch.lerp(prior.denoise(state.x, t), state.x, keep))
        path = seen.o + keep * (state.aux["path"] - seen.o)
        path = path + math.sqrt(v) * seen.V.adjoint(rng.normal_like(state.x))
        noise = seen.V.adjoint(rng.normal_like(state.x))
        return State(seen.V(seen.condition(mean, path, v, noise)), aux={"path": path}), {}
