"""Split-Gibbs SMC for nonlinear data: the pair (x, z) is annealed, since its x-marginal has no closed form.

With ``e = (z - x) / rho`` the joint law of split Gibbs is ``p(x) N(e; 0, I) p(y | x + rho e)^beta``. Two legs: beta
rises from 0 to 1 at ``rho_max``, weights ``p(y | z)^(beta' - beta)``; then rho falls with e held, weights
``p(y | x + rho' e) / p(y | x + rho e)``, down to rho = 0, where x alone is left. Holding e makes the weights depend on
the likelihood only: annealing ``N(z; x, rho^2)`` with z held would need a number of rungs that grows with the size of
the image. Between weights z moves by Metropolis-corrected transitions and x by the prior step.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from sciinv.prior import Counted
from sciinv.problem import Info, Problem
from sciinv.rng import Rng
from sciinv.samplers.base import State
from sciinv.samplers.exact.mcmc import ACCEPT, Chain, longest, move, start_chain
from sciinv.samplers.kernels import prior_step
from sciinv.samplers.smc import furthest

if TYPE_CHECKING:
    from sciinv.samplers.exact.sgs_smc import SGSSMC

HALVINGS = 16  # of beta or log rho: each one costs the forward operator


def joint_start(method: SGSSMC, x: Tensor, rng: Rng) -> State:
    """Prior draws x with their z, no data yet."""
    beta = x.new_zeros(len(x), dtype=torch.float64)
    z = x + method.rho_max * rng.normal_like(x)
    step = x.new_zeros(len(x))
    return method.start(x, z=z, log_step=step, tuned=step, beta=beta, rho=torch.full_like(beta, method.rho_max))


def joint_step(
    method: SGSSMC, problem: Problem, prior: Counted, state: State, last: bool, rng: Rng
) -> tuple[State, Info]:
    """One rung: the next beta or rho, weights, resampling, a move of z and of x."""
    z, x, kernel = state.aux["z"], state.x, method.chosen(problem)
    beta, rho = (float(v) for v in torch.stack([state.aux["beta"][0], state.aux["rho"][0]]).tolist())
    fit = problem.log_likelihood(z).to(torch.float64)

    def enough(log_ratio: Tensor) -> Tensor:
        return method.keeps(state, log_ratio, method.ess_target)

    def widest(log_ratio: Callable[[Tensor], Tensor]) -> Tensor:
        """Share of the way to go; never none of it."""
        share = furthest(lambda share: enough(log_ratio(share)), fit.new_zeros(()), HALVINGS)
        return share.clamp_min(0.5**HALVINGS)

    likelihood = _along(problem, x, z)

    def at(width: float | Tensor) -> Tensor:
        return likelihood(width / rho).to(torch.float64) - fit

    if beta < 1:
        share = 1.0 if last else float(widest(lambda share: share * (1 - beta) * fit))
        up = 1.0 if share == 1 else beta + share * (1 - beta)
        ratio, width, first = (up - beta) * fit, rho, beta == 0
    else:
        up, first = 1.0, False
        ends = last or rho <= method.rho_min * (1 + 1e-9)
        if ends and method.returns == "seen":
            state, info = method.reweigh(state, torch.zeros_like(fit), rng, 0.0)
            state.x, state.done = problem.reduced.seen_from(z, x), True
            return state, {**info, "rho": state.aux["rho"], "accept": x.new_ones(len(x))}
        if ends or (method.returns == "x" and bool(enough(at(0.0)))):
            state, info = method.reweigh(state, at(0.0), rng, 0.0)
            state.done = True
            return state, {**info, "rho": torch.zeros_like(state.aux["rho"]), "accept": x.new_ones(len(x))}
        span = math.log(method.rho_min / rho)
        part = float(widest(lambda share: at((share * span).exp() * rho)))
        width = max(rho * math.exp(part * span), method.rho_min)
        ratio = at(width)
        state.aux["z"] = x + (width / rho) * (z - x)
    state, info = method.reweigh(state, ratio, rng)
    chain = Chain(*(state.aux[k] for k in ("z", "log_step", "tuned")))
    if first:
        chain = start_chain(problem, state.aux["z"], width, kernel, up)
        chain = chain._replace(log_step=chain.log_step.mean().expand_as(chain.log_step))
    chain, extra = move(problem, state.x, width, chain, rng, kernel=kernel, steps=method.inner, tune=False, beta=up)
    # one angle for all, learned from the rung before: within a rung the kernel is exact
    better = chain.log_step + (extra["accept"].mean() - ACCEPT[kernel])
    if kernel.startswith("row"):
        better = better.clamp_max(math.log(longest(kernel)))
    chain = chain._replace(log_step=better)
    state.x = prior_step(prior, chain.z, width, rng, method.log_step, method.order)
    state.aux |= chain._asdict()
    state.aux["beta"], state.aux["rho"] = (torch.full_like(state.aux["rho"], v) for v in (up, width))
    return state, {**info, "rho": state.aux["rho"], "accept": extra["accept"]}


def _along(problem: Problem, x: Tensor, z: Tensor) -> Callable[[float | Tensor], Tensor]:
    """``log p(y | x + t (z - x))`` as a function of t; the linear part of the operator is applied once."""
    if "split" not in problem.capabilities():
        return lambda t: problem.log_likelihood(x + t * (z - x))
    outer, inner = problem.operator.split()
    here, there = inner(x), inner(z)
    ndim = len(problem.operator.codomain.shape)
    return lambda t: problem.noise.log_prob(problem.y, outer(here + t * (there - here)), ndim)
