"""The sampler contract and THE loop: ``x_0 ~ p(x | y)`` for every method, at three levels of hook.

1. `Guided.posterior_mean`: the method is a denoiser ``D_y = E[x_0 | x_t, y]``; the loop integrates it.
2. `Sampler.step` built from `sciinv.samplers.kernels`.
3. ``init``, ``grid`` and ``finish`` too.

The loop gives all of them network-call counts, a trace, the non-finite guard, checkpoint and resume, chunking, memory
back-off and early stop. A method never writes ``for t in``.
"""

from __future__ import annotations

import abc
import dataclasses as dc
import time
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any, ClassVar, Literal, Protocol, cast

import torch
from torch import Tensor

from sciinv.errors import MismatchError, NumericalError, ResourceError, UsageError
from sciinv.operator import column
from sciinv.prior import FULL, PARTIAL, Counted, Prior
from sciinv.problem import Info, Problem, QuadraticProblem
from sciinv.rng import Key, Rng
from sciinv.samplers.kernels import transition
from sciinv.samples import Samples
from sciinv.schedule import karras

GUARD_EVERY = 10  # steps between host-side looks at the non-finite flags


@dc.dataclass
class State:
    """What one step hands to the next: the batch ``x``, log-weights and named tensors with a leading sample axis.

    ``done`` ends the run before the grid does, for methods that find their levels on the way.
    """

    x: Tensor
    log_w: Tensor | None = None
    aux: dict[str, Tensor] = dc.field(default_factory=dict)
    done: bool = False


@dc.dataclass(frozen=True)
class Sampler(abc.ABC):
    """A method: its dataclass fields are its hyperparameters, CLI keys, docs table and provenance."""

    name: ClassVar[str]
    paper: ClassVar[str]
    technique: ClassVar[str]
    """How the data get in: gradient, projection, sampling, optimisation (Daras et al. 2024, Table 1)."""
    claims: ClassVar[str]
    requires: ClassVar[frozenset[str]] = frozenset()
    population: ClassVar[bool] = False
    """The samples interact (particles): they run together, and a chunk only bounds what the prior sees at once."""
    partial: ClassVar[bool] = False
    """The method knows what to do with a denoiser that is told which part of the image it sees."""

    def grid(self, prior: Counted) -> Sequence[float]:
        """Noise levels (or iterations), descending; the loop walks over neighbouring pairs."""
        raise NotImplementedError

    def init(self, problem: Problem, prior: Counted, rng: Rng, like: Tensor) -> State:
        """The first state; by default white noise at the first level. ``like`` is ``(n, *space)`` zeros."""
        return State(self.grid(prior)[0] * rng.normal_like(like))

    @abc.abstractmethod
    def step(self, problem: Problem, prior: Counted, state: State, t: float, s: float, rng: Rng) -> tuple[State, Info]:
        """Go from level ``t`` to ``s``; return the next state and per-sample diagnostics."""

    def finish(self, problem: Problem, prior: Counted, state: State, rng: Rng) -> Tensor:
        """The samples in the prior's units, from the last state."""
        return state.x

    def diagnostics(self, trace: Mapping[str, Tensor]) -> dict[str, Any]:
        """Numbers computed once over all chains from the trace (R-hat, ESS)."""
        return {}


@dc.dataclass(frozen=True)
class Leveled(Sampler):
    """Methods that walk the prior's noise levels, widest first.

    Attributes
    ----------
    steps : number of noise levels.
    """

    steps: int = 100

    def grid(self, prior: Counted) -> Sequence[float]:
        return karras(prior.sigma_max, prior.sigma_min, self.steps)


