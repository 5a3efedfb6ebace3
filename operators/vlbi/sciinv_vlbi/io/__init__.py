"""Files of VLBI: readers (`READERS`), what is in a file (`describe`), what is wrong (`validate`), and writers."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from sciinv.errors import InputError, SciinvError
from sciinv.io.limits import check_file
from sciinv.io.spec import HeaderView, load_spec, violations
from sciinv_vlbi.io.eht_csv import read_csv, sniff_csv, view_csv
from sciinv_vlbi.io.image import SkyImage, read_image, regrid, write_image
from sciinv_vlbi.io.oifits import read_oifits, sniff_oifits, view_oifits
from sciinv_vlbi.io.oifits_out import write_oifits
from sciinv_vlbi.io.uvfits import read_uvfits, sniff_uvfits, view_uvfits
from sciinv_vlbi.io.uvfits_out import write_uvfits
from sciinv_vlbi.observation import Observation, Station, join


class Reader(NamedTuple):
    """A format: how to recognise, read and view it, and the stem of its specification."""

    sniff: Callable[..., bool]
    read: Callable[..., Observation]
    spec: str
    view: Callable[..., HeaderView]


READERS: dict[str, Reader] = {
    "uvfits": Reader(sniff_uvfits, read_uvfits, "uvfits", view_uvfits),
    "oifits": Reader(sniff_oifits, read_oifits, "oifits", view_oifits),
    "eht-csv": Reader(sniff_csv, read_csv, "eht-csv", view_csv),
}


def find_reader(path: str | os.PathLike[str]) -> str:
    """Name of the reader that recognises the file by its content.

    Raises
    ------
    InputError
        None does; the message lists the formats.
    """
    path = check_file(path)
    for name, reader in READERS.items():
        if reader.sniff(path):
            return name
    raise InputError("no reader recognises this file", where=path.name, expected=", ".join(READERS))


def read(path: str | os.PathLike[str], *, format: str | None = None, **options: Any) -> Observation:
    """Read a file with the reader named `format` (default: found by content); `options` go to that reader."""
    name = format or find_reader(path)
    if name not in READERS:
        raise InputError("no such format", where=Path(path).name, expected=", ".join(READERS), found=name[:40])
    return READERS[name].read(path, **options)


def describe(path: str | os.PathLike[str], **options: Any) -> dict[str, Any]:
    """Facts about a file for ``sciinv info``, JSON-ready."""
    return read(path, **options).info()


def validate(path: str | os.PathLike[str], *, format: str | None = None, **options: Any) -> list[str]:
    """Everything wrong with a file, as sentences: all violations of its specification, else what reading it says.

    Empty when the file is good. Raises only when the file is missing, or no reader knows it.
    """
    name = format or find_reader(check_file(path))
    try:
        found = violations(READERS[name].view(path), load_spec(READERS[name].spec))
        if not found:
            READERS[name].read(path, **options)
    except SciinvError as error:
        found = [str(error)]
    return found


__all__ = [
    "READERS",
    "Observation",
    "Reader",
    "SkyImage",
    "Station",
    "describe",
    "find_reader",
    "join",
    "read",
    "read_csv",
    "read_image",
    "read_oifits",
    "read_uvfits",
    "regrid",
    "validate",
    "write_image",
    "write_oifits",
    "write_uvfits",
]
