"""Cartesian ISMRMRD (MRD) HDF5: one record a readout, decoded through the guarded HDF5 layer, not through `ismrmrd`.

A sample lands at ``kx = i - center_sample + enc_x // 2`` and its line at ``ky = step_1 - center + enc_y // 2``, so
partial echoes and partial Fourier leave holes in the mask instead of being shifted. Records: doi:10.1002/mrm.26089,
mrd_raw_data.md.
"""

from __future__ import annotations

import dataclasses as dc
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from sciinv.errors import InputError
from sciinv.io.hdf5_heap import REFERENCE
from sciinv.io.limits import check_claim, reading, sha256
from sciinv.io.safe_hdf5 import Hdf5File, is_hdf5  # before h5py: it switches plugins off
from sciinv.io.spec import HeaderView, check_spec, load_spec
from sciinv_mri.io.convert import crop_readout
from sciinv_mri.io.geometry import geometry, slice_order
from sciinv_mri.io.kspace import KSpace, checked, squeezed
from sciinv_mri.io.mrd_header import Encoding, MrdHeader, parse_header

SPEC = "ismrmrd"
NOISE, CALIBRATION, CALIBRATION_AND_IMAGING, REVERSE = 19, 20, 21, 22  # 1-based bit numbers
SKIPPED = (19, 23, 24, 26, 27, 28, 29)  # noise, navigator, phase correction, feedback, dummy, surface coil
CHOICES = ("contrast", "phase", "repetition", "set")
_NEEDED = frozenset("flags number_of_samples active_channels discard_pre discard_post center_sample idx".split())


def sniff_ismrmrd(path: str | os.PathLike[str]) -> bool:
    """Say whether this is HDF5 with a group (``dataset`` first) that holds ``xml`` and ``data``; never raises."""
    try:
        if not is_hdf5(path):
            return False
        with Hdf5File(path) as file:
            return _group(file) is not None
    except Exception:
        return False


def _group(file: Hdf5File) -> str | None:
    names = file.children("/")
    for name in sorted(names, key=lambda name: name != "dataset")[:32]:
        if {"xml", "data"} <= set(file.children(f"/{name}")):
            return name
    return None


def view_ismrmrd(path: str | os.PathLike[str]) -> HeaderView:
    """Shapes and dtypes of the fields of the specification, whatever the group is called."""
    with Hdf5File(path) as file:
        return _view(file, _group(file) or "dataset")


def _view(file: Hdf5File, group: str) -> HeaderView:
    fields = [field.path for field in load_spec(SPEC).fields]
    real = file.view(path.replace("/dataset", f"/{group}", 1) for path in fields)
    view = {path: real[key] for path in fields if (key := path.replace("/dataset", f"/{group}", 1)) in real}
    if "/dataset/xml" in view:  # some writers store a scalar instead of an array of one string
        view["/dataset/xml"] = dc.replace(view["/dataset/xml"], shape=view["/dataset/xml"].shape or (1,))
    return view


def read_ismrmrd(
    path: str | os.PathLike[str],
    *,
    max_bytes: int | None = None,
    encoding: int = 0,
    contrast: int | None = None,
    phase: int | None = None,
    repetition: int | None = None,
    set: int | None = None,
    keep_oversampling: bool = False,
) -> KSpace:
    """Read a 2-D Cartesian multi-slice scan.

    Parameters
    ----------
    path
        The HDF5 file.
    max_bytes
        Largest array, and largest sum of all records, that may be read.
    encoding
        Which encoding of the header to read.
    contrast, phase, repetition, set
        Which counter to read when the scan has several (default: the first, with a warning).
    keep_oversampling
        Do not crop the readout to the field of view of the reconstruction.

    Raises
    ------
    InputError
        Non-Cartesian, echo-planar or 3-D encoding; records that contradict the header; hostile files.
    """
    wanted = {"contrast": contrast, "phase": phase, "repetition": repetition, "set": set}
    with reading(path, "ISMRMRD HDF5"):
        return _read(Path(path), max_bytes, encoding, wanted, keep_oversampling)


