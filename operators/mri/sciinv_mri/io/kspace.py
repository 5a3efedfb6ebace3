"""`KSpace`: what every MRI reader returns, and the checks that physics asks of it.

Arrays are (slice, coil, kx, ky): readout second last, phase encoding last. k-space is centred: sample ``N // 2`` of
each axis is the zero frequency, as in ``fftshift(fft(ifftshift(x)))`` with orthonormal scaling.
"""

from __future__ import annotations

import dataclasses as dc
import itertools
import re
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sciinv.errors import InputError

_BIDS_NAME = re.compile(r"sub-[A-Za-z0-9]+(_[a-z]+-[A-Za-z0-9]+)*(_[A-Za-z0-9]+)?\.[a-z0-9.]+")


@dc.dataclass(frozen=True)
class KSpace:
    """Multi-coil Cartesian k-space of one 2-D multi-slice scan.

    Attributes
    ----------
    kspace
        complex64 (slice, coil, kx, ky); zero where nothing was measured.
    mask
        bool, broadcastable to (slice, kx, ky); True only where a sample was truly measured, never in zero padding.
    ky_range
        Columns ``[left, right)`` that the scanner could have measured; outside is zero padding.
    target
        (h, w): size of the final image, of which the image grid (kx, ky) is cropped about its centre.
    voxel
        (row, column, slice) spacing in mm, or None when unknown.
    affine
        4 x 4, maps (column, row, slice) indices of the `target` image to RAS mm, or None when unknown.
    noise
        complex64 (coil, sample) noise prescan, scaled to the bandwidth of the imaging samples, or None.
    averages
        int (slice or 1, ky): how many acquisitions were averaged in each line, or None when each was measured once.
        The noise variance of a line is that of the prescan divided by this number.
    reference
        float32 (slice, h, w) magnitude of a fully sampled reconstruction, or None.
    meta
        Names and numbers that are safe to publish: protocol, contrast, field strength. Never a name, an ID or a date.
    source, sha256
        Base name and hash of the file. The name may identify a patient: show `label` instead.
    phi_present
        True when the file holds fields that may identify a patient; they are not copied.
    warnings
        Sentences for the user.
    """

    kspace: NDArray[np.complex64]
    mask: NDArray[np.bool_]
    ky_range: tuple[int, int]
    target: tuple[int, int]
    format: str
    voxel: tuple[float, float, float] | None = None
    affine: NDArray[np.float64] | None = None
    noise: NDArray[np.complex64] | None = None
    averages: NDArray[np.int32] | None = None
    reference: NDArray[np.float32] | None = None
    meta: Mapping[str, Any] = dc.field(default_factory=dict)
    source: str = ""
    sha256: str = ""
    phi_present: bool = False
    warnings: tuple[str, ...] = ()

    @property
    def acceleration(self) -> float:
        """Net acceleration: samples that could have been measured over samples that were, padding not counted."""
        left, right = self.ky_range
        inside = self.mask[..., left:right] if self.mask.shape[-1] > 1 else self.mask
        return float(1.0 / inside.mean())

    @property
    def undersampled(self) -> bool:
        """Whether anything inside `ky_range` is missing."""
        return self.acceleration > 1.0 + 1e-6

    @property
    def one_dimensional(self) -> bool:
        """Whether whole readouts are measured or missing, so that the problem decouples along the readout."""
        return self.mask.shape[-2] == 1

    @property
    def label(self) -> str:
        """A name that is safe to print and store: the base name if it is a BIDS one, else the head of the hash."""
        return self.source if _BIDS_NAME.fullmatch(self.source) else f"input-{self.sha256[:8] or 'array'}"

    def select(self, slices: slice | list[int]) -> KSpace:
        """Keep some slices (indices into the first axis); the affine follows when they are consecutive."""
        index = list(range(len(self.kspace)))[slices] if isinstance(slices, slice) else list(slices)
        if not index or not all(0 <= i < len(self.kspace) for i in index):
            raise InputError(
                "no such slice", where=self.label, expected=f"0 to {len(self.kspace) - 1}", found=str(index)
            )

        def pick(array: NDArray[Any] | None) -> NDArray[Any] | None:
            return array if array is None or len(array) == 1 else array[index]

        affine = self.affine
        if affine is not None:
            steps = {b - a for a, b in itertools.pairwise(index)} or {1}
            affine = affine.copy()
            affine[:3, 3] += affine[:3, 2] * index[0]
            affine = None if len(steps) > 1 else affine @ np.diag([1.0, 1.0, float(steps.pop()), 1.0])
        mask, kspace = pick(self.mask), self.kspace[index]
        assert mask is not None
        averages, reference = pick(self.averages), None if self.reference is None else self.reference[index]
        return dc.replace(self, kspace=kspace, mask=mask, affine=affine, averages=averages, reference=reference)

    def info(self) -> dict[str, Any]:
        """Facts for ``sciinv info``, JSON-ready and free of patient data."""
        slices, coils, rows, columns = self.kspace.shape
        return {
            "format": self.format,
            "input": self.label,
            "sha256": self.sha256,
            "slices": slices,
            "coils": coils,
            "readout": rows,
            "phase_encodes": columns,
            "measured_range": list(self.ky_range),
            "image_size": list(self.target),
            "acceleration": round(self.acceleration, 3),
            "pattern": "whole readouts (1-D)" if self.one_dimensional else "single samples (2-D)",
            "voxel_mm": None if self.voxel is None else [round(size, 4) for size in self.voxel],
            "orientation": "known" if self.affine is not None else "unknown",
            "noise_prescan_samples": 0 if self.noise is None else int(self.noise.shape[1]),
            "averages": 1 if self.averages is None else int(self.averages.max()),
            "reference": self.reference is not None,
            "phi_present": self.phi_present,
            **{key: value for key, value in self.meta.items()},
            "warnings": list(self.warnings),
        }


