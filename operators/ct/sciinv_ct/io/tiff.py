"""A folder of TIFF projections with a YAML file that says what the pixels are; the YAML is the measurement file.

::

    format: ct-tiff
    projections: proj_*.tif      # sorted by name; one view a file, or one multi-page file
    white: white_*.tif           # optional: without them the pixels are line integrals
    dark: dark_*.tif
    angles: {first: 0, last: 180, endpoint: false, unit: deg}     # or {values: [...], unit: deg}
    beam: {kind: fan, pitch: 0.2, source_origin: 410.66, source_detector: 553.74, centre: 279.5}

Rows of a projection are slices (parallel beam); for a fan beam the row named by ``row`` is read (default the middle),
the only one whose rays stay in a plane. Lengths in mm.
"""

from __future__ import annotations

import fnmatch
import os
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sciinv.errors import InputError
from sciinv.io.limits import check_claim, check_file, default_max_bytes, reading, sha256
from sciinv.io.safe_yaml import is_yaml, load_yaml
from sciinv.io.spec import FieldView, HeaderView, check_spec, load_spec
from sciinv_ct.io.scan import AngleUnit, Beam, Scan, blank_scans, check_projections, detector_offset, one_of, radians

SPEC = "ct-tiff"
MODES = {"I;16": "<u2", "I;16B": ">u2", "I": "<i4", "F": "<f4", "L": "u1"}
KEYS = {"format", "projections", "white", "dark", "angles", "beam", "row", "gain"}
MAX_FILES = 20_000
KINDS = ("parallel", "fan", "fan_curved")


def sniff_tiff(path: str | os.PathLike[str]) -> bool:
    """Say whether this is a YAML file with ``format: ct-tiff``; never raises."""
    try:
        path = Path(path)
        if not is_yaml(path) or path.stat().st_size > 1 << 20:
            return False
        return any(line.split("#")[0].strip() == f"format: {SPEC}" for line in path.read_text("utf-8").splitlines())
    except (OSError, ValueError):
        return False


def view_tiff(path: str | os.PathLike[str]) -> HeaderView:
    """The numbers of the YAML file."""
    return _view(_load(check_file(path)))


def read_tiff(
    path: str | os.PathLike[str], *, max_bytes: int | None = None, centre: float | None = None,
    angle_unit: AngleUnit = "auto",
) -> Scan:  # fmt: skip
    """Read the stack that the YAML file describes.

    Parameters
    ----------
    centre : detector index of the axis of rotation, 0-based; before that of the file.
    """
    path = check_file(path)
    with reading(path, "CT geometry YAML"):
        about = _load(path)
        check_spec(_view(about), load_spec(SPEC), where=path.name)
        row = about.get("row")
        beam = dict(about["beam"])
        kind = str(beam.get("kind", "parallel"))
        one_of(kind, KINDS, "beam.kind")

        def rows(height: int) -> slice:
            """The rows of an image that are read."""
            if kind == "parallel" and row is None:
                return slice(None)
            one = height // 2 if row is None else row
            if not (isinstance(one, int) and 0 <= one < height):
                raise InputError("no such row", where=path.name, expected=f"0 to {height - 1}", found=str(one)[:40])
            return slice(one, one + 1)

        data, page = _stack(path, about["projections"], max_bytes, rows)
        counts = None
        if ("white" in about) != ("dark" in about):
            raise InputError("white and dark frames go together", where=path.name, expected="both or neither")
        if "white" in about:
            (white, bright), (dark, black) = (_stack(path, about[name], max_bytes, rows) for name in ("white", "dark"))
            if bright != page or black != page:
                raise InputError("white and dark frames do not fit the projections", where=path.name,
                                 expected=str(page), found=f"{bright}, {black}")  # fmt: skip
            gain = about.get("gain")
            counts = blank_scans(white, dark, path.name, None if gain is None else float(gain))
        values = np.ascontiguousarray(data.transpose(1, 0, 2))
        angles = _angles(about["angles"], values.shape[1], angle_unit, path.name)
        notes = check_projections(values, angles, path.name, counts)
        numbers = {k: float(beam.get(k, 0.0)) for k in ("pitch", "source_origin", "source_detector")}
        if not numbers["pitch"] > 0 or (
            kind != "parallel" and not 0 < numbers["source_origin"] < numbers["source_detector"]
        ):
            raise InputError(
                "the beam is impossible", where=path.name,
                expected="pitch > 0, and 0 < source_origin < source_detector for a fan", found=str(numbers),
            )  # fmt: skip
        axis = beam.get("centre") if centre is None else centre
        if kind == "parallel":
            numbers |= {"source_origin": 0.0, "source_detector": 0.0}
        axis = None if axis is None else float(axis)
        offset = detector_offset(axis, values.shape[2], numbers["pitch"], path.name)
    return Scan(
        values, SPEC, path.name, sha256(path), angles, Beam(kind, **numbers, offset=offset), counts,  # type: ignore[arg-type]
        warnings=tuple(notes),
    )  # fmt: skip