def _read(
    path: Path, max_bytes: int | None, encoding: int, wanted: dict[str, int | None], keep_oversampling: bool
) -> KSpace:
    notes: list[str] = []
    with Hdf5File(path, max_bytes=max_bytes) as file:
        group = _group(file) or "dataset"
        check_spec(_view(file, group), load_spec(SPEC), where=path.name)
        header = parse_header(file.text(f"/{group}/xml"), where=f"{path.name}:/{group}/xml")
        if not 0 <= encoding < len(header.encodings):
            raise InputError(
                "no such encoding", where=path.name, expected=f"0 to {len(header.encodings) - 1}", found=str(encoding)
            )
        if len(header.encodings) > 1:
            notes.append(f"the scan has {len(header.encodings)} encodings: number {encoding} is read")
        code = header.encodings[encoding]
        _supported(code, path.name)
        samples = _Samples(file, f"/{group}/data", path.name)
        head = samples.head
        lines = _imaging(head, encoding, code, wanted, notes, path.name)
        noise_lines = np.flatnonzero(_flag(head["flags"], NOISE))
        order = slice_order(head, lines, notes)
        kspace, count = _place(samples, head, lines, order, code, notes)
        noise = _noise(samples, head, noise_lines, lines, header, kspace.shape[1], notes)
    mask = squeezed(count > 0)
    rows, columns = _target(code)
    if not keep_oversampling:
        kspace, mask, note = crop_readout(kspace, mask, rows)
        notes += [note] if note else []
    target = (min(rows, kspace.shape[2]), columns)
    spacing = (np.array(code.encoded.fov) / code.encoded.matrix) if code.encoded.fov else None
    first = [lines[head["idx"]["slice"][lines] == number][0] for number in order]
    affine, voxel = geometry(head, np.array(first), spacing, target, notes)
    if header.phi:
        notes.append(f"the file holds patient-related fields ({', '.join(header.phi)}): not copied to any output")
    most = count.max(1)
    data = KSpace(
        kspace=kspace,
        mask=mask,
        ky_range=_measurable(code),
        target=target,
        format=SPEC,
        voxel=voxel,
        affine=affine,
        noise=noise,
        averages=most if most.max() > 1 else None,
        meta=header.meta,
        source=path.name,
        sha256=sha256(path),
        phi_present=bool(header.phi),
        warnings=tuple(notes),
    )
    return checked(data)


def _supported(code: Encoding, where: str) -> None:
    if code.trajectory != "cartesian":
        raise InputError(
            f"the trajectory is {code.trajectory!r}, and only Cartesian scans are read so far (others come later)",
            where=where,
            expected="cartesian",
            hint="grid the data to Cartesian k-space first",
        )
    planes = code.limits.get("kspace_encoding_step_2", (0, 0, 0))[1] + 1
    if code.encoded.matrix[2] > 1 or planes > 1:
        raise InputError(
            "this is a 3-D encoded scan, and only 2-D slices are read so far (3-D comes later)",
            where=where,
            expected="one partition",
            found=f"{max(code.encoded.matrix[2], planes)} partitions",
            hint="transform along the partition direction and save each slice as 2-D k-space",
        )


def _flag(flags: NDArray[Any], bit: int) -> NDArray[np.bool_]:
    return (flags.astype(np.uint64) >> np.uint64(bit - 1)) & np.uint64(1) > 0


