"""The laps of EM as a run: draws and weights of every lap on disk, resumed where it stopped, ended when nothing
improves.

Each lap keeps ``lap-NN/draws.safetensors`` (the E-step) and the training state of its M-step. The optimiser steps and
the minutes of the run are shared out evenly over the laps. Every lap ends with the predictive density of held-out data.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save
from torch import nn

from sciinv.io.atomic import write_bytes
from sciinv.prior import PARTIAL, Prior
from sciinv.priors.network import NetworkPrior
from sciinv.samplers.base import Sampler
from sciinv.samplers.explicit.ambient_dps import AmbientDPS
from sciinv.training.ambient.em import Draws, Priors, expectation, held_out_density, misfit, same
from sciinv.training.ambient.items import Measurements
from sciinv.training.dsm import TrainConfig, train
from sciinv.training.loop import processes
from sciinv.training.state import append_json


@dataclass(frozen=True)
class Laps:
    """How EM goes.

    Attributes
    ----------
    laps : E-steps.
    draws : posterior draws an item.
    sampler : of the E-step.
    scored : held-out items that are scored after every lap.
    """

    laps: int
    draws: int
    sampler: Sampler
    scored: int = 8


def train_em(
    network: nn.Module,
    data: Measurements,
    others: Measurements | None,
    config: TrainConfig,
    settings: Laps,
    out: Path,
    *,
    gaussian: Mapping[int, Prior],
    start: Prior | None = None,
    progress: Callable[[dict[str, Any]], None] | None = None,
) -> tuple[nn.Module, dict[str, float]]:
    """Run EM; return the averaged network and ``{"density": ..., "misfit": ...}`` of the last lap.

    ``start`` (a whole or a partial denoiser) draws the first lap in place of the Gaussians of the groups.
    """
    device = next(network.parameters()).device
    rank, _ = processes(device)
    for prior in gaussian.values():
        prior.to(device)
        prior.sigma_max = config.sigma_max
    priors: Priors = gaussian.__getitem__ if start is None else same(start.to(device), data)
    sampler: Sampler = settings.sampler
    if start is not None and start.predicts == PARTIAL:
        sampler = AmbientDPS(steps=4 * int(getattr(sampler, "steps", 50)))  # its steps on the misfit are short
    one = replace(config, steps=max(1, config.steps // settings.laps),
                  minutes=None if config.minutes is None else config.minutes / settings.laps)  # fmt: skip
    shape = data.state_space().shape
    average, course, found = network, list[float](), dict[str, float]()
    scores = _scores(out / "log.jsonl")
    for lap in range(settings.laps):
        folder = out / f"lap-{lap:02d}"
        told = None if progress is None else _drawing(progress, lap, settings.laps, one.steps)
        draws = _draws(folder, rank, lambda lap=lap, p=priors, s=sampler, t=told: expectation(  # type: ignore[misc]
            data, p, s, config.seed, lap, draws=settings.draws, chunk=_chunk(data), progress=t))  # fmt: skip
        shown = None if progress is None else _within(progress, lap, settings.laps)
        average, _ = train(network, draws, one, folder, progress=shown)
        prior = NetworkPrior(
            average, shape[1:], config.sigma_data, config.sigma_min, config.sigma_max, data.channels,
            data.problems[0].domain.dtype.is_complex,
        ).eval()  # fmt: skip
        priors, sampler = same(prior, data), settings.sampler
        step = (lap + 1) * one.steps
        known = scores.get((lap, step))
        found = known or {"misfit": misfit(data, draws)}
        if others is not None and known is None:
            items = range(min(len(others), settings.scored))
            found["density"] = held_out_density(others, same(prior, others), sampler, config.seed, items=items)
        course += [found["density"]] if "density" in found else []
        if rank == 0 and known is None:
            append_json(out / "log.jsonl", {"step": step, "lap": lap, "held_out": found})
        if 0 < config.patience < len(course) and max(course[-config.patience :]) <= max(course[: -config.patience]):
            break
    return average, found


def _draws(folder: Path, rank: int, make: Callable[[], Draws]) -> Draws:
    """The draws of a lap from disk, or made there by the first process; the others wait for the file."""
    path = folder / "draws.safetensors"
    while rank and not path.exists():
        time.sleep(0.2)
    if not path.exists():
        draws = make()
        folder.mkdir(parents=True, exist_ok=True)
        tensors = {f"images.{i:04d}": x for i, x in enumerate(draws.images)}
        tensors |= {f"items.{i:04d}": x for i, x in enumerate(draws.items)}
        write_bytes(path, save({name: x.cpu().contiguous() for name, x in tensors.items()}))
    found = sorted(load_file(path).items())
    return Draws(*([x for name, x in found if name.startswith(kind)] for kind in ("images.", "items.")))


def _scores(path: Path) -> dict[tuple[int, int], dict[str, float]]:
    """Held-out numbers by (lap, step) that the log of an earlier part of the run holds."""
    lines = path.read_text("utf-8").splitlines() if path.exists() else []
    entries = [json.loads(line) for line in lines]
    return {(e["lap"], e["step"]): e["held_out"] for e in entries if "lap" in e and "held_out" in e}


def _chunk(data: Measurements) -> int:
    """Items drawn together: about a million numbers."""
    return max(1, (1 << 20) // data.state_space().size)


def _drawing(progress: Callable[[dict[str, Any]], None], lap: int, laps: int, steps: int) -> Callable[[int, int], None]:
    return lambda done, n: progress({"lap": lap, "step": lap * steps, "drawn": done, "items": n, "part": lap / laps})


def _within(progress: Callable[[dict[str, Any]], None], lap: int, laps: int) -> Callable[[dict[str, Any]], None]:
    return lambda entry: progress(entry | {"lap": lap, "part": (lap + float(entry["part"])) / laps})
