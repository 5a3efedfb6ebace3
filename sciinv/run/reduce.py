"""From task files to results: one pass in sorted order, so that the outcome does not depend on who finished first.

Weighted samples (particles, corrected chains) give the mean, the std and the bounds with their weights, which is more
accurate than any draw from them; the samples handed on are equally weighted draws, so that no writer needs the weights.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sciinv.calibration import Calibration, measure
from sciinv.config import RunConfig
from sciinv.results import ItemResult
from sciinv.rng import Rng
from sciinv.run.plan import Task
from sciinv.run.tasks import load_item, load_tensors, note_of
from sciinv.samplers import Sampler
from sciinv.samplers.smc import systematic
from sciinv.samples import Samples

KNOWN = ("scale", "phase", "reference", "support", "baseline")


class Hash:
    """SHA-256 over the samples of all items in order; equal for equal runs, interrupted or not."""

    def __init__(self) -> None:
        self._digest = hashlib.sha256()

    def add(self, x: Tensor) -> None:
        """Add a chunk of samples."""
        real = torch.view_as_real(x.resolve_conj()) if x.is_complex() else x
        self._digest.update(str(tuple(x.shape)).encode())
        self._digest.update(real.contiguous().cpu().numpy().tobytes())

    @property
    def value(self) -> str:
        """Hexadecimal digest so far."""
        return self._digest.hexdigest()


def equal_draws(log_w: Tensor, n: int, seed: int, item: int) -> Tensor:
    """Indices of n equally weighted draws from weighted samples, ``(n,)``: systematic, in random order.

    Seeded by the run and the item with a number that no sample has, so they do not depend on who computed what.
    """
    rng = Rng(seed, [(item, -1)])
    chosen = systematic(log_w.cpu().to(torch.float64)[None], rng.uniform((), torch.float64), n)[0]
    return chosen[rng.uniform((n,))[0].argsort()]


def reduce_item(
    folder: Path,
    item: int,
    chunks: Sequence[Task],
    sampler: Sampler,
    config: RunConfig,
    calibration: Calibration | None,
    digest: Hash,
    align: Callable[..., Any] | None = None,
) -> tuple[ItemResult | None, dict[str, Any]]:
    """Join the chunks of one item; ``None`` when it failed, and a status record in any case.

    `align` is that of the domain.
    """
    level = config.level
    notes = [note_of(folder, task) or {"status": "missing"} for task in chunks]
    done = [(task, note) for task, note in zip(chunks, notes, strict=True) if note["status"] == "done"]
    bad = [note for note in notes if note["status"] != "done"]
    status: dict[str, Any] = {"item": item, "status": "done" if not bad else "partial" if done else "failed"}
    if bad:
        status |= {key: bad[0][key] for key in ("error", "message", "exit_code") if key in bad[0]}
    if not done:
        return None, status
    parts = [load_tensors(folder, task) for task, _ in done]
    for part in parts:
        digest.add(part["x"])
        if "log_w" in part:
            digest.add(part["log_w"])
    tensors, values = load_item(folder, item)
    failed = torch.cat([part["failed"] for part in parts])
    x = torch.cat([part["x"] for part in parts])[~failed]
    chi2 = torch.cat([part["chi2"] for part in parts])[~failed] / max(int(values["n_data"]), 1)
    x = _undo(x, tensors, values)
    islands = int(getattr(sampler, "islands", 1)) if sampler.population else 1
    group = None if islands == 1 else (torch.arange(len(failed)) * islands // len(failed))[~failed]
    log_w = torch.cat([part["log_w"] for part in parts])[~failed] if "log_w" in parts[0] else None
    summary = Samples(x if align is None else align(x, values), log_w).summary(level)
    steps = [{k[6:]: v for k, v in part.items() if k.startswith("trace.")} for part in parts]
    trace = {k: torch.cat([step[k] for step in steps], 1) for k in set.intersection(*map(set, steps))}
    if not sampler.population:  # a particle that failed has no weight, but its place in an island
        trace = {k: v[:, ~failed] for k, v in trace.items()}
    diagnostics = dict(sampler.diagnostics(trace))
    if log_w is not None:
        diagnostics |= {"particles": len(x), "ess_weights": summary["ess"]}
        chosen = equal_draws(log_w, min(config.samples, len(x)), config.seed, item)
        x, chi2 = x[chosen], chi2[chosen]
        group = None if group is None else group[chosen]
    reference, support = (
        None if name not in tensors else _crop(tensors[name], values) for name in ("reference", "support")
    )
    support = None if support is None else support.bool()
    calibrated: dict[str, Any] | None = None
    factor = None
    if calibration is not None:
        factor = calibration.factor(values.get("acceleration"), values.get("pattern", ""))
    if calibration is not None and factor is not None:
        calibrated = {"factor": factor, "bounds": calibration.bounds(summary, factor)}
    measured = None
    if reference is not None:
        measured = measure(x, summary, reference, support, None if calibrated is None else calibrated["bounds"])
    provenance = [note["provenance"] for _, note in done]
    result = ItemResult(
        item=item,
        samples=x,
        summary=summary,
        chi2_per_dof=chi2,
        diagnostics=diagnostics,
        failed=int(failed.sum()),
        meta={**{k: v for k, v in tensors.items() if k not in KNOWN}, **values},
        provenance={
            "network_calls": sum(p.get("network_calls", 0) for p in provenance),
            "cpu_seconds": round(sum(p.get("cpu_seconds", 0.0) for p in provenance), 2),
            "seconds": round(sum(p.get("seconds", 0.0) for p in provenance), 2),
        },
        baseline=None if "baseline" not in tensors else _undo(tensors["baseline"], tensors, values),
        baseline_name=values.get("baseline_name", ""),
        reference=reference,
        support=support,
        measured=measured,
        calibrated=calibrated,
        group=group,
    )
    status |= {
        "samples": len(x), "failed_samples": result.failed, "chi2_per_dof": round(float(chi2.mean()), 5),
        **result.provenance, **result.diagnostics, **(measured or {}),
    }  # fmt: skip
    if result.failed and status["status"] == "done":
        status["status"] = "partial"
    return result, status


def _undo(x: Tensor, tensors: Mapping[str, Tensor], values: Mapping[str, Any]) -> Tensor:
    """Back to the units, the phase and the image size of the input file."""
    x = x * float(values.get("scale", 1.0))
    return _crop(x * tensors["phase"].to(x.dtype) if "phase" in tensors else x, values)


def _crop(x: Tensor, values: Mapping[str, Any]) -> Tensor:
    """Cut to ``meta["target"]`` about the centre ``N // 2`` of the last two axes; the grid may be larger than the
    image.
    """
    for axis, size in zip((-2, -1), values.get("target") or (), strict=False):
        if x.shape[axis] > size:
            x = x.narrow(axis, x.shape[axis] // 2 - size // 2, size)
    return x
