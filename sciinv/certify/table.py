"""The stored certificate: CSV for machines, Markdown for people, a plot, and JSON with what is needed to repeat it."""

from __future__ import annotations

import csv
import dataclasses as dc
import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sciinv import provenance
from sciinv.certify.measure import Record
from sciinv.certify.run import Calibrated, Certificate
from sciinv.io.atomic import atomic_path, write_json, write_text

SCHEMA = 1
COLUMNS = (
    "method",
    "reference",
    "budget",
    "calls",
    "error",
    "floor",
    "x floor",
    "cover 90 %",
    "modes",
    "log Z",
    "C2ST",
)
INKS = ("#1f5f8b", "#a3521b", "#3f7d3a", "#7a4b94", "#8a6d00", "#5b5b5b", "#b03060", "#008080", "#444ab0", "#7f7f00")
MARKS = "osD^vP*X<>"


def cells(record: Record) -> list[str]:
    """One row of the table as text, in the order of `COLUMNS`."""
    law = "*" if record.exact_law else ""
    return [
        record.method, record.reference + law, record.budget, f"{record.network_calls:.0f}", f"{record.error:.3g}",
        f"{record.floor:.3g}", f"{record.over_floor:.2f}", f"{record.coverage_90:.3f}",
        _maybe(record.mode_error), _maybe(record.log_evidence_error), _maybe(record.c2st),
    ]  # fmt: skip


