"""``train``: a prior from a folder of images."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from sciinv.progress import MODES, Log, clock


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command()(train)


def train(
    data: Annotated[Path, typer.Argument(help="Folder of .npy, .nii, .nii.gz, .h5 or .fits images.")],
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
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False,
) -> None:
    """Train a prior on a folder of clean images."""
    from sciinv.errors import UsageError

    if progress not in MODES:
        raise UsageError("unknown kind of progress", expected=", ".join(MODES), found=progress, where="--progress")
    try:
        sizes = tuple(int(part) for part in widths.split(","))
    except ValueError:
        raise UsageError("--widths cannot be understood", expected="numbers such as 64,96,144", found=widths) from None
    if not 1 <= len(sizes) <= 6 or not all(1 <= size <= 1024 for size in sizes):
        raise UsageError("--widths are out of range", expected="one to six numbers from 1 to 1024", found=widths)

    from sciinv.run.plan import resolve_device
    from sciinv.training.folder import train_from_folder

    log = Log(0, progress)
    with log.bar(1) as bar:

        def show(entry: dict[str, Any]) -> None:
            bar.step(int(1000 * min(float(entry["part"]), 1.0)), 1000)
            log.detail(f"step {entry['step']}  loss {entry['loss']:.4f}  {clock(entry['seconds'])}")

        path = train_from_folder(
            data, out, steps=steps, minutes=minutes, batch=batch, crop=crop, learning_rate=learning_rate,
            widths=sizes, blocks=(1, *[2] * (len(sizes) - 1)), complex_pair=not real, mean=mean, sigma_max=sigma_max,
            name=name, licence=licence,
            device=resolve_device(device), seed=seed, progress=show,
        )  # fmt: skip
    typer.echo(str(path))
