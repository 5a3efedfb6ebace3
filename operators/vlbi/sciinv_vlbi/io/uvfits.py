"""UVFITS: random groups of AIPS (Memo 117) in the dialects of AIPS, CASA, eht-imaging, Difmap.

Read here: PSCAL and PZERO on every parameter, UU and VV under any suffix, both baseline codes (and ANTENNA1,
ANTENNA2), one or two DATE fields or dates that only DATE-OBS gives, several IFs and channels, circular, linear or
Stokes products, rows with one hand only, flags as weights that are zero, negative, NaN or infinite, subarrays, and
antenna tables with stations that never observed.

Stokes I is ``(RR + LL)/2`` with ``sigma = sqrt(1/w_RR + 1/w_LL)/2``, one hand alone standing for I with its own sigma.
"""

from __future__ import annotations

import math
import os
import re
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sciinv.errors import InputError
from sciinv.io.limits import check_claim, sha256
from sciinv.io.safe_fits import Unit, is_fits, open_fits, read_groups, scan_fits
from sciinv.io.spec import FieldView, HeaderView, check_spec, dtype_class, load_spec
from sciinv_vlbi.io.antennas import antenna_numbers, finite, stations_of
from sciinv_vlbi.io.tables import MAX_ROWS, clean, numbers, rows_of, unit_named
from sciinv_vlbi.observation import Floats, Observation, checked

SPEC = "uvfits"
PARALLEL = {-1: "RR", -2: "LL", -5: "XX", -6: "YY", 1: "I"}
JULIAN = (2415020.5, 2488069.5)
"""The years 1900 to 2099."""


def sniff_uvfits(path: str | os.PathLike[str]) -> bool:
    """Say whether this is a FITS file of random groups; never raises."""
    try:
        if not is_fits(path):
            return False
        with open(path, "rb") as file:
            head = file.read(36 * 80 * 4)
    except OSError:
        return False
    return bool(re.search(rb"GROUPS  = +T", head)) and b"UU" in head


def view_uvfits(path: str | os.PathLike[str]) -> HeaderView:
    """What the headers claim, in the terms of the specification."""
    return _view(scan_fits(path))


def read_uvfits(path: str | os.PathLike[str], *, max_bytes: int | None = None, conjugate: bool = False) -> Observation:
    """Read the Stokes-I visibilities of a single-source UVFITS file.

    Parameters
    ----------
    path : the file.
    max_bytes : most bytes that the visibilities may occupy.
    conjugate : for files of the opposite phase convention; without it they would give an image turned by 180 degrees.

    Raises
    ------
    InputError
        Not UVFITS, cut short, lying headers, impossible numbers, several sources.
    """
    path = Path(path)
    with open_fits(path, max_bytes=max_bytes) as (units, opened):
        check_spec(_view(units), load_spec(SPEC), where=path.name)
        check_claim(
            8 * math.prod((units[0].groups, *units[0].shape)), units[0].nbytes, where=path.name, max_bytes=max_bytes
        )
        parameters, data = read_groups(path, units[0])
        names = _names(units[0])
        header, notes = units[0].header, list[str]()
        _one_source(names, parameters, path)
        a, b, subarray = antenna_numbers(names, parameters)
        day, hours = _times(names, parameters, header, notes, path)
        frequency, bandwidth = _frequencies(units, opened, path)
        stations, a, b, remarks = stations_of(units, opened, a, b, subarray, path)
        vis, sigma = _stokes(_ordered(data, units[0]), units[0], notes, path)
        seconds = [parameters[:, _index(names, prefix)] for prefix in ("UU", "VV")]
        tint = parameters[:, names.index("INTTIM")] if "INTTIM" in names else np.zeros(len(a))
        bands = len(frequency)

        def spread(column: NDArray[Any]) -> NDArray[Any]:
            return np.repeat(column, bands)

        band = np.tile(np.arange(bands), len(a))
        hertz = np.array(frequency)[band]
        keep = np.isfinite(sigma).reshape(-1) & (spread(a) != spread(b))
        lone = int((a == b).sum())
        if lone:
            notes.append(f"{lone} autocorrelations are left out")
        flagged = int(sigma.size - np.isfinite(sigma).sum())
        if flagged:
            notes.append(f"{flagged} of {sigma.size} visibilities are flagged or have no parallel hand")
        obs = Observation(
            time=spread(hours), a=spread(a), b=spread(b), u=spread(seconds[0]) * hertz, v=spread(seconds[1]) * hertz,
            vis=np.conj(vis.reshape(-1)) if conjugate else vis.reshape(-1), sigma=sigma.reshape(-1),
            tint=spread(np.where(np.isfinite(tint) & (tint > 0), tint, 0.0)), band=band, frequency=frequency,
            bandwidth=bandwidth, stations=stations, mjd=day, source=clean(str(header.get("OBJECT", ""))),
            ra=_degrees(units[0], "RA", "OBSRA"), dec=_degrees(units[0], "DEC", "OBSDEC"),
            format="uvfits", sha256=sha256(path), label=path.name, warnings=(*notes, *remarks),
        )  # fmt: skip
        return checked(obs.rows(keep))