def checked(data: KSpace) -> KSpace:
    """Return `data` after the checks that no header can promise; a dead coil and bad padding become warnings.

    Raises
    ------
    InputError
        Wrong axes, no coil, NaN or infinity, all-zero k-space, an empty mask, or samples outside the mask.
    """
    where, kspace, mask = data.label, data.kspace, data.mask
    if kspace.ndim != 4 or min(kspace.shape) < 1:
        raise InputError(
            "k-space has the wrong axes",
            where=where,
            expected="(slice, coil, kx, ky), none empty",
            found=str(kspace.shape),
        )
    if min(kspace.shape[-2:]) < 2:
        raise InputError(
            "k-space has fewer than two samples along an axis",
            where=where,
            found=str(kspace.shape),
            hint="name the axes with --axes",
        )
    peak = np.array(
        [[np.abs(coil).max() for coil in part] for part in kspace]
    )  # (slice, coil), without a full-size copy
    if not np.isfinite(peak).all():
        bad = int((~np.isfinite(kspace)).sum())
        raise InputError(
            "k-space holds NaN or infinity",
            where=where,
            expected="finite samples",
            found=f"{bad:,} bad samples",
            hint="export the data again",
        )
    if not peak.any():
        raise InputError(
            "k-space is zero everywhere", where=where, expected="measured samples", hint="check the export"
        )
    slices, _, rows, columns = kspace.shape
    try:
        np.broadcast_to(mask, (slices, rows, columns))
    except ValueError:
        raise InputError(
            "the mask does not fit the k-space",
            where=where,
            expected=f"broadcastable to {(slices, rows, columns)}",
            found=str(mask.shape),
        ) from None
    if mask.ndim != 3 or mask.dtype != bool:
        raise InputError(
            "the mask must be boolean with axes (slice, kx, ky)", where=where, found=f"{mask.dtype} {mask.shape}"
        )
    if not mask.any():
        raise InputError(
            "the mask says that nothing was measured",
            where=where,
            expected="at least one True",
            hint="check the dataset `mask`",
        )
    notes = list(data.warnings)
    empty = [int(i) for i in np.flatnonzero(~peak.any(1))]
    if empty:
        notes.append(f"slices {empty[:8]} hold no signal at all")
    dead = [int(i) for i in np.flatnonzero(~peak.any(0))]
    weak = [int(i) for i in np.flatnonzero((peak.max(0) < 1e-4 * np.median(peak.max(0))) & peak.any(0))]
    if dead:
        notes.append(f"coils {dead} are dead (zero everywhere): they carry nothing and should be dropped")
    if weak:
        notes.append(f"coils {weak} are more than 10,000 times weaker than the others")
    if data.noise is not None and (data.noise.shape[0] != kspace.shape[1] or not np.isfinite(data.noise).all()):
        raise InputError(
            "the noise prescan does not fit the k-space",
            where=where,
            expected=f"finite samples of {kspace.shape[1]} coils",
            found=str(data.noise.shape),
        )
    return dc.replace(data, warnings=tuple(notes))


def mask_from_samples(kspace: NDArray[np.complexfloating[Any, Any]]) -> NDArray[np.bool_]:
    """Infer what was measured: a place counts if any coil is non-zero there.

    When nearly every place in the product of used rows and used columns is filled (a single sample may be zero by
    chance), the mask is that product; else the places are taken as they are (Poisson disc, elliptical shutter).

    Parameters
    ----------
    kspace
        Complex (slice, coil, kx, ky).

    Returns
    -------
    mask
        bool; each axis of (slice, kx, ky) along which it is constant has length 1.
    """
    used = np.zeros((kspace.shape[0], *kspace.shape[2:]), bool)
    for coil in range(kspace.shape[1]):
        used |= kspace[:, coil] != 0
    box = used.any(2, keepdims=True) & used.any(1, keepdims=True)
    if box.any() and used.sum() > 0.95 * box.sum():
        used = box
    return squeezed(used)


def squeezed(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Shorten to length 1 the slice axis and the readout axis along which a (slice, kx, ky) mask does not vary."""
    signal = mask[mask.any((1, 2))]  # an empty slice says nothing about the pattern of the others
    if len(signal) and (signal == signal[:1]).all():
        mask = signal[:1]
    if (mask == mask[:, :1]).all():
        mask = mask[:, :1]
    return mask
