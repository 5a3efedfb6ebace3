"""``priors convert``: a proper prior out of a network that was trained on incomplete data, by EM."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sciinv.commands.runs import make_log
from sciinv.progress import Log, clock

if TYPE_CHECKING:
    from sciinv.samplers.base import Sampler


def convert(
    checkpoint: Annotated[Path, typer.Argument(help="A .safetensors file of `sciinv train --method ambient`.")],
    data: Annotated[Path, typer.Argument(help="The measurements it was trained on: a file or a folder.")],
    out: Annotated[Path, typer.Option("-o", "--out", help="Output folder; an interrupted run in it goes on.")],
    steps: Annotated[int, typer.Option(help="Optimiser steps of all laps together.", min=1)] = 20000,
    minutes: Annotated[float | None, typer.Option(help="End by the clock, if that comes first.", min=0.01)] = None,
    batch: Annotated[int, typer.Option(help="Images a step.", min=1)] = 16,
    laps: Annotated[int, typer.Option(help="How often the posterior is drawn.", min=1)] = 3,
    draws: Annotated[int, typer.Option(help="Posterior draws an item and lap.", min=1)] = 1,
    sampler: Annotated[str, typer.Option(help="Sampler from the second lap on; the first is ambient_dps.")] = "mmps",
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", help="key=value for the sampler, mri.key=value for a domain; may be repeated."),
    ] = None,
    format_: Annotated[str | None, typer.Option("--format", help="Input format, when it cannot be recognised.")] = None,
    domain: Annotated[str | None, typer.Option(help="Domain, such as mri.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    seed: Annotated[int, typer.Option(help="Root seed.", min=0)] = 0,
    progress: Annotated[str, typer.Option(help="auto, bar, plain or none.")] = "auto",
    allow_undetermined: Annotated[
        bool, typer.Option("--allow-undetermined", help="Go on although the data cannot determine the prior.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False,
) -> None:
    """Make a prior of a network that predicts E[x0|A~ x_t, A~], by EM on its measurements."""
    from sciinv.errors import UsageError
    from sciinv.prior import PARTIAL
    from sciinv.priors.checkpoint import load_prior, read_note
    from sciinv.run.plan import resolve_device
    from sciinv.training.dsm import TrainConfig
    from sciinv.training.measured import Settings, read_measurements, train_from_measurements

    log = make_log(progress, 0, 0)  # a wrong --progress is refused before anything is read
    note, start = read_note(checkpoint), load_prior(checkpoint)
    if start.predicts != PARTIAL:
        raise UsageError("this checkpoint is a prior already", where=checkpoint.name, expected=PARTIAL,
                         found=start.predicts)  # fmt: skip
    step, options, reading = e_step(sampler, set_)
    settings = Settings("em", laps=laps, draws=draws, sampler=step, allow_undetermined=allow_undetermined)
    # a partial denoiser may end at the noise of its data; EM learns below it
    config = TrainConfig(steps=steps, minutes=minutes, batch=batch, seed=seed, sigma_max=note.sigma_max,
                         sigma_min=min(note.sigma_min, TrainConfig.sigma_min))  # fmt: skip
    with log.bar(1) as bar:
        path = train_from_measurements(
            read_measurements(data, domain=domain, fmt=format_, options=options, reading=reading), out, config,
            settings, widths=note.hyperparameters.widths, name=note.card.name, licence=note.card.licence,
            device=resolve_device(device), start=start, progress=shown(log, bar), say=log.info,
        )  # fmt: skip
    typer.echo(str(path))


def shown(log: Log, bar: Any) -> Callable[[dict[str, Any]], None]:
    """What a person sees of a training run."""

    def show(entry: dict[str, Any]) -> None:
        bar.step(int(1000 * min(float(entry["part"]), 1.0)), 1000)
        if "drawn" in entry:
            log.detail(f"lap {entry['lap']}: {entry['drawn']} of {entry['items']} posteriors drawn")
        else:
            log.detail(f"step {entry['step']}  loss {entry['loss']:.4f}  {clock(entry['seconds'])}")

    return show


def e_step(name: str, words: list[str] | None) -> tuple[Sampler, dict[str, dict[str, Any]], dict[str, Any]]:
    """A sampler from its name and ``--set`` words, with the settings of domains by name and those of the reader."""
    from sciinv.config import build, parse_setting
    from sciinv.plugins import domains
    from sciinv.run.plan import method
    from sciinv.training.measured import E_STEP

    found: dict[str, dict[str, Any]] = {}
    for word in words or []:
        group, key, value = parse_setting(word, domains())
        found.setdefault(group, {})[key] = value
    own = found.pop("sampler", {})
    reading = found.pop("input", {})
    own = {"steps": E_STEP.steps} | own if name == E_STEP.name else own
    return build(method(name), own, f"settings of {name}"), found, reading
