"""The report page: one file, no network, readable without JavaScript, and printable.

Everything the page needs is inside it. A content security policy forbids any other source and allows the one script by
its hash, so that even a string that slipped through escaping could neither run nor load anything.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import json
import os
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2
import numpy as np

from sciinv.io.atomic import write_text
from sciinv.report.figures import trace_svg
from sciinv.report.model import Report, ReportItem
from sciinv.report.pictures import (
    COLOURS,
    Codec,
    Window,
    colour_bar,
    encode,
    enlarge,
    kind_of,
    strip_height,
    windows,
)
from sciinv.report.sections import Section
from sciinv.report.text import clean, heading, number, percent, plain, show
from sciinv.report.verdict import burned_in, findings, headline, out_of_range

BUDGET = 7_500_000  # bytes of embedded pictures that the page aims to stay under
# (samples, maps): the first pair that fits the budget is used; the last is used whatever its size
LADDER = (
    (Codec(), Codec()),
    (Codec(quality=90), Codec()),
    (Codec(quality=75), Codec()),
    (Codec(quality=75, shrink=2), Codec()),
    (Codec(quality=70, shrink=2), Codec(shrink=2)),
)
RESEARCH = "RESEARCH USE ONLY"
COLUMNS = {  # statistic -> (heading, format)
    "chi2_per_dof": ("chi²/dof", ".3f"), "rhat_max": ("R-hat max", ".3f"), "rhat_median": ("R-hat median", ".3f"),
    "drift": ("drift", ".2f"),
    "ess_min": ("ESS min", ".0f"), "ess_median": ("ESS median", ".0f"), "n": ("samples", ".0f"),
    "particles": ("particles", ".0f"), "ess_weights": ("ESS of weights", ".1f"),
    "ess_share_min": ("ESS min / particles", "%"), "ancestors": ("ancestors", ".0f"),
    "resamplings": ("resamplings", ".0f"), "log_evidence": ("log-evidence", ".2f"),
    "log_evidence_spread": ("island spread", ".2f"),
    "failed": ("failed", ".0f"), "coverage_measured": ("coverage raw", "%"),
    "coverage_calibrated": ("coverage calibrated", "%"), "corr_std_error": ("corr(std, error)", ".2f"),
    "psnr": ("PSNR / dB", ".2f"), "ssim": ("SSIM", ".3f"), "acceleration": ("acceleration", ".3g"),
    "network_calls": ("network calls", ".0f"), "cpu_seconds": ("CPU / s", ".1f"),
}  # fmt: skip


def write_report(path: str | os.PathLike[str], report: Report) -> Path:
    """Write the page to `path` atomically and return the path; the same report gives the same bytes."""
    return write_text(path, render_report(report))


def render_report(report: Report) -> str:
    """The page as one string."""
    codecs = _choose(report)
    found = findings(report)
    level, sentence = headline(found)
    provenance = {key: value for key, value in report.provenance.items() if key != "trace"}
    script, style = _asset("report.js"), _asset("report.css") + _ramps()
    view = windows(report.items, clean(report.units))
    return _environment().get_template("template.html.j2").render(
        title=clean(report.title),
        disclaimer=clean(report.disclaimer),
        input=plain(report.input),
        level=level,
        sentence=sentence,
        findings=found,
        sections=[_section(part) for part in report.sections],
        slices=[_slice(report, item, view, codecs) for item in report.items],
        bars=_bars(report, view),
        n=max(len(item.samples) for item in report.items),
        notes=_notes(codecs),
        columns=[name for name, _ in _columns(report).values()],
        rows=_rows(report),
        traces=trace_svg(report.provenance.get("trace")),
        prior=plain(report.prior),
        method=plain(report.method),
        coverage={k: percent(v) if isinstance(v, float) else v for k, v in plain(report.coverage).items()},
        warnings=[clean(str(text)) for text in report.warnings],
        provenance=plain(provenance),
        provenance_json=json.dumps(plain(provenance), indent=2, ensure_ascii=False),
        script=script,
        style=style,
        policy=f"default-src 'none'; img-src data:; style-src {_hash(style)}; script-src {_hash(script)}; "
        "base-uri 'none'; form-action 'none'",
    )  # fmt: skip


@functools.cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("sciinv.report", "assets"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"show": show, "heading": heading}
    return environment


@functools.cache
def _asset(name: str) -> str:
    return "\n" + (resources.files("sciinv.report") / "assets" / name).read_text(encoding="utf-8")


@functools.cache
def _ramps() -> str:
    return "".join(f".ramp.{kind} {{ background-image: url({colour_bar(kind)}); }}\n" for kind in ("grey", *COLOURS))


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _choose(report: Report) -> tuple[Codec, Codec]:
    """The best-looking pair of codecs whose size, measured on up to three slices, fits the budget."""
    probes = [report.items[i] for i in sorted({0, len(report.items) // 2, len(report.items) - 1})]
    view = windows(report.items, "")
    for samples, maps in LADDER[:-1]:
        size = 0
        for item in probes:
            size += sum(len(_picture(key, item, view, maps, "")) for key in item.images)
            middle = item.samples[len(item.samples) // 2]
            size += len(item.samples) * len(encode(middle, "grey", view["grey"], samples, ("", "")))
        if size * len(report.items) / len(probes) <= BUDGET:
            return samples, maps
    return LADDER[-1]


def _picture(key: str, item: ReportItem, view: dict[str, Window], codec: Codec, burn: str) -> str:
    kind = kind_of(key)
    window = view[kind]
    values = np.abs(item.images[key]) if key == "error" else item.images[key]
    if key == "cov" and item.mask is not None:
        values = np.where(np.asarray(item.mask, bool), values, 0.0)  # a ratio of noise to noise says nothing
    name = f"{key.replace('_', ' ')} {window.label(window.lo)} to {window.label(window.hi)} {window.units}"
    if kind == "phase":
        codec = Codec()  # phase wraps: averages over blocks would be wrong
    alarm = key == "std" and bool(burn)
    return encode(values, kind, window, codec, (burn if alarm else name, RESEARCH), alarm=alarm)


def _section(part: Section) -> dict[str, Any]:
    """A field's section as the template needs it: harmless text, pictures inside the page, numbers rounded."""
    return {
        "title": clean(part.title),
        "text": [clean(text) for text in part.text],
        "plates": [
            {
                "uri": "data:image/png;base64," + base64.b64encode(plate.png).decode(),
                "caption": clean(plate.caption), "alt": clean(plate.alt),
            }
            for plate in part.plates
        ],
        "tables": [
            {
                "caption": clean(table.caption), "columns": [clean(name) for name in table.columns],
                "rows": [["" if cell is None else show(plain(cell)) for cell in row] for row in table.rows],
            }
            for table in part.tables
        ],
    }  # fmt: skip


