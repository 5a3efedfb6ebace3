"""The page of a training run: what the checkpoint estimates, and the curves of its loss and held-out errors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from markupsafe import escape

from sciinv.io.atomic import write_text
from sciinv.priors.card import ModelCard
from sciinv.report.figures import trace_svg

_STYLE = (
    "body{font:15px/1.5 system-ui,sans-serif;max-width:52em;margin:2em auto;padding:0 1em;color:#222}"
    "dt{font-weight:600}dd{margin:0 0 .6em}svg{max-width:420px;font-size:11px}figure{margin:0 0 1em}"
)


def write_page(out: Path, card: ModelCard, predicts: str) -> Path:
    """Write ``out/card.html`` from the card and ``out/log.jsonl``; one file without scripts or other sources."""
    curves = read_curves(out / "log.jsonl")
    entries = {"predicts": predicts, **card.model_dump()}
    items = "".join(
        f"<dt>{escape(key.replace('_', ' '))}</dt><dd>{escape(_words(value))}</dd>" for key, value in entries.items()
    )
    figures = "".join(
        f"<figure>{svg}<figcaption>{escape(name)}</figcaption></figure>" for name, svg in trace_svg(curves)
    )
    return write_text(
        out / "card.html",
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">"
        f"<title>{escape(card.name)}</title><style>{_STYLE}</style></head><body><h1>{escape(card.name)}</h1>"
        f"<p>Research use only: not a medical device, not for diagnosis.</p><dl>{items}</dl>{figures}</body></html>\n",
    )


def read_curves(path: Path) -> dict[str, list[float]]:
    """Loss and each held-out number of a log in the order they were written; later entries of a step replace
    earlier.
    """
    kept: dict[str, dict[int, float]] = {}
    for file in [path, *sorted(path.parent.glob("lap-*/log.jsonl"))]:
        for line in file.read_text("utf-8").splitlines() if file.exists() else ():
            entry: dict[str, Any] = json.loads(line)
            held = {f"held out: {k}": v for k, v in entry.get("held_out", {}).items()}
            where = f"loss, {file.parent.name}" if file != path else "loss"
            for name, value in ({where: entry["loss"]} if "loss" in entry else {}).items() | held.items():
                kept.setdefault(name, {})[int(entry["step"])] = float(value)
    return {name: [values[step] for step in sorted(values)] for name, values in kept.items()}


def _words(value: Any) -> str:
    if isinstance(value, dict):
        return "; ".join(f"{k} {v:.4g}" for k, v in value.items()) or "none"
    return str(value)
