"""OIFITS (versions 1 and 2): complex visibilities of one target out of OI_VIS.

OIFITS measures baselines in metres from the first station to the second and transforms with exp(-2 pi i (u x + v y));
here baselines point from the second to the first and the sign is plus: (u, v) changes sign and V does not. Files that
hold squared visibilities and triple products only (most optical ones) give no visibility, and are refused.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

from sciinv.errors import InputError
from sciinv.io.limits import sha256
from sciinv.io.safe_fits import Unit, is_fits, open_fits, scan_fits
from sciinv.io.spec import FieldView, HeaderView, check_spec, load_spec
from sciinv_vlbi.io.antennas import finite, unique_names
from sciinv_vlbi.io.tables import flags, numbers, rows_of, texts, unit_named
from sciinv_vlbi.observation import Observation, Station, checked

SPEC = "oifits"
LIGHT = 299792458.0


def sniff_oifits(path: str | os.PathLike[str]) -> bool:
    """Say whether this is FITS with an OI_TARGET table; never raises."""
    try:
        return is_fits(path) and bool(unit_named(scan_fits(path), "OI_TARGET"))
    except InputError:
        return False


def view_oifits(path: str | os.PathLike[str]) -> HeaderView:
    """Tables and their sizes."""
    return _view(scan_fits(path))


def read_oifits(
    path: str | os.PathLike[str], *, max_bytes: int | None = None, conjugate: bool = False, target: str = ""
) -> Observation:
    """Read the visibilities of one target.

    Parameters
    ----------
    path : the file.
    max_bytes : most bytes a table may occupy.
    conjugate : for files of the opposite phase convention.
    target : its name, where the file has several.

    Raises
    ------
    InputError
        No OI_VIS, no absolute amplitudes, several targets and none named, impossible numbers.
    """
    path = Path(path)
    with open_fits(path, max_bytes=max_bytes) as (units, opened):
        view = _view(units)
        if "OI_VIS" not in view and {"OI_VIS2", "OI_T3"} & set(view):
            raise InputError(
                "the file holds squared visibilities or triple products, but no complex visibilities", where=path.name,
                expected="a table OI_VIS with absolute phases",
            )  # fmt: skip
        check_spec(view, load_spec(SPEC), where=path.name)
        chosen, name, ra, dec = _target(opened[unit_named(units, "OI_TARGET")[0]], target, path)
        waves = {str(units[i].header.get("INSNAME", "")): opened[i] for i in unit_named(units, "OI_WAVELENGTH")}
        arrays = {str(units[i].header.get("ARRNAME", "")): (opened[i], units[i]) for i in unit_named(units, "OI_ARRAY")}
        parts: list[dict[str, Any]] = []
        bands: dict[tuple[float, float], int] = {}
        places: dict[tuple[str, int], int] = {}
        stations: list[Station] = []
        for i in unit_named(units, "OI_VIS"):
            header = units[i].header
            if str(header.get("AMPTYP", "absolute")).strip().lower() not in ("absolute", ""):
                raise InputError("the amplitudes are not absolute", where=path.name, found=str(header["AMPTYP"])[:40])
            wave = waves.get(str(header.get("INSNAME", "")))
            if wave is None:
                raise InputError("OI_VIS names a spectrometer that the file lacks", where=path.name)
            array = arrays.get(str(header.get("ARRNAME", "")))
            parts.append(
                _rows(opened[i], wave, array, str(header.get("ARRNAME", "")), chosen, bands, places, stations, path)
            )
        merged = {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
        first = int(np.floor(merged["day"].min())) if len(merged["day"]) else 0
        vis = merged["vis"].conj() if conjugate else merged["vis"]
        obs = Observation(
            time=(merged["day"] - first) * 24, a=merged["a"], b=merged["b"], u=merged["u"], v=merged["v"], vis=vis,
            sigma=merged["sigma"], tint=merged["tint"], band=merged["band"], frequency=tuple(f for f, _ in bands),
            bandwidth=max((w for _, w in bands), default=0.0), stations=unique_names(stations), mjd=first, source=name,
            ra=ra, dec=dec, format="oifits", sha256=sha256(path), label=path.name,
        )  # fmt: skip
        return checked(obs)


def _view(units: tuple[Unit, ...]) -> HeaderView:
    view: dict[str, FieldView] = {}
    for unit in units:
        if unit.kind == "bintable" and unit.name.upper().startswith("OI_"):
            view.setdefault(unit.name.upper(), FieldView((rows_of(unit),), "table"))
    return view


def _target(table: Any, wanted: str, path: Path) -> tuple[int, str, float | None, float | None]:
    names, ids = texts(table, "TARGET", path.name), numbers(table, "TARGET_ID", path.name)
    place = [numbers(table, key, path.name, default=float("nan")) for key in ("RAEP0", "DECEP0")]
    index = names.index(wanted) if wanted in names else 0
    if len(names) != 1 and wanted not in names:
        raise InputError(
            "it is not clear which target to read", where=path.name, expected=", ".join(names)[:200],
            found=wanted or "none", hint="--set input.target=NAME",
        )  # fmt: skip
    ra, dec = (float(p[index]) if -360 <= p[index] <= 360 else None for p in place)
    return int(finite(ids[index])), names[index], ra, dec


def _rows(
    table: Any, wave: Any, array: Any, arrname: str, chosen: int, bands: dict[tuple[float, float], int],
    places: dict[tuple[str, int], int], stations: list[Station], path: Path,
) -> dict[str, Any]:  # fmt: skip
    """Columns of one OI_VIS table, one row a baseline, time and channel; new stations and bands are appended."""
    where = path.name
    lengths = numbers(wave, "EFF_WAVE", where).reshape(-1)
    widths = numbers(wave, "EFF_BAND", where, default=0.0).reshape(-1)
    if not ((lengths > 0) & (lengths < 1e3)).all():
        raise InputError("a wavelength is impossible", where=where, expected="metres", found=str(lengths[:3]))
    count, channels = len(table.data), len(lengths)

    def column(name: str, default: float | None = None) -> Any:
        values = numbers(table, name, where, default).reshape(count, -1)
        if values.shape[1] not in (1, channels):
            raise InputError(
                f"the column {name} does not fit the wavelengths", where=where, expected=str(channels),
                found=str(values.shape[1]),
            )  # fmt: skip
        return np.broadcast_to(values, (count, channels))

    amplitude, phase = column("VISAMP"), np.deg2rad(column("VISPHI"))
    errors = np.stack([column("VISAMPERR", np.nan), np.abs(amplitude) * np.deg2rad(column("VISPHIERR", np.nan))])
    errors = np.where(np.isfinite(errors) & (errors > 0), errors, np.nan)
    known = np.isfinite(errors).sum(0)
    # one sigma a part: the mean square of the radial and the tangential error
    sigma = np.sqrt(np.nansum(errors**2, 0) / np.maximum(known, 1))
    pair = numbers(table, "STA_INDEX", where).reshape(count, -1)
    day = numbers(table, "MJD", where).reshape(count)
    keep = (known > 0) & np.isfinite(amplitude) & np.isfinite(phase) & ~flags(table, "FLAG", (count, channels))
    keep &= (numbers(table, "TARGET_ID", where).reshape(count) == chosen)[:, None] & np.isfinite(day)[:, None]
    if pair.shape[1] != 2 or not ((day > 0) & (day < 1e5) | ~keep.any(1)).all():
        raise InputError("OI_VIS has impossible stations or dates", where=where)
    for index in np.unique(pair[np.isfinite(pair).all(1)]):
        if (arrname, int(index)) not in places:
            places[arrname, int(index)] = len(stations)
            stations.append(_station(array, int(index), where))
    ends = [np.array([places.get((arrname, int(finite(i, -1))), -1) for i in pair[:, k]]) for k in (0, 1)]
    keys = [(LIGHT / w, abs(LIGHT * finite(b) / w**2)) for w, b in zip(lengths, widths, strict=True)]
    number = np.array([bands.setdefault(key, len(bands)) for key in keys])
    metres = [numbers(table, name, where).reshape(count)[:, None] for name in ("UCOORD", "VCOORD")]
    full = {
        "u": -metres[0] / lengths, "v": -metres[1] / lengths, "vis": amplitude * np.exp(1j * phase), "sigma": sigma,
        "band": number[None], "a": ends[0][:, None], "b": ends[1][:, None], "day": day[:, None],
        "tint": np.nan_to_num(numbers(table, "INT_TIME", where, default=0.0)).reshape(count)[:, None],
    }  # fmt: skip
    return {key: np.broadcast_to(value, keep.shape)[keep] for key, value in full.items()}


def _station(array: Any, index: int, where: str) -> Station:
    if array is None:
        return Station(f"ANT{index}")
    table, unit = array
    ids = numbers(table, "STA_INDEX", where).reshape(-1)
    found = np.flatnonzero(ids == index)
    if not len(found):
        raise InputError("OI_VIS names a station that OI_ARRAY lacks", where=where, found=str(index))
    at = numbers(table, "STAXYZ", where, default=0.0).reshape(len(ids), -1)[found[0]]
    origin = [finite(unit.header.get(f"ARRAY{axis}")) for axis in "XYZ"]
    x, y, z = (finite(a) + o for a, o in zip((at if len(at) == 3 else np.zeros(3)), origin, strict=True))
    return Station(texts(table, "STA_NAME", where)[found[0]] or f"ANT{index}", (x, y, z))
