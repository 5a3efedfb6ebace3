"""Is an evidence unbiased? The mean of ``Z / Z*`` over independent runs, against one.

An unbiased estimate says nothing about its logarithm, whose mean is low by half its variance; so the ratio itself is
averaged, and judged by its standard error.
"""

from __future__ import annotations

import dataclasses as dc
import math

import torch

from sciinv.certify.references import Reference
from sciinv.certify.stream import OneStream
from sciinv.samplers.base import Sampler, sample

ERRORS = 3.0  # standard errors that the mean may be away from one


@dc.dataclass(frozen=True)
class Evidence:
    """Mean of ``Z / Z*`` over ``runs`` runs of ``particles`` particles, and its standard error."""

    method: str
    reference: str
    runs: int
    particles: int
    ratio: float
    standard_error: float

    @property
    def passes(self) -> bool:
        """Within three standard errors of one."""
        return math.isfinite(self.ratio) and abs(self.ratio - 1) <= ERRORS * self.standard_error + 1e-6

    def __str__(self) -> str:
        text = f"{self.reference}: mean of Z over its true value {self.ratio:.3f} with standard error"
        return f"{text} {self.standard_error:.3f} ({self.runs} runs)"


def evidence_ratio(sampler: Sampler, ref: Reference, runs: int, particles: int, seed: int = 0) -> Evidence:
    """Run ``sampler`` with ``runs`` seeds and average ``exp(log Z - log Z*)``."""
    found = [
        float(
            sample(sampler, ref.problem, ref.prior, particles, seed + 1000 + k, rng_factory=OneStream).provenance[
                "log_evidence"
            ]
        )
        for k in range(runs)
    ]
    ratio = (torch.tensor(found, dtype=torch.float64) - ref.log_evidence).exp()
    return Evidence(sampler.name, ref.name, runs, particles, float(ratio.mean()), float(ratio.std()) / math.sqrt(runs))
