"""``sciinv train --method ...``: from measurement files, through their domain's plugin, to a checkpoint that says what
it estimates. Nothing here knows a modality: an item is whatever `Problem` its domain makes of it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from sciinv.config import build, keywords
from sciinv.errors import InputError, MismatchError, UsageError
from sciinv.io.atomic import write_text
from sciinv.plugins import Domain, find_reader
from sciinv.prior import FULL, PARTIAL, Prior
from sciinv.priors.card import ModelCard, UNetSpec
from sciinv.priors.checkpoint import save_prior
from sciinv.priors.network import NetworkPrior
from sciinv.priors.partial import PartialPrior
from sciinv.priors.unet import UNet
from sciinv.problem import Problem
from sciinv.samplers.base import Sampler
from sciinv.samplers.explicit.mmps import MMPS
from sciinv.training.ambient.further import Further
from sciinv.training.ambient.gaussian import deviation
from sciinv.training.ambient.gaussian import fit as fit_gaussian
from sciinv.training.ambient.identify import Verdict, identify, require
from sciinv.training.ambient.items import Measurements
from sciinv.training.ambient.laps import Laps, train_em
from sciinv.training.ambient.objective import Corrupted, Method, predicts_full, taught_above
from sciinv.training.dsm import TrainConfig, keyed
from sciinv.training.loop import fit, processes
from sciinv.training.page import write_page

METHODS = ("ambient", "ambient-noisy", "tweedie", "em", "gsure")
HELD_OUT = 10  # every tenth file (or the last tenth of the items of a single one) is held out

E_STEP = MMPS(steps=24)
"""The E-step of EM unless another is asked for: it is drawn anew every lap, so a quarter of the usual steps do."""

Progress = Callable[[dict[str, Any]], None]


@dataclass(frozen=True)
class Settings:
    """What only methods for measurements have.

    Attributes
    ----------
    method : one of `METHODS`.
    share : part of what was measured that ambient methods hide again.
    consistency : weight of the consistency loss below the noise of the data (tweedie).
    laps, draws : of EM: how often the posterior is drawn anew, and draws an item.
    sampler : the E-step.
    allow_undetermined : train although the data cannot determine the prior.
    """

    method: str
    share: float = 0.2
    consistency: float = 0.0
    laps: int = 6
    draws: int = 1
    sampler: Sampler = E_STEP
    allow_undetermined: bool = False

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise UsageError("unknown training method", expected=f"dsm, {', '.join(METHODS)}", found=self.method)
        if self.laps < 1 or self.draws < 1 or self.consistency < 0:
            raise UsageError("training settings are out of range", expected="laps and draws >= 1, consistency >= 0")

    @property
    def further(self) -> Further | None:
        """How data are hidden again, where the method does that."""
        return Further(self.share) if self.method.startswith("ambient") else None


@dataclass(frozen=True)
class Files:
    """Problems of some measurement files, in order."""

    names: list[str]
    problems: list[list[Problem]]
    domain: Domain

    def split(self) -> tuple[list[Problem], list[Problem]]:
        """Problems to train on and problems held out."""
        if len(self.problems) > 1:
            last = len(self.problems) - 1
            held = [i for i in range(len(self.problems)) if i % HELD_OUT == HELD_OUT - 1 or i == last]
            kept = [p for i, part in enumerate(self.problems) if i not in held for p in part]
            return kept, [p for i in held for p in self.problems[i]]
        items = self.problems[0]
        if len(items) < 2:
            raise MismatchError("one measurement cannot be split into training and held-out data",
                                expected="at least two items", found="1")  # fmt: skip
        cut = max(1, len(items) // HELD_OUT)
        return items[:-cut], items[-cut:]


def read_measurements(
    data: Path,
    *,
    domain: str | None = None,
    fmt: str | None = None,
    options: Mapping[str, Mapping[str, Any]] | None = None,
    reading: Mapping[str, Any] | None = None,
) -> Files:
    """Every item of a measurement file, or of all files under a folder that a reader knows, of one domain.

    Parameters
    ----------
    options : settings of the domain by its name.
    reading : settings of the reader.

    Raises
    ------
    InputError
        No file can be read.
    """
    paths = sorted(p for p in data.rglob("*") if p.is_file()) if data.is_dir() else [data]
    names, problems, found, skipped = [], [], None, 0
    for path in paths:
        try:
            where, reader = find_reader(path, domain, fmt)
        except InputError:
            if not data.is_dir():
                raise
            skipped += 1
            continue
        if found is not None and where.name != found.name:
            raise InputError("the folder mixes domains", where=path.name, expected=found.name, found=where.name,
                             hint="--domain NAME")  # fmt: skip
        found = where
        how: Any = build(where.options, dict((options or {}).get(where.name, {})), f"options of {where.name}")
        content = reader.read(path, **keywords(reader.read, reading or {}, f"options of the reader {reader.name}"))
        problems.append([where.problem(content, item, how) for item in range(where.items(content))])
        names.append(path.name)
    if found is None:
        raise InputError("there are no measurements to train on", where=str(data),
                         expected="files that a domain reads", found=f"{skipped} other files")  # fmt: skip
    return Files(names, problems, found)


def train_from_measurements(
    files: Files,
    out: Path,
    config: TrainConfig,
    settings: Settings,
    *,
    widths: tuple[int, ...] = (64, 96, 144),
    name: str = "",
    licence: str = "not stated",
    device: str = "cpu",
    start: Prior | None = None,
    progress: Progress | None = None,
    say: Callable[[str], None] = lambda text: None,
) -> Path:
    """Train on problems; return the path ``out/prior.safetensors``. The same call goes on from what ``out`` holds.

    Parameters
    ----------
    config : its ``sigma_data`` is replaced by that of a Gaussian fitted to the measurements.
    start : denoiser of the first E-step of EM; that Gaussian by default.
    say : told what was found before the training starts.

    Raises
    ------
    MismatchError
        The data cannot determine the prior, or do not fit the method.
    """
    _same_run(out, files, settings)
    kept, held = files.split()
    data, others = Measurements(kept), Measurements(held)
    verdict = identify(data, settings.further)
    if not settings.allow_undetermined:
        require(verdict, settings.method)
    if settings.method == "gsure" and not predicts_full("gsure", data):
        raise MismatchError(
            "gsure on incomplete data learns the mean of an image whose missing part is replaced by noise, which is "
            "neither a prior nor usable by Ambient DPS", expected="operators without a null space",
            hint="--method ambient-noisy or em",
        )  # fmt: skip
    say(f"{len(data)} items to train on, {len(others)} held out; least eigenvalue of E[A^T A] {verdict.weakest:.2g}")
    gaussian = fit_gaussian(data, config.seed)
    config = replace(config, sigma_data=deviation(gaussian.values()))
    say(f"standard deviation of the images {config.sigma_data:.3g} (Gaussian fitted by EM)")
    partial = settings.method in ("ambient", "ambient-noisy")
    spec = UNetSpec(channels=data.channels + partial, widths=widths, blocks=(1, *[2] * (len(widths) - 1)))
    network = UNet(**spec.model_dump())
    network.initialise(keyed(config.seed, 2**42))
    network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]  # as the network computes
    data.to(device), others.to(device)
    average, errors = _train(network, data, others, config, settings, out, gaussian, start, progress)
    space = data.state_space()
    complex_pair = data.problems[0].domain.dtype.is_complex
    kind = PartialPrior if partial else NetworkPrior
    prior = kind(average, space.shape[1:], config.sigma_data, config.sigma_min, config.sigma_max, data.channels,
                 complex_pair)  # fmt: skip
    if above_noise(settings):
        prior.sigma_min = max(config.sigma_min, taught_above(settings.method, data))
    card = _card(files, data, others, config, settings, verdict, errors, name, licence, PARTIAL if partial else FULL)
    path = out / "prior.safetensors"
    if processes(next(network.parameters()).device)[0] == 0:
        save_prior(prior, spec, card, path)
        write_page(out, card, PARTIAL if partial else FULL)
    return path


def _same_run(out: Path, files: Files, settings: Settings) -> None:
    """Refuse to go on with a run of another method or of other files."""
    said = asdict(settings) | {"sampler": repr(settings.sampler), "domain": files.domain.name, "files": files.names}
    for free in ("laps", "allow_undetermined"):
        said.pop(free)
    path = out / "settings.json"
    if path.exists():
        before = json.loads(path.read_text("utf-8"))
        changed = [k for k in said if before.get(k) != said[k]]
        if changed:
            raise MismatchError(
                "the folder holds a run with other settings", where=str(path),
                found=", ".join(f"{k}={before.get(k)}" for k in changed)[:300],
                hint="the same settings, or a new output folder",
            )  # fmt: skip
        return
    write_text(path, json.dumps(said, indent=1))


def above_noise(settings: Settings) -> bool:
    """Whether nothing was learned at levels below the noise of the data."""
    return settings.method in ("ambient-noisy", "gsure") or (settings.method == "tweedie" and not settings.consistency)


def _train(
    network: nn.Module, data: Measurements, others: Measurements, config: TrainConfig, settings: Settings, out: Path,
    gaussian: Mapping[int, Prior], start: Prior | None, progress: Progress | None,
) -> tuple[nn.Module, dict[str, float]]:  # fmt: skip
    if settings.method == "em":
        laps = Laps(settings.laps, settings.draws, settings.sampler)
        return train_em(network, data, others, config, laps, out, gaussian=gaussian, start=start, progress=progress)
    method = cast(Method, settings.method)
    objective = Corrupted(method, data, config, others, settings.further or Further(), settings.consistency)
    return fit(network, objective, config, out, progress)


def _card(
    files: Files, data: Measurements, others: Measurements, config: TrainConfig, settings: Settings, verdict: Verdict,
    errors: Mapping[str, float], name: str, licence: str, predicts: str,
) -> ModelCard:  # fmt: skip
    seen = sum(int(m.sum()) for m in data.measured) / sum(m.numel() for m in data.measured)
    noise = sorted(p.noise.sigma for p in data.problems)
    floor = {f"{k}": float(v) for k, v in errors.items()}
    known = "Not examined. Structures that the training data lack may be removed or replaced."
    if not verdict.regular:
        known = f"The data do not determine it: {verdict.reason}. {known}"
    if predicts == PARTIAL:
        known = "No prior: a mean of what is not shown, so its draws are too smooth and too sure there. " + known
    if above_noise(settings):
        known = "Not trained below the noise of the data: draws end at that level. " + known
    return ModelCard(
        name=name or files.domain.name,
        summary=f"Predicts {predicts}. Trained by `sciinv train --method {settings.method}` on measurements alone.",
        data=f"{len(data)} items of {len(files.names)} files, {files.domain.name}; {len(others)} items held out.",
        licence=licence,
        resolution=" and ".join(sorted({str(tuple(p.domain.shape)) for p in data.problems}))[:500],
        intensity="that of the domain's problems (operators divided by their norm)",
        anatomy="what the files show",
        known_failures=known,
        training=f"{config.steps} steps of {config.batch} at most",
        seed=config.seed,
        method=settings.method,
        corruption=f"{100 * seen:.1f} % of the entries of the data measured, noise {noise[0]:.3g} to {noise[-1]:.3g} "
        f"(median {noise[len(noise) // 2]:.3g}) in units of an operator of norm one",
        measured={"least_eigenvalue": verdict.weakest, "sigma_data": config.sigma_data} | floor,
    )
