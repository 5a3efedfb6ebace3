"""SMCDiff, the replacement method with weights, for inpainting: measured entries follow a diffused path of the data.

The data are the measured entries at level ``tau = sigma_y`` of the diffusion (`spectral`). One path of them upwards,
``y_t - y ~ N(0, t^2 - tau^2)`` with independent increments, is drawn for a population, from the top down as a Brownian
bridge. A step from t to s proposes ``x_s ~ N(m, b^2)``, ``m = D + (s/t)^2 (x - D)``, ``b^2 = s^2 (1 - (s/t)^2)``,
overwrites the measured entries by ``y_s`` and weights by ``N(y_s; m, b^2)`` (Trippe et al. 2022); the step
that passes tau stops there for the measured entries and goes on from y with the same D. Divided by the path's own
density the weights give the evidence of y. Given y the path's noise tells nothing about the rest of ``x_0``, so one
path is enough.
"""

from __future__ import annotations

import dataclasses as dc
from typing import ClassVar

import torch
from torch import Tensor

from sciinv.errors import MismatchError
from sciinv.prior import Counted
from sciinv.problem import Info, Problem
from sciinv.rng import Rng
from sciinv.samplers.base import State
from sciinv.samplers.exact.mcgdiff import MARGIN
from sciinv.samplers.kernels import look_ahead
from sciinv.samplers.smc import Descending, shared


@dc.dataclass(frozen=True)
class SMCDiff(Descending):
    """Replacement with weights, for masks."""

    name: ClassVar[str] = "smcdiff"
    paper: ClassVar[str] = "Trippe et al. 2022"
    technique: ClassVar[str] = "sampling"
    claims: ClassVar[str] = "exact as particles and steps grow"
    requires: ClassVar[frozenset[str]] = frozenset({"linear", "gaussian", "svd", "mask"})

    def init(self, problem: Problem, prior: Counted, rng: Rng, like: Tensor) -> State:
        seen, top = problem.observed, self.grid(prior)[0]
        if problem.noise.sigma * float(problem.svd.inverse_s().max()) >= MARGIN * top:
            raise MismatchError(
                "smcdiff starts below the level of the data", expected="noise under the prior's sigma_max",
                found=f"noise {problem.noise.sigma:.3g}, sigma_max {top:.3g}", hint="mcgdiff",
            )  # fmt: skip
        above = top**2 - seen.tau.square()
        path = seen.o + above.clamp_min(0).sqrt() * shared(seen.V.adjoint(rng.normal_like(like)), self.islands)
        x = top * seen.V.adjoint(rng.normal_like(like))
        state = self.start(seen.V(torch.where(seen.tau.isfinite(), path, x)), path=path)
        drawn = seen.log_normal(path, seen.tau.new_full((), top**2)) - seen.log_normal(path - seen.o, above)
        state.aux["log_z"] = state.aux["log_z"] + seen.constant + drawn
        return state

    def step(self, problem: Problem, prior: Counted, state: State, t: float, s: float, rng: Rng) -> tuple[State, Info]:
        seen = problem.observed
        tau2 = seen.tau.square()
        held = tau2 < MARGIN * t * t
        # the level that measured entries are overwritten at: s, or that of the data on the way
        u2 = torch.where(held, tau2.clamp(min=s * s), s * s)
        b2 = u2 * (1 - u2 / t**2)
        # bridge from (tau^2, o) to (t^2, path), seen at u2: the end itself where u2 = tau^2
        lag = torch.where(held, (u2 - tau2) / (t * t - tau2), 0.0)
        spread = (lag * (t * t - u2)).sqrt()
        step_noise = shared(seen.V.adjoint(rng.normal_like(state.x)), self.islands)
        path = seen.o + lag * (state.aux["path"] - seen.o) + spread * step_noise
        d, kept = look_ahead(state.aux, prior.denoise(state.x, t), t, s, self.order)
        x, d = seen.V.adjoint(state.x), seen.V.adjoint(d)
        m = d + (u2 / t**2) * (x - d)
        if s == 0:  # noise below the last level: x_0 | x_t ~ N(D, t^2), given the data
            m, b2, path = d, torch.where(held, t * t + tau2, 0.0), seen.o.expand_as(d)
        ratio = seen.log_normal(path - m, b2, held) - seen.log_normal(spread * step_noise, spread**2, held & (lag > 0))
        state = State(state.x, state.log_w, {**state.aux, **kept, "path": path, "m": m, "d": d})
        state, info = self.reweigh(state, ratio, rng, None if s else 0.0)
        m, d, path = state.aux.pop("m"), state.aux.pop("d"), state.aux["path"]
        noise = seen.V.adjoint(rng.normal_like(state.x))
        if s == 0:
            state.x = seen.V(torch.where(held, seen.condition(d, path, t * t, noise), d))
            return state, info
        x = torch.where(held, path, m + b2.sqrt() * noise)
        r = (s * s / u2).clamp_max(1.0)
        state.x = seen.V(d + r * (x - d) + s * (1 - r).sqrt() * noise)
        return state, info