def _view(units: tuple[Unit, ...]) -> HeaderView:
    main = units[0]
    view: dict[str, FieldView] = {}
    if main.kind != "groups":
        return view
    kind = dtype_class(main.dtype)
    names = _names(main)
    axes = _axes(main)
    view["groups"] = FieldView((main.groups, main.parameters), kind)
    sizes = {name: main.shape[place] for name, place in axes.items()}
    last = main.shape[-1] if main.shape else 0
    shape = (main.groups, *(sizes.get(n, 1) for n in ("IF", "FREQ", "STOKES")), last)
    extra = math.prod(main.shape) // max(math.prod(shape[1:]), 1)
    view["data"] = FieldView(shape if extra == 1 else (*shape, extra), kind)
    for name, prefix in (("UU", "UU"), ("VV", "VV"), ("BASELINE", "BASELINE"), ("DATE", "DATE")):
        if any(n.startswith(prefix) for n in names):
            view[name] = FieldView((), "float")
    if {"ANTENNA1", "ANTENNA2"} <= set(names):
        view["BASELINE"] = FieldView((), "float")
    if "FREQ" in axes:
        place = len(main.shape) - axes["FREQ"] + 1
        view["frequency"] = FieldView((), "float", main.header.get(f"CRVAL{place}"))
    for number in unit_named(units, "AIPS AN")[:1]:
        view["AIPS AN"] = FieldView((rows_of(units[number]),), "table")
    return view


def _names(unit: Unit) -> list[str]:
    """Parameter names; ``_DATE`` counts as DATE."""
    return [str(unit.header.get(f"PTYPE{i}", "")).strip().upper().lstrip("_") for i in range(1, unit.parameters + 1)]


def _axes(unit: Unit) -> dict[str, int]:
    """Position in the array of each named axis (the fastest, COMPLEX, comes last)."""
    count = len(unit.shape)
    names = {str(unit.header.get(f"CTYPE{i + 2}", "")).strip().upper(): count - 1 - i for i in range(count)}
    return {re.split(r"[-\s]", name)[0]: place for name, place in names.items() if name}


def _axis(unit: Unit, name: str, key: str, default: Any = None) -> Any:
    """The header's CRVAL, CDELT or CRPIX of a named axis."""
    axes = _axes(unit)
    return unit.header.get(f"{key}{len(unit.shape) - axes[name] + 1}", default) if name in axes else default


def _ordered(data: NDArray[Any], unit: Unit) -> NDArray[Any]:
    """The array as ``(group, if, channel, stokes, 3)``, whatever the order of the file's axes."""
    axes = _axes(unit)
    present = [axes[name] + 1 for name in ("IF", "FREQ", "STOKES") if name in axes]
    sizes = [unit.shape[axes[name]] if name in axes else 1 for name in ("IF", "FREQ", "STOKES")]
    moved = np.moveaxis(data, [*present, data.ndim - 1], range(data.ndim - len(present) - 1, data.ndim))
    return moved.reshape(len(data), *sizes, 3)


def _index(names: list[str], prefix: str) -> int:
    return next(i for i, name in enumerate(names) if name.startswith(prefix))


def _one_source(names: list[str], parameters: Floats, path: Path) -> None:
    if "SOURCE" in names and len(np.unique(parameters[:, names.index("SOURCE")])) > 1:
        raise InputError(
            "the file holds several sources",
            where=path.name,
            expected="one",
            hint="split it, for example with AIPS SPLIT",
        )


def _times(names: list[str], parameters: Floats, header: Any, notes: list[str], path: Path) -> tuple[int, Floats]:
    """Modified Julian date of the first day, and hours since its beginning."""
    fields = np.array([parameters[:, i] for i, name in enumerate(names) if name.startswith("DATE")])
    # whole days and fractions are summed apart: float64 holds a Julian date to 40 microseconds only
    days, rest = np.floor(fields).sum(0), (fields - np.floor(fields)).sum(0)
    julian = days + rest
    if not bool(((julian > JULIAN[0]) & (julian < JULIAN[1])).all()):
        start = _date_obs(str(header.get("DATE-OBS", "")), path)
        usable = fields[((fields > -1.5) & (fields < 400)).all(1)]
        if not len(usable):
            raise InputError(
                "the DATE parameters are no Julian dates", where=path.name, expected="1900 to 2099",
                found=f"{julian.min():.6g} to {julian.max():.6g}", hint="export the file again",
            )  # fmt: skip
        notes.append("the DATE parameters hold no Julian date: days count from DATE-OBS")
        days = np.floor(usable).sum(0) + start + 2400000.0
        rest = (usable - np.floor(usable)).sum(0) + 0.5
    days = days - 2400000.0
    first = int(np.floor((days + rest - 0.5).min()))
    return first, np.asarray(((days - first) + (rest - 0.5)) * 24.0)