@dc.dataclass(frozen=True)
class Guided(Leveled):
    """Methods that are a posterior denoiser. Subclasses write `posterior_mean`.

    Attributes
    ----------
    eta : 1 is the ancestral SDE, 0 the probability-flow ODE (with the ddim rule).
    solver : sde takes the step above; heun integrates the probability-flow ODE of ``D_y`` to second order (Karras et
        al. 2022) with two network calls a step, for methods that step with the posterior eps.
    """

    eps_source: ClassVar[str] = "posterior"
    noise_rule: ClassVar[str] = "ddim"

    eta: float = 1.0
    solver: Literal["sde", "heun"] = "sde"

    def __post_init__(self) -> None:
        if self.solver == "heun" and self.eps_source != "posterior":
            raise UsageError(
                f"{self.name} steps with the prior's eps, so it follows no ordinary differential equation of D_y",
                where="solver", expected="sde", found="heun",
            )  # fmt: skip

    @abc.abstractmethod
    def posterior_mean(
        self, problem: Problem, prior: Counted, x: Tensor, t: float, rng: Rng
    ) -> tuple[Tensor, Tensor, Info]:
        """``(D_y, D, info)``: the posterior denoiser, the prior denoiser, and diagnostics."""

    def step(self, problem: Problem, prior: Counted, state: State, t: float, s: float, rng: Rng) -> tuple[State, Info]:
        d_y, d, info = self.posterior_mean(problem, prior, state.x, t, rng)
        if self.solver == "heun":
            if s == 0:
                return State(d_y), info
            slope = (state.x - d_y) / t
            ahead = state.x + (s - t) * slope
            d_ahead, _, info = self.posterior_mean(problem, prior, ahead, s, rng)
            return State(state.x + (s - t) / 2 * (slope + (ahead - d_ahead) / s)), info
        eps_of = None if self.eps_source == "posterior" else d
        return State(transition(state.x, d_y, t, s, eta=self.eta, rule=self.noise_rule, rng=rng, eps_of=eps_of)), info


class Store(Protocol):
    """Where the loop keeps its checkpoints (``sciinv.io.checkpoint`` writes files, atomically)."""

    def save(self, name: str, tensors: Mapping[str, Tensor], meta: Mapping[str, Any]) -> None:
        """Replace the checkpoint called ``name``."""

    def load(self, name: str) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """The last checkpoint called ``name``, if any."""


Progress = Callable[[int, int, Info], bool | None]


def check_requirements(sampler: type[Sampler] | Sampler, problem: Problem | QuadraticProblem) -> None:
    """Refuse before the first step what the problem cannot offer, naming the methods that fit."""
    missing = sampler.requires - problem.capabilities()
    if missing:
        raise MismatchError(
            f"{sampler.name} needs an operator with {', '.join(sorted(missing))}",
            found=", ".join(sorted(problem.capabilities())),
            hint=f"methods for this problem: {fitting(problem)}",
        )


def fitting(problem: Problem | QuadraticProblem) -> str:
    """Names of the registered methods whose requirements the problem meets, for a hint."""
    from sciinv.samplers import METHODS

    return ", ".join(m.name for m in METHODS.values() if m.requires <= problem.capabilities()) or "none"


def told(sampler: Sampler, prior: Prior, problem: Problem | QuadraticProblem) -> Prior:
    """A partial denoiser that knows the problem's operator; refused by methods that need ``E[x_0 | x_t]``."""
    if not sampler.partial:
        raise MismatchError(
            f"{sampler.name} needs a prior, and this network is none: trained on incomplete data, it gives the mean of "
            "what it is not shown, so samples would be too smooth and too sure there",
            expected=f"a network that predicts {FULL}", found=f"one that predicts {PARTIAL}",
            hint="--method ambient_dps, or `sciinv priors convert` to make a prior of it by EM",
        )  # fmt: skip
    if getattr(prior, "told", None) is not None:  # told one of its own, such as that of its training
        return prior
    data = cast(Problem, problem)
    rows = len(data.y) if data.y.ndim > len(data.operator.codomain.shape) else 1
    return cast(Prior, prior.given(data.linear, rows=rows))  # type: ignore[operator]