def _slice(report: Report, item: ReportItem, view: dict[str, Window], codecs: tuple[Codec, Codec]) -> dict[str, Any]:
    """Everything the template needs about one slice."""
    label, n = clean(item.label), len(item.samples)
    first = [key for key in ("reference", "baseline") if key in item.images]
    later = ("error", "lower_calibrated", "upper_calibrated", "cov", "phase")
    top = [*first[:1], "mean", "std", "lower", "upper"]
    rest = [*first[1:], *(key for key in later if key in item.images)]
    panels = [_panel(report, item, key, view, codecs[1]) for key in top]
    cine = [
        encode(sample, "grey", view["grey"], codecs[0], (f"sample {i + 1} of {n}", RESEARCH))
        for i, sample in enumerate(item.samples)
    ]
    shrunk = codecs[0].shrink
    drawn = number(item.stats.get("n")) or n
    legend = "each is an image the data allow; play them to see what moves"
    legend += f"; {n} of {drawn:.0f}" if drawn > n else ""
    panels.append(
        {
            **_frame(item, "grey", view, shrunk), "key": "sample", "title": "Single samples", "sources": cine,
            "alt": f"Posterior sample of {label}", "legend": legend,
        }
    )  # fmt: skip
    panels += [_panel(report, item, key, view, codecs[1]) for key in rest]
    bad = sum(int(np.size(v) - np.isfinite(v).sum()) for v in [*item.images.values(), item.samples])
    warnings = [clean(str(text)) for text in item.warnings]
    if bad:
        warnings.append(f"{bad} values in the pictures of this slice are not finite; they are drawn black.")
    cells = zip(_columns(report).values(), _cells(report, item), strict=True)
    facts = [(name, value) for (name, _), value in cells if value]
    return {"label": label, "panels": panels, "warnings": warnings, "facts": facts, "n": n}


