"""Antenna tables of UVFITS and the baseline codes that point into them."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np

from sciinv.errors import InputError
from sciinv.io.safe_fits import Unit
from sciinv_vlbi.io.tables import MAX_ROWS, numbers, rows_of, texts, unit_named
from sciinv_vlbi.observation import Floats, Ints, Station

MAX_STATIONS = 4096


def antenna_numbers(names: list[str], parameters: Floats) -> tuple[Ints, Ints, Ints]:
    """Antenna numbers (from 1) and subarray (from 1) of each row.

    The code is ``256 a + b``, or ``2048 a + b + 65536`` beyond 255 antennas; a fraction .01 counts subarrays.
    """
    if {"ANTENNA1", "ANTENNA2"} <= set(names):
        a, b = (parameters[:, names.index(f"ANTENNA{i}")] for i in (1, 2))
        sub = parameters[:, names.index("SUBARRAY")] if "SUBARRAY" in names else np.ones(len(a))
    else:
        code = parameters[:, next(i for i, name in enumerate(names) if name.startswith("BASELINE"))]
        whole = np.floor(code + 1e-3)
        sub = np.round(100 * (code - whole)) + 1
        rest = np.where(whole >= 65536, whole - 65536, whole)
        base = np.where(whole >= 65536, 2048, 256)
        a, b = np.floor(rest / base), rest % base
    bad = ~(np.isfinite(a) & np.isfinite(b) & np.isfinite(sub))
    columns = [np.where(bad | (np.abs(c) > 1e6), 0, c).astype(np.int64) for c in (a, b, sub)]
    return columns[0], columns[1], np.maximum(columns[2], 1)


def stations_of(
    units: tuple[Unit, ...], opened: Any, a: Ints, b: Ints, subarray: Ints, path: Path
) -> tuple[tuple[Station, ...], Ints, Ints, list[str]]:
    """Stations of all antenna tables, the rows' indices into them, and notes.

    Raises
    ------
    InputError
        Antennas without an entry, two with one number, a table that is too long.
    """
    used = np.unique(np.concatenate([np.stack([subarray, a], 1), np.stack([subarray, b], 1)]), axis=0)
    if len(used) > MAX_STATIONS:
        raise InputError("the baselines name too many antennas", where=path.name, found=f"{len(used):,}")
    pairs = [(int(sub), int(number)) for sub, number in used]
    table = _tables(units, opened, path)
    notes = list[str]()
    if not table:
        notes.append("there is no antenna table: stations are numbered")
        table = {(1, number): Station(f"ANT{number}") for _, number in pairs}
    known = {version for version, _ in table}
    order = {key: place for place, key in enumerate(table)}
    found: dict[tuple[int, int], int] = {}
    for sub, number in pairs:
        key = (sub if sub in known else min(known), number)
        if key not in order:
            raise InputError(
                "a baseline names an antenna that is not in the antenna table", where=path.name,
                found=f"antenna {number}", expected=", ".join(str(n) for _, n in sorted(table))[:200],
            )  # fmt: skip
        found[sub, number] = order[key]

    def look(antenna: Ints) -> Ints:
        codes, inverse = np.unique(subarray * (1 << 32) + antenna, return_inverse=True)
        places = np.array([found[int(c >> 32), int(c & 0xFFFFFFFF)] for c in codes], np.int64)
        return places[inverse.reshape(-1)]

    return unique_names(list(table.values())), look(a), look(b), notes


def _tables(units: tuple[Unit, ...], opened: Any, path: Path) -> dict[tuple[int, int], Station]:
    """Stations by (version of the table, number of the antenna)."""
    stations: dict[tuple[int, int], Station] = {}
    for order, number in enumerate(unit_named(units, "AIPS AN"), 1):
        if rows_of(units[number]) > MAX_ROWS:
            raise InputError("the antenna table is too long", where=path.name, found=f"{rows_of(units[number]):,} rows")
        table, header = opened[number], units[number].header
        names, ids = texts(table, "ANNAME", path.name), numbers(table, "NOSTA", path.name)
        at = numbers(table, "STABXYZ", path.name, default=0.0).reshape(len(ids), -1)
        if at.shape[1] != 3:
            at = np.zeros((len(ids), 3))
        at = at + np.array([finite(header.get(f"ARRAY{axis}")) for axis in "XYZ"])
        sefd = numbers(table, "SEFD", path.name, default=0.0).reshape(len(ids), -1)[:, 0]
        for row, name in enumerate(names):
            key = (int(finite(header.get("EXTVER"), order)), int(finite(ids[row])))
            if key in stations:
                raise InputError("two antennas have one number", where=path.name, found=f"NOSTA {key[1]}")
            x, y, z = (finite(value) for value in at[row])
            stations[key] = Station(name or f"ANT{key[1]}", (x, y, z), max(finite(sefd[row]), 0.0))
    return stations


def unique_names(stations: list[Station]) -> tuple[Station, ...]:
    """Stations of equal name get numbers."""
    seen: dict[str, int] = {}
    out = []
    for station in stations:
        count = seen[station.name] = seen.get(station.name, 0) + 1
        out.append(station if count == 1 else Station(f"{station.name}-{count}", station.position, station.sefd))
    return tuple(out)


def finite(value: Any, default: float = 0.0) -> float:
    """A number from a header, or `default`."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        return default
    return number if math.isfinite(number) else default
