"""``train``: a prior from a folder of images, or from the measurements themselves."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sciinv.commands.convert import e_step, shown
from sciinv.commands.runs import make_log


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command()(train)


def train(
    data: Annotated[
        Path,
        typer.Argument(help="Folder of .npy, .nii, .nii.gz, .h5 or .fits images; measurements for other methods."),
    ],
    out: Annotated[Path, typer.Option("-o", "--out", help="Output folder; an interrupted training in it goes on.")],
    steps: Annotated[int, typer.Option(help="Optimiser steps.", min=1)] = 20000,
    minutes: Annotated[float | None, typer.Option(help="End by the clock, if that comes first.", min=0.01)] = None,
    batch: Annotated[int, typer.Option(help="Images a step.", min=1)] = 16,
    crop: Annotated[int, typer.Option(help="Side of the training crops.", min=16)] = 96,
    learning_rate: Annotated[float, typer.Option(help="Peak learning rate.", min=0)] = 1e-3,
    widths: Annotated[str, typer.Option(help="Channels of each scale of the network.")] = "64,96,144",
    real: Annotated[bool, typer.Option("--real", help="One real channel instead of a complex image.")] = False,
    mean: Annotated[
        float | None,
        typer.Option(help="Scale every image to this mean; else each file to its 99th percentile.", min=1e-9),
    ] = None,
    sigma_max: Annotated[float, typer.Option(help="Largest noise level, in units of the scaled images.", min=0.1)] = 5,
    name: Annotated[str, typer.Option(help="Name on the model card.")] = "",
    licence: Annotated[str, typer.Option(help="Licence of the images, for the model card.")] = "not stated",
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    seed: Annotated[int, typer.Option(help="Root seed.", min=0)] = 0,
    progress: Annotated[str, typer.Option(help="auto, bar, plain or none.")] = "auto",
    method: Annotated[
        str, typer.Option(help="dsm (clean images), or ambient, ambient-noisy, tweedie, em, gsure (measurements).")
    ] = "dsm",
    share: Annotated[float, typer.Option(help="ambient: part of the data hidden again.", min=0, max=0.99)] = 0.2,
    consistency: Annotated[float, typer.Option(help="tweedie: weight of the consistency loss.", min=0)] = 0.0,
    laps: Annotated[int, typer.Option(help="em: how often the posterior is drawn.", min=1)] = 6,
    draws: Annotated[int, typer.Option(help="em: posterior draws an item and lap.", min=1)] = 1,
    sampler: Annotated[str, typer.Option(help="em: the sampler of the E-step (`sciinv methods`).")] = "mmps",
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", help="key=value for the E-step, mri.key=value for a domain; may be repeated."),
    ] = None,
    format_: Annotated[str | None, typer.Option("--format", help="Input format of measurements.")] = None,
    domain: Annotated[str | None, typer.Option(help="Domain of measurements, such as mri.")] = None,
    sigma_min: Annotated[float, typer.Option(help="Smallest noise level of the training.", min=1e-6)] = 3e-3,
    accumulate: Annotated[int, typer.Option(help="Parts in which a batch is computed.", min=1)] = 1,
    patience: Annotated[
        int, typer.Option(help="End after so many evaluations (laps) without a better held-out error; 0 never.", min=0)
    ] = 0,
    allow_undetermined: Annotated[
        bool, typer.Option("--allow-undetermined", help="Train although the data cannot determine the prior.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False,
) -> None:
    """Train a prior on clean images, or on measurements of images that nobody has seen clean."""
    from sciinv.errors import UsageError

    log = make_log(progress, 0, 0)
    try:
        sizes = tuple(int(part) for part in widths.split(","))
    except ValueError:
        raise UsageError("--widths cannot be understood", expected="numbers such as 64,96,144", found=widths) from None
    if not 1 <= len(sizes) <= 6 or not all(1 <= size <= 1024 for size in sizes):
        raise UsageError("--widths are out of range", expected="one to six numbers from 1 to 1024", found=widths)

    from sciinv.run.plan import resolve_device
    from sciinv.training.folder import train_from_folder

    with log.bar(1) as bar:
        show = shown(log, bar)
        if method != "dsm":
            from sciinv.training.dsm import TrainConfig
            from sciinv.training.measured import Settings, read_measurements, train_from_measurements

            step, options, reading = e_step(sampler, set_)
            settings = Settings(method, share, consistency, laps, draws, step, allow_undetermined)
            config = TrainConfig(
                steps=steps, minutes=minutes, batch=batch, learning_rate=learning_rate, seed=seed, sigma_max=sigma_max,
                sigma_min=sigma_min, accumulate=accumulate, patience=patience,
            )  # fmt: skip
            files = read_measurements(data, domain=domain, fmt=format_, options=options, reading=reading)
            path = train_from_measurements(
                files, out, config, settings, widths=sizes, name=name, licence=licence,
                device=resolve_device(device), progress=show, say=log.info,
            )  # fmt: skip
            typer.echo(str(path))
            return
        path = train_from_folder(
            data, out, steps=steps, minutes=minutes, batch=batch, crop=crop, learning_rate=learning_rate,
            widths=sizes, blocks=(1, *[2] * (len(sizes) - 1)), complex_pair=not real, mean=mean, sigma_max=sigma_max,
            name=name, licence=licence,
            device=resolve_device(device), seed=seed, accumulate=accumulate, patience=patience, progress=show,
        )  # fmt: skip
    typer.echo(str(path))