def _imaging(
    head: NDArray[Any], encoding: int, code: Encoding, wanted: dict[str, int | None], notes: list[str], where: str
) -> NDArray[np.intp]:
    """Indices of the records that make the image."""
    flags, idx = head["flags"], head["idx"]
    keep = ~np.logical_or.reduce([_flag(flags, bit) for bit in SKIPPED])
    if "encoding_space_ref" in (head.dtype.names or ()):
        keep &= head["encoding_space_ref"] == encoding
    if code.calibration in ("separate", "external"):
        separate = keep & _flag(flags, CALIBRATION) & ~_flag(flags, CALIBRATION_AND_IMAGING)
        if separate.any():
            notes.append(f"{int(separate.sum())} separate calibration readouts are not used")
        keep &= ~separate
    for name, choice in wanted.items():
        present = np.unique(idx[name][keep])
        if choice is None and len(present):
            choice = int(present[0])
            if len(present) > 1:
                notes.append(f"the scan has {len(present)} values of {name}: only {name} {choice} is read")
        keep &= idx[name] == (choice if choice is not None else 0)
        if not keep.any():
            raise InputError(
                "no imaging readout is left",
                where=where,
                expected=f"{name} one of {present[:20].tolist()}",
                found=str(choice),
            )
    if _flag(flags[keep], REVERSE).any():
        raise InputError(
            "echo-planar readouts (reversed lines) come later", where=where, expected="lines in one direction"
        )
    if idx["kspace_encode_step_2"][keep].any():
        raise InputError(
            "this is a 3-D encoded scan, and only 2-D slices are read so far", where=where, expected="one partition"
        )
    return np.flatnonzero(keep)


class _Samples:
    """The records of a scan: their headers, and on demand their samples, within the memory limit.

    Many records may refer to one heap object, so what the headers claim in sum is bounded by the size of the file.
    """

    def __init__(self, file: Hdf5File, place: str, where: str):
        self.where, self.heap = where, file.heap
        self.stored, self.max_bytes = file.path.stat().st_size, file.max_bytes
        dataset = file.dataset(place)
        kind, names = dataset.id.get_type(), dataset.dtype.names or ()
        usable = {"head", "data"} <= {*names} and _NEEDED <= {*(dataset.dtype["head"].names or ())}
        if not usable or h5py.check_vlen_dtype(dataset.dtype["data"]) != np.dtype("<f4"):
            expected = "fields head, traj, data (float32)"
            raise InputError(
                "the records are no ISMRMRD acquisitions", where=where, expected=expected, found=str(names)[:120]
            )
        at = {name: kind.get_member_offset(kind.get_member_index(name.encode())) for name in ("head", "data")}
        raw = self.heap.elements(dataset, place)
        size = dataset.dtype["head"].itemsize
        if max(at["head"] + size, at["data"] + REFERENCE) > raw.shape[1]:
            raise InputError("the records are damaged", where=where, expected="a header and a reference to samples")
        self.head = np.ascontiguousarray(raw[:, at["head"] : at["head"] + size]).view(dataset.dtype["head"])[:, 0]
        reference = np.dtype([("length", "<u4"), ("address", "<u8"), ("index", "<u4")])
        self.data = np.ascontiguousarray(raw[:, at["data"] : at["data"] + REFERENCE]).view(reference)[:, 0]
        self.allow(8 * int((self.head["number_of_samples"].astype(np.int64) * self.head["active_channels"]).sum()))

    def allow(self, nbytes: int) -> None:
        """Refuse `nbytes` if they exceed the limit or are out of proportion to the file."""
        check_claim(nbytes, self.stored, where=self.where, max_bytes=self.max_bytes)

    def __call__(self, records: NDArray[np.intp]) -> Iterator[tuple[int, NDArray[np.complex64]]]:
        """Yield (record, complex64 (coil, sample))."""
        for record in records.tolist():
            coils, count = int(self.head["active_channels"][record]), int(self.head["number_of_samples"][record])
            length, address, index = self.data[record].tolist()
            if length != 2 * coils * count or length == 0:
                raise InputError(
                    "a readout does not hold what its header says",
                    where=f"{self.where}, record {record}",
                    expected=f"{coils} coils x {count} complex samples",
                    found=f"{length} real numbers",
                )
            yield record, np.frombuffer(self.heap.get(address, index, 4 * length), "<c8").reshape(coils, count)


