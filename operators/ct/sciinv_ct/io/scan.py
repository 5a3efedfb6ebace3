"""What every CT reader returns: projections of slices as they were measured, or images for a retrospective study."""

from __future__ import annotations

import dataclasses as dc
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from sciinv.errors import InputError, UsageError
from sciinv_ct.geometry import offset_of_centre

Array = NDArray[np.float32]
AngleUnit = Literal["auto", "deg", "rad"]

MU_WATER = 0.0195
"""Attenuation of water in 1/mm at about 65 keV; maps Hounsfield units to attenuation where nothing better is known."""

LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
"""RAS to the coordinates of DICOM, and back."""

FEW = 20
"""With fewer views than this a short arc in degrees cannot be told from radians."""


@dc.dataclass(frozen=True)
class Beam:
    """The scan without its image grid; lengths in mm, conventions of `sciinv_ct.geometry`.

    Attributes
    ----------
    offset : detector coordinate of the middle of the detector; ``(cells - 1)/2`` minus the centre of rotation, times
        ``pitch``.
    """

    kind: Literal["parallel", "fan", "fan_curved"]
    pitch: float
    source_origin: float = 0.0
    source_detector: float = 0.0
    offset: float = 0.0

    @property
    def magnification(self) -> float:
        """Detector over object lengths, on the axis of rotation."""
        return self.source_detector / self.source_origin if self.source_origin else 1.0


@dc.dataclass(frozen=True)
class Counts:
    """Blank scans in the units of the counts; the variance of a single frame shows gain and electronic noise.

    Attributes
    ----------
    white, dark : means, ``(slice, cell)``.
    white_variance, dark_variance : of one frame, ``(slice, cell)``; ``None`` where there is only one.
    gain : counts per photon, where the file says.
    """

    white: Array
    dark: Array
    white_variance: Array | None = None
    dark_variance: Array | None = None
    gain: float | None = None

    def select(self, items: Sequence[int]) -> Counts:
        """The blank scans of some slices."""

        def pick(a: Array | None) -> Array | None:
            return None if a is None else a[list(items)]

        return dc.replace(
            self, white=self.white[list(items)], dark=self.dark[list(items)],
            white_variance=pick(self.white_variance), dark_variance=pick(self.dark_variance),
        )  # fmt: skip


@dc.dataclass(frozen=True)
class Placement:
    """Where the pixels of an image are: spacing and, in DICOM, patient coordinates (LPS, mm).

    Attributes
    ----------
    pixel : row and column spacing.
    thickness : distance of slices.
    origin : centre of the first pixel of every slice, ``(slice, 3)``.
    orientation : direction cosines of a row (rising columns), then of a column (rising rows).
    affine : 4 x 4 from (column, row, slice) indices to RAS mm; ``None`` without an orientation.
    """

    pixel: tuple[float, float]
    thickness: float
    origin: NDArray[np.float64] | None = None
    orientation: tuple[float, ...] | None = None
    affine: NDArray[np.float64] | None = None

    @classmethod
    def of_affine(cls, affine: NDArray[np.float64], slices: int, known: bool = True) -> Placement:
        """Where the affine puts the slices: its spacing alone where no orientation is known.

        DICOM has no words for sheared axes; such a volume keeps its affine but gets no origin.
        """
        sizes = np.sqrt((affine[:3, :3] ** 2).sum(0))
        place = cls((float(sizes[1]), float(sizes[0])), float(sizes[2]))
        if not known:
            return place
        turned = LPS @ affine
        along = turned[:3, :3] / sizes
        place = dc.replace(place, affine=affine)
        if abs(along.T @ along - np.eye(3)).max() > 1e-3:
            return place
        origin = turned[:3, 3] + np.arange(slices)[:, None] * turned[:3, 2]
        return dc.replace(place, origin=origin, orientation=tuple(along[:, :2].T.ravel().tolist()))


