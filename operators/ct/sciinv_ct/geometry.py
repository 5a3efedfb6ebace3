"""Where source, detector and image are: lengths in mm, angles in radians, images in 1/mm.

The object stands still and the gantry turns counter-clockwise by ``theta`` about the z axis; a clockwise scan has
falling angles. With ``e = (cos, sin)``, the direction of detector columns, and ``n = (sin, -cos)`` in the plane of
rotation:

* parallel: the ray of detector coordinate u is ``{u e + t n}``.
* fan and cone: the source is at ``D n``, the detector's centre at ``-(L - D) n`` with L the distance from source to
  detector. A flat detector has its cell u at ``u e`` from there; a curved one lies on a circle about the source with u
  measured along the arc, an angle ``u / L`` from the central ray. Detector rows of a cone lie along z.
* helical: source and detector also rise by ``feed`` a turn, ``z = start + feed theta / (2 pi)``.

An image row is a line of constant y, the first row has the largest y; slices of a volume go with rising z. This is the
convention of the ASTRA toolbox (van Aarle et al., Opt. Express 24, 25129, 2016), checked against it in the tests.
"""

from __future__ import annotations

import dataclasses as dc
import hashlib
import math
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from sciinv.errors import InputError, MismatchError

Kind = Literal["parallel", "fan", "fan_curved", "cone"]
KINDS: tuple[Kind, ...] = ("parallel", "fan", "fan_curved", "cone")
Floats = NDArray[np.float64]


@dc.dataclass(frozen=True)
class Grid:
    """Pixels (or voxels) of the image.

    Parameters
    ----------
    shape : ``(rows, columns)``, or ``(slices, rows, columns)`` for a volume.
    pixel : side of a pixel, mm.
    centre : ``(x, y)`` or ``(x, y, z)`` of the grid's centre relative to the axis of rotation, mm.
    thickness : distance of slices, mm; by default ``pixel``. Volumes only.
    """

    shape: tuple[int, ...]
    pixel: float
    centre: tuple[float, ...] = (0.0, 0.0, 0.0)
    thickness: float | None = None

    def __post_init__(self) -> None:
        put = object.__setattr__
        put(self, "shape", tuple(int(n) for n in self.shape))
        put(self, "pixel", float(self.pixel))
        put(self, "centre", (*map(float, self.centre), 0.0)[:3])
        put(self, "thickness", float(self.pixel if self.thickness is None else self.thickness))
        if len(self.shape) not in (2, 3) or min(self.shape) < 1:
            raise InputError(
                "the image grid is impossible",
                expected="(rows, columns) or (slices, rows, columns)",
                found=str(self.shape),
            )
        sizes = (self.pixel, self.slice, *self.centre)
        if not (all(map(math.isfinite, sizes)) and self.pixel > 0 and self.slice > 0):
            raise InputError("the pixels are impossible", expected="positive, finite mm", found=str(sizes))

    @property
    def slice(self) -> float:
        """Distance of slices, mm."""
        return float(self.thickness or self.pixel)

    @property
    def rows(self) -> int:
        """Number of image rows."""
        return self.shape[-2]

    @property
    def columns(self) -> int:
        """Number of image columns."""
        return self.shape[-1]

    @property
    def slices(self) -> int:
        """Number of slices; 1 for an image."""
        return self.shape[0] if len(self.shape) == 3 else 1

    @property
    def radius(self) -> float:
        """Distance of the corner that is farthest from the grid's centre, in the plane, mm."""
        return 0.5 * self.pixel * math.hypot(self.rows, self.columns)

    def axes(self) -> tuple[Floats, Floats, Floats]:
        """Pixel centres in mm: x ``(columns,)`` rising, y ``(rows,)`` falling, z ``(slices,)`` rising."""

        def line(n: int, step: float, middle: float) -> Floats:
            return np.asarray(middle + step * (np.arange(n) - (n - 1) / 2))

        x, y, z = self.centre
        return (
            line(self.columns, self.pixel, x),
            line(self.rows, -self.pixel, y),
            line(self.slices, self.slice, z),
        )


