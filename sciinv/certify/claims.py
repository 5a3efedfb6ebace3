"""What a method says of itself as a gate that can fail.

* ``exact`` family: on the overlapping mixture (or the first reference below that it can run on) the error is at most
  `WITHIN` times the floor at the largest budget, or its excess over the floor falls with the budget to `FALL` of
  itself: "exact in the limit". The floor of a larger population falls by itself, so it is taken off first.
* claims of exactness for Gaussian priors: on the dense Gaussian the covariance error falls with the budget to `FALL` of
  itself and the mean is within `MEAN` posterior standard deviations.
* claims of an ``unbiased evidence``: its mean over runs is within three standard errors of the truth (`evidence`); an
  evidence "of the discretised prior" is measured, but the truth of another prior cannot refute it.
* anything else claims no exactness: there is nothing to refute. So do claims of ``no exact limit``; and a claim of
  exactness "without measurement noise" cannot be tested here, because every reference is noisy.
"""

from __future__ import annotations

import dataclasses as dc
import re
from collections.abc import Collection, Sequence
from typing import Literal, Protocol

WITHIN = 2.0
FALL = 0.7  # error at the largest budget over error at the smallest
MEAN = 0.02
UNBIASED = re.compile(r"unbiased evidence(?! of the discretised prior)")
TESTED = ("overlap", "inpaint", "gaussian", "ring", "banana", "fourier", "mixture")

Outcome = Literal["held", "falling", "refuted", "nothing to refute", "not tested"]


class Measured(Protocol):
    """The part of a record that gates look at."""

    @property
    def reference(self) -> str:
        """Name of the reference."""

    @property
    def budget(self) -> str:
        """Label of the budget."""

    @property
    def error(self) -> float:
        """Distance from the truth."""

    @property
    def floor(self) -> float:
        """What exact draws show."""

    @property
    def exact_law(self) -> bool:
        """Whether ``error`` is free of Monte Carlo noise, so that no floor is to be taken off."""

    @property
    def over_floor(self) -> float:
        """``error`` over what exact draws show."""

    @property
    def mean_error(self) -> float:
        """In posterior standard deviations."""


@dc.dataclass(frozen=True)
class Verdict:
    """A method's claim, the gate made of it, and the outcome with the numbers behind it."""

    method: str
    family: str
    claim: str
    gate: str
    outcome: Outcome
    evidence: str


def judge(method: str, family: str, claim: str, records: Sequence[Measured], cut: Collection[str] = ()) -> Verdict:
    """Turn a method's family and claim into a gate and apply it to its records (budgets in growing order).

    On the references ``cut`` a larger budget was left out to save time: nothing can be refuted there.
    """
    gaussian_only = re.match(r"exact for (every )?gaussian", claim, re.IGNORECASE) is not None
    if "without measurement noise" in claim:
        return Verdict(method, family, claim, "none: every reference has measurement noise", "not tested", "")
    if (family != "exact" and not gaussian_only) or "no exact limit" in claim:
        return Verdict(method, family, claim, "none: no exactness is claimed", "nothing to refute", "")
    order = ("gaussian",) if gaussian_only and family != "exact" else TESTED
    chosen: list[Measured] = []
    for prefix in order:
        chosen = [r for r in records if r.reference.split("-")[0] == prefix]
        if chosen:
            break
    if not chosen:
        return Verdict(method, family, claim, f"a reference among {', '.join(order)}", "not tested", "")
    first, last = chosen[0], chosen[-1]
    wrong: Outcome = "not tested" if last.reference in cut else "refuted"
    falls = len(chosen) > 1 and _excess(last) <= FALL * _excess(first)
    evidence = f"{last.reference}: {last.over_floor:.2f} x floor at {last.budget}"
    if len(chosen) > 1:
        evidence += f", error {first.error:.3g} at {first.budget} to {last.error:.3g}"
    if order == ("gaussian",):
        gate = f"error falls to {FALL} of itself and the mean is within {MEAN} posterior std"
        good = falls and last.mean_error <= MEAN
        evidence += f", mean off by {last.mean_error:.2g}"
        return Verdict(method, family, claim, gate, "held" if good else wrong, evidence)
    gate = f"error at most {WITHIN} x floor, or falling to {FALL} of itself, on {last.reference}"
    outcome: Outcome = "held" if last.over_floor <= WITHIN else "falling" if falls else wrong
    return Verdict(method, family, claim, gate, outcome, evidence)


class Estimate(Protocol):
    """The part of an evidence estimate that the gate looks at."""

    @property
    def passes(self) -> bool:
        """Whether the mean is near one."""


def judge_evidence(method: str, family: str, claim: str, estimates: Sequence[Estimate]) -> Verdict | None:
    """The gate on the evidence, where a method estimates one; ``None`` where it does not."""
    if not estimates:
        return None
    found = "; ".join(map(str, estimates))
    if not UNBIASED.search(claim):
        return Verdict(method, family, claim, "none: no unbiased evidence is claimed", "nothing to refute", found)
    outcome: Outcome = "held" if all(e.passes for e in estimates) else "refuted"
    return Verdict(method, family, claim, "mean evidence within 3 standard errors of the truth", outcome, found)


def _excess(record: Measured) -> float:
    return record.error if record.exact_law else record.error - record.floor
