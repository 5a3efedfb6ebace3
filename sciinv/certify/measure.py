"""Measure one method at one budget on one reference: `measure` makes a `Record`.

Affine methods on Gaussian references get their exact law, so their errors carry no Monte Carlo noise; everything else
is sampled and its errors are given together with the floor, what as many exact draws show.
"""

from __future__ import annotations

import dataclasses as dc
import functools
import math
import time
from collections.abc import Sequence
from typing import Any

from sciinv.certify import metrics
from sciinv.certify.affine import is_affine
from sciinv.certify.references import F64, Reference
from sciinv.certify.settings import Budget, is_population
from sciinv.certify.stream import OneStream
from sciinv.operator import to_real
from sciinv.samplers.base import Sampler, sample
from sciinv.testing.laws import affine_law, mean_cov_error

EXACT_DRAWS = 4000  # that coverage is measured with
REPEATS = 4  # exact sets that a floor is averaged over
UNIT_VECTORS = {True: 2_000, False: 200_000}  # more than this, and an exact law costs more than it tells
CLASSIFIED = 2000  # samples a classifier is trained on, at most


@dc.dataclass(frozen=True)
class Record:
    """One method on one reference at one budget, averaged over the reference's random problems.

    Attributes
    ----------
    error, floor : sliced Wasserstein-1 distance from exact draws and that of two exact sets; for an exact law the
        covariance error and that of as many exact draws as the other budgets have samples.
    mean_error, cov_error, mean_floor, cov_floor : ``|mu - mu*| / sqrt(tr Sigma*)``, ``|Sigma - Sigma*| / |Sigma*|``.
    mode_error, mode_floor : total variation of the mode weights.
    log_evidence_error : root mean square of ``log Z - log Z*``.
    coverage_90 : probability that the truth lies in the central 90 % interval, averaged over coordinates.
    c2st : accuracy of a classifier that tells samples from exact draws; one half when it cannot.
    exact_law : no Monte Carlo error in ``error``, ``mean_error``, ``cov_error`` and ``coverage_90``.
    network_calls, network_vjps : per sample.
    seconds : CPU seconds a run.
    """

    method: str
    family: str
    reference: str
    budget: str
    samples: int
    network_calls: float
    network_vjps: float
    error: float
    floor: float
    over_floor: float
    mean_error: float
    mean_floor: float
    cov_error: float
    cov_floor: float
    coverage_90: float
    seconds: float
    exact_law: bool = False
    problems: int = 1
    mode_error: float | None = None
    mode_floor: float | None = None
    log_evidence_error: float | None = None
    c2st: float | None = None


def family(method: type[Sampler]) -> str:
    """Name of the folder that the method's module lies in."""
    return method.__module__.split(".")[-2]


def has_exact_law(budget: Budget, ref: Reference, fast: bool) -> bool:
    """Whether the law of the sampler on this reference can be computed instead of sampled, at a bearable cost."""
    sampler = budget.sampler
    if ref.kind != "gaussian" or is_population(type(sampler)):
        return False
    calls = int(sample(sampler, ref.problem, ref.prior, 1, 0).provenance["network_calls"])
    return calls * len(ref.mean) <= UNIT_VECTORS[fast] and is_affine(sampler, ref.problem, ref.prior)


