"""DICOM CT images, classic and enhanced, for retrospective studies: stored values to Hounsfield units to attenuation.

``HU = stored * RescaleSlope + RescaleIntercept`` (PS3.3 C.11.1; an enhanced image keeps both in its functional groups),
``mu = mu_water (1 + HU / 1000)``, not below zero. Pixels of the padding value lie outside the scan and become air.
Positions and directions are those of the patient (LPS, mm). Nobody's name leaves this reader.
"""

from __future__ import annotations

import dataclasses as dc
import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sciinv.errors import InputError
from sciinv.io.limits import check_claim, check_file, default_max_bytes, reading, sha256
from sciinv.io.spec import FieldView, HeaderView, check_spec, load_spec
from sciinv_ct.io.scan import LPS, MU_WATER, Placement, Scan

SPEC = "dicom-ct"
PLAIN = ("1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2")
"""Uncompressed transfer syntaxes; deflated ones could be a bomb, encapsulated ones need codecs."""
DEFLATED = "1.2.840.10008.1.2.1.99"
CLASSES = ("1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.2.1", "1.2.840.10008.5.1.4.1.1.2.2")
"""SOP classes of CT images: classic, enhanced, converted."""
MAX_SERIES = 2000
TAGS = ("Modality", "Rows", "Columns", "SamplesPerPixel", "BitsAllocated", "PhotometricInterpretation")


def sniff_dicom(path: str | os.PathLike[str]) -> bool:
    """Say whether this is a DICOM file with a CT image, compressed or not; never raises."""
    import pydicom

    try:
        path = Path(path)
        with open(path, "rb") as file:
            if not path.is_file() or file.read(132)[128:] != b"DICM":
                return False
        with reading(path, "DICOM"):
            meta = pydicom.filereader.read_file_meta_info(path)
            if str(meta.get("MediaStorageSOPClassUID", "")) in CLASSES:
                return True
            if str(meta.get("TransferSyntaxUID", "")) == DEFLATED:
                return False
            header = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=["Modality"])
            return str(header.get("Modality", "")) == "CT"
    except (InputError, OSError, ValueError):
        return False


def view_dicom(path: str | os.PathLike[str]) -> HeaderView:
    """What the header says about the image."""
    path = check_file(path)
    with reading(path, "DICOM"):
        return _view(_dataset(path, pixels=False))


def read_dicom(
    path: str | os.PathLike[str], *, max_bytes: int | None = None, mu_water: float = MU_WATER, series: bool = False
) -> Scan:
    """Read one file, or with ``series`` all files of its folder that belong to the same series, by position.

    Parameters
    ----------
    mu_water : attenuation of water in 1/mm at the effective energy of the scan.
    """
    path = check_file(path)
    if not 1e-3 < mu_water < 1:
        raise InputError("mu_water is impossible", expected="1/mm, about 0.02", found=f"{mu_water:g}")
    with reading(path, "DICOM"):
        first = _slices(path, max_bytes)
        found = [first]
        if series:
            found = _series(path, first, max_bytes)
        hu = np.concatenate([f.hu for f in found])
        origin = None if any(f.origin is None for f in found) else np.concatenate([f.origin for f in found])  # type: ignore[misc]
        notes = list(first.notes)
        if origin is not None and first.orientation is not None and len(origin) > 1:
            normal = np.cross(first.orientation[:3], first.orientation[3:])
            order = np.argsort(origin @ normal, kind="stable")
            hu, origin = hu[order], origin[order]
            steps = np.diff(origin @ normal)
            first = dc.replace(first, thickness=float(np.median(np.abs(steps)))) if np.abs(steps).max() > 0 else first
            if np.ptp(steps) > 0.01 * max(float(np.abs(steps).max()), 1e-6):
                notes.append("the slices are not evenly spaced: NIfTI maps carry the median spacing")
        if hu.max() <= -900:
            raise InputError("the image holds nothing but air", where=path.name, expected="values above -900 HU",
                             found=f"at most {hu.max():.5g} HU")  # fmt: skip
        values = np.maximum(mu_water * (1 + hu / 1000), 0).astype(np.float32)
        place = Placement(first.pixel, first.thickness, origin, first.orientation)
        place = dc.replace(place, affine=_affine(place))
    return Scan(
        np.ascontiguousarray(values), SPEC, path.name, sha256(path), place=place, units="HU", mu_water=mu_water,
        facts={"hu_range": [float(hu.min()), float(hu.max())], "padding_pixels": sum(f.padded for f in found)},
        warnings=tuple(notes),
    )  # fmt: skip


