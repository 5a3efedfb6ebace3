"""``reconstruct``, ``resume``, ``demo`` and ``report``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sciinv.errors import UsageError
from sciinv.progress import MODES, Log

if TYPE_CHECKING:
    from sciinv.run import Outcome

DEMO = {"samples": 12, "chunk": 12}
FIRST = "mri"  # what `sciinv demo` shows unless told otherwise

Samples = Annotated[int | None, typer.Option(help="Posterior samples an item. (default: 16)")]
Seed = Annotated[int | None, typer.Option(help="Root seed. (default: 1905)")]
Device = Annotated[str | None, typer.Option(help="auto, cpu or cuda. (default: auto)")]
Chunk = Annotated[int | None, typer.Option(help="Samples (or particles) per batch. (default: 8)")]
Format = Annotated[str | None, typer.Option("--format", help="Input format, when it cannot be recognised.")]
DomainName = Annotated[str | None, typer.Option(help="Domain, such as mri.")]
CalibLines = Annotated[int | None, typer.Option(help="Central lines kept when undersampling.")]
Level = Annotated[float | None, typer.Option(help="Nominal coverage of the bounds. (default: 0.9)")]
Threads = Annotated[int | None, typer.Option(help="CPU threads.")]
Axes = Annotated[str | None, typer.Option(help='Names of the axes of a plain array, such as "coil,kx,ky".')]
Dataset = Annotated[str | None, typer.Option(help="Variable to read, where a file has several.")]
MaxBytes = Annotated[int | None, typer.Option(help="Largest array that may be read.")]
Out = Annotated[Path, typer.Option("-o", "--out", help="Output folder; an interrupted run in it is continued.")]
Json = Annotated[bool, typer.Option("--json", help="Print a summary as JSON instead of the paths.")]
Quiet = Annotated[int, typer.Option("-q", count=True, help="Only warnings and errors.", show_default=False)]
Verbose = Annotated[int, typer.Option("-v", count=True, help="Details.", show_default=False)]
Debug = Annotated[bool, typer.Option("--debug", help="Show tracebacks.")]
Progress = Annotated[str, typer.Option(help="auto, bar, plain or none.")]
Sets = Annotated[
    list[str] | None,
    typer.Option("--set", help="key=value for the method, mri.key=value for a domain; may be repeated."),
]


def register(app: typer.Typer) -> None:
    """Add the commands to `app`."""
    for function in (reconstruct, demo, resume, report):
        app.command()(function)


def reconstruct(
    file: Annotated[Path, typer.Argument(help="Measurement file.")],
    out: Out,
    prior: Annotated[
        str | None, typer.Option(help="Prior: a name (`sciinv priors list`) or a .safetensors file.")
    ] = None,
    method: Annotated[str | None, typer.Option(help="Sampling method (`sciinv methods`). (default: pnpdm)")] = None,
    samples: Samples = None,
    particles: Annotated[
        int | None,
        typer.Option(help="Weighted population behind the samples, for SMC methods. (default: 64, or --samples)"),
    ] = None,
    seed: Seed = None,
    device: Device = None,
    slices: Annotated[str | None, typer.Option(help='Items to reconstruct, such as "0,3-5".  [default: all]')] = None,
    chunk: Chunk = None,
    set_: Sets = None,
    config: Annotated[Path | None, typer.Option(help="YAML with any of these settings.")] = None,
    format_: Format = None,
    domain: DomainName = None,
    axes: Axes = None,
    dataset: Dataset = None,
    max_bytes: MaxBytes = None,
    acceleration: Annotated[
        float | None, typer.Option(help="Undersample fully sampled data to this net acceleration.")
    ] = None,
    calib_lines: CalibLines = None,
    level: Level = None,
    threads: Threads = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a run that is in the output folder.")] = False,
    coupled: Annotated[
        bool, typer.Option("--coupled", help="The same noise in every slice: neighbours differ only as their data do.")
    ] = False,
    keep_work: Annotated[bool, typer.Option("--keep-work", help="Keep the per-task files after success.")] = False,
    fastmri: Annotated[
        bool, typer.Option("--fastmri", help="Also write a fastMRI-style `reconstruction` dataset.")
    ] = False,
    record_names: Annotated[
        bool, typer.Option("--record-names", help="Keep file names in the outputs; they may identify a person.")
    ] = False,
    progress: Progress = "auto",
    as_json: Json = False,
    quiet: Quiet = 0,
    verbose: Verbose = 0,
    debug: Debug = False,
) -> None:
    """Reconstruct a measurement file: samples, mean and uncertainty maps, report."""
    from sciinv.config import resolve
    from sciinv.plugins import domains
    from sciinv.run import reconstruct as run

    flags = {
        "prior": prior, "method": method, "samples": samples, "particles": particles, "seed": seed, "device": device,
        "slices": slices, "chunk": chunk,
        "format": format_, "domain": domain, "acceleration": acceleration, "calib_lines": calib_lines, "level": level,
        "threads": threads, "coupled": coupled or None, "keep_work": keep_work or None, "fastmri": fastmri or None,
        "record_names": record_names or None,
    }  # fmt: skip
    words = [*(set_ or ()), *reader_words(axes, dataset, max_bytes)]
    resolved = resolve(flags, file=config, settings=words, domains=domains())
    log = make_log(progress, quiet, verbose)
    _finish(lambda: run(file, out, resolved, log, overwrite=overwrite), as_json)


def demo(
    field: Annotated[str | None, typer.Argument(help="Domain to show. (default: mri)")] = None,
    out: Annotated[Path, typer.Option("-o", "--out", help="Output folder.")] = Path("sciinv-demo"),
    domain: Annotated[str | None, typer.Option(help="The same as an option.")] = None,
    samples: Annotated[int | None, typer.Option(help="Posterior samples an item.")] = None,
    seed: Annotated[int | None, typer.Option(help="Root seed.")] = None,
    prior: Annotated[str | None, typer.Option(help="Prior: a name or a .safetensors file.")] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu or cuda.")] = None,
    set_: Sets = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a run that is in the output folder.")] = False,
    progress: Progress = "auto",
    as_json: Json = False,
    quiet: Quiet = 0,
    verbose: Verbose = 0,
    debug: Debug = False,
) -> None:
    """Make a small measurement file and reconstruct it: no data, no network, a few minutes."""
    from sciinv.config import resolve
    from sciinv.plugins import domains
    from sciinv.run import reconstruct as run

    known = domains()
    if field and domain and field != domain:
        raise UsageError("two domains were named", expected="one", found=f"{field}, {domain}")
    name = field or domain or (FIRST if FIRST in known else next(iter(known), ""))
    if name not in known:
        raise UsageError("unknown domain", expected=", ".join(known) or "an installed domain", found=name)
    log = make_log(progress, quiet, verbose)
    log.info(f"demo    making a measurement file with {name}")
    file = known[name].demo(out / "input")
    flags = {**DEMO, **known[name].demo_flags, "domain": name, "device": device, "prior": prior}
    flags |= {key: value for key, value in (("samples", samples), ("seed", seed)) if value is not None}
    resolved = resolve(flags, settings=[*known[name].demo_settings, *(set_ or ())], domains=known)
    _finish(lambda: run(file, out / "result", resolved, log, overwrite=overwrite), as_json, only="report.html")


def resume(
    out: Annotated[Path, typer.Argument(help="Folder of an interrupted run.")],
    file: Annotated[Path | None, typer.Option("--input", help="Where the input lies now, if it has moved.")] = None,
    progress: Progress = "auto",
    as_json: Json = False,
    quiet: Quiet = 0,
    verbose: Verbose = 0,
    debug: Debug = False,
) -> None:
    """Continue an interrupted run with its own settings."""
    from sciinv.run import resume as run

    _finish(lambda: run(out, make_log(progress, quiet, verbose), file=file), as_json)


def report(out: Annotated[Path, typer.Argument(help="Folder of a finished run.")], debug: Debug = False) -> None:
    """Write the report of a finished run again."""
    from sciinv.report import write_report
    from sciinv.run.outputs import load_report

    typer.echo(str(write_report(out / "report.html", load_report(out))))


def reader_words(axes: str | None, dataset: str | None, max_bytes: int | None) -> list[str]:
    """The reader's flags as words of ``--set``."""
    given = {"axes": axes and json.dumps(axes), "dataset": dataset and json.dumps(dataset), "max_bytes": max_bytes}
    return [f"input.{key}={value}" for key, value in given.items() if value is not None]


def make_log(progress: str, quiet: int, verbose: int) -> Log:
    """The messages of one command, from its flags."""
    if progress not in MODES:
        raise UsageError("unknown kind of progress", expected=", ".join(MODES), found=progress, where="--progress")
    return Log(-1 if quiet else min(verbose, 2), progress)


def _finish(run: Any, as_json: bool, only: str | None = None) -> None:
    """Call `run`, print what it wrote, and raise what failed in it."""
    outcome: Outcome = run()
    _print(outcome, as_json, only)
    if outcome.error is not None:
        raise outcome.error


def _print(outcome: Outcome, as_json: bool, only: str | None) -> None:
    if as_json:
        typer.echo(json.dumps(outcome.summary, allow_nan=False))
        return
    for path in outcome.paths:
        if only is None or path.name == only:
            typer.echo(str(path))
