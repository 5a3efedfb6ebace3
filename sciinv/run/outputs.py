"""The files of a finished run: the domain's own formats, the report and its data, provenance, settings."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sciinv import provenance as prov
from sciinv.certify import store
from sciinv.errors import InputError
from sciinv.io.atomic import write_bytes, write_text
from sciinv.io.checkpoint import pack, unpack
from sciinv.io.runfolder import read_plan
from sciinv.report import Report, ReportItem, sections, write_report
from sciinv.results import ItemResult
from sciinv.samplers import Sampler

REPORT_DATA = "report.safetensors"
SHOWN = 32  # samples kept for the report; all of them are in the domain's own file


def report_item(result: ItemResult) -> ReportItem:
    """Pictures and numbers of one item; a volume shows its middle plane."""
    s = result.summary
    images: dict[str, Tensor] = {
        "mean": s["magnitude_mean"], "std": s["std"], "lower": s["lower"], "upper": s["upper"],
        "cov": s["std"] / s["magnitude_mean"].clamp_min(1e-3 * float(s["magnitude_mean"].max()) + 1e-30),
    }  # fmt: skip
    if s["mean"].is_complex():
        images["phase"] = s["mean"].angle()
    if result.baseline is not None:
        images["baseline"] = result.baseline.abs()
    if result.reference is not None:
        images["reference"] = result.reference.abs()
        images["error"] = (images["mean"] - images["reference"]).abs()
    if result.calibrated is not None:
        images["lower_calibrated"], images["upper_calibrated"] = result.calibrated["bounds"]
    m = result.measured or {}
    stats = {
        "chi2_per_dof": float(result.chi2_per_dof.mean()), "n": len(result.samples), "failed": result.failed,
        **result.diagnostics,
        **{k: result.provenance[k] for k in ("network_calls", "cpu_seconds") if k in result.provenance},
    }  # fmt: skip
    names = {
        "psnr": "psnr_mean", "ssim": "ssim_mean", "coverage_measured": "coverage",
        "coverage_calibrated": "coverage_calibrated", "corr_std_error": "corr_std_error",
    }  # fmt: skip
    stats |= {ours: m[theirs] for ours, theirs in names.items() if theirs in m}
    if isinstance(result.meta.get("acceleration"), float | int):
        stats["acceleration"] = float(result.meta["acceleration"])
    return ReportItem(
        label=f"slice {result.item}",
        images={key: _plane(value).float().numpy() for key, value in images.items()},
        samples=np.stack([_plane(x.abs()).float().numpy() for x in result.samples[:SHOWN]]),
        stats=stats,
        warnings=list(result.meta.get("warnings", ())),
        mask=None if result.support is None else _plane(result.support).numpy(),
    )


def save_report(out: Path, report: Report) -> list[Path]:
    """Write the page and what `sciinv report` needs to make it again."""
    tensors: dict[str, Tensor] = {}
    items = []
    for number, item in enumerate(report.items):
        for key, value in item.images.items():
            tensors[f"{number}.image.{key}"] = torch.from_numpy(np.ascontiguousarray(value)).float()
        if item.mask is not None:
            tensors[f"{number}.mask"] = torch.from_numpy(np.ascontiguousarray(item.mask))
        # halves overflow at 65504: samples are stored relative to their largest value
        peak = float(np.abs(item.samples).max()) or 1.0
        tensors[f"{number}.samples"] = torch.from_numpy(item.samples / peak).half()
        items.append({"label": item.label, "stats": dict(item.stats), "warnings": list(item.warnings), "peak": peak})
    added, plates = sections.dump(report.sections)
    tensors |= {key: torch.from_numpy(png.copy()) for key, png in plates.items()}
    note = {
        "title": report.title, "units": report.units, "items": items, "input": dict(report.input), "sections": added,
        "prior": dict(report.prior),
        "method": dict(report.method), "coverage": dict(report.coverage), "warnings": list(report.warnings),
        "provenance": dict(report.provenance),
    }  # fmt: skip
    data = out / REPORT_DATA
    write_bytes(data, pack(tensors, _jsonable(note)))
    page = out / "report.html"
    write_report(page, report)
    return [page, data]


def load_report(out: Path) -> Report:
    """The report of a finished run, from its data file."""
    path = out / REPORT_DATA
    if read_plan(out) is None or not path.is_file():
        raise InputError(
            "this folder holds no finished run", where=out.name, expected=REPORT_DATA, hint="sciinv resume OUT"
        )
    tensors, note = unpack(path.read_bytes(), where=path.name)
    items = []
    try:
        for number, entry in enumerate(note.pop("items")):
            images = {k.split(".", 2)[2]: v.numpy() for k, v in tensors.items() if k.startswith(f"{number}.image.")}
            mask = tensors.get(f"{number}.mask")
            samples = tensors[f"{number}.samples"].float().numpy() * entry.pop("peak")
            items.append(
                ReportItem(images=images, samples=samples, mask=None if mask is None else mask.numpy(), **entry)
            )
        added = sections.load(note.pop("sections", ()), {key: value.numpy() for key, value in tensors.items()})
        return Report(items=items, sections=added, **note)
    except (KeyError, TypeError) as error:
        raise InputError(
            "the report's data are incomplete", where=path.name, found=str(error), hint="run again"
        ) from error


def method_card(sampler: Sampler) -> dict[str, Any]:
    """Name, paper, claims, settings and measured error of a method."""
    import dataclasses as dc

    card = {
        "name": sampler.name, "paper": sampler.paper, "claims": sampler.claims,
        "requires": sorted(sampler.requires), "fields": dc.asdict(sampler),
    }  # fmt: skip
    error = store.card(sampler.name)
    return {**card, "measured_error": error} if error else card


def write_config(out: Path, config: Mapping[str, Any]) -> Path:
    """The resolved settings as YAML that ``--config`` reads."""
    import yaml

    return write_text(out / "config.yaml", yaml.safe_dump(_jsonable(config), sort_keys=False, allow_unicode=True))


def write_provenance(out: Path, record: Mapping[str, Any], scrub: prov.Scrubber) -> Path:
    """``provenance.json``, every string scrubbed."""
    text = json.dumps(scrub.tree(_jsonable(record)), indent=2, ensure_ascii=False, allow_nan=False)
    return write_text(out / "provenance.json", text + "\n")


def citations(sampler: Sampler, prior_card: Mapping[str, Any]) -> list[str]:
    """What to cite: the method's paper and whatever the prior's card asks for."""
    asked = prior_card.get("citation") or prior_card.get("cite") or []
    return [sampler.paper, *([asked] if isinstance(asked, str) else list(asked))]


def mean_trace(parts: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Means over items of the numbers that all of them have."""
    keys = set.intersection(*(set(part) for part in parts)) if parts else set()
    return {
        key: float(np.mean([part[key] for part in parts]))
        for key in sorted(keys)
        if isinstance(parts[0][key], (int, float))
    }


def _plane(x: Tensor) -> Tensor:
    while x.ndim > 2:
        x = x[x.shape[0] // 2]
    return x if x.ndim == 2 else x.reshape(1, -1)


def _jsonable(value: Any) -> Any:
    """JSON values only; infinities and NaN become null, unknown objects text."""
    if isinstance(value, Mapping):
        return {str(k): _jsonable(v) for k, v in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_jsonable(v) for v in value]
    if isinstance(value, (Tensor, np.ndarray, np.generic)):
        return _jsonable(value.tolist())
    if isinstance(value, float):
        return value if np.isfinite(value) else None
    return value if value is None or isinstance(value, (bool, int, str)) else str(value)
