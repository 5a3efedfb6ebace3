"""A head made of equations: folded cortex, ventricles, deep grey matter, skull, fat, eyes, in several contrasts.

No template, scan or atlas enters, so the phantom shares nothing with the images a prior was trained on. Tissues are the
insides of implicit surfaces in millimetres (x right, y anterior, z superior), evaluated slice by slice:

- hull: a superellipsoid bent by a smooth random field; ``depth`` is the distance below it;
- sulci: the zero set of a band-limited Gaussian random field ``g`` (a sum of random plane waves), which is a labyrinth
  of lines one fold apart; ``|g| / |grad g|`` is the distance to the nearest line. The field is read at a point pushed
  outwards along the hull's normal, so that folds run inwards as they do in a brain, and they end at a random depth;
- cortex: what lies within the cortical thickness of a sulcus, of a fissure or of the hull;
- everything else: unions of ellipsoids, each slightly displaced by the seed.

Edges are softened over one fine pixel; the image is computed on a grid twice as fine and cut in k-space, as a scanner
does.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from sciinv.errors import UsageError
from sciinv_mri.fft import crop_centre, fftc, ifftc, pad_centre

Array = NDArray[Any]
HEAD_MM = (208.0, 176.0)
"""Default field of view (anterior-posterior, left-right) in millimetres."""

_TISSUES = ("air", "skin", "fat", "muscle", "bone", "marrow", "csf", "grey", "white", "deep", "pallidum", "vitreous")
# relative signal of each tissue in the order of _TISSUES; typical textbook weighting, not fitted to any scan
CONTRASTS: dict[str, tuple[float, ...]] = {
    "t1": (0.0, 0.50, 1.00, 0.38, 0.05, 0.55, 0.14, 0.52, 0.82, 0.60, 0.72, 0.18),
    "t2": (0.0, 0.30, 0.50, 0.22, 0.04, 0.35, 1.00, 0.56, 0.38, 0.48, 0.30, 0.95),
    "pd": (0.0, 0.60, 0.75, 0.60, 0.06, 0.45, 0.95, 0.85, 0.68, 0.78, 0.68, 0.90),
    "flair": (0.0, 0.40, 0.70, 0.35, 0.04, 0.40, 0.08, 0.70, 0.52, 0.60, 0.45, 0.10),
}

# centre and semi-axes in mm of the right half, tilt in the axial plane in degrees; mirrored to the left
_VENTRICLES = (
    ((9, 22, 14), (5, 17, 9), -18),
    ((11, -6, 20), (6, 26, 8), 8),
    ((23, -34, 12), (6, 17, 10), 22),
    ((28, -12, -12), (4, 18, 5), 5),
)
_DEEP = (
    ((14, 16, 10), (5, 13, 11), -15),
    ((26, 4, 4), (6, 16, 11), -12),
    ((12, -15, 9), (10, 15, 10), 20),
)
_PALLIDUM = (((19, -1, 2), (4.5, 9, 7), -15),)


class Waves:
    """A smooth stationary Gaussian random field of unit variance, defined in all of space, by random plane waves."""

    def __init__(self, rng: np.random.Generator, wavelength: float, count: int = 40, spread: float = 0.25):
        direction = rng.normal(size=(count, 3))
        direction /= np.linalg.norm(direction, axis=1, keepdims=True)
        self.k = 2 * np.pi / wavelength * direction * np.exp(spread * rng.normal(size=(count, 1)))
        self.phase = rng.uniform(0, 2 * np.pi, count)
        self.scale = np.sqrt(2 / count)

    def __call__(self, x: Array, y: Array, z: Array | float) -> Array:
        """Value at points in mm; arrays of one shape (``z`` may be a number)."""
        out = np.zeros(np.broadcast_shapes(np.shape(x), np.shape(y)), np.float32)
        for (kx, ky, kz), p in zip(self.k.astype(np.float32), self.phase.astype(np.float32), strict=True):
            out += np.cos(kx * x + ky * y + kz * z + p)
        return out * self.scale


class Head:
    """One random head; `labels` gives its tissue fractions in an axial slice, `slice` its magnitude."""

    def __init__(self, seed: int = 0):
        rng = np.random.default_rng([seed, 20])
        self.semi = np.array([66.0, 84.0, 72.0]) * np.exp(0.03 * rng.normal(size=3))
        self.bend, self.shift = Waves(rng, 90, 12), Waves(rng, 60, 12)
        self.folds, self.fold_depth = Waves(rng, 13.5 * np.exp(0.06 * rng.normal()), 60), Waves(rng, 35, 20)
        self.wall = Waves(rng, 110, 12)
        self.folia, self.texture, self.bias = Waves(rng, 7, 40), Waves(rng, 12, 40), Waves(rng, 220, 8)
        self.thickness = 2.7 + 0.2 * rng.normal()
        self.jitter = rng.normal(size=(16, 3))

    def _ellipsoids(self, parts: Sequence[Any], x: Array, y: Array, z: float, first: int) -> Array:
        """Approximate distance in mm into a union of mirrored ellipsoids (positive inside)."""
        best = np.full(x.shape, -99.0, np.float32)
        for number, (centre, semi, tilt) in enumerate(parts):
            moved = np.asarray(centre) + self.jitter[first + number]
            for side in (1, -1):
                angle = np.deg2rad(side * tilt)
                dx, dy, dz = x - side * moved[0], y - moved[1], (z - moved[2]) / semi[2]
                u = (np.cos(angle) * dx + np.sin(angle) * dy) / semi[0]
                v = (-np.sin(angle) * dx + np.cos(angle) * dy) / semi[1]
                radius = np.sqrt(u * u + v * v + dz * dz)
                best = np.maximum(best, (1 - radius) * min(semi[0], semi[1]))
        return best

    def _depth(self, x: Array, y: Array, z: float) -> tuple[Array, Array, Array]:
        """Distance in mm below the hull of the brain (negative outside) and the outward normal in the slice."""
        a, b, c = self.semi
        a = a * (1 - 0.10 * np.clip(y / b, -1, 1))  # narrower in front
        u, v, w = x / a, y / b, (z - 6) / c
        f = (np.abs(u) ** 2.3 + np.abs(v) ** 2.3 + np.abs(w) ** 2.3 + 1e-6) ** (1 / 2.3)
        gx, gy = u / a, v / b
        norm = np.sqrt(gx * gx + gy * gy) + 1e-6
        local = np.sqrt(u * u + v * v + w * w) / np.sqrt(norm**2 + (w / c) ** 2 + 1e-9)
        return (1 - f) * local + 1.5 * self.bend(x, y, z), gx / norm, gy / norm

    def _pial(self, x: Array, y: Array, z: float, depth: Array, nx: Array, ny: Array, pixel: float) -> Array:
        """Distance in mm from the nearest cerebrospinal surface of the cortex (negative in the fluid)."""
        push = 0.6 * np.clip(depth, 0, 30)
        g = self.folds(x + push * nx, y + push * ny, z)
        steep = np.hypot(*np.gradient(g, pixel))
        line = np.abs(g) / np.maximum(steep, 0.6 * np.sqrt((steep**2).mean()))
        reach = 20 + 6 * self.fold_depth(x, y, z)  # how deep the folds go here
        sulcus = line - 0.55 + np.maximum(0, depth - reach) * 0.8
        # the fissure between the hemispheres, absent around the callosum and the deep nuclei
        core = np.sqrt(((y + 2) / 50) ** 2 + ((z - 8) / 26) ** 2)
        fissure = np.abs(x + 0.8 * self.shift(x, y, z)) - 0.8 + 30 * np.maximum(0, 1 - core)
        # the lateral (Sylvian) fissure with the insula at its bottom
        lateral = np.abs(y - 6 - 3 * self.shift(x, y, z)) - 0.9
        lateral = lateral + np.maximum(0, 36 - np.abs(x)) + np.maximum(0, np.abs(z) - 16)
        return np.minimum(np.minimum(depth - 1.6, sulcus), np.minimum(fissure, lateral))

    def labels(self, x: Array, y: Array, z: float, pixel: float) -> Array:
        """Fraction of every tissue, shape (tissue, *x.shape), at points in mm of the slice at height ``z``."""

        def soft(distance: Array) -> Array:
            return 1 / (1 + np.exp(np.clip(-4 * distance / pixel, -30, 30)))

        depth, nx, ny = self._depth(x, y, z)
        out = np.zeros((len(_TISSUES), *x.shape), np.float32)

        def paint(name: str, distance: Array) -> None:
            inside = soft(distance)
            out[:] *= 1 - inside
            out[_TISSUES.index(name)] += inside

        out[0] = 1
        face = np.clip((-z - 5) / 25, 0, 1) * np.clip(y / 60, 0, 1) * 14  # the face makes low slices longer in front
        wall = 1 + 0.15 * self.wall(x, y, z)
        for name, outside in (("skin", 13.5), ("fat", 11.5), ("muscle", 7.6), ("bone", 6.8), ("marrow", 5.2)):
            paint(name, depth + outside * wall + face * (name in ("skin", "fat", "muscle")))
        paint("bone", depth + 1.6)
        paint("csf", depth)
        pial = self._pial(x, y, z, depth, nx, ny, pixel)
        paint("grey", pial)
        paint("white", pial - self.thickness * (1 + 0.12 * self.fold_depth(x, y, z)))
        callosum = self._ellipsoids((((0, 30, 12), (14, 5, 9), 0), ((0, -30, 14), (14, 5, 8), 0)), x, y, z, 0)
        paint("white", callosum)
        wobble = 0.9 * self.fold_depth(x, y, z)
        paint("deep", self._ellipsoids(_DEEP, x, y, z, 2) + wobble)
        paint("pallidum", self._ellipsoids(_PALLIDUM, x, y, z, 5) + wobble)
        third = self._ellipsoids((((0, -3, 2), (1.8, 14, 10), 0),), x, y, z, 6)
        paint("csf", np.maximum(self._ellipsoids(_VENTRICLES, x, y, z, 7) + wobble, third))
        if z < -15:
            self._low(paint, x, y, z, pixel)
        return out

    def _low(self, paint: Any, x: Array, y: Array, z: float, pixel: float) -> None:
        """Brainstem, cerebellum with its folia, and eyes."""
        cerebellum = self._ellipsoids((((22, -52, -36), (30, 24, 22), 10),), x, y, z, 11)
        g = self.folia(x, y * 1.6, z)
        line = np.abs(g) / np.maximum(np.hypot(*np.gradient(g, pixel)), 0.3)
        paint("csf", cerebellum + 1.5)
        paint("grey", np.minimum(cerebellum, line - 0.2 + np.maximum(0, cerebellum - 9)))
        paint("white", np.minimum(cerebellum - 3, line - 1.2 + np.maximum(0, cerebellum - 9)))
        paint("csf", self._ellipsoids((((0, -20, -40), (16, 14, 45), 0),), x, y, z, 12))
        paint("white", self._ellipsoids((((0, -20, -40), (13, 11, 45), 0),), x, y, z, 12))
        eye = ((31, self.semi[1] - 18, -30), (12, 12, 12), 0)
        paint("fat", self._ellipsoids((((29, self.semi[1] - 30, -30), (15, 26, 15), 25),), x, y, z, 13))
        paint("muscle", self._ellipsoids((eye,), x, y, z, 14) + 1.2)
        paint("vitreous", self._ellipsoids((eye,), x, y, z, 14))

    def magnitude(self, matrix: tuple[int, int], fov_mm: tuple[float, float], z: float, contrast: str = "t1") -> Array:
        """Magnitude of one axial slice on a ``matrix`` grid (rows from front to back, columns from left to right)."""
        if contrast not in CONTRASTS:
            raise UsageError("unknown contrast", expected=", ".join(CONTRASTS), found=contrast)
        rows, columns = (_centred(n, f) for n, f in zip(matrix, fov_mm, strict=True))
        y, x = np.meshgrid(-rows, columns, indexing="ij")
        x, y = x.astype(np.float32), y.astype(np.float32)
        fraction = self.labels(x, y, z, fov_mm[0] / matrix[0])
        signal = np.asarray(CONTRASTS[contrast], np.float32)
        image = np.tensordot(signal, fraction, 1)
        return image * (1 + 0.02 * self.texture(x, y, z)) * (1 + 0.10 * self.bias(x, y, z))


def _centred(n: int, fov: float) -> Array:
    """Pixel centres in mm, with the origin on the pixel where the centred FFT has it."""
    return (np.arange(n) - n // 2) * (fov / n)


def smooth_phase(matrix: tuple[int, int], seed: int, z: float = 0.0, fov_mm: tuple[float, float] = HEAD_MM) -> Array:
    """A smooth background phase in radians: an offset, a tilt, and a random field a hand wide. Shape ``matrix``."""
    rng = np.random.default_rng([seed, 21])
    tilt, offset = rng.normal(size=2), rng.uniform(-np.pi, np.pi)
    field = Waves(rng, 120, 16)
    rows, columns = (_centred(n, f) for n, f in zip(matrix, fov_mm, strict=True))
    y, x = np.meshgrid(-rows, columns, indexing="ij")
    return offset + 0.8 * (tilt[0] * x / 100 + tilt[1] * y / 100) + 0.6 * field(x, y, z)


def resample(image: Array, matrix: tuple[int, int]) -> Array:
    """What a scanner of that matrix and the same field of view would see of ``image`` ``(*, rows, columns)``; complex.

    The centre of k-space is kept (or padded with zeros), and so are the values of the image.
    """
    old = image.shape[-2:]
    k = fftc(torch.from_numpy(np.ascontiguousarray(image, np.complex64)), (-2, -1))
    smaller = (min(old[0], matrix[0]), min(old[1], matrix[1]))
    k = pad_centre(crop_centre(k, smaller), matrix)
    ratio = (matrix[0] * matrix[1] / (old[0] * old[1])) ** 0.5
    return (ifftc(k, (-2, -1)) * ratio).numpy()


def head(
    matrix: tuple[int, int] = (128, 112),
    heights_mm: Sequence[float] = (18.0,),
    *,
    contrast: str = "t1",
    seed: int = 0,
    fov_mm: tuple[float, float] = HEAD_MM,
) -> Array:
    """Complex axial slices of a random head.

    Parameters
    ----------
    matrix : rows (anterior to posterior) and columns (left to right).
    heights_mm : slice positions above the anterior commissure, -45 to 65 mm.
    contrast : one of `CONTRASTS`.
    seed : which head.
    fov_mm : field of view of rows and columns in mm.

    Returns
    -------
    complex64 array ``(slice, rows, columns)``; relative signal, fat near one.
    """
    subject, fine = Head(seed), (2 * matrix[0], 2 * matrix[1])
    slices = []
    for z in heights_mm:
        phase = smooth_phase(fine, seed, z, fov_mm)
        slices.append(resample(subject.magnitude(fine, fov_mm, z, contrast) * np.exp(1j * phase), matrix))
    return np.stack(slices)
