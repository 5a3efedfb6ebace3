"""PnP-DM: split Gibbs sampling with a diffusion prior (Wu et al. 2024; Coeurdoux et al. 2024), exact steps on both
sides.

Target ``pi_rho(x, z) ~ p(x) p(y | z) exp(-|x - z|^2 / (2 rho^2))``; a sweep draws
``z ~ p(y | z) N(z; x, rho^2)`` exactly (`Problem.draw`) and ``x ~ p(x_0 | x_0 + rho e = z)`` by the second-order prior
step from exactly rho. At fixed rho the x-marginal is ``p(x) N(y; A x, sigma^2 I + rho^2 A A^H)``, the posterior with
inflated noise, and the z-marginal ``N(y; A z, sigma^2 I) (p * N(0, rho^2))(z)``; both tend to the posterior as
rho -> 0. A direction of prior variance c seen with singular value a
contracts by ``c/(c + rho^2) * sigma^2/(sigma^2 + a^2 rho^2)`` a sweep, so chains at a small rho hardly move: what the
data do not see keeps the spread that the start gave it: R-hat over chains says how little they mixed, ``drift``
by how many posterior standard deviations the mean over chains still moved during the stationary sweeps.

Two starts. ``noise``: rho falls geometrically from ``rho_max``. What the first sweeps, at a noise inflated far beyond
sigma, have decided the last ones cannot undo: on real 16-coil k-space chi-squared stays at 2 to 6 and the mean 0.5 dB
short. ``mmps`` (default): the moment-matching denoiser (`MMPS`, exact for Gaussians) goes down to ``rho_min`` with the
true sigma, then the sweeps give back the spread that it lacks. Exact either way as sweeps grow.

Nonlinear operators and noise that is not Gaussian (counts): z moves by ``inner`` Metropolis-corrected steps from its
last value (`mcmc`; in the row space of the data where the operator splits, `row_mcmc`), which leaves pi_rho invariant
too. ``mmps`` then starts by moment matching about the denoised image (`guide`); with counts either start goes by the
nearest Gaussian noise (`Problem.linearised`); a nonlinear operator that does not split starts by ``noise`` alone. Step
sizes are tuned in the sweeps of the start, else in the first half of the stationary ones, and then frozen. ``correct``
weights the last states from the law at ``rho_min`` to the posterior (`inflated.rho_correction`).
"""

from __future__ import annotations

import dataclasses as dc
import math
from collections.abc import Mapping, Sequence
from statistics import NormalDist
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from sciinv.diagnostics.convergence import ess, split_rhat
from sciinv.errors import MismatchError, UsageError
from sciinv.operator import column, power
from sciinv.prior import Counted
from sciinv.problem import Info, Problem
from sciinv.rng import Rng
from sciinv.samplers.base import Sampler, State, check_requirements, fitting
from sciinv.samplers.exact.guide import guess, matched_mean
from sciinv.samplers.exact.inflated import rho_correction
from sciinv.samplers.exact.mcmc import Kernel, check_kernel, consistency
from sciinv.samplers.explicit.mmps import MMPS
from sciinv.samplers.kernels import ancestral, look_ahead, prior_step
from sciinv.schedule import geometric, karras

TRIAL = 3  # sweeps by which a start is judged
TRACED = 8  # summaries for R-hat: means over a TRACED x TRACED grid of blocks


