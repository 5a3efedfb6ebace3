"""``info``, ``validate`` and ``simulate``: looking at files and making them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from sciinv.commands.runs import Axes, Dataset, MaxBytes, reader_words
from sciinv.errors import InputError, UsageError

File = Annotated[Path, typer.Argument(help="Measurement file.")]
Format = Annotated[str | None, typer.Option("--format", help="Input format, when it cannot be recognised.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show tracebacks.")]


def register(app: typer.Typer) -> None:
    """Add the commands to `app`."""
    for function in (info, validate, simulate):
        app.command()(function)


def info(
    file: File,
    format_: Format = None,
    axes: Axes = None,
    dataset: Dataset = None,
    max_bytes: MaxBytes = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    debug: Debug = False,
) -> None:
    """Say what is in a file: sizes, sampling, orientation, whether patient data are present."""
    from sciinv.plugins import find_reader

    domain, reader = find_reader(file, fmt=format_)
    how = _how(reader, axes, dataset, max_bytes)
    facts = {"domain": domain.name, "reader": reader.name, **domain.describe(file, format=reader.name, **how)}
    if as_json:
        typer.echo(json.dumps(facts, ensure_ascii=False, default=str))
        return
    width = max(map(len, facts))
    for key, value in facts.items():
        for number, line in enumerate(value if isinstance(value, list) and key == "warnings" else [value]):
            typer.echo(f"{key if number == 0 else '':<{width}}  {_show(line)}")


def validate(
    file: File,
    format_: Format = None,
    axes: Axes = None,
    dataset: Dataset = None,
    max_bytes: MaxBytes = None,
    debug: Debug = False,
) -> None:
    """Check a file against the specification of its format; every violation is named."""
    from sciinv.plugins import find_reader

    domain, reader = find_reader(file, fmt=format_)
    faults = domain.validate(file, format=reader.name, **_how(reader, axes, dataset, max_bytes))
    if not faults:
        typer.echo(f"{file.name}: a valid {reader.name} file")
        return
    for fault in faults:
        typer.echo(f"{file.name}: {fault}")
    raise InputError(
        f"{len(faults)} violation{'s' * (len(faults) > 1)} of the format", where=file.name,
        expected=f"a valid {reader.name} file",
        found=faults[0][:200], hint=f"see data_specs/{reader.spec}.yaml",
    )  # fmt: skip


def simulate(
    domain: Annotated[str, typer.Argument(help="Domain, such as mri.")],
    source: Annotated[str, typer.Argument(help="Image to measure: a file, or `phantom`.")],
    out: Annotated[Path, typer.Option("-o", "--out", help="File to write.")],
    acceleration: Annotated[float | None, typer.Option(help="Net acceleration.")] = None,
    calib_lines: Annotated[int | None, typer.Option(help="Fully sampled central lines.")] = None,
    coils: Annotated[int | None, typer.Option(help="Receive coils.")] = None,
    snr: Annotated[float | None, typer.Option(help="Mean signal over noise of a fully sampled image.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed.")] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="key=value, any other setting; may be repeated.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the file.")] = False,
    debug: Debug = False,
) -> None:
    """Make a measurement file from an image."""
    from sciinv.config import parse_setting
    from sciinv.plugins import domains

    known = domains()
    if domain not in known:
        raise UsageError("unknown domain", expected=", ".join(known), found=domain)
    if out.exists() and not overwrite:
        raise UsageError("the file exists already", where=out.name, hint="--overwrite, or another name with -o")
    options: dict[str, Any] = {}
    for word in set_ or ():
        group, key, value = parse_setting(word, known)
        if group not in ("sampler", domain):
            raise UsageError("--set names another domain", expected=domain, found=str(group))
        options[key] = value
    flags = {"acceleration": acceleration, "calib_lines": calib_lines, "coils": coils, "snr": snr, "seed": seed}
    options |= {key: value for key, value in flags.items() if value is not None}
    typer.echo(str(known[domain].simulate(source, out, options)))


def _how(reader: Any, axes: str | None, dataset: str | None, max_bytes: int | None) -> dict[str, Any]:
    """Options of the reader from the flags, checked."""
    from sciinv.config import keywords, parse_setting

    words = [parse_setting(word, ()) for word in reader_words(axes, dataset, max_bytes)]
    return keywords(reader.read, {key: value for _, key, value in words}, f"options of the reader {reader.name}")


def _show(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (list, tuple)):
        return (
            " x ".join(map(str, value))
            if value and all(isinstance(v, int) for v in value)
            else ", ".join(map(str, value)) or "none"
        )
    return "unknown" if value is None else str(value)
