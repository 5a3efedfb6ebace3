"""Metropolis-corrected draws of ``p(y | z) N(z; x, rho^2 I)`` for any differentiable operator.

The coupling is integrated exactly and only the likelihood is split off (Beskos et al. 2011; Shahbaba et al. 2014): with
velocities ``v ~ N(0, rho^2)`` one leap of angle a is a kick ``v += a/2 rho^2 grad log p(y | z)``, a rotation of
``(z - x, v)`` by a, and a kick; the proposal is accepted with probability ``min(1, exp(-change of energy))``, per
sample. Where the data say nothing it is an independent draw, whatever the dimension. One leap is MALA (the
preconditioned Crank-Nicolson form), several are HMC. ``grad log p(y | z) = J^H (y - A(z)) / sigma^2``.

The angle is tuned per sample by Robbins-Monro steps towards the best acceptance rate, .57 (MALA; Roberts and
Rosenthal 1998) or .8 (HMC; Hoffman and Gelman 2014), while the caller says so, and then frozen: only a kernel that
does not learn from its own past leaves the law invariant. ``ula`` accepts everything (its angle aims at .8): biased,
kept for comparison.

Nonlinear data that see few directions (operators that ``split``) take ``row_mala`` or ``row_hmc``: see `row_mcmc`.
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from sciinv.errors import MismatchError
from sciinv.operator import column, difference
from sciinv.problem import Info, Problem
from sciinv.rng import Rng
from sciinv.samplers.base import fitting
from sciinv.samplers.exact.row_mcmc import row_move

Kernel = Literal["auto", "exact", "mala", "hmc", "ula", "row_mala", "row_hmc"]

LEAPS = {"mala": 1, "ula": 1, "hmc": 8, "row_mala": 1, "row_hmc": 6}
EXACT, ROW = frozenset({"linear", "gaussian"}), frozenset({"split", "gaussian"})
ACCEPT = {"mala": 0.57, "ula": 0.8, "hmc": 0.8, "row_mala": 0.57, "row_hmc": 0.8}


class Chain(NamedTuple):
    """One Markov chain a sample: position ``(n, *space)``, log angle ``(n,)``, tuning steps made so far ``(n,)``."""

    z: Tensor
    log_step: Tensor
    tuned: Tensor


def start_chain(problem: Problem, x: Tensor, rho: float, kernel: str, beta: float = 1.0) -> Chain:
    """A chain at ``x`` whose first kick is no longer than the velocity it changes."""
    if kernel.startswith("row"):  # preconditioned: the longest angle is right where the data are linear
        zero = x.new_zeros(len(x))
        return Chain(x, zero + math.log(longest(kernel)), zero)
    _, gradient = prediction_and_gradient(problem, x)
    pull = beta * rho * gradient.flatten(1).norm(dim=1) / math.sqrt(x[0].numel())
    step = 1 / pull.clamp_min(1 / longest(kernel))
    return Chain(x, step.log(), torch.zeros_like(step))


def move(
    problem: Problem, x: Tensor, rho: float, chain: Chain, rng: Rng, *, kernel: str, steps: int, tune: bool | Tensor,
    beta: float = 1.0,
) -> tuple[Chain, Info]:  # fmt: skip
    """``steps`` transitions of ``kernel`` for the target ``p(y | z)^beta N(z; x, rho^2)``.

    Parameters
    ----------
    tune : whether the angle still adapts, for all or per sample ``(n,)``; the kernel is exact when it does not.

    Returns
    -------
    The moved chain and, per sample, the mean acceptance probability ``accept`` and the angle ``mcmc_step``.
    """
    z, log_step, tuned = chain
    if kernel.startswith("row"):

        def learn(probability: Tensor) -> Tensor:
            nonlocal log_step, tuned
            log_step, tuned = adapt(kernel, log_step, tuned, probability, tune)
            return log_step

        z, info = row_move(problem, x, rho, z, log_step, rng, leaps=LEAPS[kernel], steps=steps, beta=beta, learn=learn)
        return Chain(z, log_step, tuned), info
    seen, gradient = prediction_and_gradient(problem, z)
    gradient = beta * gradient
    accepted, ndim = torch.zeros_like(log_step), len(problem.operator.codomain.shape)
    for _ in range(steps):
        v = rho * rng.normal_like(z)
        chance = rng.uniform((2,)).to(z.dtype)
        # a random length keeps HMC from returning to where it started in stiff directions
        angle = log_step.exp() * (1 - 0.4 * chance[:, 1]) if LEAPS[kernel] > 1 else log_step.exp()
        new, v_new, seen_new, g_new = z, v, seen, gradient
        a = column(angle, z)
        cos, sin, kick = a.cos(), a.sin(), 0.5 * a * rho * rho
        for _ in range(LEAPS[kernel]):
            v_new = v_new + kick * g_new
            off = new - x
            new, v_new = x + cos * off + sin * v_new, cos * v_new - sin * off
            seen_new, g_new = prediction_and_gradient(problem, new)
            g_new = beta * g_new
            v_new = v_new + kick * g_new
        # differences of squares as products: energies of a large image would cancel in single precision
        change = beta * problem.noise.misfit_change(problem.y, seen_new, seen, ndim) / (2 * problem.noise.sigma**2)
        change = change + (difference(new - x, z - x) + difference(v_new, v)) / (2 * rho * rho)
        probability = torch.exp(-change.clamp_min(0)).nan_to_num(0.0)
        accept = torch.ones_like(change, dtype=torch.bool) if kernel == "ula" else chance[:, 0] < probability
        z, gradient = (torch.where(column(accept, z), b, a) for a, b in ((z, new), (gradient, g_new)))
        seen = torch.where(column(accept, seen), seen_new, seen)
        log_step, tuned = adapt(kernel, log_step, tuned, probability, tune)
        accepted = accepted + probability / steps
    return Chain(z, log_step, tuned), {"accept": accepted, "mcmc_step": log_step.exp()}


def adapt(
    kernel: str, log_step: Tensor, tuned: Tensor, probability: Tensor, tune: bool | Tensor
) -> tuple[Tensor, Tensor]:
    """The log angle after a Robbins-Monro step towards the best acceptance, and how often it was tuned."""
    gain = tune * (1 + tuned).rsqrt().clamp_min(0.1)
    log_step = (log_step + gain * (probability - ACCEPT[kernel])).clamp_max(math.log(longest(kernel)))
    return log_step, tuned + tune


def consistency(
    problem: Problem,
    x: Tensor,
    rho: float,
    aux: dict[str, Tensor],
    rng: Rng,
    *,
    kernel: Kernel,
    steps: int,
    tuning: int,
) -> tuple[Tensor, dict[str, Tensor], Info]:
    """The z-step of split Gibbs: exact for linear problems, else ``steps`` Metropolis-corrected transitions.

    ``aux`` holds the chain between sweeps (empty at first): a few transitions leave the joint law invariant only when
    they continue from the last z. The first ``tuning`` sweeps adapt the step.
    """
    chosen = resolve(kernel, problem)
    if chosen == "exact":
        z, info = problem.draw(x, rho, rng)
        return z, {}, info
    if "z" in aux:
        chain, sweeps = Chain(aux["z"], aux["log_step"], aux["tuned"]), aux["sweeps"]
    else:
        chain = start_chain(problem, x, rho, chosen)
        sweeps = torch.zeros_like(chain.tuned)
    chain, info = move(problem, x, rho, chain, rng, kernel=chosen, steps=steps, tune=sweeps < tuning)
    return chain.z, {**chain._asdict(), "sweeps": sweeps + 1}, info


def resolve(kernel: Kernel, problem: Problem) -> str:
    """``auto``: exact when linear and Gaussian, HMC in the row space where the data see one, else MALA."""
    found = problem.capabilities()
    best = "exact" if EXACT <= found else "row_hmc" if ROW <= found else "mala"
    return best if kernel == "auto" else kernel


def check_kernel(method: str, kernel: Kernel, problem: Problem) -> None:
    """Refuse a kernel that the problem cannot offer.

    Raises
    ------
    MismatchError : an exact draw from nonlinear data, or a gradient of data without a forward operator.
    """
    found, chosen = problem.capabilities(), resolve(kernel, problem)
    needed = EXACT if chosen == "exact" else ROW if chosen.startswith("row") else frozenset({"differentiable"})
    if not needed <= found:
        raise MismatchError(
            f"{method} with the {chosen} likelihood step needs a problem that is {', '.join(sorted(needed))}",
            found=", ".join(sorted(found)),
            hint=f"another kernel; methods for this problem: {fitting(problem)}",
        )


def prediction_and_gradient(problem: Problem, z: Tensor) -> tuple[Tensor, Tensor]:
    """``A(z)`` and ``grad log p(y | z)``, with the true factor one half."""
    out, pull = problem.operator.forward_vjp(z)
    return out, pull(problem.noise.residual(problem.y, out)) / problem.noise.sigma**2


def longest(kernel: str) -> float:
    """A quarter turn in all: an independent draw where the data are silent."""
    return math.pi / 2 / LEAPS[kernel]
