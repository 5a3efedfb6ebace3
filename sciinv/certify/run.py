"""Measure methods on every reference they can run on, one run after another, and judge their claims: `certify`.

`shared_out` does so in several processes, whole methods to each: the same numbers, in the same order.
"""

from __future__ import annotations

import dataclasses as dc
import functools
import itertools
import multiprocessing
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor

import torch

from sciinv.certify.claims import Verdict, judge, judge_evidence
from sciinv.certify.evidence import Evidence, evidence_ratio
from sciinv.certify.measure import Record, family, has_exact_law, measure
from sciinv.certify.posteriors import PARTICLES, calibrate_sampler
from sciinv.certify.references import Reference, suite
from sciinv.certify.settings import budgets, is_population
from sciinv.errors import MismatchError, NumericalError
from sciinv.samplers.base import Sampler

GATED = ("gaussian", "overlap")  # references that verdicts look at first: worth more patience
PATIENCE = {True: (4.0, 60.0), False: (1200.0, 3600.0)}  # CPU seconds a budget may take, on others and on gated ones
CALIBRATED_ON = {False: ("gaussian", "overlap"), True: ("gaussian",)}  # a population takes minutes for each
EVIDENCE_ON = {True: ("gaussian",), False: ("gaussian", "overlap", "inpaint")}
RUNS = {True: 16, False: 64}  # that an evidence is averaged over
COUPLING, NARROW = ("rho_min", "eta_min"), 15  # widths, and what part of the noise level SBC and TARP give them
SIMULATIONS = {False: 1000, True: 300}  # a population is run anew for every data set


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
    evidences: list[Evidence] = dc.field(default_factory=list)

    @property
    def refuted(self) -> list[Verdict]:
        """Claims whose gate failed."""
        return [v for v in self.verdicts if v.outcome == "refuted"]


def certify(
    methods: Mapping[str, type[Sampler]],
    fast: bool = False,
    *,
    references: Mapping[str, Sequence[Reference]] | None = None,
    patience: float | None = None,
    on_record: Callable[[Record], None] | None = None,
) -> Certificate:
    """Measure ``methods`` (name to class) and judge their claims.

    Parameters
    ----------
    fast : small references and budgets: a few minutes for all methods.
    references : name to realisations; `suite` by default.
    patience : CPU seconds that a budget may take on one reference, five times as many where verdicts look; a budget
        that would take longer is left out and noted.
    on_record : called with each record as it is made.
    """
    start = time.monotonic()
    references = suite(fast) if references is None else references
    most = PATIENCE[fast] if patience is None else (patience, 5 * patience)
    records: list[Record] = []
    skipped: dict[str, dict[str, str]] = {}
    cut: set[tuple[str, str]] = set()
    for name, method in methods.items():
        skipped[name] = {}
        for key, realisations in references.items():
            first = realisations[0]
            missing = method.requires - first.problem.pullback(first.prior.to_physical).capabilities()
            if missing:
                skipped[name][key] = f"needs {', '.join(sorted(missing))}"
                continue
            if fast and key.startswith("inpaint") and "mask" not in method.requires:
                skipped[name][key] = "only in the full certificate"
                continue
            ladder = budgets(method, first, fast)
            try:
                exact = all(has_exact_law(budget, first, fast) for budget in ladder)
            except (MismatchError, NumericalError) as error:
                skipped[name][key] = str(error)
                continue
            spent = 0.0
            for budget in ladder:
                # the next budget takes about four times the last
                if 4 * spent > most[key.split("-")[0] in GATED]:
                    cut.add((name, key))
                    skipped[name][f"{key}, {budget.label}"] = f"the budget before took {spent:.0f} s"
                    break
                try:
                    record = measure(budget, realisations, exact)
                except (MismatchError, NumericalError) as error:
                    skipped[name][key] = str(error)
                    break
                records.append(record)
                spent = record.seconds * record.problems
                if on_record is not None:
                    on_record(record)
    calibrations = [] if fast else [
        _calibrated(method, references[key][0])
        for name, method in methods.items() for key in references
        if family(method) == "exact" and key.split("-")[0] in CALIBRATED_ON[is_population(method)]
        and key not in skipped[name]
    ]  # fmt: skip
    evidences = [
        evidence_ratio(budgets(method, references[key][0], fast)[-1].sampler, references[key][0], RUNS[fast], PARTICLES)
        for name, method in methods.items() for key in references
        if any(r.log_evidence_error is not None for r in records if (r.method, r.reference) == (name, key))
        and key.split("-")[0] in EVIDENCE_ON[fast]
    ]  # fmt: skip
    verdicts = [
        judge(name, family(m), m.claims, [r for r in records if r.method == name], {k for m, k in cut if m == name})
        for name, m in methods.items()
    ]
    for name, m in methods.items():
        extra = judge_evidence(name, family(m), m.claims, [e for e in evidences if e.method == name])
        verdicts += [] if extra is None else [extra]
    return Certificate(records, verdicts, skipped, time.monotonic() - start, calibrations, evidences)


def shared_out(
    names: Sequence[str],
    fast: bool,
    workers: int,
    *,
    patience: float | None = None,
    on_record: Callable[[Record], None] | None = None,
) -> Certificate:
    """`certify` of registered methods on the standard references, in ``workers`` processes of one thread each.

    Records are reported method by method, in the order of ``names``, whichever ends first.
    """
    start = time.monotonic()
    whole = Certificate([], [], {}, 0.0)
    # a forked process could not differentiate: autograd's threads are not copied
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
        for part in pool.map(_alone, names, itertools.repeat(fast), itertools.repeat(patience)):
            whole.records.extend(part.records)
            whole.verdicts.extend(part.verdicts)
            whole.skipped.update(part.skipped)
            whole.calibrations.extend(part.calibrations)
            whole.evidences.extend(part.evidences)
            if on_record is not None:
                for record in part.records:
                    on_record(record)
    return dc.replace(whole, seconds=time.monotonic() - start)


def _alone(name: str, fast: bool, patience: float | None) -> Certificate:
    from sciinv.samplers import METHODS

    torch.set_num_threads(1)
    return certify({name: METHODS[name]}, fast, references=_references(fast), patience=patience)


@functools.cache
def _references(fast: bool) -> dict[str, list[Reference]]:
    """`suite`, built once a process: floors are cached by its members."""
    return suite(fast)


def _calibrated(method: type[Sampler], ref: Reference) -> Calibrated:
    # the middle budget: a thousand data sets at the largest would take hours
    budget = budgets(method, ref, False)[:2][-1]
    # tens of thousands of draws see the law at the default width: it is the posterior of noisier data
    width = round(ref.problem.noise.sigma / NARROW, 3)
    narrow = {k: min(width, getattr(budget.sampler, k)) for k in COUPLING if hasattr(budget.sampler, k)}
    sampler = dc.replace(budget.sampler, **narrow)
    found = calibrate_sampler(sampler, ref, SIMULATIONS[is_population(method)])
    label = ", ".join(
        [
            f"{PARTICLES} particles" if is_population(method) else budget.label,
            *(f"{k} {v:g}" for k, v in narrow.items()),
        ]
    )
    return Calibrated(
        method.name, ref.name, label, found.simulations, found.draws,
        min(1.0, min(found.sbc_p) * len(found.sbc_p)), found.sbc_passes,
        found.tarp, found.tarp_limit, found.tarp_passes,
    )  # fmt: skip
