"""``compare``: several methods on one file, side by side."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sciinv.commands.runs import (
    Axes,
    CalibLines,
    Chunk,
    Dataset,
    Debug,
    Device,
    DomainName,
    Format,
    Json,
    Level,
    MaxBytes,
    Out,
    Progress,
    Quiet,
    Samples,
    Seed,
    Threads,
    Verbose,
    make_log,
    reader_words,
)
from sciinv.errors import MismatchError, NumericalError, UsageError

if TYPE_CHECKING:
    from sciinv.run.compare import Comparison

HEADS = {
    "chi2_per_dof": "chi2/dof", "psnr": "PSNR dB", "coverage": "coverage", "mean_std": "mean std",
    "network_calls": "network calls", "cpu_seconds": "CPU s",
}  # fmt: skip


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command()(compare)


def compare(
    file: Annotated[Path, typer.Argument(help="Measurement file.")],
    methods: Annotated[str, typer.Option(help='Methods to compare, such as "pnpdm,dps,ddnm" (`sciinv methods`).')],
    out: Out,
    prior: Annotated[str | None, typer.Option(help="Prior: a name or a .safetensors file.")] = None,
    samples: Samples = None,
    seed: Seed = None,
    device: Device = None,
    slices: Annotated[str | None, typer.Option(help='Items, such as "0,3-5".  [default: all]')] = None,
    chunk: Chunk = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", help="key=value for all methods that have it, METHOD.key=value for one, mri.key=value."),
    ] = None,
    config: Annotated[Path | None, typer.Option(help="YAML with settings of `sciinv reconstruct`.")] = None,
    format_: Format = None,
    domain: DomainName = None,
    axes: Axes = None,
    dataset: Dataset = None,
    max_bytes: MaxBytes = None,
    acceleration: Annotated[float | None, typer.Option(help="Undersample to this net acceleration.")] = None,
    calib_lines: CalibLines = None,
    level: Level = None,
    threads: Threads = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace runs that are in the output folder.")] = False,
    record_names: Annotated[bool, typer.Option("--record-names", help="Keep file names in the outputs.")] = False,
    progress: Progress = "auto",
    as_json: Json = False,
    quiet: Quiet = 0,
    verbose: Verbose = 0,
    debug: Debug = False,
) -> None:
    """Run several methods on one file and put their errors, spreads and costs side by side."""
    names = list(dict.fromkeys(name.strip() for name in methods.split(",") if name.strip()))
    if not names:
        raise UsageError("no method is named", where="--methods", expected="names such as pnpdm,dps")
    make_log(progress, quiet, verbose)  # a wrong --progress is refused before anything is read
    from sciinv.config import resolve
    from sciinv.plugins import domains
    from sciinv.run.compare import compare as run
    from sciinv.run.compare import settings_for

    known = list(domains())
    own, rest = settings_for(names, set_ or (), known)
    flags = {
        "prior": prior, "samples": samples, "seed": seed, "device": device, "slices": slices, "chunk": chunk,
        "format": format_, "domain": domain, "acceleration": acceleration, "calib_lines": calib_lines, "level": level,
        "threads": threads, "record_names": record_names or None,
    }  # fmt: skip
    words = [*rest, *reader_words(axes, dataset, max_bytes)]
    configs = {
        name: resolve({**flags, "method": name}, file=config, settings=[*words, *own[name]], domains=known)
        for name in names
    }
    result = run(file, out, configs, lambda: make_log(progress, quiet, verbose), overwrite=overwrite)
    if as_json:
        typer.echo((out / "compare.json").read_text("utf-8").strip())
    else:
        _show(result)
        for path in result.paths:
            typer.echo(str(path))
    if result.exit_code:
        kind = MismatchError if result.exit_code == 4 else NumericalError
        raise kind("no method could be run", where="compare", found=result.rows[0].reason)


def _show(result: Comparison) -> None:
    from rich.table import Table

    from sciinv.commands.console import console

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("method")
    for title in HEADS.values():
        table.add_column(title, justify="right")
    table.add_column("")
    for row in result.rows:
        cells = ["-" if row.numbers[key] is None else f"{row.numbers[key]:.3g}" for key in HEADS]
        table.add_row(row.method, *cells, row.reason if row.status == "done" else f"{row.status}: {row.reason}")
    out = console()
    out.print(table)
    out.print(f"\ncoverage: of bounds meant to hold {result.level:.0%}; mean std in {result.units}")