def document(certificate: Certificate, argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Everything as one JSON-ready value; numbers that are not finite become ``None``."""
    scrub = provenance.Scrubber()
    body = {
        "schema": SCHEMA,
        "command": " ".join(provenance.arguments(scrub, argv)),
        "date": provenance.now(),
        "environment": provenance.environment(),
        "seconds": round(certificate.seconds, 1),
        "claims_refuted": len(certificate.refuted),
        "verdicts": [dc.asdict(v) for v in certificate.verdicts],
        "records": [dc.asdict(r) for r in certificate.records],
        "evidences": [dc.asdict(e) for e in certificate.evidences],
        "calibrations": [dc.asdict(c) for c in certificate.calibrations],
        "skipped": certificate.skipped,
    }
    return _finite(body)


def summary(certificate: Certificate) -> dict[str, Any]:
    """The last line of ``--json -``: outcome of each method, and how many claims failed."""
    methods: dict[str, Any] = {}
    for verdict in certificate.verdicts:
        if verdict.method in methods:  # a second gate, on the evidence
            methods[verdict.method] |= {"evidence_outcome": verdict.outcome, "evidence_ratio": verdict.evidence}
            continue
        rows = [r for r in certificate.records if r.method == verdict.method]
        last = {r.reference: r for r in rows}
        methods[verdict.method] = {
            "family": verdict.family, "outcome": verdict.outcome, "evidence": verdict.evidence,
            "over_floor": {k: round(r.over_floor, 3) for k, r in last.items()},
            "coverage_90": {k: round(r.coverage_90, 3) for k, r in last.items()},
        }  # fmt: skip
    out = {
        "methods": methods,
        "claims_refuted": len(certificate.refuted),
        "refuted": [v.method for v in certificate.refuted],
        "seconds": round(certificate.seconds, 1),
    }
    return _finite(out)


def markdown(certificate: Certificate, head: dict[str, Any]) -> str:
    """Verdicts, the table, calibration, and what made it."""
    lines = ["# Certificate", "", f"`{head['command']}`, {head['date']}, {head['seconds']} s.", ""]
    lines += [
        "Error is the sliced Wasserstein distance from exact draws, or (*) the covariance error of the exact law; "
        "floor is what as many exact draws show. Cover is the probability that the truth lies in the central "
        "90 % interval.",
        "",
    ]
    rows = [[v.method, v.family, v.claim, v.outcome, v.evidence] for v in certificate.verdicts]
    lines += [*_table(("method", "family", "claim", "outcome", "evidence"), rows), ""]
    lines += _table(COLUMNS, [cells(r) for r in certificate.records])
    if certificate.calibrations:
        rows = [_calibration(c) for c in certificate.calibrations]
        heads = ("method", "reference", "budget", "simulations", "SBC p", "SBC", "TARP gap", "TARP")
        lines += ["", *_table(heads, rows)]
    return "\n".join(lines) + "\n"


def write(certificate: Certificate, folder: Path, argv: Sequence[str] | None = None) -> list[Path]:
    """Write ``certificate.csv``, ``.md``, ``.json`` and ``.png`` into ``folder``, each atomically."""
    body = document(certificate, argv)
    text = io.StringIO()
    writer = csv.DictWriter(text, [f.name for f in dc.fields(Record)], lineterminator="\n")
    writer.writeheader()
    writer.writerows(body["records"])
    paths = [
        write_json(folder / "certificate.json", body),
        write_text(folder / "certificate.csv", text.getvalue()),
        write_text(folder / "certificate.md", markdown(certificate, body)),
    ]
    return [*paths, plot(certificate.records, folder / "certificate.png")] if certificate.records else paths


def plot(records: Sequence[Record], path: Path) -> Path:
    """Error over floor against network calls, one panel a reference, one line a method; both axes logarithmic."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # slow to import: only when a picture is asked for
    from matplotlib.figure import Figure

    references, methods = (list(dict.fromkeys(getattr(r, key) for r in records)) for key in ("reference", "method"))
    columns = min(3, len(references))
    rows = math.ceil(len(references) / columns)
    figure = Figure(figsize=(4.2 * columns, 3.0 * rows + 0.7), dpi=120, facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(rows, columns, squeeze=False, sharex=True).flatten()
    calls = [max(r.network_calls, 1) for r in records]
    for panel, reference in zip(panels, references, strict=False):
        for k, method in enumerate(methods):
            line = [r for r in records if (r.reference, r.method) == (reference, method)]
            # particles cost no calls per sample: the growing mark says that the population grew
            x, y = [r.network_calls for r in line], [max(r.over_floor, 1e-3) for r in line]
            if line:
                panel.plot(x, y, color=INKS[k % len(INKS)], lw=1, alpha=0.6)
                size = [14.0 * (1 + i) for i in range(len(line))]
                panel.scatter(x, y, s=size, color=INKS[k % len(INKS)], marker=MARKS[k % len(MARKS)], label=method)
        panel.axhline(1, color="black", lw=0.8, ls="--")
        panel.set_xscale("log")
        panel.set_yscale("log")
        panel.set_xlim(10 ** math.floor(math.log10(min(calls))), 10 ** math.ceil(math.log10(max(calls)) + 1e-6))
        panel.set_ylim(min(0.5, panel.get_ylim()[0]), max(20, panel.get_ylim()[1]))
        panel.yaxis.set_minor_formatter("")
        panel.tick_params(labelsize=8, labelbottom=True)
        panel.set_title(reference, fontsize=9)
        panel.set_xlabel("network calls per sample", fontsize=8)
        panel.set_ylabel("error / floor", fontsize=8)
    for panel in panels[len(references) :]:
        panel.set_axis_off()
    seen: dict[str, Any] = {}
    for panel in panels:
        for handle, label in zip(*panel.get_legend_handles_labels(), strict=True):
            seen.setdefault(label, handle)
    figure.legend(list(seen.values()), list(seen), loc="outside lower center", ncols=8, fontsize=8, frameon=False)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", metadata={"Software": None})
    return path


def _calibration(c: Calibrated) -> list[str]:
    sbc, tarp = ("passes" if good else "FAILS" for good in (c.sbc_passes, c.tarp_passes))
    gap = f"{c.tarp:.3f} (limit {c.tarp_limit:.3f})"
    return [c.method, c.reference, c.budget, f"{c.simulations} x {c.draws}", f"{c.sbc_p:.3g}", sbc, gap, tarp]


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(heads)} |", f"|{'---|' * len(heads)}", *(f"| {' | '.join(row)} |" for row in rows)]


def _maybe(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}"


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {k: _finite(v) for k, v in value.items()}
    return [_finite(v) for v in value] if isinstance(value, (list, tuple)) else value
