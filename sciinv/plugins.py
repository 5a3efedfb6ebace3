"""Domains are found by entry point, ours and third parties' alike: group ``sciinv.domains``, one frozen `Domain`
each.
"""

from __future__ import annotations

import dataclasses as dc
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from sciinv.errors import InputError, UsageError


@dc.dataclass(frozen=True)
class Reader:
    """A file format: ``sniff`` is cheap and never raises, ``read`` validates and returns the domain's data object."""

    name: str
    sniff: Callable[[Path], bool]
    read: Callable[..., Any]
    spec: str


@dc.dataclass(frozen=True)
class Domain:
    """Everything the engine needs to know about a field.

    Attributes
    ----------
    options : frozen dataclass of the domain's knobs; its fields are the ``--set`` keys of the command line.
    items : number of independent problems (slices) in a data object.
    problem : ``(data, item, options) -> Problem``; physical units, whitened, with ``meta`` (see docs/design.md).
    write : ``(out, data, results, context) -> paths``: the field's own output formats.
    simulate : ``(source, out, options) -> path``: measurements from an image.
    demo : ``(folder) -> path``: an embedded measurement file made from a phantom.
    demo_flags, demo_settings : how ``sciinv demo`` reconstructs it where the defaults do not fit: fields of `RunConfig`
        and words of ``--set``, which those of the user override.
    method_settings : ``(method, options) -> fields`` that fit the domain better than the defaults of this method, given
        the user's options of the domain; the user's fields win.
    describe, validate : ``(path, *, format, **reader_options)`` for ``sciinv info`` and ``sciinv validate``.
    default_prior : name of the embedded prior; empty where there is none.
    suited : ``data -> name`` of the embedded prior that fits the data best, where there are several.
    align : ``(x, meta) -> x``: what the data cannot fix (a position) made equal over samples ``(n, *image)`` in units
        of the file, for the mean, the std and the bounds; the samples themselves stay as drawn.
    sections : ``(data, results, context) -> Sequence[report.sections.Section]``: the field's part of the report.
    calibration : a file of `sciinv.calibration.Calibration` learned for ``default_prior``, where there is one.
    """

    name: str
    readers: Sequence[Reader]
    options: type
    items: Callable[[Any], int]
    problem: Callable[..., Any]
    write: Callable[..., list[Path]]
    simulate: Callable[..., Path]
    demo: Callable[[Path], Path]
    describe: Callable[..., dict[str, Any]]
    validate: Callable[..., list[str]]
    default_prior: str
    suited: Callable[[Any], str] | None = None
    baselines: Mapping[str, Callable[..., Any]] = dc.field(default_factory=dict)
    specs: Path | None = None
    calibration: Path | None = None
    align: Callable[..., Any] | None = None
    sections: Callable[..., Sequence[Any]] | None = None
    demo_flags: Mapping[str, Any] = dc.field(default_factory=dict)
    demo_settings: Sequence[str] = ()
    method_settings: Callable[[str, Mapping[str, Any]], Mapping[str, Any]] = lambda method, options: {}


def domains() -> dict[str, Domain]:
    """All installed domains by name."""
    return {ep.name: ep.load() for ep in sorted(entry_points(group="sciinv.domains"), key=lambda e: e.name)}


def find_reader(path: Path, domain: str | None = None, fmt: str | None = None) -> tuple[Domain, Reader]:
    """The domain and reader for a file, by explicit name or by looking at it."""
    path = Path(path)
    if not path.is_file():
        raise InputError("file not found", where=str(path), hint="check the path")
    known = domains()
    if domain is not None and domain not in known:
        raise UsageError("unknown domain", found=domain, expected=", ".join(known))
    for d in known.values():
        if domain not in (None, d.name):
            continue
        for reader in d.readers:
            if fmt == reader.name or (fmt is None and reader.sniff(path)):
                return d, reader
    names = ", ".join(r.name for d in known.values() for r in d.readers)
    raise InputError(
        "no installed domain reads this file", where=path.name, expected=f"one of: {names}", hint="--format NAME"
    )
