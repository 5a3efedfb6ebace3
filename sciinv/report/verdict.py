"""The verdict box: what the checks of this run say, in plain words, with the numbers beside them.

Limits: chi-squared per degree of freedom within 10 % of one; split R-hat at most 1.05 everywhere and 1.01 in the
median; effective sample size at least 20 (Vehtari et al., Bayesian Analysis 2021, arXiv:1903.08008, recommend R-hat
below 1.01 for final inference). Those of weighted samples are in `sciinv.diagnostics.alarms`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sciinv.diagnostics.alarms import ANCESTORS, ESS_SHARE, MARGIN, RHAT, SPREAD, apart, collapsed
from sciinv.report.model import Report
from sciinv.report.sections import Finding
from sciinv.report.text import clean, number, percent

CHI2_GOOD, CHI2_FAIR = 0.10, 0.25
DRIFT_GOOD = 0.3  # standard deviations that the mean over chains may move in the stationary sweeps
RHAT_GOOD, RHAT_FAIR, RHAT_MEDIAN, ESS_GOOD = RHAT, 1.2, 1.01, 20.0
WEIGHTED = ("particles", "ess_weights", "ess_share_min", "ancestors", "log_evidence", "log_evidence_spread")


def findings(report: Report) -> list[Finding]:
    """Data fit, chains, coverage, what the field found, failures and warnings, in the order a reader needs them."""
    weighted = _weighted(report)
    chains = [] if weighted and not _values(report, "rhat_max") else [_chains(report)]
    found = [_data_fit(report), *chains, *weighted, _coverage(report)]
    found += [Finding(f.level, clean(f.title), clean(f.text)) for part in report.sections for f in part.findings]
    failed = sum(_values(report, "failed"))
    if failed:
        total = sum(_values(report, "n")) or sum(len(item.samples) for item in report.items)
        text = f"{failed:.0f} of {total:.0f} samples became non-finite and were left out of every map."
        found.append(Finding("caution" if failed < 0.1 * total else "alarm", "Some samples failed", text))
    warnings = len(report.warnings) + sum(len(item.warnings) for item in report.items)
    if warnings:
        text = f"This run gave {warnings} warning{'s' * (warnings > 1)}; they are printed in full below."
        found.append(Finding("caution", "There are warnings", text))
    return found


def headline(found: Sequence[Finding]) -> tuple[str, str]:
    """The level and the one sentence on top of the box."""
    levels = {finding.level for finding in found}
    if "alarm" in levels:
        return "alarm", "Do not rely on these maps before reading the points marked ✗."
    if levels & {"caution", "unknown"}:
        return "caution", "Usable for research within the limits listed here."
    return "ok", "This run passed its own checks. It is still for research use only."


def out_of_range(key: str, value: float) -> bool:
    """Whether a statistic of one slice lies outside the limits of this module."""
    return {
        "chi2_per_dof": abs(value - 1) > CHI2_GOOD,
        "rhat_max": value > RHAT_GOOD,
        "rhat_median": value > RHAT_MEDIAN,
        "ess_min": value < ESS_GOOD,
        "ess_share_min": value < ESS_SHARE,
        "ancestors": value < ANCESTORS,
        "log_evidence_spread": value > SPREAD,
        "drift": value > DRIFT_GOOD,
        "failed": value > 0,
    }.get(key, False)


def _values(report: Report, key: str) -> list[float]:
    return [value for item in report.items if (value := number(item.stats.get(key))) is not None]


def _span(values: Sequence[float]) -> str:
    low, high = f"{min(values):.2f}", f"{max(values):.2f}"
    return low if low == high else f"{low} to {high}"


def _data_fit(report: Report) -> Finding:
    chi2 = _values(report, "chi2_per_dof")
    if not chi2:
        text = "The run gave no chi-squared, so nobody checked the fit to the data."
        return Finding("unknown", "Data fit not computed", text)
    many = " over the slices" if len(chi2) > 1 else ""
    meaning = "(1 means: the residual is as large as the noise)."
    numbers = f"Chi-squared per degree of freedom is {_span(chi2)}{many} {meaning}"
    worst = max(chi2, key=lambda value: abs(value - 1))
    if abs(worst - 1) <= CHI2_GOOD:
        return Finding("ok", "The samples explain the data to within the noise", numbers)
    level = "caution" if abs(worst - 1) <= CHI2_FAIR else "alarm"
    if worst > 1:
        why = "The pictures leave out something that is in the data, or the noise was taken too small."
    else:
        why = "The pictures follow the data closer than the noise allows, or the noise was taken too large."
    return Finding(level, "The samples do not fit the data as they should", f"{numbers} {why}")


def _chains(report: Report) -> Finding:
    rhat, median, ess = (_values(report, key) for key in ("rhat_max", "rhat_median", "ess_min"))
    if not rhat and not median:
        text = "The sampler gave no R-hat (separate draws have none); agreement of repeated runs was not checked here."
        return Finding("unknown", "Agreement of chains not computed", text)
    parts = [f"R-hat is at most {max(rhat):.2f} in any block of pixels"] if rhat else []
    parts += [f"its median is at most {max(median):.3f}"] if median else []
    parts += [f"the smallest effective sample size is {min(ess):.0f}"] if ess else []
    numbers = ", ".join(parts) + " (R-hat 1 means: independent chains agree)."
    numbers = numbers[:1].upper() + numbers[1:]
    top, middle = max(rhat, default=1.0), max(median, default=1.0)
    if top <= RHAT_GOOD and middle <= RHAT_MEDIAN and min(ess, default=ESS_GOOD) >= ESS_GOOD:
        return Finding("ok", "Independent chains agree", numbers)
    drift = _values(report, "drift")
    if drift and max(drift) <= DRIFT_GOOD and (top > RHAT_GOOD or middle > RHAT_MEDIAN):
        text = (
            f"{numbers} At their last, narrow coupling the chains hardly move, so every sample keeps the spread that "
            f"the start of its chain gave it. The mean over chains moved by at most {max(drift):.2f} of its standard "
            "deviation in the last sweeps: they did not disagree with that start, but they could not have repaired it."
        )
        return Finding("caution", "The chains are steady but separate", text)
    if top > RHAT_FAIR or middle > RHAT_GOOD:
        text = f"{numbers} The chains still differ: means are rough and spreads unreliable. Run longer."
        return Finding("alarm", "The chains do not agree", text)
    text = f"{numbers} Small differences are left: the maps carry Monte Carlo noise beyond what n samples give."
    return Finding("caution", "The chains agree roughly", text)


def _weighted(report: Report) -> list[Finding]:
    """Weighted samples: how many count, whom they descend from, what they say about the evidence."""
    items = {
        clean(item.label): {key: value for key in WEIGHTED if (value := number(item.stats.get(key))) is not None}
        for item in report.items
    }
    items = {label: found for label, found in items.items() if "particles" in found}
    if not items:
        return []
    numbers = _population(list(items.values()))
    alarm = collapsed(items)
    if alarm is None:
        out = [Finding("ok", "The weighted population held together", numbers)]
    else:
        hint = "More --particles, or a method of independent samples (pnpdm)."
        out = [Finding("alarm", "The population collapsed", f"{_sentence(alarm.text)} {numbers} {hint}")]
    alarm = apart(items)
    if alarm is not None:
        hint = "Each island saw other modes of the posterior, or none: more --particles an island."
        out.append(Finding("alarm", "Islands were pooled equally, one is lost", f"{_sentence(alarm.text)} {hint}"))
    return out


def _population(found: Sequence[Mapping[str, float]]) -> str:
    """The numbers of the slices with the fewest in words."""
    least = {key: min(values) for key in WEIGHTED if (values := [item[key] for item in found if key in item])}
    text = f"{least['particles']:.0f} weighted particles a slice give the mean, the spread and the bounds; the single "
    text += "samples are equally weighted draws from them."
    counts = [f"the final weights are worth {least['ess_weights']:.1f} equal ones"] * ("ess_weights" in least)
    if "ess_share_min" in least:
        counts.append(f"at the worst step {percent(least['ess_share_min'])} of the particles counted")
    if "ancestors" in least:
        counts.append(f"{least['ancestors']:.0f} of the first particles have descendants")
    text += f" {_sentence(', '.join(counts))}" if counts else ""
    evidence = [item["log_evidence"] for item in found if "log_evidence" in item]
    if evidence:
        spread = [item["log_evidence_spread"] for item in found if "log_evidence_spread" in item]
        error = f"islands differ by {max(spread):.2f}" if spread else "one island: its error is not known"
        text += f" Log-evidence of the data {_span(evidence)} ({error})."
    return text


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:] + "."


def _coverage(report: Report) -> Finding:
    coverage = report.coverage
    measured, calibrated = number(coverage.get("measured")), number(coverage.get("calibrated"))
    text, wanted = statement(report), number(coverage.get("level"))
    narrow = calibrated is not None and wanted is not None and calibrated < wanted - MARGIN
    if coverage.get("over_confident"):
        level = "alarm" if calibrated is None or narrow else "caution"
        return Finding(level, "The raw uncertainty maps may be over-confident", text)
    if coverage.get("over_confident") is None and coverage.get("source"):
        title = "Bounds were calibrated on other data; coverage was not measured on this one"
        return Finding("caution", title, text)
    if coverage.get("over_confident") is None:
        return Finding("unknown", "Coverage has not been measured and is not calibrated for this protocol", text)
    if narrow:
        return Finding("caution", "The calibrated bounds held the truth less often than they should", text)
    held = "The intervals held the truth as often as they should"
    return Finding("ok", held if measured is not None else "No over-confidence reported", text)


def statement(report: Report) -> str:
    """The coverage sentence of the run; where it has none, the numbers there are and what is not known."""
    given = clean(str(report.coverage.get("statement") or "")).strip()
    if given:
        return given if given[-1] in ".!?" else given + "."
    unknown = report.coverage.get("over_confident") is None
    unsure = "Nobody has measured how often the intervals hold the truth here: read them as relative, not absolute."
    return " ".join(part for part in (unsure if unknown else "", _coverage_numbers(report)) if part)


def _coverage_numbers(report: Report) -> str:
    keys = ("level", "exact", "measured", "calibrated")
    level, exact, measured, calibrated = (number(report.coverage.get(key)) for key in keys)
    source = clean(str(report.coverage.get("source") or "other data"))
    parts = [] if level is None else [f"nominal {percent(level)}"]
    parts += [] if exact is None else [f"an exact sampler with this many samples would give {percent(exact)}"]
    parts += [] if measured is None else [f"measured {percent(measured)}"]
    parts += [] if calibrated is None else [f"after calibration on {source} {percent(calibrated)}"]
    return f"Coverage: {'; '.join(parts)}." if parts else ""


def burned_in(report: Report) -> str:
    """The text drawn into every std picture, empty where coverage was measured and found good."""
    over = report.coverage.get("over_confident")
    return "MAY BE OVER-CONFIDENT" if over else "COVERAGE NOT MEASURED" if over is None else ""