@dc.dataclass(frozen=True)
class _File:
    hu: NDArray[np.float64]
    pixel: tuple[float, float]
    thickness: float
    origin: NDArray[np.float64] | None
    orientation: tuple[float, ...] | None
    padded: int
    series: str
    notes: tuple[str, ...]


def _dataset(path: Path, *, pixels: bool) -> Any:
    import pydicom

    meta = pydicom.filereader.read_file_meta_info(path)
    syntax = str(meta.get("TransferSyntaxUID", ""))
    if syntax not in PLAIN:
        raise InputError(
            "compressed pixels are not read", where=path.name, expected="an uncompressed transfer syntax",
            found=syntax or "none", hint="gdcmconv --raw IN OUT",
        )  # fmt: skip
    return pydicom.dcmread(path, stop_before_pixels=not pixels)


def _view(ds: Any) -> HeaderView:
    view: dict[str, FieldView] = {}
    for name in TAGS:
        value = ds.get(name)
        if value is not None:
            text = isinstance(value, str)
            view[name] = FieldView((), "text" if text else "int", str(value) if text else int(value))
    spacing = _measures(ds)
    if spacing is not None:
        view["PixelSpacing"] = FieldView((2,), "float", spacing)
    return view


def _group(ds: Any, frame: int, name: str) -> Any:
    """The functional group of a frame: its own, else the shared one; the data set itself where there are none."""
    for place, index in (("PerFrameFunctionalGroupsSequence", frame), ("SharedFunctionalGroupsSequence", 0)):
        groups = ds.get(place)
        if groups is not None and index < len(groups) and groups[index].get(name):
            return groups[index].get(name)[0]
    return ds


def _measures(ds: Any) -> tuple[float, float] | None:
    spacing = _group(ds, 0, "PixelMeasuresSequence").get("PixelSpacing")
    return None if spacing is None or len(spacing) != 2 else (float(spacing[0]), float(spacing[1]))