def _load(path: Path) -> dict[str, Any]:
    about = load_yaml(path)
    if not isinstance(about, dict) or set(map(str, about)) - KEYS:
        odd = sorted(set(map(str, about)) - KEYS) if isinstance(about, dict) else [type(about).__name__]
        raise InputError("this is no description of a scan", where=path.name, expected=", ".join(sorted(KEYS)),
                         found=", ".join(odd)[:120])  # fmt: skip
    return about


def _view(about: dict[str, Any]) -> HeaderView:
    view: dict[str, FieldView] = {}

    def put(name: str, value: Any) -> None:
        if isinstance(value, bool):
            view[name] = FieldView((), "bool", value)
        elif isinstance(value, (int, float, str)):
            kind = "text" if isinstance(value, str) else "int" if isinstance(value, int) else "float"
            view[name] = FieldView((), kind, value)
        elif isinstance(value, dict):
            view[name] = FieldView((), "group")
            for key, child in value.items():
                put(f"{name}/{key}", child)
        elif isinstance(value, list):
            good = all(isinstance(v, (int, float)) and not isinstance(v, bool) for v in value)
            view[name] = FieldView((len(value),), "float" if good else "other")

    for key, value in about.items():
        put(str(key), value)
    return view


def _angles(about: Any, views: int, unit: AngleUnit, where: str) -> NDArray[np.float64]:
    declared = str(about.get("unit", "deg"))
    one_of(declared, ("deg", "rad"), "angles.unit")
    if "values" in about:
        values = np.asarray(about["values"], np.float64)
    else:
        first, last = (float(about[k]) for k in ("first", "last"))
        values = np.linspace(first, last, views, endpoint=bool(about.get("endpoint", False)))
    return radians(values, unit, "radians" if declared == "rad" else "degrees", where)


def _stack(
    path: Path, pattern: Any, max_bytes: int | None, rows: Callable[[int], slice]
) -> tuple[NDArray[np.float32], tuple[int, int]]:
    """Rows of the pages of all files that match, ``(page, row, column)``, and the size of a page.

    Nothing outside the folder of the YAML file is read, and no more than one page is held beside the rows.
    """
    name = str(pattern)
    if Path(name).name != name or name.startswith("."):
        raise InputError("only files beside the YAML file are read", where=path.name, expected="a name or pattern",
                         found=name[:80])  # fmt: skip
    names = sorted(p for p in os.listdir(path.parent) if fnmatch.fnmatchcase(p, name))
    if not 1 <= len(names) <= MAX_FILES:
        raise InputError("no file matches" if not names else "too many files match", where=path.name,
                         expected=f"1 to {MAX_FILES:,} files", found=f"{len(names)} for {name[:60]}")  # fmt: skip
    limit = default_max_bytes() if max_bytes is None else max_bytes
    kept: list[NDArray[np.float32]] = []
    size: tuple[int, int] | None = None
    for file in names:
        for page in _pages(path.parent / file, limit):
            size = size or page.shape
            if page.shape != size:
                raise InputError("the images differ in size", where=file, expected=str(size), found=str(page.shape))
            kept.append(page[rows(size[0])].astype(np.float32))  # a copy: a view would keep the page
            limit -= kept[-1].nbytes
            if limit < 0:
                raise InputError("the stack is larger than allowed", where=path.name, hint="raise --max-bytes")
    assert size is not None
    return np.stack(kept), size


def _pages(path: Path, limit: int) -> Iterator[NDArray[Any]]:
    """The pages of a file, one at a time."""
    from PIL import Image

    path = check_file(path)
    with reading(path, "TIFF"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with Image.open(path, formats=("TIFF",)) as image:
            for index in range(min(int(getattr(image, "n_frames", 1)), MAX_FILES)):
                image.seek(index)
                width, height = image.size
                if image.mode not in MODES:
                    raise InputError("the pixels are no counts", where=path.name,
                                     expected="grey, 8, 16 or 32 bits", found=image.mode)  # fmt: skip
                check_claim(4 * width * height, path.stat().st_size, where=path.name, max_bytes=limit)
                yield np.asarray(image)
