"""The dtype zoo of raw data brought to complex64: c8, c16, big endian, compound, two real channels, scaled integers."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from sciinv.errors import InputError

_PAIRS = (("real", "imag"), ("r", "i"), ("re", "im"))


def to_complex64(array: NDArray[Any], *, where: str, scale: float = 1.0) -> NDArray[np.complex64]:
    """Convert any stored form of complex samples to native complex64.

    Parameters
    ----------
    array
        Complex; a compound of a real and an imaginary field; or real with a last axis of two (real, imaginary).
    where
        Name of the file and dataset, for messages.
    scale
        Factor by which stored integers or floats are multiplied.

    Raises
    ------
    InputError
        Real samples without an imaginary part, or values that complex64 cannot hold.
    """
    if not np.isfinite(scale) or scale == 0:
        raise InputError(
            "the scale factor is unusable", where=where, expected="a finite number other than 0", found=str(scale)
        )
    if array.dtype.names:
        lower = {name.lower(): name for name in array.dtype.names}
        pair = next((pair for pair in _PAIRS if set(pair) == set(lower)), None)
        if pair is None:
            raise InputError(
                "the compound type is not complex", where=where, expected="fields real and imag", found=str(array.dtype)
            )
        wide = np.asarray(array[lower[pair[0]]] + 1j * np.asarray(array[lower[pair[1]]]), np.complex128)
    elif array.dtype.kind == "c":
        wide = array
    elif array.dtype.kind in "iuf" and array.shape[-1:] == (2,):
        wide = array[..., 0] + np.complex128(1j) * array[..., 1]
    else:
        raise InputError(
            "k-space must be complex",
            where=where,
            expected="a complex type, or real numbers with a last axis of 2 (real, imaginary)",
            found=f"{array.dtype} {array.shape}",
            hint="a magnitude image is simulated with `sciinv simulate mri`",
        )
    if scale != 1.0:
        wide = wide * scale
    peak = float(np.abs(wide).max(initial=0.0))
    if 0.0 < peak < 1e-30 or (np.isfinite(peak) and peak > 1e30):
        raise InputError(
            "the samples do not fit complex64",
            where=where,
            expected="a peak between 1e-30 and 1e30",
            found=f"{peak:.3g}",
            hint="rescale the data",
        )
    return np.ascontiguousarray(wide, dtype=np.complex64)


def centre_crop(array: NDArray[Any], size: tuple[int, int]) -> NDArray[Any]:
    """Crop the last two axes about sample ``N // 2``, which stays at ``n // 2`` of the smaller axis."""
    for axis, n in zip((-2, -1), size, strict=True):
        start = array.shape[axis] // 2 - n // 2
        array = np.take(array, range(start, start + n), axis=axis)
    return array


def remove_oversampling(kspace: NDArray[np.complex64], rows: int) -> NDArray[np.complex64]:
    """Keep the central `rows` of the field of view along the readout: inverse FFT, crop, FFT (centred, orthonormal).

    White noise stays white with its variance. Works slice by slice to bound the memory.
    """
    out = np.empty((*kspace.shape[:2], rows, kspace.shape[3]), np.complex64)
    start = kspace.shape[2] // 2 - rows // 2
    for part, result in zip(kspace, out, strict=True):
        image = np.fft.fftshift(np.fft.ifft(np.fft.ifftshift(part, axes=1), axis=1, norm="ortho"), axes=1)
        image = image[:, start : start + rows]
        result[:] = np.fft.fftshift(np.fft.fft(np.fft.ifftshift(image, axes=1), axis=1, norm="ortho"), axes=1)
    return out


def crop_readout(
    kspace: NDArray[np.complex64], mask: NDArray[np.bool_], rows: int, margin: int = 4
) -> tuple[NDArray[np.complex64], NDArray[np.bool_], str]:
    """Remove readout oversampling from samples and mask; returns them with a warning, empty if there is none.

    A partial echo leaves rows empty; the crop mixes rows near the border of the measured part with its missing ones, so
    a margin of rows there is given up. A pattern that is no product of rows and columns is kept uncropped.
    """
    if rows >= kspace.shape[2]:
        return kspace, mask, ""
    if mask.shape[1] == 1:
        return remove_oversampling(kspace, rows), mask, ""
    used_rows, columns = mask.any((0, 2)), mask.any(1, keepdims=True)
    if not (mask == (used_rows[None, :, None] & columns)).all():
        return kspace, mask, "readout oversampling is kept: the sampling pattern varies along the readout"
    # position of each new row on the old grid; the nearest old row and its neighbours must be measured
    old, count = kspace.shape[2], rows
    centre = old // 2 + np.rint((np.arange(count) - count // 2) * (old / count)).astype(int)
    missing = np.flatnonzero(~used_rows)
    reach = margin * old / count
    far = np.abs(centre[:, None] - missing[None, :]).min(1, initial=old) >= reach
    cropped = remove_oversampling(kspace, rows)
    cropped *= far[None, None, :, None]
    return cropped, far[None, :, None] & columns, "partial echo: rows at its border were given up with the oversampling"