def _slices(path: Path, max_bytes: int | None) -> _File:
    size = path.stat().st_size
    limit = default_max_bytes() if max_bytes is None else max_bytes
    if size > limit:
        raise InputError("the file is larger than allowed", where=path.name, expected=f"at most {limit:,} bytes")
    ds = _dataset(path, pixels=True)
    check_spec(_view(ds), load_spec(SPEC), where=path.name)
    if str(ds.Modality) != "CT":
        raise InputError("this is no CT image", where=path.name, expected="modality CT", found=str(ds.Modality)[:16])
    if str(ds.PhotometricInterpretation) != "MONOCHROME2":
        raise InputError("this is no grey image", where=path.name, expected="MONOCHROME2",
                         found=str(ds.PhotometricInterpretation)[:16])  # fmt: skip
    frames, rows, columns, bits = (
        int(ds.get("NumberOfFrames") or 1),
        int(ds.Rows),
        int(ds.Columns),
        int(ds.BitsAllocated),
    )
    need, pixels = frames * rows * columns * bits // 8, ds.get("PixelData") or b""
    if not 1 <= frames <= 100_000 or not need <= len(pixels) <= need + 2:
        raise InputError(
            "the pixels do not fit the header", where=path.name,
            expected=f"{need:,} bytes for {frames} x {rows} x {columns}", found=f"{len(pixels):,} bytes",
        )  # fmt: skip
    check_claim(4 * need, size, where=path.name, max_bytes=max_bytes)
    signed = int(ds.get("PixelRepresentation") or 0)
    kind = np.dtype(f"{'i' if signed else 'u'}{bits // 8}").newbyteorder("<" if ds.is_little_endian else ">")  # type: ignore[attr-defined]
    stored = np.frombuffer(pixels, kind, frames * rows * columns).reshape(frames, rows, columns)
    stored = stored.astype(np.int64)
    used = int(ds.get("BitsStored") or bits)
    if not 1 <= used <= bits:
        raise InputError("BitsStored is impossible", where=path.name, expected=f"1 to {bits}", found=str(used))
    stored &= (1 << used) - 1  # the bits above may hold overlays
    if signed:
        stored = np.where(stored >= 1 << (used - 1), stored - (1 << used), stored)
    padding = ds.get("PixelPaddingValue")
    outside = np.zeros(stored.shape, bool) if padding is None else stored == _as_signed(int(padding), bits, signed)
    hu, origins, notes = np.empty(stored.shape), [], []
    for k in range(frames):
        rescale = _group(ds, k, "PixelValueTransformationSequence")
        slope, intercept = (rescale.get(n) for n in ("RescaleSlope", "RescaleIntercept"))
        kind_of = str(rescale.get("RescaleType") or "HU")
        if slope is None or intercept is None or not float(slope) > 0 or kind_of not in ("HU", "US"):
            raise InputError(
                "stored values cannot be turned into Hounsfield units", where=path.name,
                expected="RescaleSlope above 0, RescaleIntercept, RescaleType HU",
                found=f"{slope}, {intercept}, {kind_of}"[:80],
            )  # fmt: skip
        hu[k] = stored[k] * float(slope) + float(intercept)
        where = _group(ds, k, "PlanePositionSequence").get("ImagePositionPatient")
        origins.append(None if where is None or len(where) != 3 else [float(v) for v in where])
    hu[outside] = -1000.0
    if not np.isfinite(hu).all() or np.abs(hu).max() > 1e6:
        raise InputError(
            "the Hounsfield units are out of range", where=path.name, found=f"up to {np.abs(hu).max():.3g}"
        )
    if outside.any():
        notes.append(f"{int(outside.sum())} pixels outside the scan (padding value) are taken as air")
    if hu.min() < -1100:
        notes.append(f"values down to {hu.min():.0f} HU: below air, taken as air")
    spacing = _measures(ds)
    assert spacing is not None
    direction = _group(ds, 0, "PlaneOrientationSequence").get("ImageOrientationPatient")
    axes = None if direction is None or len(direction) != 6 else tuple(float(v) for v in direction)
    if axes is None or None in origins:
        notes.append("the file gives no position or orientation: maps carry the pixel size alone")
        axes = None
    thick = float(_group(ds, 0, "PixelMeasuresSequence").get("SliceThickness") or spacing[0])
    return _File(
        hu, spacing, thick if 1e-3 < thick < 1e3 else spacing[0],
        None if axes is None else np.array(origins, np.float64), axes, int(outside.sum()),
        str(ds.get("SeriesInstanceUID") or ""), tuple(notes),
    )  # fmt: skip


def _as_signed(value: int, bits: int, signed: int) -> int:
    """A padding value whose representation does not follow that of the pixels."""
    value &= (1 << bits) - 1
    return value - (1 << bits) if signed and value >= 1 << (bits - 1) else value


def _series(path: Path, first: _File, max_bytes: int | None) -> list[_File]:
    """All slices of the folder with the series of ``first``."""
    beside = sorted(p for p in path.parent.iterdir() if p.is_file() and p != path)
    if len(beside) > MAX_SERIES:
        raise InputError("too many files beside this one", where=path.name, expected=f"at most {MAX_SERIES:,}")
    found = [first]
    for other in beside:
        if not sniff_dicom(other):
            continue
        if str(_dataset(other, pixels=False).get("SeriesInstanceUID") or "") != first.series:
            continue
        one = _slices(other, max_bytes)
        if one.hu.shape[1:] != first.hu.shape[1:] or one.pixel != first.pixel or one.orientation != first.orientation:
            raise InputError("the slices of the series differ in size or orientation", where=other.name)
        found.append(one)
    return found


def _affine(place: Placement) -> NDArray[np.float64] | None:
    """(column, row, slice) to RAS mm (PS3.3 C.7.6.2.1.1, x and y turned from LPS)."""
    if place.origin is None or place.orientation is None:
        return None
    along_row, along_column = np.array(place.orientation[:3]), np.array(place.orientation[3:])
    normal = np.cross(along_row, along_column)
    if not all(abs(np.linalg.norm(v) - 1) < 1e-3 for v in (along_row, along_column, normal)):
        return None
    out = np.eye(4)
    out[:3, 0], out[:3, 1] = along_row * place.pixel[1], along_column * place.pixel[0]
    out[:3, 2], out[:3, 3] = normal * place.thickness, place.origin[0]
    return LPS @ out