def _date_obs(text: str, path: Path) -> int:
    """Modified Julian date of ``YYYY-MM-DD`` or ``DD/MM/YY``."""
    iso, old = re.match(r"(\d{4})-(\d\d)-(\d\d)", text), re.match(r"(\d\d)/(\d\d)/(\d\d)$", text)
    try:
        if iso:
            day = date(int(iso[1]), int(iso[2]), int(iso[3]))
        elif old:
            day = date(1900 + int(old[3]), int(old[2]), int(old[1]))
        else:
            raise ValueError(text)
    except ValueError:
        raise InputError(
            "the time of the observation is unknown", where=path.name,
            expected="Julian dates in DATE, or DATE-OBS as YYYY-MM-DD", found=repr(clean(text)),
        ) from None  # fmt: skip
    return day.toordinal() - date(1858, 11, 17).toordinal()


def _frequencies(units: tuple[Unit, ...], opened: Any, path: Path) -> tuple[tuple[float, ...], float]:
    """Sky frequency of each (IF, channel), IF slowest, and the bandwidth of one."""
    main, axes = units[0], _axes(units[0])
    value, step = float(_axis(main, "FREQ", "CRVAL")), finite(_axis(main, "FREQ", "CDELT"))
    channels, ifs = main.shape[axes["FREQ"]], main.shape[axes["IF"]] if "IF" in axes else 1
    inside = (np.arange(channels) + 1 - finite(_axis(main, "FREQ", "CRPIX"), 1.0)) * step
    offsets, width = np.zeros(ifs), abs(step)
    tables = [i for i in unit_named(units, "AIPS FQ") if 0 < rows_of(units[i]) <= MAX_ROWS]
    if tables:
        table, rows = opened[tables[0]], rows_of(units[tables[0]])
        found = numbers(table, "IF FREQ", path.name).reshape(rows, -1)
        if found.shape[1] != ifs:
            raise InputError(
                "the frequency table does not fit the data", where=path.name, expected=f"{ifs} IFs",
                found=str(found.shape[1]),
            )  # fmt: skip
        if not (found == found[0]).all():
            raise InputError("the file mixes frequency set-ups", where=path.name, hint="split it by FRQSEL")
        offsets = found[0]
        widths = numbers(table, "TOTAL BANDWIDTH", path.name, default=width * channels).reshape(-1)
        width = abs(finite(widths[0])) / channels or width
    elif ifs > 1:
        raise InputError("there are several IFs, but no AIPS FQ table with their frequencies", where=path.name)
    return tuple(float(f) for f in (value + offsets[:, None] + inside).reshape(-1)), width


def _stokes(data: NDArray[Any], unit: Unit, notes: list[str], path: Path) -> tuple[NDArray[np.complex128], Floats]:
    """Stokes I and its sigma ``(group, band)``; sigma is infinite where there is none."""
    first, step, pixel = (finite(_axis(unit, "STOKES", key), 1.0) for key in ("CRVAL", "CDELT", "CRPIX"))
    codes = [round(first + step * (i + 1 - pixel)) for i in range(data.shape[3])]
    hands = [(i, PARALLEL[code]) for i, code in enumerate(codes) if code in PARALLEL]
    if not hands:
        raise InputError(
            "the file holds no parallel hands and no Stokes I", where=path.name, expected="RR, LL, XX, YY or I",
            found=f"STOKES {codes}",
        )  # fmt: skip
    flat = data.reshape(len(data), -1, len(codes), 3)[:, :, [i for i, _ in hands]].astype(np.float64)
    value, weight = flat[..., 0] + 1j * flat[..., 1], flat[..., 2]
    good = np.isfinite(weight) & (weight > 0) & np.isfinite(value)
    number = good.sum(-1)
    safe, weight = np.maximum(number, 1), np.where(good, weight, 1.0)
    vis = np.where(good, value, 0).sum(-1) / safe
    sigma = np.where(number > 0, np.sqrt(np.where(good, 1 / weight, 0).sum(-1)) / safe, np.inf)
    single = int((number == 1).sum()) if len(hands) == 2 else 0
    if single:
        notes.append(f"{single} visibilities have one parallel hand only: it stands for Stokes I")
    return vis, sigma


def _degrees(unit: Unit, axis: str, key: str) -> float | None:
    value = finite(unit.header.get(key, _axis(unit, axis, "CRVAL")), math.nan)
    return value if -360 <= value <= 360 else None
