"""``certify``: how wrong is each method on problems whose answer is known."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Annotated

import typer

from sciinv.errors import NumericalError, UsageError


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command()(certify)


def certify(
    methods: Annotated[list[str] | None, typer.Argument(help="Methods to measure; all by default.")] = None,
    fast: Annotated[bool, typer.Option("--fast", help="Small problems and budgets: a few minutes for all.")] = False,
    family: Annotated[str | None, typer.Option(help="Only methods of this family, such as exact.")] = None,
    out: Annotated[
        Path | None, typer.Option("-o", "--out", help="Folder for certificate.csv, .md, .json and .png.")
    ] = None,
    patience: Annotated[
        float | None, typer.Option(help="CPU seconds a budget may take on one problem; larger budgets are left out.")
    ] = None,
    store: Annotated[
        Path | None, typer.Option(help="Folder with one JSON file a method, such as the package's own: replace theirs.")
    ] = None,
    as_json: Annotated[
        str | None, typer.Option("--json", help="Write the outcome as JSON to this file; - makes it the last line.")
    ] = None,
    jobs: Annotated[
        int | None, typer.Option(min=1, help="Processes to share the methods out to; by default up to four.")
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="No line for each measurement while it runs.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False,
) -> None:
    """Measure methods against known posteriors; exit code 7 when a claim is refuted."""
    from sciinv.certify.measure import Record
    from sciinv.certify.measure import family as family_of
    from sciinv.run.plan import method
    from sciinv.samplers import METHODS

    chosen = {method(name).name: method(name) for name in methods} if methods else dict(METHODS)
    if family is not None:
        known = sorted({family_of(cls) for cls in METHODS.values()})
        if family not in known:
            raise UsageError("there is no such family", where="--family", expected=", ".join(known), found=family)
        chosen = {name: cls for name, cls in chosen.items() if family_of(cls) == family}
        if not chosen:
            raise UsageError("none of these methods is of that family", where="--family", found=family)

    from sciinv.certify import run, table
    from sciinv.certify.store import save

    def show(record: Record) -> None:
        if not quiet:
            text = f"{record.method} on {record.reference}, {record.budget}: {record.over_floor:.2f} x floor"
            typer.echo(text, err=True)

    workers = min(len(chosen), jobs or min(4, os.cpu_count() or 1))
    if workers > 1:
        certificate = run.shared_out(list(chosen), fast, workers, patience=patience, on_record=show)
    else:
        certificate = run.certify(chosen, fast, patience=patience, on_record=show)
    _show(certificate)
    if out is not None:
        for path in table.write(certificate, out):
            typer.echo(f"wrote {path.name}", err=True)
    if store is not None:
        save(certificate, store)
    if as_json is not None:
        text = json.dumps(table.summary(certificate), ensure_ascii=False, allow_nan=False)
        if as_json == "-":
            typer.echo(text)
        else:
            from sciinv.io.atomic import write_text

            write_text(as_json, text + "\n")
    if certificate.refuted:
        raise NumericalError(
            f"{len(certificate.refuted)} claims of {len(chosen)} methods are refuted",
            where="certify", found="; ".join(f"{v.method}: {v.evidence}" for v in certificate.refuted),
            expected=certificate.refuted[0].gate, hint="another method; the table shows which ones hold",
        )  # fmt: skip


def _show(certificate: object) -> None:
    from rich.table import Table

    from sciinv.certify.run import Certificate
    from sciinv.certify.table import COLUMNS, cells
    from sciinv.commands.console import console

    assert isinstance(certificate, Certificate)
    out = console()
    measured = Table(*COLUMNS, box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for record in certificate.records:
        measured.add_row(*cells(record))
    judged = Table("method", "family", "claim", "outcome", "evidence", box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for v in certificate.verdicts:
        judged.add_row(v.method, v.family, v.claim, v.outcome, v.evidence)
    for table in (measured, judged):
        out.print(table)
        out.print()
    if any(record.exact_law for record in certificate.records):
        out.print("* covariance error of the exact law; the others are sliced Wasserstein distances")
