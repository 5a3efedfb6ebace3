"""What every sampler must satisfy: reproducible, batch-invariant, resumable, refusing early, robust to a bad sample."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from sciinv.operator import LinearOperator, Operator
from sciinv.prior import Prior
from sciinv.problem import Problem
from sciinv.rng import Key, Rng
from sciinv.samplers.base import Sampler, check_requirements, sample
from sciinv.samples import Samples
from sciinv.testing.operators import close, expect_refusal


class MemoryStore:
    """Checkpoints in memory, copied on the way in and out as a file would be."""

    def __init__(self) -> None:
        self.kept: dict[str, tuple[dict[str, Tensor], dict[str, Any]]] = {}

    def save(self, name: str, tensors: Mapping[str, Tensor], meta: Mapping[str, Any]) -> None:
        """Replace the checkpoint called ``name``."""
        self.kept[name] = ({k: v.detach().clone() for k, v in tensors.items()}, dict(meta))

    def load(self, name: str) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """The last checkpoint called ``name``, if any."""
        if name not in self.kept:
            return None
        tensors, meta = self.kept[name]
        return {k: v.clone() for k, v in tensors.items()}, dict(meta)


def check_sampler(
    sampler: Sampler,
    problem: Problem,
    prior: Prior,
    *,
    n: int = 8,
    seed: int = 0,
    chunks: Sequence[int] = (1, 4),
    tol: float = 1e-5,
    kill_at: Sequence[int] = (2, 4),
) -> None:
    """Check the contract of `sciinv.samplers.base` on a problem that the sampler can solve.

    Parameters
    ----------
    n, seed : samples drawn.
    chunks : batch sizes that must give the same samples as one batch, within ``tol`` of the largest value.
    kill_at : steps (from 2: a step is kept after it is reported) at which a run is killed and resumed to the same bits.
    """
    name, y = sampler.name, problem.y.clone()
    run = functools.partial(sample, sampler, problem, prior, n, seed)
    whole = run()
    _complete(name, whole, n)
    if not torch.equal(whole.x, run().x):
        raise AssertionError(f"{name}: the same seed gave different bits")
    other = sample(sampler, problem, prior, n, seed + 1)
    if torch.allclose(whole.x, other.x):
        raise AssertionError(f"{name}: another seed gave the same samples")
    if n > 1 and torch.allclose(whole.x[0], whole.x[1]):
        raise AssertionError(f"{name}: two samples are the same")
    for chunk in chunks:
        close(f"{name}: samples in chunks of {chunk} differ from one batch", run(chunk=chunk).x, whole.x, tol)
    for step in kill_at:
        _resume(name, run, whole, step)
    _refusals(sampler, problem, prior)
    _one_bad_sample(name, run, whole, n)
    if not torch.equal(problem.y, y):
        raise AssertionError(f"{name}: the data were changed in place")


def _complete(name: str, out: Samples, n: int) -> None:
    if len(out.x) != n or out.failed is None or bool(out.failed.any()) or not bool(torch.isfinite(out.x).all()):
        raise AssertionError(f"{name}: expected {n} finite samples, found {tuple(out.x.shape)}, failed {out.failed}")


class _Killed(Exception):
    pass


def _resume(name: str, run: functools.partial[Samples], whole: Samples, step: int) -> None:
    store = MemoryStore()

    def kill(done: int, total: int, info: Mapping[str, Tensor]) -> None:
        if done == min(step, total - 1):
            raise _Killed

    try:
        run(store=store, checkpoint_every=-1.0, on_step=kill)
    except _Killed:
        pass
    else:
        raise AssertionError(f"{name}: too few steps to be killed in")
    if not store.kept:
        raise AssertionError(f"{name}: no checkpoint was written before the kill")
    steps: list[int] = []
    again = run(store=store, checkpoint_every=-1.0, on_step=lambda done, total, info: steps.append(done))
    if steps and steps[0] == 1:
        raise AssertionError(f"{name}: killed after step {step}, the run started again instead of resuming")
    if not torch.equal(again.x, whole.x):
        raise AssertionError(
            f"{name}: killed after step {step} and resumed, the samples differ from an uninterrupted run"
        )
    for key, value in whole.trace.items():
        if not torch.equal(again.trace[key], value):
            raise AssertionError(f"{name}: killed and resumed, the trace {key!r} differs")


class _Opaque(Operator):
    """Hides that an operator is linear."""

    def __init__(self, op: Operator):
        super().__init__(op.domain, op.codomain)
        self.op = op

    def forward(self, x: Tensor) -> Tensor:
        return self.op(x)


class _NoSVD(LinearOperator):
    """Hides an operator's decomposition."""

    def __init__(self, op: LinearOperator):
        super().__init__(op.domain, op.codomain)
        self.op = op

    def forward(self, x: Tensor) -> Tensor:
        return self.op(x)


def _refusals(sampler: Sampler, problem: Problem, prior: Prior) -> None:
    """A sampler that needs a capability refuses an operator without it."""
    check_requirements(sampler, problem)
    lesser: list[Operator] = [_Opaque(problem.operator)]
    if isinstance(problem.operator, LinearOperator):
        lesser.append(_NoSVD(problem.operator))
    for op in lesser:
        without = Problem(problem.y, op, problem.noise, problem.meta)
        if not sampler.requires <= without.capabilities():
            missing = ", ".join(sorted(sampler.requires - without.capabilities()))
            expect_refusal(
                f"{sampler.name}: an operator without {missing}", lambda p=without: sample(sampler, p, prior, 1, 0)
            )


class _PoisonRng(Rng):
    """Gives NaN to sample 1."""

    def __init__(self, seed: int, index: Sequence[Key], device: torch.device | str = "cpu", mode: str = "cpu"):
        super().__init__(seed, index, device, mode)

    def normal(self, shape: Sequence[int], dtype: torch.dtype = torch.float32) -> Tensor:
        out = super().normal(shape, dtype)
        out[[i for i, key in enumerate(self.index) if key == 1]] = float("nan")
        return out


def _one_bad_sample(name: str, run: functools.partial[Samples], whole: Samples, n: int) -> None:
    """NaN in one sample flags it and leaves the bits of the others."""
    if n < 2:
        return
    out = run(rng_factory=_PoisonRng)
    if out.log_w is not None:  # a population replaces a particle that was lost
        _complete(f"{name} with a particle made NaN", out, n)
        return
    expected = torch.zeros(n, dtype=torch.bool)
    expected[1] = True
    if out.failed is None or not torch.equal(out.failed.cpu(), expected):
        raise AssertionError(f"{name}: sample 1 was made NaN, but the failed flags are {out.failed}")
    keep = ~expected
    if not torch.equal(out.x[keep], whole.x[keep]):
        raise AssertionError(f"{name}: NaN in one sample changed the others")