@dc.dataclass(frozen=True)
class Scan:
    """Projections or images of one or several slices.

    Attributes
    ----------
    values : float32 ``(slice, view, cell)``: counts where ``counts`` is given, else line integrals (no unit); of a
        retrospective study images ``(slice, row, column)`` in 1/mm, row 0 at the top.
    angles, beam : of projections; ``None`` for images.
    reference : ``(slice, n, n)`` in 1/mm over the circle that every view sees, where the file has a truth.
    place : of images.
    units : of the output, ``HU`` or ``1/mm``.
    mu_water : in 1/mm, behind Hounsfield units.
    label : a name that identifies nobody; ``source`` is the file's.
    """

    values: Array
    format: str
    source: str
    sha256: str
    angles: NDArray[np.float64] | None = None
    beam: Beam | None = None
    counts: Counts | None = None
    reference: Array | None = None
    reference_pixel: float = 0.0
    place: Placement | None = None
    units: Literal["HU", "1/mm"] = "1/mm"
    mu_water: float = MU_WATER
    facts: Mapping[str, Any] = dc.field(default_factory=dict)
    warnings: tuple[str, ...] = ()

    @property
    def label(self) -> str:
        """For messages."""
        return self.source

    @property
    def is_image(self) -> bool:
        """Whether the file holds images, whose projections have to be simulated."""
        return self.beam is None

    def __len__(self) -> int:
        return len(self.values)

    def select(self, items: Sequence[int]) -> Scan:
        """Some slices."""
        place = self.place
        if place is not None and place.origin is not None:
            place = dc.replace(place, origin=place.origin[list(items)])
        return dc.replace(
            self, values=self.values[list(items)], place=place,
            counts=None if self.counts is None else self.counts.select(items),
            reference=None if self.reference is None else self.reference[list(items)],
        )  # fmt: skip

    def info(self) -> dict[str, Any]:
        """Facts for ``sciinv info``: JSON-ready, nobody's name."""
        out: dict[str, Any] = {"format": self.format, "sha256": self.sha256, "items": len(self)}
        if self.is_image:
            assert self.place is not None
            out |= {"holds": "images (retrospective)", "shape": list(self.values.shape[1:])}
            out |= {"pixel_mm": [round(v, 5) for v in self.place.pixel], "output_units": self.units}
        else:
            assert self.beam is not None and self.angles is not None
            degrees = np.rad2deg(self.angles)
            out |= {
                "holds": "counts and blank scans" if self.counts is not None else "line integrals",
                "beam": self.beam.kind, "views": len(self.angles), "cells": self.values.shape[2],
                "angles_degrees": [round(float(degrees.min()), 4), round(float(degrees.max()), 4)],
                "pitch_mm": self.beam.pitch,
            }  # fmt: skip
            if self.beam.source_origin:
                out |= {"source_origin_mm": self.beam.source_origin, "source_detector_mm": self.beam.source_detector}
        return out | dict(self.facts) | {"warnings": list(self.warnings)}


def radians(angles: NDArray[Any], unit: AngleUnit, declared: str, where: str) -> NDArray[np.float64]:
    """Angles of the views in radians, after a look at whether the unit can be right.

    Parameters
    ----------
    unit : what the user says; ``auto`` believes ``declared`` (the file's word, may be empty: degrees).
    """
    values = np.asarray(angles, np.float64).reshape(-1)
    if not values.size or not np.isfinite(values).all():
        raise InputError("the angles are not finite numbers", where=where, expected="one angle a view")
    named = declared.strip().lower()
    is_rad = unit == "rad" or (unit == "auto" and named.startswith("rad"))
    span = float(values.max() - values.min())
    if is_rad and (np.abs(values).max() > 8 * np.pi or span > 4 * np.pi + 0.1):
        raise InputError(
            "the angles look like degrees", where=where, expected="radians",
            found=f"{values.min():g} to {values.max():g}", hint="--set input.angle_unit=deg",
        )  # fmt: skip
    if not is_rad and unit == "auto" and len(values) > FEW and 0 < span <= 2 * np.pi + 0.1:
        raise InputError(
            f"{len(values)} views span only {span:.4g} degrees: the angles look like radians", where=where,
            expected=f"degrees{' (' + declared + ')' if declared else ''}",
            hint="--set input.angle_unit=rad, or deg if they are right",
        )  # fmt: skip
    if not is_rad and (np.abs(values).max() > 1440 or span > 720.5):
        raise InputError(
            "the angles are out of range", where=where, expected="at most two turns, in degrees",
            found=f"{values.min():g} to {values.max():g}",
        )  # fmt: skip
    return values if is_rad else np.deg2rad(values)


