"""fastMRI HDF5 (facebookresearch/fastMRI, arXiv:1811.08839): one volume of 2-D slices, multi- or single-coil.

Columns outside ``[padding_left, padding_right)`` were never measured; with the header's limits
``padding_left = enc_y // 2 - center`` and ``padding_right = padding_left + maximum + 1``.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sciinv.errors import InputError
from sciinv.io.limits import reading, sha256
from sciinv.io.safe_hdf5 import Hdf5File, is_hdf5
from sciinv.io.spec import HeaderView, check_spec, load_spec
from sciinv_mri.io.convert import crop_readout, to_complex64
from sciinv_mri.io.kspace import KSpace, checked, mask_from_samples, squeezed
from sciinv_mri.io.mrd_header import MrdHeader, parse_header

SPEC = "fastmri"
_PROTOCOLS = frozenset("CORPD_FBK CORPDFS_FBK AXT1 AXT1PRE AXT1POST AXT2 AXFLAIR".split())


def sniff_fastmri(path: str | os.PathLike[str]) -> bool:
    """Say whether this is HDF5 with a dataset ``/kspace``; never raises."""
    try:
        if not is_hdf5(path):
            return False
        with Hdf5File(path) as file:
            return "kspace" in file.children("/")
    except Exception:
        return False


def view_fastmri(path: str | os.PathLike[str]) -> HeaderView:
    """Shapes and dtypes of the fields of the specification."""
    with Hdf5File(path) as file:
        return file.view(field.path for field in load_spec(SPEC).fields)


def read_fastmri(
    path: str | os.PathLike[str], *, max_bytes: int | None = None, keep_oversampling: bool = False
) -> KSpace:
    """Read a fastMRI file, test (with ``mask``) or training (mask from the non-zero columns).

    Parameters
    ----------
    path
        The HDF5 file.
    max_bytes
        Largest array that may be read.
    keep_oversampling
        Do not crop the readout to the field of view of the reconstruction.

    Raises
    ------
    InputError
        The file breaks the specification, holds unusable numbers, or is hostile.
    """
    with reading(path, "fastMRI HDF5"):
        return _read(Path(path), max_bytes, keep_oversampling)


def _read(path: Path, max_bytes: int | None, keep_oversampling: bool) -> KSpace:
    notes: list[str] = []
    with Hdf5File(path, max_bytes=max_bytes) as file:
        spec = load_spec(SPEC)
        view = file.view(field.path for field in spec.fields)
        check_spec(view, spec, where=path.name)
        where = f"{path.name}:/kspace"
        kspace = to_complex64(file.array("/kspace"), where=where, scale=_scale(file))
        if kspace.ndim == 3:
            kspace = kspace[:, None]
        header, reference = None, None
        if "/ismrmrd_header" in view:
            header = parse_header(file.text("/ismrmrd_header"), where=f"{path.name}:/ismrmrd_header")
        else:
            notes.append("no ISMRMRD header: voxel size, oversampling and padding are taken from the arrays")
        stored_mask = file.array("/mask") if "/mask" in view else None
        for name in ("/reconstruction_rss", "/reconstruction_esc"):
            if reference is None and name in view:
                reference = np.asarray(file.array(name), np.float32)
        protocol = view["/@acquisition"].value if "/@acquisition" in view else ""
        phi = ["patient_id"] if str(file.attribute("/", "patient_id") or "").strip() else []
    phi += header.phi if header else ()
    ky_range = _measurable(kspace, header, notes)
    mask = _mask(kspace, stored_mask, ky_range, notes, path.name)
    if stored_mask is None and header is None:
        columns = np.flatnonzero(mask.any((0, 1)))
        ky_range = (int(columns[0]), int(columns[-1]) + 1) if len(columns) else ky_range
    if stored_mask is not None and not np.broadcast_to(mask, (len(kspace), *kspace.shape[2:])).all():
        kspace = kspace * mask[:, None]
    rows, columns_kept = _target(kspace, header, reference)
    if not keep_oversampling:
        kspace, mask, note = crop_readout(kspace, mask, rows)
        notes += [note] if note else []
    if phi:
        notes.append(f"the file holds patient-related fields ({', '.join(phi)}): not copied to any output")
    data = KSpace(
        kspace=kspace,
        mask=mask,
        ky_range=ky_range,
        target=(min(rows, kspace.shape[2]), columns_kept),
        format=SPEC,
        voxel=_voxel(header),
        reference=reference,
        meta={**(header.meta if header else {}), **({"protocol": protocol} if protocol in _PROTOCOLS else {})},
        source=path.name,
        sha256=sha256(path),
        phi_present=bool(phi),
        warnings=tuple(notes),
    )
    return checked(data)


def _scale(file: Hdf5File) -> float:
    for name in ("scale", "scale_factor"):
        value = file.attribute("/kspace", name)
        if isinstance(value, int | float):
            return float(value)
    return 1.0


def _measurable(kspace: NDArray[Any], header: MrdHeader | None, notes: list[str]) -> tuple[int, int]:
    width = kspace.shape[-1]
    limit = header.encodings[0].limits.get("kspace_encoding_step_1") if header else None
    if header is None or limit is None or limit[1] <= 0:
        return 0, width
    encoded = header.encodings[0].encoded.matrix[1]
    if encoded != width:
        notes.append(f"the header encodes {encoded} columns, the data hold {width}: padding is placed about the centre")
    left = width // 2 - limit[2]
    right = left + limit[1] + 1
    if left < 0 or right > width or right - left < 2:
        notes.append(f"the header's encoding limits {limit} do not fit {width} columns and are ignored")
        return 0, width
    outside = np.ones(width, bool)
    outside[left:right] = False
    if any((part[..., outside] != 0).any() for part in kspace):
        notes.append("samples are present where the header says zero padding: the data are believed")
        return 0, width
    return left, right


def _mask(
    kspace: NDArray[np.complex64], stored: NDArray[Any] | None, ky_range: tuple[int, int], notes: list[str], name: str
) -> NDArray[np.bool_]:
    present = mask_from_samples(kspace)
    inside = np.zeros(kspace.shape[-1], bool)
    inside[slice(*ky_range)] = True
    if stored is None:
        return present & inside
    mask = np.asarray(stored != 0).reshape((1,) * (3 - stored.ndim) + stored.shape)
    if stored.dtype.kind == "f" and not np.isfinite(stored).all():
        raise InputError("the mask holds NaN or infinity", where=f"{name}:/mask", expected="0 and 1")
    if not mask.any():
        raise InputError("the mask says that nothing was measured", where=f"{name}:/mask", expected="at least one True")
    if (present & ~mask).any():
        notes.append("samples are present where the mask says unmeasured: they are not used")
    empty = mask & inside & ~present
    if empty.any():
        notes.append(
            f"the mask marks {int(empty.any((0, 1)).sum())} columns that hold only zeros: taken as not measured"
        )
    return squeezed(mask & inside & present)


def _target(kspace: NDArray[Any], header: MrdHeader | None, reference: NDArray[Any] | None) -> tuple[int, int]:
    rows, columns = kspace.shape[-2:]
    if header is not None:
        wanted = header.encodings[0].recon.matrix[:2]
    elif reference is not None:
        wanted = reference.shape[-2:]
    else:
        return rows, columns
    return min(rows, wanted[0]), min(columns, wanted[1])


def _voxel(header: MrdHeader | None) -> tuple[float, float, float] | None:
    if header is None:
        return None
    grid = header.encodings[0].recon
    if grid.fov is None:
        return None
    x, y, z = (size / count for size, count in zip(grid.fov, grid.matrix, strict=True))
    return x, y, z
