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
from typing import ClassVar

import torch
from torch import Tensor

from sciinv.prior import Counted
from sciinv.problem import Info, Problem
from sciinv.rng import Rng
from sciinv.samplers.base import State
from sciinv.samplers.exact.fps_smc import Filtering, renewal


@dc.dataclass(frozen=True)
class FPS(Filtering):
    """Filtering posterior sampling."""

    name: ClassVar[str] = "fps"
    paper: ClassVar[str] = "Dou, Song 2024"
    technique: ClassVar[str] = "sampling"
    claims: ClassVar[str] = "no exact limit: no weights, and the measurement noise is counted once a level"

    def init(self, problem: Problem, prior: Counted, rng: Rng, like: Tensor) -> State:
        seen, top = problem.observed, self.grid(prior)[0]
        path = seen.o + top * seen.V.adjoint(rng.normal_like(like))
        noise = seen.V.adjoint(rng.normal_like(like))
        return State(seen.V(seen.condition(seen.V.adjoint(like), path, top**2, noise)), aux={"path": path})

    def step(self, problem: Problem, prior: Counted, state: State, t: float, s: float, rng: Rng) -> tuple[State, Info]:
        seen, (keep, v) = problem.observed, renewal(self.c, t, s)
        mean = seen.V.adjoint(torch.lerp(prior.denoise(state.x, t), state.x, keep))
        path = seen.o + keep * (state.aux["path"] - seen.o)
        path = path + math.sqrt(v) * seen.V.adjoint(rng.normal_like(state.x))
        noise = seen.V.adjoint(rng.normal_like(state.x))
        return State(seen.V(seen.condition(mean, path, v, noise)), aux={"path": path}), {}
