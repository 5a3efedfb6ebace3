"""Several methods on one file: a run folder each, then one table and one figure in common units.

Every method is an ordinary run in ``OUT/METHOD`` (killed, it goes on; complete, it is not computed again). A method
that the problem cannot serve, or that fails, is a row that says so, and the others go on.
"""

from __future__ import annotations

import csv
import dataclasses as dc
import functools
import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sciinv import provenance as prov
from sciinv.config import RunConfig, parse_setting
from sciinv.errors import MismatchError, NumericalError, PartialError, SciinvError, UsageError
from sciinv.io.atomic import write_json, write_text
from sciinv.io.runfolder import read_plan
from sciinv.plugins import find_reader
from sciinv.progress import Log
from sciinv.report import Report
from sciinv.run import outputs
from sciinv.run.flow import Outcome, reconstruct
from sciinv.run.plan import fitted, method
from sciinv.samplers import METHODS

NUMBERS = ("chi2_per_dof", "psnr", "coverage", "mean_std", "network_calls", "cpu_seconds")
"""Columns of the table, means over items: data misfit, peak signal-to-noise ratio of the posterior mean in dB, share of
the truth inside the bounds, standard deviation in the data's units, network calls a sample, CPU seconds in all."""


@dc.dataclass(frozen=True)
class Row:
    """One method: how it ended, and what was measured (``None`` where there is nothing to measure it with).

    Attributes
    ----------
    status : done, partial, refused (the problem lacks what the method needs) or failed.
    reason : why, where it is not done.
    """

    method: str
    status: str
    reason: str
    numbers: Mapping[str, float | None]


@dc.dataclass(frozen=True)
class Comparison:
    """The rows in the order asked for, the reports behind them, and what was written."""

    rows: Sequence[Row]
    level: float
    units: str
    paths: Sequence[Path]

    @property
    def exit_code(self) -> int:
        """0 when a method is done; else 4 when all are refused, else 7."""
        if any(row.status in ("done", "partial") for row in self.rows):
            return 0
        return 4 if all(row.status == "refused" for row in self.rows) else 7


def settings_for(
    names: Sequence[str], words: Sequence[str], domains: Sequence[str]
) -> tuple[dict[str, list[str]], list[str]]:
    """Sort ``--set`` words: per method, and for all.

    ``NAME.key=value`` is for that method; a bare ``key=value`` for every method that has the field; words for a domain
    or the reader stay as they are.
    """
    known, rest = {name: [f.name for f in dc.fields(method(name))] for name in names}, []
    chosen: dict[str, list[str]] = {name: [] for name in names}
    for word in words:
        head, dot, tail = word.partition(".")
        if dot and head in known:
            chosen[head].append(tail)
            continue
        if dot and head in METHODS:
            raise UsageError(f"{head} is not compared", where=f"--set {word}", expected=", ".join(names))
        group, key, _ = parse_setting(word, domains)
        if group != "sampler":
            rest.append(word)
            continue
        takers = [name for name, fields in known.items() if key in fields]
        if not takers:
            raise UsageError(f"none of these methods has a setting {key!r}", where="--set", found=word)
        for name in takers:
            chosen[name].append(word)
    return chosen, rest


def compare(
    file: Path, out: Path, configs: Mapping[str, RunConfig], make_log: Callable[[], Log], *, overwrite: bool = False
) -> Comparison:
    """Run each method of ``configs`` (by its name) on ``file`` and write ``compare.csv``, ``.json`` and ``.png``.

    Raises
    ------
    SciinvError : what no other method would survive: the file, the disk, the settings, a folder that holds another run.
    """
    for config in configs.values():  # wrong settings of the last method are told before the first one runs
        fitted(config, find_reader(file, config.domain, config.format)[0])
    rows, reports = [], {}
    level, units = next(iter(configs.values())).level, "a.u."
    for name, config in configs.items():
        log = make_log()
        log.info(f"method  {name}")
        folder = Path(out) / name
        row, report = _one(name, functools.partial(reconstruct, file, folder, config, log, overwrite=overwrite), folder)
        rows.append(row)
        if report is not None:
            reports[name], units = report, report.units
    paths = _write(Path(out), rows, reports, level, units)
    return Comparison(rows, level, units, paths)


def _one(name: str, run: Callable[[], Outcome], folder: Path) -> tuple[Row, Report | None]:
    none = dict.fromkeys(NUMBERS)
    try:
        outcome = run()
    except MismatchError as error:
        return Row(name, "refused", str(error), none), None
    except (NumericalError, PartialError) as error:
        return Row(name, "failed", str(error), none), None
    good = [item for item in outcome.summary["items"] if "chi2_per_dof" in item]
    reason = "" if outcome.error is None and outcome.exit_code == 0 else _why(outcome)
    if not good:
        return Row(name, "failed", reason, none), None
    report = outputs.load_report(folder)
    plan = read_plan(folder) or {}
    chunks = 1 if "particles" in plan else -(-plan["samples"] // plan["chunk"])
    numbers = {
        "chi2_per_dof": _mean(item["chi2_per_dof"] for item in good),
        "psnr": _mean(item.get("psnr_mean") for item in good),
        "coverage": _mean(item.get("coverage") for item in good),
        "mean_std": _mean(_inside(item.images["std"], item.mask) for item in report.items),
        "network_calls": _mean(item["network_calls"] / chunks for item in good),
        "cpu_seconds": float(sum(item["cpu_seconds"] for item in good)),
    }
    return Row(name, "partial" if reason else "done", reason, numbers), report


def _why(outcome: Outcome) -> str:
    return str(outcome.error) if isinstance(outcome.error, SciinvError) else "some items failed"


def _mean(values: Any) -> float | None:
    known = [float(v) for v in values if v is not None and np.isfinite(v)]
    return sum(known) / len(known) if known else None


def _inside(image: np.ndarray, mask: np.ndarray | None) -> float:
    return float(image[mask.astype(bool)].mean() if mask is not None and mask.any() else image.mean())


def _write(out: Path, rows: Sequence[Row], reports: Mapping[str, Report], level: float, units: str) -> list[Path]:
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["method", "status", *NUMBERS, "reason"])
    for row in rows:
        cells = ["" if row.numbers[key] is None else f"{row.numbers[key]:.6g}" for key in NUMBERS]
        table.writerow([row.method, row.status, *cells, row.reason])
    paths = [write_text(out / "compare.csv", text.getvalue())]
    record = {
        "level": level, "units": units, "methods": [dc.asdict(row) for row in rows], "disclaimer": prov.DISCLAIMER,
    }  # fmt: skip
    paths.append(write_json(out / "compare.json", record))
    if reports:
        from sciinv.report.side_by_side import comparison_png

        paths.append(comparison_png(out / "compare.png", reports))
    return paths