@dc.dataclass(frozen=True, eq=False)
class Geometry:
    """One scan. Two geometries are equal when their `key` is.

    Parameters
    ----------
    kind : ``parallel``, ``fan`` (flat detector), ``fan_curved`` or ``cone`` (flat detector with rows).
    angles : rotation of each view, radians, ``(views,)``; in any order.
    cells : number of detector columns, or ``(rows, columns)`` for a cone.
    pitch : distance of neighbouring cells *on the detector*, mm (along the arc if curved); or ``(row, column)``.
    grid : the image.
    source_origin : source to axis of rotation, D, mm; diverging beams only.
    source_detector : source to detector, L, mm; diverging beams only.
    offset : detector coordinate u of the middle of the detector, mm: where the centre of rotation is off the middle.
    offset_row : the same along rows (z) of a cone.
    feed : rise of source and detector a turn, mm: a helical cone. Zero for a circle.
    start : z of the source at angle zero, mm.
    columns : indices of the detector columns that are kept, ``None`` for all; set by `subset`.

    Raises
    ------
    InputError
        Angles that look like degrees, distances that cannot be, a geometry that misses the image.
    """

    kind: Kind
    angles: Floats
    cells: int | tuple[int, int]
    pitch: float | tuple[float, float]
    grid: Grid
    source_origin: float = 0.0
    source_detector: float = 0.0
    offset: float = 0.0
    offset_row: float = 0.0
    feed: float = 0.0
    start: float = 0.0
    columns: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        angles = np.array(self.angles, np.float64).reshape(-1) if np.ndim(self.angles) < 2 else self.angles
        put = object.__setattr__
        put(self, "angles", angles)
        both = self.kind == "cone"
        for name, make in (("cells", int), ("pitch", float)):
            value = getattr(self, name)
            pair = tuple(make(v) for v in value) if isinstance(value, (tuple, list)) else None
            if both:
                put(self, name, pair or (make(value), make(value)))
            else:
                put(self, name, pair[-1] if pair else make(value))
        check_numbers(self)
        angles.setflags(write=False)
        check_overlap(self)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Geometry) and self.key == other.key

    def __hash__(self) -> int:
        return hash(self.key)

    @property
    def volume(self) -> bool:
        """Whether images have slices."""
        return self.kind == "cone"

    @property
    def n_rows(self) -> int:
        """Detector rows; 1 for a line detector."""
        return self.cells[0] if isinstance(self.cells, tuple) else 1

    @property
    def n_columns(self) -> int:
        """Detector columns before `subset`."""
        return self.cells[1] if isinstance(self.cells, tuple) else self.cells

    @property
    def pitch_row(self) -> float:
        """Distance of detector rows, mm."""
        return self.pitch[0] if isinstance(self.pitch, tuple) else self.pitch

    @property
    def pitch_column(self) -> float:
        """Distance of detector columns, mm."""
        return self.pitch[1] if isinstance(self.pitch, tuple) else self.pitch

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the sinogram: ``(views, columns)``, or ``(views, rows, columns)`` for a cone."""
        kept = self.n_columns if self.columns is None else len(self.columns)
        return (len(self.angles), self.n_rows, kept) if self.volume else (len(self.angles), kept)

    @property
    def key(self) -> str:
        """Hash of everything that decides the projection matrix; the same on every machine."""
        digest = hashlib.sha256(b"sciinv-ct geometry 1")
        for field in dc.fields(self):
            value = getattr(self, field.name)
            text = value.tobytes() if isinstance(value, np.ndarray) else repr(value).encode()
            digest.update(field.name.encode() + b"=" + text + b";")
        return digest.hexdigest()

    def u(self) -> Floats:
        """Detector coordinate of each kept column, mm."""
        index = np.arange(self.n_columns) if self.columns is None else np.array(self.columns, int)
        return np.asarray(self.offset + self.pitch_column * (index - (self.n_columns - 1) / 2))

    def v(self) -> Floats:
        """Detector coordinate of each row, mm; rising with z."""
        return np.asarray(self.offset_row + self.pitch_row * (np.arange(self.n_rows) - (self.n_rows - 1) / 2))

    def height(self) -> Floats:
        """Height (z) of source and detector at each view, mm."""
        return np.asarray(self.start + self.feed * self.angles / (2 * math.pi))

    def subset(
        self, views: NDArray[np.generic] | slice | None = None, columns: NDArray[np.generic] | slice | None = None
    ) -> Geometry:
        """The geometry of some views and detector columns only: indices, a boolean mask, or a slice of each.

        A projector of the subset has no row of the rest. What is no product of views and columns is a mask of the
        projector (`sciinv_ct.projector`).
        """
        kept = np.arange(self.n_columns) if self.columns is None else np.array(self.columns, int)
        angles = self.angles if views is None else self.angles[_index(views, len(self.angles), "views")]
        if columns is not None:
            kept = kept[_index(columns, len(kept), "detector columns")]
        every = len(kept) == self.n_columns and bool((kept == np.arange(self.n_columns)).all())
        return dc.replace(self, angles=angles, columns=None if every else tuple(int(k) for k in kept))

    def arc(self, first: float, last: float) -> Geometry:
        """The views whose angle lies in ``[first, last]``, radians."""
        slack = 1e-9
        return self.subset((self.angles >= first - slack) & (self.angles <= last + slack))

    def on(self, grid: Grid) -> Geometry:
        """The same scan on another image grid."""
        return dc.replace(self, grid=grid)

    def describe(self) -> str:
        """One line for logs and reports."""
        span = math.degrees(float(self.angles.max() - self.angles.min()))
        shape = " x ".join(map(str, self.grid.shape))
        return f"{self.kind}, {len(self.angles)} views over {span:.4g} degrees, {self.shape[1:]} cells, {shape} image"


def offset_of_centre(centre: float, cells: int, pitch: float) -> float:
    """`Geometry.offset` (mm) when the axis of rotation projects on detector index ``centre`` (0-based, fractional)."""
    return ((cells - 1) / 2 - centre) * pitch


def _index(chosen: NDArray[np.generic] | slice, n: int, what: str) -> NDArray[np.int64]:
    if isinstance(chosen, slice):
        return np.arange(n)[chosen]
    chosen = np.asarray(chosen)
    if chosen.dtype == bool:
        if chosen.shape != (n,):
            raise MismatchError(f"the mask does not fit the {what}", expected=f"({n},)", found=str(chosen.shape))
        chosen = np.flatnonzero(chosen)
    index = chosen.astype(np.int64)
    if index.ndim != 1 or not len(index) or index.min() < 0 or index.max() >= n:
        raise MismatchError(
            f"no such {what}", expected=f"at least one index in 0 to {n - 1}", found=f"{chosen.size} indices"
        )
    return index


def check_numbers(g: Geometry) -> None:
    """Raise `InputError` for what no scanner does."""
    if g.kind not in KINDS:
        raise InputError("no such geometry", expected=", ".join(KINDS), found=repr(g.kind))
    angles = g.angles
    if angles.ndim != 1 or not angles.size or not np.isfinite(angles).all():
        raise InputError("the angles are unusable", expected="finite radians, (views,)", found=str(np.shape(angles)))
    wants = 3 if g.volume else 2
    if len(g.grid.shape) != wants:
        raise MismatchError(
            f"a {g.kind} geometry needs an image of {wants} axes", found=f"{g.grid.shape}",
            hint="(slices, rows, columns) with kind cone, (rows, columns) otherwise",
        )  # fmt: skip
    turning = np.unique(np.round(angles, 9))
    quarter = np.isclose(turning * 4, np.round(turning * 4), rtol=0, atol=1e-7).all() and len(turning) > 2
    limit = math.inf if g.feed else 4 * math.pi + 0.1
    if np.abs(angles).max() > limit or (quarter and np.abs(angles).max() > 1):
        raise InputError(
            "the angles look like degrees", expected="radians", hint="numpy.deg2rad(angles)",
            found=f"{angles.min():g} to {angles.max():g}",
        )  # fmt: skip
    numbers = (g.pitch_row, g.pitch_column, g.source_origin, g.source_detector, g.offset, g.offset_row, g.feed, g.start)
    if not all(map(math.isfinite, numbers)) or min(g.pitch_row, g.pitch_column) <= 0 or min(g.n_rows, g.n_columns) < 1:
        raise InputError(
            "the detector is impossible", expected="at least one cell, a positive pitch and finite distances (mm)",
            found=f"{g.cells} cells, pitch {g.pitch}, distances {numbers[2:]}",
        )  # fmt: skip
    if g.columns is not None and not (len(g.columns) and 0 <= min(g.columns) and max(g.columns) < g.n_columns):
        raise InputError("no such detector columns", expected=f"indices in 0 to {g.n_columns - 1}")
    if g.kind == "parallel":
        if g.source_origin or g.source_detector:
            raise InputError("a parallel beam has no source distance", hint="kind fan, or leave the distances out")
        return
    if not (g.source_origin > 0 and g.source_detector > 0):
        raise InputError(
            f"a {g.kind} beam needs two distances", expected="source_origin and source_detector, positive mm",
            found=f"{g.source_origin:g}, {g.source_detector:g}",
        )  # fmt: skip
    reach = g.grid.radius + math.hypot(*g.grid.centre[:2])
    if g.source_origin <= reach:
        raise InputError(
            "the source would move through the image", expected=f"source_origin above {reach:.4g} mm",
            found=f"{g.source_origin:g} mm", hint="lengths are mm: check the unit of the pixels",
        )  # fmt: skip


def check_overlap(g: Geometry) -> None:
    """Raise `InputError` when no ray of a view crosses the circle about the image, or no row its slices."""
    e = np.stack([np.cos(g.angles), np.sin(g.angles)])
    n = np.stack([e[1], -e[0]])
    x, y, z = g.grid.centre
    along, depth = x * e[0] + y * e[1], x * n[0] + y * n[1]
    u, radius = g.u(), g.grid.radius
    if g.kind == "parallel":
        gap = np.abs(u[None] - along[:, None])
    else:
        slope = np.tan(u / g.source_detector) if g.kind == "fan_curved" else u / g.source_detector
        # distance of the grid's centre from the line through the source at D n with direction slope e - n
        far = g.source_origin - depth
        gap = np.abs(along[:, None] - far[:, None] * slope[None]) / np.sqrt(1 + slope**2)[None]
    missed = gap.min(1) > radius
    if missed.any():
        view = int(missed.argmax())
        raise InputError(
            f"the geometry misses the image: no ray of view {view} crosses it",
            expected=f"a ray within {radius:.4g} mm of the centre of the image",
            found=f"the nearest at {gap[view].min():.4g} mm",
            hint="lengths are mm and the offset is on the detector; check the centre of rotation",
        )
    if not g.volume:
        return
    reach = g.grid.slice * g.grid.slices / 2
    span = g.v() / g.source_detector
    ends = [far[:, None] * span[None, [0, -1]], (far[:, None] - radius) * span[None, [0, -1]]]
    ends.append((far[:, None] + radius) * span[None, [0, -1]])
    low, high = (f(np.stack(ends), (0, 2)) + g.height() for f in (np.min, np.max))
    if ((low > z + reach) | (high < z - reach)).all():
        raise InputError(
            "the geometry misses the volume: no detector row sees a slice",
            expected=f"rows that cross z = {z - reach:.4g} to {z + reach:.4g} mm",
            found=f"{low.min():.4g} to {high.max():.4g} mm",
        )
