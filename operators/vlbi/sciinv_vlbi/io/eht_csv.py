"""The CSV and text twins of the Event Horizon Telescope's public UVFITS files.

Two comment lines, ``#SRC:M87,DATE(MJD):57854,FREQ:227.0707GHz`` and the names of the columns; then ``time(UTC) T1 T2
U(lambda) V(lambda) Iamp(Jy) Iphase(d) Isigma(Jy)``, separated by commas or blanks.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

import numpy as np

from sciinv.errors import InputError
from sciinv.io.limits import MAX_TEXT, check_file, reading, sha256
from sciinv.io.spec import FieldView, HeaderView, check_spec, load_spec
from sciinv_vlbi.io.tables import clean
from sciinv_vlbi.observation import Observation, Station, checked

SPEC = "eht-csv"
_HEADER = re.compile(r"#\s*SRC:\s*([^,]*),\s*DATE\(MJD\):\s*([\d.]+),\s*FREQ:\s*([\d.]+)\s*(GHz|MHz|Hz)", re.I)
_UNITS = {"ghz": 1e9, "mhz": 1e6, "hz": 1.0}


def sniff_csv(path: str | os.PathLike[str]) -> bool:
    """Say whether the file begins as these releases do; never raises."""
    try:
        with open(path, "rb") as file:
            head = file.read(400)
    except OSError:
        return False
    return bool(_HEADER.match(head.decode("latin-1")))


def view_csv(path: str | os.PathLike[str]) -> HeaderView:
    """Number of rows and columns, date and frequency."""
    lines, header = _lines(check_file(path))
    view = {
        "rows": FieldView((len(lines),), "text"),
        "columns": FieldView((len(_split(lines[0])) if lines else 0,), "text"),
    }
    if header:
        view["mjd"] = FieldView((), "float", float(header[2]))
        view["frequency"] = FieldView((), "float", float(header[3]) * _UNITS[header[4].lower()])
    return view


def read_csv(path: str | os.PathLike[str], *, max_bytes: int | None = None, conjugate: bool = False) -> Observation:
    """Read one text file; its source has no coordinates and its stations no positions.

    Raises
    ------
    InputError
        Too large, malformed, impossible numbers.
    """
    path = check_file(path)
    size = path.stat().st_size
    if size > min(max_bytes or MAX_TEXT, 20 * MAX_TEXT):
        raise InputError("the text file is too large", where=path.name, expected=f"at most {MAX_TEXT:,} bytes")
    with reading(path, "EHT text"):
        view = view_csv(path)
        check_spec(view, load_spec(SPEC), where=path.name)
        lines, header = _lines(path)
        assert header is not None
        cells = [_split(line) for line in lines]
        wrong = next((i for i, c in enumerate(cells) if len(c) != 8), None)
        if wrong is not None:
            raise InputError(
                "a row has the wrong number of values", where=path.name, expected="8",
                found=f"{len(cells[wrong])} in row {wrong + 1}",
            )  # fmt: skip
        table = np.array([[c[0], *c[3:]] for c in cells], np.float64)
        names = list(dict.fromkeys(name for c in cells for name in c[1:3]))
        if len(names) > 4096:
            raise InputError("there are too many stations", where=path.name, found=f"{len(names):,}")
        number = {name: i for i, name in enumerate(names)}
        turn = np.exp((-1j if conjugate else 1j) * np.deg2rad(table[:, 4])).astype(np.complex128)
        obs = Observation(
            time=table[:, 0], a=np.array([number[c[1]] for c in cells]), b=np.array([number[c[2]] for c in cells]),
            u=table[:, 1], v=table[:, 2], vis=table[:, 3] * turn,
            sigma=table[:, 5], tint=np.zeros(len(table)), band=np.zeros(len(table), np.int64),
            frequency=(float(header[3]) * _UNITS[header[4].lower()],), mjd=int(float(header[2])),
            stations=tuple(Station(clean(name)) for name in names), source=clean(header[1]), format=SPEC,
            sha256=sha256(path), label=path.name,
        )  # fmt: skip
        return checked(obs)


def _lines(path: Path) -> tuple[list[str], re.Match[str] | None]:
    if path.stat().st_size > 20 * MAX_TEXT:
        raise InputError("the text file is too large", where=path.name, expected=f"at most {MAX_TEXT:,} bytes")
    lines = [line.strip() for line in path.read_text("latin-1").splitlines()]
    header = next((found for line in lines[:8] if (found := _HEADER.match(line))), None)
    return [line for line in lines if line and not line.startswith("#")], header


def _split(line: str) -> list[str]:
    return [cell.strip() for cell in line.split(",")] if "," in line else line.split()