def measure(budget: Budget, realisations: Sequence[Reference], exact_law: bool = False) -> Record:
    """One record: the errors of ``budget.sampler``, averaged over the realisations of one reference."""
    one = _exact_law if exact_law else _sampled
    rows = [one(budget, reference, seed) for seed, reference in enumerate(realisations)]

    def mean(key: str) -> float:
        return math.fsum(float(row[key] or 0) for row in rows) / len(rows)

    optional: dict[str, Any] = {
        k: (mean(k) if rows[0][k] is not None else None) for k in ("mode_error", "mode_floor", "c2st")
    }
    evidence = rows[0]["log_evidence_error"]
    if evidence is not None:
        evidence = math.sqrt(math.fsum(float(row["log_evidence_error"] or 0) ** 2 for row in rows) / len(rows))
    numbers: dict[str, Any] = {
        k: mean(k)
        for k in (
            "network_calls", "network_vjps", "error", "floor", "mean_error", "mean_floor", "cov_error", "cov_floor",
            "coverage_90", "seconds",
        )
    }  # fmt: skip
    return Record(
        method=budget.sampler.name, family=family(type(budget.sampler)), reference=realisations[0].name,
        budget=budget.label, samples=budget.n, over_floor=numbers["error"] / numbers["floor"],
        exact_law=exact_law, problems=len(rows), log_evidence_error=evidence,
        **numbers, **optional,
    )  # fmt: skip


Row = dict[str, float | None]


@functools.lru_cache(maxsize=256)
def _floors(ref: Reference, n: int) -> Row:
    """What ``n`` exact draws show; the same for every method."""
    mean_floor, cov_floor = metrics.moment_floor(ref.draw, n, ref.mean, ref.cov)
    row: Row = {"mean_floor": mean_floor, "cov_floor": cov_floor, "floor": metrics.wasserstein_floor(ref.draw, n)}
    row |= dict.fromkeys(("mode_error", "mode_floor", "log_evidence_error", "c2st"))
    if ref.weights is not None and ref.responsibilities is not None:
        sets = [ref.draw(n, 57 + r) for r in range(REPEATS)]
        errors = [metrics.mode_weight_error(x, None, ref.weights, ref.responsibilities) for x in sets]
        row["mode_floor"] = math.fsum(errors) / REPEATS
    return row


def _exact_law(budget: Budget, ref: Reference, seed: int) -> Row:
    start = time.process_time()
    once = sample(budget.sampler, ref.problem, ref.prior, 1, 0).provenance
    mean, cov = affine_law(budget.sampler, ref.problem, ref.prior, tol=None)
    mean_error, cov_error = mean_cov_error(mean, cov, ref.mean, ref.cov)
    floors = _floors(ref, budget.n)
    return floors | {
        "network_calls": once["network_calls"], "network_vjps": once["network_vjps"],
        "error": cov_error, "floor": floors["cov_floor"], "mean_error": mean_error, "cov_error": cov_error,
        "coverage_90": metrics.gaussian_coverage(mean, cov, ref.mean, ref.cov),
        "seconds": time.process_time() - start,
    }  # fmt: skip


def _sampled(budget: Budget, ref: Reference, seed: int) -> Row:
    out = sample(budget.sampler, ref.problem, ref.prior, budget.n, seed, rng_factory=OneStream)
    x = to_real(out.good, out.good.ndim - 1).to(F64)
    w = None if out.log_w is None else out.weights.to(F64)
    mean_error, cov_error = metrics.moment_errors(x, w, ref.mean, ref.cov)
    exact = ref.draw(EXACT_DRAWS, 31 + seed)
    row = _floors(ref, len(x)) | {
        "network_calls": out.provenance["network_calls"], "network_vjps": out.provenance["network_vjps"],
        "error": metrics.wasserstein_error(x, w, ref.draw, seed=seed),
        "mean_error": mean_error, "cov_error": cov_error,
        "coverage_90": metrics.coverage(x, w, exact), "seconds": out.provenance["cpu_seconds"],
        "c2st": metrics.c2st(metrics.equalised(x, w, CLASSIFIED, seed), exact[: min(len(x), CLASSIFIED)]),
    }  # fmt: skip
    if ref.weights is not None and ref.responsibilities is not None:
        row["mode_error"] = metrics.mode_weight_error(x, w, ref.weights, ref.responsibilities)
    if "log_evidence" in out.provenance:
        row["log_evidence_error"] = float(out.provenance["log_evidence"]) - ref.log_evidence
    return row