def sample(
    sampler: Sampler,
    problem: Problem | QuadraticProblem,
    prior: Prior,
    n: int | Sequence[Key],
    seed: int,
    *,
    chunk: int | None = None,
    store: Store | None = None,
    checkpoint_every: float = 30.0,
    on_step: Progress | None = None,
    rng_mode: str = "cpu",
    rng_factory: Callable[..., Rng] = Rng,
) -> Samples:
    """Draw posterior samples.

    Parameters
    ----------
    sampler, problem, prior : the method, the data (in physical units) and the denoiser (bound to the image size).
    n : number of samples, or their keys, such as ``[(slice, 0), (slice, 1), ...]``.
    seed : root seed; sample k draws from its own generator keyed by (seed, key k).
    chunk : samples per batch (of network calls, where samples interact); results do not depend on it beyond rounding.
    store : checkpoints; an interrupted run continues to the same samples.
    on_step : called with (done, total, info) after every step; returning False saves a checkpoint and stops early with
    what is there.
    rng_mode : ``"cpu"`` gives the same draws on every device, ``"device"`` draws in place.

    Raises
    ------
    MismatchError : the method needs what the operator does not offer.
    NumericalError : every sample became non-finite.
    """
    check_requirements(sampler, problem)
    keys: list[Key] = list(range(n)) if isinstance(n, int) else list(n)
    inner = problem.pullback(prior.to_physical)
    if prior.predicts == PARTIAL:
        prior = told(sampler, prior, inner)
    counted = Counted(prior)
    loop = _Loop(sampler, cast(Problem, inner), counted, seed, store, checkpoint_every, on_step, rng_mode, rng_factory)
    start, cpu = time.time(), time.process_time()
    parts, size, i = [], chunk or len(keys), 0
    while i < len(keys):
        try:
            if sampler.population:
                counted.batch = size
            together = len(keys) if sampler.population else size
            parts.append(loop.run(keys[i : i + together]))
            i += together
        except torch.OutOfMemoryError as error:
            if size == 1:
                raise ResourceError(
                    "one sample does not fit in memory", hint="a smaller image or another device"
                ) from error
            size = max(1, size // 2)
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
    x, failed = torch.cat([p[0] for p in parts]), torch.cat([p[1] for p in parts])
    if bool(failed.all()):
        raise NumericalError(
            f"all {len(keys)} samples of {sampler.name} became non-finite", hint="a smaller step, or another method"
        )
    trace = {k: torch.cat([p[2][k] for p in parts], 1) for k in parts[0][2]}
    provenance = {
        "sampler": sampler.name, **dc.asdict(sampler), "seed": seed, "samples": len(keys), "failed": int(failed.sum()),
        "network_calls": loop.calls // len(parts), "network_vjps": loop.vjps // len(parts),
        "seconds": time.time() - start, "cpu_seconds": time.process_time() - cpu, **sampler.diagnostics(trace),
    }  # fmt: skip
    log_w = None if parts[0][3] is None else torch.cat([cast(Tensor, p[3]) for p in parts])
    return Samples(prior.to_physical(x), log_w, trace, failed, provenance)


@dc.dataclass
class _Loop:
    sampler: Sampler
    problem: Problem
    prior: Counted
    seed: int
    store: Store | None
    checkpoint_every: float
    on_step: Progress | None
    rng_mode: str
    rng_factory: Callable[..., Rng]
    calls: int = 0
    vjps: int = 0

    def run(self, keys: Sequence[Key]) -> tuple[Tensor, Tensor, dict[str, Tensor], Tensor | None]:
        """One chunk from start (or checkpoint) to end: samples, failed flags, trace, log-weights."""
        prior, sampler, device = self.prior, self.sampler, self.problem.device
        rng = self.rng_factory(self.seed, keys, device, self.rng_mode)
        like = torch.zeros((len(keys), *prior.space.shape), dtype=prior.space.dtype, device=device)
        levels = list(pairwise(sampler.grid(prior)))
        name = f"chunk-{keys[0]}-{len(keys)}".replace(" ", "")
        identity = f"{sampler!r} seed={self.seed} keys={keys} levels={len(levels)}"
        saved = self._resume(name, identity, rng)
        with torch.no_grad():
            if saved is None:
                prior.calls = prior.vjps = 0
                trace: list[Info] = []
                state, done = sampler.init(self.problem, prior, rng, like), 0
                failed = torch.zeros(len(keys), dtype=torch.bool, device=device)
            else:
                state, failed, done, trace = saved
            last = time.monotonic()
            for k in range(done, done if state.done else len(levels)):
                state, info = sampler.step(self.problem, prior, state, *levels[k], rng)
                trace.append(dict(info))
                look = k % GUARD_EVERY == GUARD_EVERY - 1
                if look or state.log_w is not None:  # samples alone harm nobody until the next look, particles would
                    failed = _guard(state, failed)
                if look and bool(failed.all()):
                    break
                stop = self.on_step is not None and self.on_step(k + 1, len(levels), info) is False
                if self.store is not None and (stop or time.monotonic() - last > self.checkpoint_every):
                    self._save(name, identity, state, failed, k + 1, trace, rng)
                    last = time.monotonic()
                if stop or state.done:
                    break
            x = sampler.finish(self.problem, prior, state, rng)
        failed = failed | ~torch.isfinite(x).flatten(1).all(1)
        self.calls += prior.calls
        self.vjps += prior.vjps
        return x, failed, _stack(trace), state.log_w

    def _save(
        self, name: str, identity: str, state: State, failed: Tensor, done: int, trace: list[Info], rng: Rng
    ) -> None:
        assert self.store is not None
        tensors = {"x": state.x, "failed": failed, "rng": rng.state(), **{f"aux.{k}": v for k, v in state.aux.items()}}
        if state.log_w is not None:
            tensors["log_w"] = state.log_w
        tensors |= {f"trace.{i}.{k}": v for i, info in enumerate(trace) for k, v in info.items()}
        meta = {
            "identity": identity, "done": done, "ended": state.done,
            "calls": self.prior.calls, "vjps": self.prior.vjps,
        }  # fmt: skip
        self.store.save(name, tensors, meta)

    def _resume(self, name: str, identity: str, rng: Rng) -> tuple[State, Tensor, int, list[Info]] | None:
        found = self.store.load(name) if self.store is not None else None
        if found is None or found[1].get("identity") != identity:
            return None
        tensors, meta = found
        device = self.problem.device
        rng.set_state(tensors["rng"].cpu())
        tensors = {k: v.to(device) for k, v in tensors.items()}
        trace: list[dict[str, Tensor]] = [{} for _ in range(meta["done"])]
        for key, value in tensors.items():
            if key.startswith("trace."):
                _, i, what = key.split(".", 2)
                trace[int(i)][what] = value
        aux = {k[4:]: v for k, v in tensors.items() if k.startswith("aux.")}
        self.prior.calls, self.prior.vjps = meta["calls"], meta["vjps"]
        state = State(tensors["x"], tensors.get("log_w"), aux, bool(meta.get("ended")))
        return state, tensors["failed"], meta["done"], list(trace)


def _guard(state: State, failed: Tensor) -> Tensor:
    """Put non-finite samples to rest at zero, particles without weight; returns which have failed so far.

    A sum is non-finite if any term is, and a non-finite number minus itself is NaN: one pass over the state.
    """
    total = state.x.flatten(1).sum(1)
    bad = total - total != 0
    if state.log_w is None:
        failed = bad = failed | bad
    else:  # a particle without weight is replaced when the population resamples
        state.log_w = torch.where(bad, -torch.inf, state.log_w)
        failed = (state.log_w == -torch.inf).all().expand_as(failed)
    state.x = torch.where(column(bad, state.x), 0.0, state.x)
    return failed


def _stack(trace: Sequence[Info]) -> dict[str, Tensor]:
    """Diagnostics that every step reports, as ``(steps, n, ...)``."""
    if not trace:
        return {}
    common = set.intersection(*(set(info) for info in trace))
    return {k: torch.stack([info[k] for info in trace]) for k in sorted(common)}
