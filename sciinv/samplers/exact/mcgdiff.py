"""MCGDiff, Monte Carlo guided diffusion: the data are exact observations of the diffused state.

In spectral coordinates (`spectral`) ``o_i = x_i + tau_i n``: o_i is the state at a level of its own,
``tau_i = sigma_y / s_i``. So the posterior is the law of ``x_0`` under the reverse diffusion pinned to
``x_{tau_i, i} = o_i`` (Cardoso et al. 2023, arXiv:2308.07983). In variance-exploding form
(``x_VE = x_VP / sqrt(abar)``):

* potentials above the pin, ``g_t(x) = prod_{tau_i < t} N(x_i; o_i, t^2 - tau_i^2)``;
* a step from t to s has ``m = D + (s/t)^2 (x - D)``, ``b^2 = s^2 (1 - (s/t)^2)`` and the weight
  ``prod_{tau_i <= s} N(o_i; m_i, b^2 + s^2 - tau_i^2) / g_t(x)``, then the product of the two normals is drawn;
* where ``s < tau_i < t`` the same step stops at tau_i, is pinned there with weight ``N(o_i; m_i(tau_i), b_i^2)``, and
  goes on from o_i with the same D: every level tau_i is met without a network call of its own;
* below its pin a coordinate is free and its potential is spent.

The published code keeps a width ``kappa`` at the pin and divides it out afterwards: that weight ``1 / N(x; o, kappa)``
has no finite mean as kappa falls, and the limit is what stands here. Noise below the prior's last level is met in the
last step with ``p(x_0 | x_t) = N(D, t^2)``.
"""

from __future__ import annotations

import dataclasses as dc
from typing import ClassVar

import torch
from torch import Tensor

from sciinv.prior import Counted
from sciinv.problem import Info, Problem
from sciinv.rng import Rng
from sciinv.samplers.base import State
from sciinv.samplers.kernels import look_ahead
from sciinv.samplers.smc import Descending

MARGIN = 1 - 1e-4  # a pin this near a level is on it


@dc.dataclass(frozen=True)
class MCGDiff(Descending):
    """Monte Carlo guided diffusion."""

    name: ClassVar[str] = "mcgdiff"
    paper: ClassVar[str] = "Cardoso et al. 2023 (arXiv:2308.07983)"
    technique: ClassVar[str] = "sampling"
    claims: ClassVar[str] = "exact as particles and steps grow; unbiased evidence of the discretised prior"
    requires: ClassVar[frozenset[str]] = frozenset({"linear", "gaussian", "svd"})

    def init(self, problem: Problem, prior: Counted, rng: Rng, like: Tensor) -> State:
        """Draws of ``N(x; 0, T^2) prod N(x_i; o_i, |T^2 - tau_i^2|)``; where tau_i > T that is the law given o_i."""
        seen, top = problem.observed, self.grid(prior)[0]
        v = (top**2 - seen.tau.square()).abs()
        gain = top**2 / (top**2 + v)
        noise = seen.V.adjoint(rng.normal_like(like))
        state = self.start(seen.V(gain * seen.o + top * (1 - gain).sqrt() * noise))
        first = seen.constant + seen.log_normal(seen.o.expand_as(noise), top**2 + v)
        state.aux["log_z"] = state.aux["log_z"] + first
        return state

    def step(self, problem: Problem, prior: Counted, state: State, t: float, s: float, rng: Rng) -> tuple[State, Info]:
        seen = problem.observed
        tau2 = seen.tau.square()
        guided = tau2 < MARGIN * t * t
        # the level that each coordinate goes to with guidance: s, or its pin on the way
        u2 = torch.where(guided, tau2.clamp(min=s * s), s * s)
        b2, v = u2 * (1 - u2 / t**2), torch.where(guided, u2 - tau2, torch.inf)
        if s == 0:
            u2, b2, v = (torch.zeros_like(u2), torch.where(guided, t * t, 0.0), torch.where(guided, tau2, torch.inf))

        def mean(x: Tensor, d: Tensor) -> Tensor:
            return d + (u2 / t**2) * (x - d)

        d, kept = look_ahead(state.aux, prior.denoise(state.x, t), t, s, self.order)
        x, d = seen.V.adjoint(state.x), seen.V.adjoint(d)
        ahead = seen.log_normal(seen.o - mean(x, d), b2 + v, guided)
        behind = seen.log_normal(x - seen.o, t * t - tau2, guided)
        state = State(state.x, state.log_w, {**state.aux, **kept, "x": x, "d": d})
        state, info = self.reweigh(state, ahead - behind, rng, None if s else 0.0)
        x, d = state.aux.pop("x"), state.aux.pop("d")
        noise = seen.V.adjoint(rng.normal_like(state.x))
        m, gain = mean(x, d), torch.where(guided, b2 / (b2 + v), 0.0)
        x = m + gain * (seen.o - m) + (b2 * (1 - gain)).sqrt() * noise
        if s:  # from a pin down to s; elsewhere the level is s already
            r = (s * s / u2).clamp_max(1.0)
            x = d + r * (x - d) + s * (1 - r).sqrt() * noise
        state.x = seen.V(x)
        return state, info
