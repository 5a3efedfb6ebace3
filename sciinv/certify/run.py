"""Measure methods on every reference they can run on: `certify`.

Affine methods on Gaussian references get their exact law, so their errors carry no Monte Carlo noise; everything else is
sampled and its errors are given together with the floor, what as many exact draws show. Runs go one after another.
"""

from __future__ import annotations

import dataclasses as dc
import functools
import math
import time
from collections.abc import Callable, Mapping, Sequence

import torch

from sciinv.certify import metrics
from sciinv.certify.affine import is_affine
from sciinv.certify.claims import Verdict, judge
from sciinv.certify.posteriors import calibrate_sampler
from sciinv.certify.references import Reference, suite
from sciinv.certify.settings import Budget, budgets, is_population
from sciinv.errors import MismatchError, NumericalError
from sciinv.operator import to_real
from sciinv.samplers.base import Sampler, sample
from sciinv.testing.laws import affine_law, mean_cov_error

F64 = torch.float64
EXACT_DRAWS = 4000  # that coverage is measured with
REPEATS = 4  # exact sets that a floor is averaged over
UNIT_VECTORS = {True: 8_000, False: 200_000}  # more than this, and an exact law costs more than it tells
CALIBRATED_ON = ("gaussian", "overlap")
SIMULATIONS = {False: 1000, True: 300}  # a population is run anew for every data set
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


@dc.dataclass(frozen=True)
class Calibrated:
    """SBC and TARP of one method at its default budget on one reference's model."""

    method: str
    reference: str
    budget: str
    simulations: int
    draws: int
    sbc_p: float
    sbc_passes: bool
    tarp: float
    tarp_limit: float
    tarp_passes: bool


@dc.dataclass(frozen=True)
class Certificate:
    """All records, and what they say about the claims; why a method was not run on a reference; SBC and TARP."""

    records: list[Record]
    verdicts: list[Verdict]
    skipped: dict[str, dict[str, str]]
    seconds: float
    calibrations: list[Calibrated] = dc.field(default_factory=list)

    @property
    def refuted(self) -> list[Verdict]:
        """Claims whose gate failed."""
        return [v for v in self.verdicts if v.outcome == "refuted"]


def family(method: type[Sampler]) -> str:
    """Name of the folder that the method's module lies in."""
    return method.__module__.split(".")[-2]


def certify(
    methods: Mapping[str, type[Sampler]],
    fast: bool = False,
    *,
    references: Mapping[str, Sequence[Reference]] | None = None,
    on_record: Callable[[Record], None] | None = None,
) -> Certificate:
    """Measure ``methods`` (name to class) and judge their claims.

    Parameters
    ----------
    fast : small references and budgets: a few minutes for all methods.
    references : name to realisations; `suite` by default.
    on_record : called with each record as it is made.
    """
    start = time.monotonic()
    references = suite(fast) if references is None else references
    records: list[Record] = []
    skipped: dict[str, dict[str, str]] = {}
    for name, method in methods.items():
        skipped[name] = {}
        for key, realisations in references.items():
            first = realisations[0]
            missing = method.requires - first.problem.pullback(first.prior.to_physical).capabilities()
            if missing:
                skipped[name][key] = f"needs {', '.join(sorted(missing))}"
                continue
            ladder = budgets(method, first.scale, len(first.mean), fast)
            try:
                exact = all(has_exact_law(budget, first, fast) for budget in ladder)
            except (MismatchError, NumericalError) as error:
                skipped[name][key] = str(error)
                continue
            for budget in ladder:
                try:
                    record = measure(budget, realisations, exact)
                except (MismatchError, NumericalError) as error:
                    skipped[name][key] = str(error)
                    break
                records.append(record)
                if on_record is not None:
                    on_record(record)
    calibrations = [] if fast else [
        _calibrated(method, references[key][0])
        for name, method in methods.items() for key in references
        if key.split("-")[0] in CALIBRATED_ON and key not in skipped[name]
    ]  # fmt: skip
    verdicts = [
        judge(name, family(m), m.claims, [r for r in records if r.method == name]) for name, m in methods.items()
    ]
    return Certificate(records, verdicts, skipped, time.monotonic() - start, calibrations)


def _calibrated(method: type[Sampler], ref: Reference) -> Calibrated:
    # the middle budget: a thousand data sets at the largest would take hours
    budget = budgets(method, ref.scale, len(ref.mean), False)[:2][-1]
    found = calibrate_sampler(budget.sampler, ref, SIMULATIONS[is_population(method)])
    return Calibrated(
        method.name, ref.name, budget.label, found.simulations, found.draws,
        min(1.0, min(found.sbc_p) * len(found.sbc_p)), found.sbc_passes,
        found.tarp, found.tarp_limit, found.tarp_passes,
    )  # fmt: skip


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

    optional = {k: (mean(k) if rows[0][k] is not None else None) for k in ("mode_error", "mode_floor", "c2st")}
    evidence = rows[0]["log_evidence_error"]
    if evidence is not None:
        evidence = math.sqrt(math.fsum(float(row["log_evidence_error"] or 0) ** 2 for row in rows) / len(rows))
    numbers = {
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
    out = sample(budget.sampler, ref.problem, ref.prior, budget.n, seed)
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