def blank_scans(white: NDArray[Any], dark: NDArray[Any], where: str, gain: float | None = None) -> Counts:
    """Means and variances of blank frames ``(frame, slice, cell)``, refused where they cannot be right."""
    w, d = (np.asarray(a, np.float64) for a in (white, dark))
    for name, frames in (("white", w), ("dark", d)):
        if not np.isfinite(frames).all():
            raise InputError(f"the {name} frames hold NaN or infinity", where=where, expected="finite counts")
    mean_w, mean_d = w.mean(0), d.mean(0)
    if float(np.median(mean_w)) <= float(np.median(mean_d)):
        raise InputError(
            "the dark frames are above the white ones", where=where, expected="white > dark",
            found=f"medians {np.median(mean_w):.5g} and {np.median(mean_d):.5g}", hint="they may be exchanged",
        )  # fmt: skip

    def spread(frames: NDArray[np.float64]) -> Array | None:
        return None if len(frames) < 2 else frames.var(0, ddof=1).astype(np.float32)

    return Counts(mean_w.astype(np.float32), mean_d.astype(np.float32), spread(w), spread(d), gain)


def check_projections(values: Array, angles: NDArray[np.float64], where: str, counts: Counts | None) -> list[str]:
    """Refuse projections that no scanner measures; returns warnings."""
    if values.ndim != 3 or min(values.shape) < 1 or values.shape[2] < 2:
        raise InputError("the projections have no usable shape", where=where, expected="(slice, view, cell)",
                         found=str(values.shape))  # fmt: skip
    if values.shape[1] != len(angles):
        raise InputError(
            "the number of angles is not the number of views", where=where, expected=f"{values.shape[1]} angles",
            found=str(len(angles)),
        )  # fmt: skip
    if not np.isfinite(values).all():
        raise InputError("the projections hold NaN or infinity", where=where, expected="finite numbers")
    notes: list[str] = []
    if counts is None:
        high = float(np.quantile(values, 0.999))
        if high > 50 or float(np.quantile(values, 0.001)) < -5:
            raise InputError(
                "these are no line integrals", where=where, expected="-log(counts / blank), 0 to about 10",
                found=f"99.9th percentile {high:.4g}", hint="counts need white and dark frames",
            )  # fmt: skip
        return notes
    if values.shape[2] != counts.white.shape[1] or counts.white.shape != counts.dark.shape:
        raise InputError(
            "the blank scans do not fit the detector", where=where, expected=f"{values.shape[2]} cells",
            found=f"white {counts.white.shape[1]}, dark {counts.dark.shape[1]}",
        )  # fmt: skip
    net = values - counts.dark[:, None]
    floor = 0.0 if counts.dark_variance is None else 3 * np.sqrt(counts.dark_variance)[:, None]
    empty = float((net <= floor).mean())
    if not (values > 0).any() or empty > 0.5:
        raise InputError(
            "the detector counted next to nothing", where=where, expected="counts above the dark level",
            found=f"{100 * empty:.0f} % of the readings within its noise",
        )  # fmt: skip
    if empty > 0.001:
        notes.append(f"{100 * empty:.2g} % of the readings are not above the dark level (photon starvation)")
    dead = (counts.white <= counts.dark).mean()
    if dead > 0:
        notes.append(f"{100 * dead:.2g} % of the detector cells are dead (white at or below dark) and are left out")
    return notes


def detector_offset(centre: float | None, cells: int, pitch: float, where: str) -> float:
    """`Beam.offset` for an axis of rotation that projects on detector index ``centre``; ``None`` is the middle."""
    if centre is None:
        return 0.0
    if not 0 <= centre <= cells - 1:
        raise InputError(
            "the centre of rotation is off the detector", where=where, expected=f"0 to {cells - 1}", found=f"{centre:g}"
        )
    return offset_of_centre(centre, cells, pitch)


def square(image: NDArray[Any]) -> bool:
    """Whether an array is a stack of square images."""
    return image.ndim == 3 and image.shape[1] == image.shape[2]


def one_of(value: str, allowed: Sequence[str], name: str) -> None:
    """Refuse a word that is none of these."""
    if value not in allowed:
        raise UsageError(f"{name} is unknown", expected=", ".join(allowed), found=str(value)[:40])
