"""The stored certificate: one JSON file a method, which `sciinv methods`, the docs and every report quote.

``sciinv certify [METHOD...] --store FOLDER`` writes it; a method that is measured again replaces its own file, so that
each says with which command, versions and date it was made. Reading needs no torch.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sciinv.io.atomic import write_text

if TYPE_CHECKING:
    from sciinv.certify.run import Certificate

SCHEMA = 1
FOLDER = Path(__file__).parent / "stored"
DIGITS = 5  # significant digits of a stored number: the errors carry two or three
PARTS = ("verdicts", "evidences", "calibrations", "records")
VERSIONS = ("sciinv", "torch", "numpy")
SHOWN = {"gaussian": "Gaussian", "overlap-d8-m2": "overlapping mixture", "inpaint-d8-m2": "masked mixture"}


def save(certificate: Certificate, folder: Path = FOLDER, argv: Sequence[str] | None = None) -> list[Path]:
    """Write ``NAME.json`` of every method in the certificate, each atomically."""
    from sciinv.certify.table import document  # what measures imports torch, what quotes does not

    whole = document(certificate, argv)
    environment = whole["environment"]
    versions = {"python": environment["python"], **{k: environment["packages"].get(k) for k in VERSIONS}}
    paths = []
    for name, skipped in whole["skipped"].items():
        own = {key: [row for row in whole[key] if row["method"] == name] for key in PARTS}
        records = own.pop("records")
        body = {
            "method": name, "schema": SCHEMA, "command": whole["command"], "date": whole["date"], "versions": versions,
            "cpu": environment["cpu"], **own, "skipped": skipped,
        }  # fmt: skip
        # one line a record keeps the file small and its changes readable
        rows = ",\n  ".join(json.dumps(_short(row), allow_nan=False) for row in records)
        text = json.dumps(_short(body), indent=1, ensure_ascii=False, allow_nan=False)
        paths.append(write_text(folder / f"{name}.json", f'{text[:-2]},\n "records": [\n  {rows}\n ]\n}}\n'))
    return paths


@functools.cache
def load(folder: Path = FOLDER) -> dict[str, dict[str, Any]]:
    """Every stored method by name; files that cannot be read are left out."""
    found = {}
    for path in sorted(folder.glob("*.json")):
        try:
            body = json.loads(path.read_text("utf-8"))
        except (OSError, ValueError):
            continue
        if isinstance(body, dict) and body.get("schema") == SCHEMA:
            found[path.stem] = body
    return found


def card(name: str, folder: Path = FOLDER) -> str | None:
    """What was measured of a method, in a sentence, at its default amount of work where that was affordable."""
    body = load(folder).get(name)
    return None if body is None else _words(body)


def default_records(body: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """By reference, the record at the default amount of work (the second budget) or the nearest that was run."""
    by: dict[str, list[dict[str, Any]]] = {}
    for record in body["records"]:
        by.setdefault(record["reference"], []).append(record)
    return {reference: records[min(1, len(records) - 1)] for reference, records in by.items()}


def headline(name: str, folder: Path = FOLDER) -> dict[str, Any] | None:
    """Outcome, error over floor, coverage and network calls of a method on the first reference that is quoted."""
    body = load(folder).get(name)
    if body is None:
        return None
    records = default_records(body)
    first = next((records[key] for key in SHOWN if key in records), {})
    keys = ("reference", "budget", "network_calls", "network_vjps", "over_floor", "coverage_90")
    return {"outcome": outcome(body), **{k: first[k] for k in keys if first}}


def outcome(body: Mapping[str, Any]) -> str:
    """Outcome of the gate made of the method's claim."""
    return str(body["verdicts"][0]["outcome"]) if body["verdicts"] else "not tested"


def _words(body: Mapping[str, Any]) -> str:
    records = default_records(body)
    parts = []
    for reference, name in SHOWN.items():
        if reference not in records:
            continue
        r = records[reference]
        error = (
            f"mean off by {r['mean_error']:.2g} posterior std, covariance by {100 * r['cov_error']:.2g} %"
            if reference == "gaussian"
            else f"{r['over_floor']:.2g} x the sampling floor"
        )
        calls = f"{r['budget']}, {r['network_calls']:.0f} network calls"
        parts.append(f"{name}: {error}, a 90 % interval covers {100 * r['coverage_90']:.0f} % ({calls})")
        if len(parts) == 2:
            break
    return f"claim {outcome(body)}; " + "; ".join(parts) if parts else "no reference problem fits this method"


def _short(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.{DIGITS}g}")
    if isinstance(value, Mapping):
        return {k: _short(v) for k, v in value.items()}
    return [_short(v) for v in value] if isinstance(value, (list, tuple)) else value
