"""Write ``docs/methods/NAME.md`` from each method's dataclass and stored certificate, and the table of choosing.md.

``python docs/make_methods.py`` writes; the test suite fails when a page is not what this would write.
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sciinv.certify.measure import family
from sciinv.certify.store import default_records, load, outcome
from sciinv.commands.catalogue import describe
from sciinv.samplers import METHODS

HERE = Path(__file__).parent
START, END = "<!-- measured -->", "<!-- end -->"
COLUMNS = {
    "gaussian": "Gaussian, d 6", "fourier": "random field, Fourier", "overlap-d8-m2": "touching modes, d 8",
    "mixture-d8-m2": "far modes, d 8", "mixture-d80-m2": "far modes, d 80", "inpaint-d8-m2": "masked, d 8",
    "ring": "nonlinear ring",
}  # fmt: skip


def page(name: str) -> str:
    """The page of one method."""
    cls = METHODS[name]
    about, body = describe(cls), load().get(name)
    lines = [f"# {name}", "", f"{about['claims'][0].upper()}{about['claims'][1:]}.", ""]
    needs = ", ".join(about["requires"]) or "any problem"
    lines += [f"*{family(cls)} family, {cls.technique}; {cls.paper}. Needs: {needs}.*", ""]
    lines += [_prose(inspect.getdoc(sys.modules[cls.__module__]) or ""), "", "## Settings", ""]
    lines += _table(
        ("setting", "default", "meaning"),
        [(f"`{key}`", f"`{field['default']!r}`", field["about"]) for key, field in about["fields"].items()],
    )
    lines += ["", "## Measured", ""]
    if body is None:
        return "\n".join([*lines, "Not measured yet.", ""])
    versions = ", ".join(f"{k} {v}" for k, v in body["versions"].items())
    lines += [f"`{body['command']}`, {body['date']}, {versions}.", ""]
    for verdict in body["verdicts"]:
        lines.append(f"- **{verdict['outcome']}**: {verdict['gate']}. {verdict['evidence']}".rstrip())
    lines += [""]
    law = any(record["exact_law"] for record in body["records"])
    rows = [
        (
            record["reference"] + ("*" if record["exact_law"] else ""), record["budget"],
            f"{record['network_calls']:.0f}", _number(record["error"]), _number(record["over_floor"]),
            _number(record["mean_error"]), f"{record['coverage_90']:.3f}", _number(record["mode_error"]),
            _number(record["log_evidence_error"]),
        )
        for record in body["records"]
    ]  # fmt: skip
    heads = ("problem", "budget", "calls", "error", "x floor", "mean", "cover 90 %", "modes", "log Z")
    lines += _table(heads, rows) if rows else ["No reference problem fits this method."]
    if rows:
        lines += ["", _LEGEND + (" * covariance error of the exact law." if law else "")]
    for c in body["calibrations"]:
        lines += ["", (
            f"Calibration on `{c['reference']}` ({c['budget']}; {c['simulations']} data sets x {c['draws']} draws): "
            f"SBC {'passes' if c['sbc_passes'] else 'FAILS'} (p {c['sbc_p']:.3g}), TARP "
            f"{'passes' if c['tarp_passes'] else 'FAILS'} ({c['tarp']:.3f}, limit {c['tarp_limit']:.3f})."
        )]  # fmt: skip
    if body["skipped"]:
        lines += ["", "Not run: " + "; ".join(f"`{key}` ({why})" for key, why in body["skipped"].items()) + "."]
    return "\n".join([*lines, ""])


def overview() -> str:
    """One row a method, one column a problem: error over floor, coverage of a 90 % interval, calls."""
    rows: list[tuple[str, ...]] = []
    for name, cls in sorted(METHODS.items(), key=lambda item: (family(item[1]), item[0])):
        body = load().get(name)
        records = {} if body is None else default_records(body)
        cells = (_cell(records[key]) if key in records else "" for key in COLUMNS)
        mark = " †" if body is not None and "--fast" in body["command"] else ""
        rows.append((f"[{name}](methods/{name}.md){mark}", family(cls), "" if body is None else outcome(body), *cells))
    return "\n".join(_table(("method", "family", "claim", *COLUMNS.values()), rows))


def written() -> dict[Path, str]:
    """Every generated page by path, as it ought to be."""
    choosing = HERE / "choosing.md"
    head, rest = choosing.read_text("utf-8").split(START)
    pages = {HERE / "methods" / f"{name}.md": page(name) for name in METHODS}
    return pages | {choosing: f"{head}{START}\n{overview()}\n{END}{rest.split(END)[1]}"}


def _cell(record: dict[str, Any]) -> str:
    return f"{_number(record['over_floor'])}x, {100 * record['coverage_90']:.0f} %, {record['network_calls']:.0f}"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}"


def _prose(doc: str) -> str:
    return re.sub(r"``(.+?)``", r"`\1`", doc, flags=re.S)


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    rows = [[cell.replace("|", "\\|") for cell in row] for row in rows]
    return [f"| {' | '.join(heads)} |", f"|{'---|' * len(heads)}", *(f"| {' | '.join(row)} |" for row in rows)]


_LEGEND = (
    "Error is the sliced Wasserstein-1 distance from exact draws, and `x floor` that error over what as many exact "
    "draws show; `mean` is in posterior standard deviations, `modes` the total variation of the mode weights, `log Z` "
    "the root mean square error of the log-evidence."
)


def main() -> None:
    """Write every page."""
    (HERE / "methods").mkdir(exist_ok=True)
    for path, text in written().items():
        path.write_text(text, "utf-8")


if __name__ == "__main__":
    main()
