"""A sampler as the ``draw_posterior`` that SBC and TARP ask for: many data sets, some draws for each.

Methods whose samples are independent see all data sets in one batch, ``s * n`` states with their own data. A population
is run once for each data set and resampled to equal weights.
"""

from __future__ import annotations

import dataclasses as dc

import torch
from torch import Tensor

from sciinv.certify.calibration import Calibration, DrawPosterior, calibrate, one_by_one
from sciinv.certify.metrics import equalised
from sciinv.certify.models import LinearMixture
from sciinv.certify.references import Reference
from sciinv.certify.settings import is_population
from sciinv.certify.stream import OneStream
from sciinv.rng import Rng
from sciinv.samplers.base import Sampler, sample

F64 = torch.float64
PARTICLES = 256  # of a population, for every data set


def sampler_posterior(sampler: Sampler, reference: Reference, seed: int = 0) -> DrawPosterior:
    """The posterior that ``sampler`` draws on the problem of a linear reference, for any data."""
    dtype = reference.prior.space.dtype

    def together(y: Tensor, n: int) -> Tensor:
        problem = dc.replace(reference.problem, y=y.to(dtype).repeat_interleave(n, 0))
        out = sample(sampler, problem, reference.prior, len(y) * n, seed, rng_factory=OneStream)
        return out.x.reshape(len(y), n, -1).to(F64)

    def alone(y: Tensor, n: int, k: int) -> Tensor:
        problem = dc.replace(reference.problem, y=y.to(dtype))
        out = sample(sampler, problem, reference.prior, max(PARTICLES, n), seed + k, rng_factory=OneStream)
        w = None if out.log_w is None else out.weights.to(F64)
        # resampling sorts: systematic resampling first, then a spread-out subset of it
        x = equalised(out.good.flatten(1).to(F64), w, len(out.good), seed + k)
        order = Rng(seed + k, [9]).uniform((len(x),), F64)[0].argsort()
        return x[order[:n]]

    return one_by_one(alone) if is_population(type(sampler)) else together


def calibrate_sampler(
    sampler: Sampler, reference: Reference, simulations: int = 1000, draws: int = 63, seed: int = 0
) -> Calibration:
    """SBC and TARP of a sampler on the model behind a linear reference (``gaussian``, ``overlap``, ``mixture``)."""
    problem = reference.problem
    model = LinearMixture.of(reference.prior, problem.linear, problem.noise.sigma)  # type: ignore[arg-type]
    return calibrate(model, sampler_posterior(sampler, reference, seed=seed), simulations, draws, seed)
