"""k-space in a bare array: ``.npy`` or MATLAB v7.3, whose axes the user names (``axes="coil,ky,kx"``).

Nothing in such a file says what its axes are. Without names the usual layouts are assumed and a warning says which.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sciinv.errors import InputError, UsageError
from sciinv.io.limits import reading, sha256, starts_with
from sciinv.io.safe_hdf5 import Hdf5File, is_hdf5
from sciinv.io.safe_npy import is_npy, npy_view, read_npy
from sciinv.io.spec import FieldView, HeaderView, check_spec, dtype_class, load_spec
from sciinv_mri.io.convert import to_complex64
from sciinv_mri.io.kspace import KSpace, checked, mask_from_samples

SPEC = "npy-kspace"
MAX_GUESSED_COILS = 256
_NAMES = {
    "readout": "kx",
    "phase": "ky",
    "y": "kx",
    "x": "ky",
    "row": "kx",
    "column": "ky",
    "coils": "coil",
    "slices": "slice",
}
_GUESS = {2: "y,x", 3: "coil,y,x", 4: "slice,coil,y,x"}
_GUESS_MAT = {**_GUESS, 4: "coil,slice,y,x"}  # MATLAB's (x, y, slice, coil), reversed by HDF5


def sniff_npy(path: str | os.PathLike[str]) -> bool:
    """Say whether this is a NumPy ``.npy`` file; never raises."""
    return is_npy(path)


def sniff_mat(path: str | os.PathLike[str]) -> bool:
    """Say whether this is a MATLAB v7.3 file (HDF5 behind a MATLAB banner); never raises."""
    return starts_with(path, b"MATLAB 7.3") and is_hdf5(path)


def view_npy(path: str | os.PathLike[str]) -> HeaderView:
    """Shape and dtype of the array."""
    return {"array": npy_view(path)}


def view_mat(path: str | os.PathLike[str], dataset: str | None = None) -> HeaderView:
    """Shape and dtype of the array that `read_mat` reads."""
    with Hdf5File(path) as file:
        stored = file.dataset(_dataset(file, dataset))
        return {"array": FieldView(tuple(stored.shape), dtype_class(stored.dtype))}


def read_npy_kspace(
    path: str | os.PathLike[str], *, max_bytes: int | None = None, axes: str | None = None, scale: float = 1.0
) -> KSpace:
    """Read k-space from a ``.npy`` file.

    Parameters
    ----------
    path
        The file.
    max_bytes
        Largest array that may be read.
    axes
        Comma-separated names, slowest axis first, of: slice, coil, kx (readout), ky (phase encoding), ``part`` (an axis
        of two, real and imaginary) and ``_`` (an axis of length 1). ``y,x`` mean rows and columns taken as kx, ky.
        Default: (y, x), (coil, y, x) or (slice, coil, y, x) by the number of axes.
    scale
        Factor for integer samples.

    Raises
    ------
    InputError
        Pickles, lying headers, unusable numbers.
    UsageError
        `axes` do not fit the array.
    """
    path = Path(path)
    with reading(path, "NumPy .npy"):
        check_spec(view_npy(path), load_spec(SPEC), where=path.name)
        array = read_npy(path, max_bytes=max_bytes)
        return _kspace(array, axes, scale, path, SPEC, _GUESS)


def read_mat(
    path: str | os.PathLike[str],
    *,
    max_bytes: int | None = None,
    axes: str | None = None,
    dataset: str | None = None,
    scale: float = 1.0,
) -> KSpace:
    """Read k-space from a MATLAB v7.3 file; as `read_npy_kspace`, with `axes` in the order that HDF5 shows.

    `dataset` names the variable (default: the only complex array in the file).
    """
    path = Path(path)
    with reading(path, "MATLAB v7.3"), Hdf5File(path, max_bytes=max_bytes) as file:
        name = _dataset(file, dataset)
        stored = file.dataset(name)
        check_spec(
            {"array": FieldView(tuple(stored.shape), dtype_class(stored.dtype))}, load_spec(SPEC), where=path.name
        )
        return _kspace(file.array(name), axes, scale, path, "mat73", _GUESS_MAT)


def load_mat73(path: str | os.PathLike[str], name: str, *, max_bytes: int | None = None) -> NDArray[Any]:
    """Return one numeric variable of a MATLAB v7.3 file as HDF5 shows it (axes reversed); compounds become complex."""
    with reading(path, "MATLAB v7.3"), Hdf5File(path, max_bytes=max_bytes) as file:
        array = file.array(f"/{name}")
    return to_complex64(array, where=f"{Path(path).name}:/{name}") if array.dtype.names else array


def _dataset(file: Hdf5File, name: str | None) -> str:
    if name is not None:
        return f"/{name.strip('/')}"
    names = [f"/{child}" for child in file.children("/") if not child.startswith("#")]
    complex_ones = [place for place, view in file.view(names).items() if view.dtype == "complex"]
    if len(complex_ones) == 1:
        return complex_ones[0]
    raise InputError(
        "the file does not hold exactly one complex array",
        where=file.path.name,
        expected="one, or its name",
        found=", ".join(name[:40] for name in (complex_ones or names)[:8]) or "nothing",
        hint="name the variable with --dataset",
    )


def _kspace(
    array: NDArray[Any], axes: str | None, scale: float, path: Path, kind: str, guesses: dict[int, str]
) -> KSpace:
    notes: list[str] = []
    real_pairs = array.dtype.kind in "iuf" and array.dtype.names is None and array.shape[-1:] == (2,)
    if axes is None:
        guess = guesses.get(array.ndim - real_pairs)
        if guess is None:
            raise UsageError(
                f"the array has {array.ndim} axes and nothing says what they are",
                where=path.name,
                found=str(array.shape),
                hint='name them, for example --axes "slice,coil,kx,ky"',
            )
        notes.append(f'the axes were guessed as "{guess}"; name them with --axes if that is wrong')
        names = guess.split(",") + ["part"] * real_pairs
    else:
        names = [name.strip().lower() for name in axes.split(",")]
    kspace = _arrange(array, [_NAMES.get(name, name) for name in names], scale, path.name)
    if axes is None and kspace.shape[1] > MAX_GUESSED_COILS:
        raise InputError(
            "the guessed axes give too many coils",
            where=path.name,
            expected=f"at most {MAX_GUESSED_COILS}",
            found=f"{kspace.shape[1]} in shape {array.shape}",
            hint='name the axes, for example --axes "kx,ky,coil"',
        )
    height, width = kspace.shape[-2:]
    data = KSpace(
        kspace=kspace,
        mask=mask_from_samples(kspace),
        ky_range=(0, width),
        target=(height, width),
        format=kind,
        source=path.name,
        sha256=sha256(path),
        warnings=tuple(notes),
    )
    return checked(data)


def _arrange(array: NDArray[Any], names: list[str], scale: float, where: str) -> NDArray[np.complex64]:
    """Bring named axes to (slice, coil, kx, ky)."""
    allowed = ("slice", "coil", "kx", "ky", "part", "_")
    unknown = [name for name in names if name not in allowed]
    repeated = {name for name in names if name != "_" and names.count(name) > 1}
    if unknown or repeated or not {"kx", "ky"} <= {*names} or len(names) != array.ndim:
        raise UsageError(
            "the axes do not fit the array",
            where=where,
            expected=f"{array.ndim} different names of {', '.join(allowed)}, among them kx and ky",
            found=",".join(names)[:200] + f" for shape {array.shape}",
            hint='for example --axes "coil,ky,kx"',
        )
    wrong = [
        i
        for i, name in enumerate(names)
        if (name == "_" and array.shape[i] != 1) or (name == "part" and array.shape[i] != 2)
    ]
    if wrong:
        raise UsageError(
            "an axis has the wrong length", where=where, expected="1 for `_`, 2 for `part`", found=str(array.shape)
        )
    if "part" in names:
        array = np.moveaxis(array, names.index("part"), -1)
        names = [name for name in names if name != "part"]
    samples = to_complex64(array, where=where, scale=scale)
    for position in reversed([i for i, name in enumerate(names) if name == "_"]):
        samples = samples.squeeze(position)
    names = [name for name in names if name != "_"]
    for name in ("coil", "slice"):
        if name not in names:
            samples, names = samples[None], [name, *names]
    return np.ascontiguousarray(samples.transpose([names.index(name) for name in ("slice", "coil", "kx", "ky")]))
