"""FPS-SMC, filtering posterior sampling: a noisy path for the data, and a particle filter that follows it.

A path of the diffusion with ``x_s = x_0 + s zeta_s``, ``zeta_s = sqrt(1 - c) zeta_t + sqrt(c) xi`` gives the data the
path ``y_s = y + (s/t) sqrt(1 - c) (y_t - y) + s sqrt(c) A xi``, drawn once for a population. The filter takes
``y_s ~ N(A x_s, sigma_y^2)``: with ``mu = D + (s/t) sqrt(1 - c) (x_t - D)``, ``v = c s^2``, the weight is
``N(y_s; A mu, sigma_y^2 I + v A A^H)`` and the draw ``x_s ~ N(x_s; mu, v) N(y_s; A x_s, sigma_y^2)``; at 0 ``x_0 = D``
(Dou and Song 2024, in variance-exploding form; all in the coordinates of `spectral`).

Since ``y_s = A x_s + n`` with one and the same n for every s, the filter takes one measurement for as many independent
ones as there are levels near or below ``sigma_y / s_i``: the more steps, the narrower.
"""

from __future__ import annotations

import dataclasses as dc
import math
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from sciinv.errors import UsageError
from sciinv.prior import Counted
from sciinv.problem import Info, Problem
from sciinv.rng import Rng
from sciinv.samplers.base import Leveled, State
from sciinv.samplers.smc import Population, shared


def renewal(c: float | None, t: float, s: float) -> tuple[float, float]:
    """``(s/t) sqrt(1 - c)``, the noise that a step keeps, and ``c s^2``, the variance that it renews."""
    c = 1 - (s / t) ** 2 if c is None else c
    return s / t * math.sqrt(1 - c), c * s * s


@dc.dataclass(frozen=True)
class Filtering(Leveled):
    """Methods that follow a noisy path of the data.

    Attributes
    ----------
    steps : number of noise levels.
    c : share of the noise that a step renews. By default ``1 - (s/t)^2``, the ancestral step; with any fixed share,
        such as the published 0.95, the steps without data leave half of a Gaussian prior's variance as they multiply.
    """

    requires: ClassVar[frozenset[str]] = frozenset({"linear", "gaussian", "svd"})

    c: float | None = None

    def __post_init__(self) -> None:
        if not (self.steps >= 2 and (self.c is None or 0 < self.c <= 1)):
            raise UsageError(
                f"{self.name} settings are impossible", expected="steps >= 2, 0 < c <= 1", found=repr(self)
            )


@dc.dataclass(frozen=True)
class FPSSMC(Filtering, Population):
    """Filtering posterior sampling with particles."""

    name: ClassVar[str] = "fps_smc"
    paper: ClassVar[str] = "Dou, Song 2024"
    technique: ClassVar[str] = "sampling"
    claims: ClassVar[str] = "exact as particles and steps grow without measurement noise; too narrow with it"

    def __post_init__(self) -> None:
        Filtering.__post_init__(self)
        Population.__post_init__(self)

    def init(self, problem: Problem, prior: Counted, rng: Rng, like: Tensor) -> State:
        seen, top = problem.observed, self.grid(prior)[0]
        path = seen.o + top * shared(seen.V.adjoint(rng.normal_like(like)), self.islands)
        mean = seen.V.adjoint(like)
        state = self.start(seen.V(seen.condition(mean, path, top**2, seen.V.adjoint(rng.normal_like(like)))))
        state.aux["path"] = path
        return state

    def step(self, problem: Problem, prior: Counted, state: State, t: float, s: float, rng: Rng) -> tuple[State, Info]:
        seen, (keep, v) = problem.observed, renewal(self.c, t, s)
        d = prior.denoise(state.x, t)
        mean = seen.V.adjoint(torch.lerp(d, state.x, keep))
        path = seen.o + keep * (state.aux["path"] - seen.o)
        path = path + math.sqrt(v) * shared(seen.V.adjoint(rng.normal_like(d)), self.islands)
        state = State(state.x, state.log_w, {**state.aux, "path": path, "mean": mean})
        ratio = seen.log_normal(path - mean, v + seen.tau.square())
        state, info = self.reweigh(state, ratio, rng, None if s else 0.0)
        mean = state.aux.pop("mean")
        noise = seen.V.adjoint(rng.normal_like(state.x))
        state.x = seen.V(seen.condition(mean, state.aux["path"], v, noise))
        return state, info

    def diagnostics(self, trace: Mapping[str, Tensor]) -> dict[str, Any]:
        """As of every population, less the evidence: this one's is that of the path, not of the data."""
        unknown = ("log_evidence", "islands_pooled")
        return {k: v for k, v in super().diagnostics(trace).items() if not k.startswith(unknown)}

    def finish(self, problem: Problem, prior: Counted, state: State, rng: Rng) -> Tensor:
        """The particles; every island has its own path, and paths are drawn from their law: equal shares."""
        return state.x