@dc.dataclass(frozen=True)
class PnPDM(Sampler):
    """Split Gibbs with a diffusion prior; one chain a sample.

    Attributes
    ----------
    start : ``mmps`` (moment matching) or ``noise`` (sweeps from ``rho_max`` on).
    rho_max, rho_min : first and last coupling width, in the prior's units.
    anneal : steps of the start: network calls with ``mmps`` (keep the mean step in log sigma near 0.3), sweeps with
        ``noise``.
    settle : with ``mmps``, sweeps of falling width from rho_max to rho_min after the start, which then ends at rho_max:
        for nonlinear data, whose moment matching leaves more to the sweeps.
    returns : x, whose law at rho_min has the likelihood of data with noise inflated; z, with the true likelihood and
        the prior blurred by rho_min, for data far more precise than the prior; or seen, z in the row space of an
        operator that splits and x beside it, where z is x and noise: the prior is blurred in what the data see alone.
    tries : starts a sample, each with `TRIAL` sweeps at rho_max; one is kept, drawn by how well the data fit it
        (`guide.guess`). For nonlinear data, most of whose starts end in poor modes. What a start found by chance is
        not weighed against it, so the weights of modes stay approximate.
    refute : chains stuck where the data refute them, at a chi-squared of this p-value, keep the weight of their
        likelihood over that of the limit; 0 keeps every chain at weight one. A rule for many modes, no exact weight.
    stationary : further sweeps at rho_min, over which R-hat and ESS are computed.
    log_step : mean step in log sigma inside the prior step.
    order : 2 (multistep) or 1 (ancestral) prior step.
    kernel : how z is drawn: exact (linear operators), row_hmc, row_mala (operators that split), mala, hmc or ula
        (biased); auto is exact if it can be, else row_hmc, else mala.
    inner : steps of mala, hmc or ula a sweep.
    correct : weight the samples by ``N(y; A x, sigma^2 I) / N(y; A x, sigma^2 I + rho_min^2 A A^H)``, which removes the
        bias of a finite ``rho_min``; for few data, as the weights degenerate with their number. Needs a decomposition.
    """

    name: ClassVar[str] = "pnpdm"
    paper: ClassVar[str] = (
        "Wu et al., NeurIPS 2024 (arXiv 2405.18782); Coeurdoux et al., IEEE TIP 2024 (arXiv 2304.11134)"
    )
    technique: ClassVar[str] = "sampling"
    claims: ClassVar[str] = (
        "at fixed rho exact for the posterior with noise inflated by rho^2 A A^H; exact as rho -> 0 and sweeps grow"
    )
    requires: ClassVar[frozenset[str]] = frozenset()

    start: Literal["mmps", "noise"] = "mmps"
    rho_max: float = 0.5
    rho_min: float = 0.02
    anneal: int = 20
    stationary: int = 4
    log_step: float = 0.35
    order: int = 2
    kernel: Kernel = "auto"
    inner: int = 10
    correct: bool = False
    settle: int = 0
    returns: Literal["x", "z", "seen"] = "x"
    refute: float = 0.0
    tries: int = 1

    def __post_init__(self) -> None:
        if not (
            0 < self.rho_min <= self.rho_max and self.anneal >= 1 and self.stationary >= 0 and self.order in (1, 2)
            and self.start in ("mmps", "noise") and self.inner >= 1 and self.settle >= 0
            and self.returns in ("x", "z", "seen") and not (self.correct and (self.returns != "x" or self.refute))
            and 0 <= self.refute < 1 and self.tries >= 1
            and (self.tries == 1 or (self.start == "mmps" and self.settle))
        ):  # fmt: skip
            raise UsageError(
                "pnpdm settings are impossible",
                expected="0 < rho_min <= rho_max, anneal >= 1, correct for x alone, tries=1 without start=mmps, settle",
                found=repr(self),
            )

    def grid(self, prior: Counted) -> Sequence[float]:
        sweeps = [self.rho_min] * self.stationary
        if self.start == "mmps":
            end = self._start_ends()
            if end >= prior.sigma_max:
                raise UsageError(
                    "pnpdm has no room for its start", expected=f"rho_max below {prior.sigma_max:g}", found=f"{end:g}"
                )
            falling = geometric(self.rho_max, self.rho_min, self.settle + 1)[:-1] if self.settle else []
            start = karras(prior.sigma_max, end, self.anneal + 1)[:-2]
            if self.tries > 1:
                start, falling = [*start, *[end] * TRIAL] * self.tries, falling[1:]
            return [*start, *falling, *sweeps, 0.0]
        levels = geometric(self.rho_max, self.rho_min, self.anneal) if self.anneal > 1 else [self.rho_min]
        return [*levels, *sweeps, 0.0]

    def init(self, problem: Problem, prior: Counted, rng: Rng, like: Tensor) -> State:
        check_kernel(self.name, self.kernel, problem)
        if self.correct and not {"svd", "differentiable"} <= problem.capabilities():
            raise MismatchError(
                "correct=True needs the singular values of the operator",
                expected="a linear operator with a decomposition",
                found=", ".join(sorted(problem.capabilities())),
                hint="correct=False with a smaller rho_min, or sgs_smc",
            )
        if self.returns == "seen" and "split" not in problem.capabilities():
            raise MismatchError(
                "returns=seen needs an operator that splits off a row space",
                hint="returns=z for linear data, else start=noise tries=1 returns=z kernel=mala",
            )
        if self.tries > 1 and ("linear" in problem.capabilities() or "split" not in problem.capabilities()):
            raise MismatchError(
                "several starts a sample are for nonlinear data of an operator that splits", hint="tries=1"
            )
        if self.start == "mmps":
            if not {"linear", "split"} & problem.capabilities():
                raise MismatchError(
                    "pnpdm starts by moment matching, which needs a linear operator or one that splits",
                    hint=f"start=noise; methods for this problem: {fitting(problem)}",
                )
        if self.start == "mmps" and "linear" in problem.capabilities():
            check_requirements(MMPS, problem.linearised)
        return super().init(problem, prior, rng, like)

    def step(self, problem: Problem, prior: Counted, state: State, t: float, s: float, rng: Rng) -> tuple[State, Info]:
        if self.start == "mmps" and t > self._start_ends():
            return self._start(problem, prior, state, t, s, rng)
        near = "linear" in problem.capabilities() and not problem.noise.white  # counts: until the last level
        if near and t > 1.001 * self.rho_min:
            (z, info), aux = problem.linearised.draw(state.x, t, rng), state.aux
        else:
            z, aux, info = consistency(
                problem, state.x, t, state.aux, rng,
                kernel=self.kernel, steps=self.inner, tuning=self._tuning(near),
            )  # fmt: skip
        x = prior_step(prior, z, t, rng, self.log_step, self.order)
        if self.returns != "x":
            aux = {**aux, "last": z}
        if self.tries > 1:
            aux |= best_start(state.aux)
            if t == self.rho_max and s != t:
                x, aux = self._judge(problem, prior, x, t, s, aux, rng)
        gap = (x - z).flatten(1).square().mean(1)
        return State(x, aux=aux), {"block_means": block_means(x), "gap_over_rho": gap.sqrt() / t, **info}

    def _judge(
        self, problem: Problem, prior: Counted, x: Tensor, t: float, s: float, aux: dict[str, Tensor], rng: Rng
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Keep this start or the one kept so far, with odds of the density of the data (by Gumbel's maxima)."""
        width = t * torch.eye(problem.reduced.rank, dtype=torch.float64, device=x.device)
        chance = rng.uniform((), torch.float64).clamp(1e-12, 1 - 1e-12)
        found = guess(problem, x, width).value.nan_to_num(nan=-torch.inf) - (-chance.log()).log()
        kept = {"x": x, "odds": found, **{k: aux[k] for k in ("z", "log_step", "tuned")}}
        if "best_x" in aux:
            better = found > aux["best_odds"]
            kept = {k: torch.where(column(better, v), v, aux[f"best_{k}"]) for k, v in kept.items()}
        if s > t:  # the next start
            return prior.sigma_max * rng.normal_like(x), {f"best_{k}": v for k, v in kept.items()}
        return kept["x"], {k: kept.get(k, v) for k, v in aux.items() if not k.startswith("best_")}

    def _start_ends(self) -> float:
        """The level to which moment matching goes."""
        return self.rho_max if self.settle else self.rho_min

    def _tuning(self, late: bool) -> int:
        """Sweeps in which step sizes adapt; ``late`` when the sweeps of the start take none."""
        if late:
            return max(1, self.stationary // 2)
        return self.anneal if self.start == "noise" else self.settle or max(1, self.stationary // 2)

    def _start(
        self, problem: Problem, prior: Counted, state: State, t: float, s: float, rng: Rng
    ) -> tuple[State, Info]:
        """Second-order step of the moment-matching diffusion; the last one ends without noise: sweeps take images."""
        if "linear" in problem.capabilities():
            d, _, info = MMPS().posterior_mean(problem.linearised, prior, state.x, t, rng)
        else:
            d, info = matched_mean(problem, prior, state.x, t)[0], {}
        info = {"block_means": block_means(d), **info}
        if s <= self._start_ends():
            return State(d, aux=best_start(state.aux)), info
        ahead, kept = look_ahead(state.aux, d, t, s, 2)
        kept |= best_start(state.aux)
        return State(ancestral(state.x, ahead, t, s, rng), aux=kept), info

    def finish(self, problem: Problem, prior: Counted, state: State, rng: Rng) -> Tensor:
        if self.correct:
            state.log_w = rho_correction(problem, state.x, self.rho_min)
        out = state.aux.get("last", state.x)
        if self.returns == "seen" and "last" in state.aux:
            out = problem.reduced.seen_from(out, state.x)
        if self.refute:
            # under the law of the chain chi-squared of z and the gap |z - x|^2 / rho^2 of the r coordinates that the
            # data see are those of n and of r numbers
            size, misfit = problem.n_data, problem.chi2(state.aux.get("z", out)).to(torch.float64)
            if "z" in state.aux and "split" in problem.capabilities():
                seen = problem.reduced
                size += seen.rank
                misfit = misfit + power(seen.coordinates(state.aux["z"] - state.x) / self.rho_min).sum(1)
            excess = misfit - chi2_limit(size, self.refute)
            state.log_w = -0.5 * excess.clamp_min(0).nan_to_num(nan=torch.inf)
        return out

    def _steps(self) -> int:
        if self.tries > 1:
            return self.tries * (self.anneal + TRIAL) + self.settle - 1 + self.stationary
        return self.anneal + self.stationary + (self.settle if self.start == "mmps" else 0)

    def diagnostics(self, trace: Mapping[str, Tensor]) -> dict[str, Any]:
        means = trace.get("block_means")
        # a run that was stopped early has not reached the stationary sweeps
        if self.stationary < 4 or means is None or len(means) < self._steps() or means.shape[1] < 2:
            return {}
        draws = means[-self.stationary :]
        rhat, size = split_rhat(draws), ess(draws)
        early, late = draws.mean(1).chunk(2)
        moved, spread = late.mean(0) - early.mean(0), draws[-1].std(0)
        return {
            "drift": float(moved.norm() / spread.norm().clamp_min(torch.finfo(draws.dtype).tiny)),
            "rhat_median": float(rhat.median()), "rhat_max": float(rhat.max()),
            "ess_median": float(size.median()), "ess_min": float(size.min()),
        }  # fmt: skip


def chi2_limit(n: int, p: float) -> float:
    """What chi-squared of n data exceeds with probability p (Wilson and Hilferty 1931)."""
    spread = 2 / (9 * n)
    return n * (1 - spread + NormalDist().inv_cdf(1 - p) * math.sqrt(spread)) ** 3


def best_start(aux: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What is kept of the best start so far (`PnPDM.tries`)."""
    return {k: v for k, v in aux.items() if k.startswith("best_")}


def block_means(x: Tensor) -> Tensor:
    """A few linear summaries of each state ``(n, channel, *space)``: means over blocks, ``(n, q)``."""
    spatial = x.ndim - 2
    if spatial not in (1, 2, 3):
        return x.flatten(1)
    pool: Any = (F.adaptive_avg_pool1d, F.adaptive_avg_pool2d, F.adaptive_avg_pool3d)[spatial - 1]
    return pool(x, [min(TRACED, k) for k in x.shape[2:]]).flatten(1)