def _place(
    samples: _Samples, head: NDArray[Any], lines: NDArray[np.intp], order: list[int], code: Encoding, notes: list[str]
) -> tuple[NDArray[np.complex64], NDArray[np.int32]]:
    """Put every readout at its place, average repeats; returns k-space and counts (slice, kx, ky)."""
    where = samples.where
    columns_x, columns_y = code.encoded.matrix[:2]
    limit = code.limits.get("kspace_encoding_step_1")
    centre = limit[2] if limit and limit[1] > 0 else columns_y // 2
    coils = np.unique(head["active_channels"][lines])
    if len(coils) != 1 or coils[0] < 1:
        raise InputError(
            "the number of coils changes during the scan",
            where=where,
            expected="one number above 0",
            found=str(coils[:8]),
        )
    shape = (len(order), int(coils[0]), columns_x, columns_y)
    samples.allow(8 * math.prod(shape))
    kspace, count = np.zeros(shape, np.complex64), np.zeros((shape[0], *shape[2:]), np.int32)
    ky = head["idx"]["kspace_encode_step_1"].astype(int) - centre + columns_y // 2
    slot = {number: position for position, number in enumerate(order)}
    unset = False
    for record, values in samples(lines):
        row = head[record]
        total, middle = values.shape[1], int(row["center_sample"])
        if middle == 0 and total == columns_x:
            middle, unset = total // 2, True
        low, high = int(row["discard_pre"]), total - int(row["discard_post"])
        start, stop = low - middle + columns_x // 2, high - middle + columns_x // 2
        if not (0 <= start < stop <= columns_x and 0 <= ky[record] < columns_y):
            raise InputError(
                "a readout lies outside the encoded matrix",
                where=f"{where}, record {record}",
                expected=f"kx in 0 to {columns_x}, ky in 0 to {columns_y - 1}",
                found=f"kx {start} to {stop}, ky {ky[record]}",
                hint="the header's matrix size, limits or centre are wrong",
            )
        place = slot[int(row["idx"]["slice"])]
        kspace[place, :, start:stop, ky[record]] += values[:, low:high]
        count[place, start:stop, ky[record]] += 1
    if unset:
        notes.append("center_sample is not set: the middle of the readout is taken")
    if count.max() > 1:
        kspace /= np.maximum(count, 1)[:, None]
        notes.append(f"lines were averaged (1 to {int(count.max())} times); their noise differs accordingly")
    return kspace, count


def _noise(
    samples: _Samples,
    head: NDArray[Any],
    records: NDArray[np.intp],
    lines: NDArray[np.intp],
    header: MrdHeader,
    coils: int,
    notes: list[str],
) -> NDArray[np.complex64] | None:
    """Noise (coil, sample) scaled to the dwell time of the image: its variance is proportional to the bandwidth."""
    parts = []
    for record, values in samples(records):
        if values.shape[0] != coils:
            notes.append("the noise scan has another number of coils and is not used")
            return None
        dwell, image = (
            float(head["sample_time_us"][i]) if "sample_time_us" in head.dtype.names else 0.0
            for i in (record, lines[0])
        )
        ratio = dwell / image if 0 < dwell < 1e6 and 0 < image < 1e6 else 1.0
        parts.append(values * np.float32(np.sqrt(ratio / header.noise_bandwidth)))
    if not parts:
        return None
    noise = np.concatenate(parts, 1)
    if noise.shape[1] < 2 * coils:
        notes.append(f"the noise scan holds only {noise.shape[1]} samples for {coils} coils and is not used")
        return None
    return noise


def _target(code: Encoding) -> tuple[int, int]:
    """Image size at the encoded resolution: the fraction of each encoded field of view that is to be shown."""
    size = []
    for axis in (0, 1):
        count, wanted = code.encoded.matrix[axis], code.recon.matrix[axis]
        if code.encoded.fov and code.recon.fov:
            wanted = round(count * code.recon.fov[axis] / code.encoded.fov[axis])
        size.append(max(2, min(count, wanted)))
    return size[0], size[1]


def _measurable(code: Encoding) -> tuple[int, int]:
    width = code.encoded.matrix[1]
    limit = code.limits.get("kspace_encoding_step_1")
    if not limit or limit[1] <= 0:
        return 0, width
    left = max(0, width // 2 - limit[2] + limit[0])
    right = min(width, width // 2 - limit[2] + limit[1] + 1)
    return (left, right) if right > left else (0, width)
