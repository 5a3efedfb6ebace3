"""Twisted SMC: particles are weighted by a guess of ``p(y | x_t)``, and the guess is exact at the end.

A step from level t to s proposes ``x_s ~ q``; the weights of the path telescope to
``p(y | x_0) prod p(x_s | x_t) / q(x_s | x_t)`` whatever the guess (the twist) was, so it decides the variance alone:
increment ``p(x_s | x_t) g_s(x_s) / (q(x_s | x_t) g_t(x_t))`` (Wu, Trippe et al. 2023, arXiv:2306.17775). The
prior ends with ``x_0 = D``, so the twist of the last level is ``p(y | D)`` itself.
"""

from __future__ import annotations

import abc
import dataclasses as dc

import torch
from torch import Tensor

from sciinv.errors import UsageError
from sciinv.prior import Counted
from sciinv.problem import Info, Problem
from sciinv.rng import Rng
from sciinv.samplers.base import State
from sciinv.samplers.kernels import look_ahead
from sciinv.samplers.smc import Descending

SMALL = 1e-9  # of T^2: what a variance is at least


@dc.dataclass(frozen=True)
class Twisted(Descending):
    """Methods with a twist.

    Attributes
    ----------
    variance : variance c of the prior per component, in its own units: of ``x_0 | x_t`` the twist assumes
        ``r_t^2 = t^2 c / (t^2 + c)``. Too small a value makes the twist overconfident. By default measured with one
        network call at the first level T, where ``r_T^2`` is the mean slope of D, ``E x D / d`` by Stein's identity.
    """

    variance: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.variance is not None and not self.variance > 0:
            raise UsageError(f"{self.name} settings are impossible", expected="variance > 0", found=repr(self))

    def init(self, problem: Problem, prior: Counted, rng: Rng, like: Tensor) -> State:
        top = self.grid(prior)[0]
        x = top * rng.normal_like(like)
        if self.variance is None:
            d = prior.denoise(x, top)
            r2 = (x * (d - d.nanmean(0))).nanmean().clamp(SMALL * top**2, 0.99 * top**2)
            c = r2 / (1 - r2 / top**2)
        else:
            c = x.new_tensor(self.variance)
        return self.start(x, carried=x.new_zeros(len(x), dtype=torch.float64), variance=c.expand(len(x)))

    @abc.abstractmethod
    def twist(
        self, problem: Problem, prior: Counted, x: Tensor, t: float, s: float, r2: Tensor
    ) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """``log g_t(x)`` ``(n,)``, the denoised ``D`` and what `propose` needs; s is the next level, r2 is 0-dim."""

    @abc.abstractmethod
    def propose(
        self, problem: Problem, x: Tensor, at: dict[str, Tensor], t: float, s: float, r2: Tensor, noise: Tensor
    ) -> tuple[Tensor, Tensor]:
        """``x_s`` and ``log p(x_s | x) - log q(x_s | x)`` ``(n,)``, from white noise like x.

        ``at`` has what `twist` gave, ``d`` and ``ahead``, the denoised image that the prior steps with.
        """

    def step(self, problem: Problem, prior: Counted, state: State, t: float, s: float, rng: Rng) -> tuple[State, Info]:
        if s == 0:
            d = prior.denoise(state.x, t)
            ratio = problem.log_likelihood(d).to(torch.float64) + state.aux["carried"]
            return self.reweigh(State(d, state.log_w, state.aux), ratio, rng, 0.0)
        c = state.aux["variance"][0]
        r2 = c / (1 + c / t**2)
        value, d, aim = self.twist(problem, prior, state.x, t, s, r2)
        ahead, kept = look_ahead(state.aux, d, t, s, self.order)
        held = {"value": value, "d": d, "ahead": ahead, **aim}
        state = State(state.x, state.log_w, {**state.aux, **kept, **held})
        state, info = self.reweigh(state, value + state.aux["carried"], rng)
        held = {k: state.aux.pop(k) for k in held}
        state.x, gained = self.propose(problem, state.x, held, t, s, r2, rng.normal_like(state.x))
        state.aux["carried"] = gained - held["value"]
        return state, info
