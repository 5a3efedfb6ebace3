"""Two hundred damaged files of each CT format, and headers that lie about sizes."""

import struct
import zlib

import numpy as np
import pytest
import scipy.io
from ct_files import dicom, dxchange, enhanced, htc, lodopab, nifti, tiff
from hostile import mutated, read_or_validate, refused, survives_mutations
from sciinv_ct import io
from sciinv_ct.io.mat5 import load_mat5

from sciinv.errors import SciinvError

MADE = {
    "dxchange": dxchange, "htc2022": lambda p: htc(p, compress=False), "lodopab": lambda p: lodopab(p, 1),
    "dicom-ct": dicom, "nifti-ct": nifti,
}  # fmt: skip


@pytest.mark.parametrize("name", [*MADE, "htc2022-z", "dicom-enhanced"])
def test_two_hundred_mutations_raise_nothing_but_our_errors(tmp_path, name):
    form = {"htc2022-z": "htc2022", "dicom-enhanced": "dicom-ct"}.get(name, name)
    make = {"htc2022-z": htc, "dicom-enhanced": enhanced}.get(name) or MADE[name]
    suffix = ".nii" if form == "nifti-ct" else ".x"
    data = make(tmp_path / f"a{suffix}").read_bytes()
    survives_mutations(
        tmp_path / f"b{suffix}", data, read_or_validate(io, form),
        start=lambda index: (index * 131) % min(max(len(data) - 700, 1), 4000) if index % 3 else 0, least=20,
    )  # fmt: skip


def test_mutated_stacks_and_their_geometry(tmp_path):
    path = tiff(tmp_path)
    page, text = tmp_path / "proj_003.tif", path.read_bytes()
    good, errors = page.read_bytes(), 0
    for index in range(200):
        page.write_bytes(mutated(good, index) if index % 2 else good)
        path.write_bytes(text if index % 2 else mutated(text, index))
        try:
            io.read(path, format="ct-tiff").info()
        except SciinvError as error:
            errors += 1
            assert error.exit_code in (2, 3) and "\n" not in str(error)
    assert errors > 40


def element(kind: int, data: bytes) -> bytes:
    return struct.pack("<II", kind, len(data)) + data + b"\0" * (-len(data) % 8)


def matrix(dims: tuple[int, ...], values: bytes = b"\0" * 8, form: int = 6, extra: bytes = b"") -> bytes:
    body = element(6, struct.pack("<II", form, 0)) + element(5, struct.pack(f"<{len(dims)}i", *dims))
    return body + element(1, b"x") + extra + values


def write_mat(path, body: bytes, packed: bool = False):
    one = struct.pack("<II", 14, len(body)) + body
    if packed:
        squeezed = zlib.compress(one)
        one = struct.pack("<II", 15, len(squeezed)) + squeezed
    path.write_bytes(b"MATLAB 5.0 MAT-file".ljust(124) + struct.pack("<H", 0x0100) + b"IM" + one)
    return path


LIES = {
    "more entries than bytes": matrix((1 << 30, 4), element(9, b"\0" * 8)),
    "struct or cell claims more": matrix((40, 1), b"\0" * 64, form=1),
    "does not have the entries": matrix((2, 1), element(9, b"\0" * 8)),
    "holds something else": matrix((1, 1), element(40, b"\0" * 8)),
    "complex numbers": matrix((1, 1), element(9, b"\0" * 8), form=0x806),
    "longer than what holds it": matrix((1, 1), struct.pack("<II", 9, 1 << 31)),
    "neither numbers": matrix((1, 1), element(9, b"\0" * 8), form=3),
    "has no flags": element(5, b"\0" * 8),
    "names of a struct": matrix((1, 1), form=2, extra=element(5, struct.pack("<i", -4)) + element(1, b"abcd")),
}


@pytest.mark.parametrize("message", LIES)
@pytest.mark.parametrize("packed", [False, True])
def test_lying_matlab_files_cost_nothing(tmp_path, message, packed):
    path = write_mat(tmp_path / "a.mat", LIES[message], packed)
    refused(lambda: load_mat5(path), message)


def test_matlab_bombs_nesting_and_objects(tmp_path):
    path = write_mat(tmp_path / "a.mat", matrix((1, 1 << 26), element(2, bytes(1 << 26))), packed=True)
    refused(lambda: load_mat5(path, max_bytes=1 << 24), "larger than allowed")
    deep = matrix((1, 1), element(9, b"\0" * 8))
    for _ in range(12):
        deep = matrix((1, 1), struct.pack("<II", 14, len(deep)) + deep, form=1)
    refused(lambda: load_mat5(write_mat(tmp_path / "b.mat", deep)), "nested too deeply")
    good = {"a": np.arange(6.0).reshape(2, 3), "s": {"name": "x", "cell": np.array([1, "two"], object)}}
    scipy.io.savemat(tmp_path / "c.mat", good)
    found = load_mat5(tmp_path / "c.mat")
    assert np.array_equal(found["a"], good["a"]) and found["s"] == {"name": "x", "cell": [1, "two"]}


def test_dicom_that_claims_much_or_is_packed(tmp_path):
    refused(lambda: io.read(dicom(tmp_path / "a", NumberOfFrames=99_999), format="dicom-ct"), "do not fit the header")
    refused(lambda: io.read(dicom(tmp_path / "b", Rows=60_000), format="dicom-ct"), "Rows is")
    refused(lambda: io.read(dicom(tmp_path / "c"), max_bytes=100), "larger than allowed")


def test_a_stack_cannot_reach_outside_its_folder(tmp_path):
    inside = tmp_path / "scan"
    inside.mkdir()
    path = tiff(inside)
    (inside / "proj_000.tif").rename(tmp_path / "secret.tif")
    for pattern in ("../secret.tif", str(tmp_path / "secret.tif"), ".hidden", "sub/x.tif"):
        path.write_text(path.read_text().replace("proj_*.tif", pattern))
        refused(lambda: io.read(path), "only files beside")
        path.write_text(path.read_text().replace(pattern, "proj_*.tif"))