def _frame(item: ReportItem, kind: str, view: dict[str, Window], shrink: int) -> dict[str, Any]:
    h, w = (-(-size // shrink) for size in np.shape(item.images["mean"]))
    factor = enlarge(w)
    strip = strip_height(h * factor, w * factor)
    window = view[kind]
    return {
        "kind": kind, "lo": window.label(window.lo), "hi": window.label(window.hi), "units": window.units,
        "mid": window.label((window.lo + window.hi) / 2), "width": w * factor, "height": h * factor + strip,
        "rows": h * factor, "native": np.shape(item.images["mean"])[1],
    }  # fmt: skip


def _panel(report: Report, item: ReportItem, key: str, view: dict[str, Window], codec: Codec) -> dict[str, Any]:
    frame = _frame(item, kind_of(key), view, 1 if key == "phase" else codec.shrink)
    title, legend = _words(report, item, key)
    alt = f"{title} of {clean(item.label)}, scale {frame['lo']} to {frame['hi']} {frame['units']}"
    burn = burned_in(report)
    if key == "std" and burn:
        alt += f", marked {burn}"
    return {**frame, "key": key, "title": title, "legend": legend, "alt": alt,
            "sources": [_picture(key, item, view, codec, burn)]}  # fmt: skip


def _words(report: Report, item: ReportItem, key: str) -> tuple[str, str]:
    """Title and legend of a map."""
    n = f"{number(item.stats.get('n')) or len(item.samples):.0f} samples"
    crowd = number(item.stats.get("particles"))
    n = n if crowd is None else f"{crowd:.0f} weighted particles"
    level, exact, fixed = (number(report.coverage.get(key)) for key in ("level", "exact", "calibrated"))
    share = level if exact is None else exact  # n samples cannot give every level: name the one that they do give
    nominal = " of interval" if share is None else f" of {percent(share)} interval"
    order = f"order statistic of {n}"
    order += "" if exact is None else ", the share is that of an exact sampler"
    source = clean(str(report.coverage.get("source") or "other data"))
    tuned = f"spread scaled by a factor learned on {source}"
    tuned += f"; covered {percent(fixed)}" if fixed is not None else ""
    return {
        "reference": ("Reference", "fully sampled; not used by the reconstruction"),
        "baseline": ("Conventional baseline", "same data, no learned prior"),
        "mean": ("Posterior mean", f"average of {n}"),
        "std": ("Standard deviation", f"spread of {n}, in signal units"),
        "lower": (f"Lower end{nominal}", order),
        "upper": (f"Upper end{nominal}", order),
        "error": ("Absolute error", "|mean - reference|, on the scale of the standard deviation"),
        "lower_calibrated": ("Calibrated lower end", tuned),
        "upper_calibrated": ("Calibrated upper end", tuned),
        "cov": ("Relative spread (std / mean)", "ratio; zero outside the signal" if item.mask is not None else "ratio"),
        "phase": ("Phase of the mean", "radians, cyclic colours"),
    }[key]


def _bars(report: Report, view: dict[str, Window]) -> list[dict[str, str]]:
    kinds = dict.fromkeys(kind_of(key) for item in report.items for key in item.images)
    return [{"kind": kind, "uri": colour_bar(kind)} for kind in view if kind in kinds]


def _notes(codecs: tuple[Codec, Codec]) -> list[str]:
    named = zip(("Single samples", "Maps"), codecs, strict=True)
    notes = [f"{name} are {codec.note} in this page to keep it small; the files beside it hold the full values."
             for name, codec in named if codec.note]  # fmt: skip
    return notes or ["All pictures are stored without loss at 8 bits and full resolution."]


def _columns(report: Report) -> dict[str, tuple[str, str]]:
    return {key: value for key, value in COLUMNS.items() if any(key in item.stats for item in report.items)}


def _cells(report: Report, item: ReportItem) -> list[str]:
    cells = []
    for key, (_, form) in _columns(report).items():
        value = number(item.stats.get(key))
        if value is None:
            cells.append("")
        else:
            text = percent(value) if form == "%" else format(value, form)
            cells.append(text + " !" * out_of_range(key, value))
    return cells


def _rows(report: Report) -> list[tuple[str, Sequence[str]]]:
    return [(clean(item.label), _cells(report, item)) for item in report.items]
