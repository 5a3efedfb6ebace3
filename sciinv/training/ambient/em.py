"""EM with a diffusion prior (Rozet et al., NeurIPS 2024, arXiv 2405.13712): a proper prior ``E[x_0 | x_t]``.

``theta_{k+1} = argmax E_{p(y)} E_{q_k(x | y, A)} log q_theta(x)``. E-step: draws of the posterior of every item under
the present prior, by any of the engine's samplers. M-step: denoising score matching on the draws. The quality of a lap
is the predictive density of data that were held back: groups of the items' data are hidden, drawn from the rest, and
scored under the normal density with the draws' mean and variance plus the noise.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from sciinv.operator import inner, power
from sciinv.prior import Prior
from sciinv.problem import Problem
from sciinv.samplers.base import Sampler, sample
from sciinv.training.ambient.further import Further
from sciinv.training.ambient.items import Measurements, stack

Priors = Callable[[int], Prior]
"""The prior for a group of items, by the group's number."""


@dataclass(frozen=True)
class Draws:
    """What the M-step trains on; a `sciinv.training.dsm.Source`.

    Attributes
    ----------
    images : one tensor ``(n, channel, *space)`` a group of equal shape.
    items : of which item each image is a draw, ``(n,)`` a group; may be left out.
    """

    images: Sequence[Tensor]
    items: Sequence[Tensor] = ()

    def image(self, generator: torch.Generator) -> Tensor:
        """One draw; where the images differ in size, a random crop of the size that all have."""
        pick = int(torch.randint(sum(map(len, self.images)), (), generator=generator))
        for rows in self.images:
            if pick < len(rows):
                break
            pick -= len(rows)
        x = rows[pick]
        for axis in range(1, x.ndim):
            size = min(r.shape[1 + axis] for r in self.images)
            if size < x.shape[axis]:
                room = x.shape[axis] - size + 1
                x = x.narrow(axis, int(torch.randint(room, (), generator=generator)), size)
        return x

    def deviation(self) -> float:
        """Standard deviation about zero, the ``sigma_data`` of the preconditioning."""
        total = sum(float(x.double().square().sum()) for x in self.images)
        return math.sqrt(total / sum(x.numel() for x in self.images))


def expectation(
    data: Measurements,
    priors: Priors,
    sampler: Sampler,
    seed: int,
    lap: int,
    *,
    items: Sequence[int] | None = None,
    draws: int = 1,
    chunk: int = 64,
    progress: Callable[[int, int], None] | None = None,
) -> Draws:
    """Posterior draws of the items (all by default), in units of the state; draw k of item i is keyed (lap, i, k).

    ``chunk`` items are drawn together. Draws that failed are left out.
    """
    wanted = set(range(len(data)) if items is None else items)
    images, numbers, done = [], [], 0
    for number, group in enumerate(data.groups):
        members = [i for i in group if i in wanted]
        parts, rows = [], []
        for k in range(0, len(members), chunk):
            some = members[k : k + chunk]
            problem = stack([data.problems[i] for i in some], draws)
            keys = [(lap, i, j) for i in some for j in range(draws)]
            drawn = sample(sampler, problem, priors(number), keys, seed)
            codec = data.codec(data.problems[some[0]].domain)
            parts.append(codec.adjoint(drawn.good).to(torch.float32))
            good = torch.ones(len(keys), dtype=torch.bool) if drawn.failed is None else ~drawn.failed.cpu()
            rows.append(torch.tensor([key[1] for key in keys])[good])
            done += len(some)
            if progress is not None:
                progress(done, len(wanted))
        if parts:
            images.append(torch.cat(parts))
            numbers.append(torch.cat(rows))
    return Draws(images, numbers)


def held_out_density(
    data: Measurements,
    priors: Priors,
    sampler: Sampler,
    seed: int,
    *,
    items: Sequence[int],
    draws: int = 8,
    share: float = 0.2,
) -> float:
    """Mean log predictive density of a held-back real measurement, from ``draws`` posterior draws without it."""
    further = Further(share)
    total, count, wanted = 0.0, 0, set(items)
    for number, group in enumerate(data.groups):
        members = [i for i in group if i in wanted]
        if not members:
            continue
        batch = data.batch(members)
        generator = torch.Generator().manual_seed(seed)
        uniform = torch.rand(batch.pattern.shape, generator=generator).to(batch.y.device)
        keep = further.keep(batch.pattern, batch.always, uniform)
        kept = keep & batch.measured
        hidden = batch.measured & ~kept
        problems = [hide(data.problems[i], kept[k]) for k, i in enumerate(members)]
        keys = [(2**20, i, j) for i in members for j in range(draws)]
        found = sample(sampler, stack(problems, draws), priors(number), keys, seed)
        states = data.codec(data.problems[members[0]].domain).adjoint(found.x)
        repeated = data.batch([i for i in members for _ in range(draws)]).operator
        predicted = repeated(states.to(torch.float32)).unflatten(0, (len(members), draws))
        mean = predicted.mean(1)
        axes = predicted.ndim - 2
        spread = power(predicted - mean[:, None]).sum(1) / (draws - 1) * (1 + 1 / draws)
        reals = 2 if mean.is_complex() else 1
        variance = spread / reals + batch.sigma.view(-1, *(1,) * axes).square()
        log_p = -0.5 * power(batch.y - mean) / variance - 0.5 * reals * torch.log(2 * math.pi * variance)
        total += float((log_p * hidden).double().sum())
        count += int(hidden.sum()) * reals
    return total / max(count, 1)


def hide(problem: Problem, kept: Tensor) -> Problem:
    """The same problem with only the data where ``kept`` is true."""
    from sciinv.generic.diagonal import Diagonal
    from sciinv.generic.mask import Mask

    space = problem.operator.codomain
    kept = kept.expand(space.shape)
    plain = problem.operator
    if type(plain) in (Diagonal, Mask):
        operator = Diagonal(plain.diagonal * kept, plain.domain.shape, plain.domain.dtype)  # type: ignore[operator]
        return replace(problem, y=problem.y * kept, operator=operator)
    return replace(problem, y=problem.y * kept, operator=Mask(kept, space.shape, space.dtype) @ problem.linear)


def same(prior: Prior, data: Measurements) -> Priors:
    """One prior for all groups, bound to each group's size."""
    bound: Mapping[int, Prior] = {
        g: prior.at(tuple(data.state_space(items[0]).shape[1:])) for g, items in enumerate(data.groups)
    }
    return bound.__getitem__


def misfit(data: Measurements, draws: Draws) -> float:
    """Mean square of ``(y - A x) / sigma`` per measured real number, over some draws; near one for a good E-step."""
    rows = range(min(len(draws.images[0]), 32))
    batch = data.batch(draws.items[0][: len(rows)].tolist())
    r = (batch.y - batch.operator(draws.images[0][: len(rows)].to(batch.y.device))) * batch.measured
    reals = 2 if r.is_complex() else 1
    chi2 = inner(r, r, r.ndim - 1) / batch.sigma.square()
    return float((chi2 / (batch.measured.flatten(1).sum(1) * reals)).mean())
