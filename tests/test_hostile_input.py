"""XML, YAML, NumPy and NIfTI files made to lie, explode or run code, and impossible physics: each is refused."""

import gzip
import io as stdio
import os
import pickle
import struct
import zlib
from itertools import pairwise

import h5py
import nibabel as nib
import numpy as np
import pytest
import yaml
from hostile import refused
from mri_files import coil_images, fft2
from sciinv_mri import io

from sciinv.errors import InputError
from sciinv.io.limits import check_claim
from sciinv.io.safe_npy import read_npy
from sciinv.io.safe_xml import parse_xml
from sciinv.io.safe_yaml import load_yaml, parse_yaml


@pytest.fixture
def kspace():
    return fft2(coil_images(1, 2, 16, 12)).astype(np.complex64)


# ---------------------------------------------------------------- XML, YAML


XML_BAD = {
    "laughs": '<!DOCTYPE x [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;">]><ismrmrdHeader>&b;</ismrmrdHeader>',
    "file": '<!DOCTYPE x [<!ENTITY a SYSTEM "file:///etc/passwd">]><ismrmrdHeader>&a;</ismrmrdHeader>',
    "remote": '<!DOCTYPE x SYSTEM "http://example.invalid/x.dtd"><ismrmrdHeader/>',
    "hidden": '<!-- --><!doctype x [<!ENTITY a "b">]><ismrmrdHeader/>',
    "deep": "<a>" * 5000 + "</a>" * 5000,
    "cut": "<ismrmrdHeader><encoding>",
    "empty": "",
    "other": "<html/>",
    "no-encoding": "<ismrmrdHeader/>",
    "sizes": "<ismrmrdHeader><encoding><encodedSpace><matrixSize><x>-1</x></matrixSize></encodedSpace></encoding>"
    "</ismrmrdHeader>",
}


@pytest.mark.parametrize("case", XML_BAD)
def test_xml_bombs_are_refused(tmp_path, kspace, case):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["kspace"], file["ismrmrd_header"] = kspace, np.bytes_(XML_BAD[case].encode() or b"\0")
    told = {"deep": "nested too deeply", "cut": "malformed", "empty": "malformed", "other": "no ISMRMRD header"}
    told |= {"no-encoding": "no encoding", "sizes": "matrix size"}
    refused(lambda: io.read(tmp_path / "a.h5"), "a.h5:/ismrmrd_header", told.get(case, "declares a document type"))


def test_xml_comments_and_namespaces_are_fine():
    root = parse_xml('<?xml version="1.0"?><n:a xmlns:n="u"><!-- <b> --><n:b><![CDATA[<1>]]></n:b></n:a>', where="x")
    assert root.tag == "a" and root.findtext("b") == "<1>"


YAML_BAD = {
    "laughs": "a: &a [1]\n" + "".join(f"{b}: &{b} [{','.join(['*' + a] * 9)}]\n" for a, b in pairwise("abcdefghi")),
    "code": "!!python/object/apply:os.system ['touch CANARY']",
    "name": "x: !!python/name:os.system",
    "target": "sampler: {_target_: os.system, _args_: ['touch CANARY']}",
    "circle": "a: &a [*a]",
    "deep": "[" * 3000,
    "deep-block": "\n".join(" " * i + "a:" for i in range(500)),
    "twice": "a: 1\na: 2",
    "tabs": "a:\n\t- 1",
    "two": "a: 1\n---\nb: 2",
    "unhashable": "{[1, 2]: 3}",
    "control": "a: \x01",
    "large": "#" * ((1 << 20) + 1),
}  # fmt: skip


@pytest.mark.parametrize("loader", ["CSafeLoader", "SafeLoader"])
@pytest.mark.parametrize("case", YAML_BAD)
def test_yaml_bombs_are_refused(tmp_path, monkeypatch, case, loader):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sciinv.io.safe_yaml._Loader", getattr(yaml, loader))
    (tmp_path / "a.yaml").write_text(YAML_BAD[case])
    refused(lambda: load_yaml(tmp_path / "a.yaml"), "a.yaml")
    assert os.listdir(tmp_path) == ["a.yaml"]


def test_plain_yaml_is_read():
    assert parse_yaml("a: &x {b: [1, 2.5, yes, null]}\nc: *x") == {
        "a": {"b": [1, 2.5, True, None]},
        "c": {"b": [1, 2.5, True, None]},
    }
    assert parse_yaml("") is None


# ---------------------------------------------------------------- npy, NIfTI, not files at all


class Bomb:
    def __reduce__(self):
        return os.mkdir, ("CANARY",)


def test_npy_pickles_are_refused_and_not_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.save("a.npy", np.array([Bomb()], object), allow_pickle=True)
    refused(lambda: io.read(tmp_path / "a.npy"), "a.npy")
    refused(lambda: read_npy(tmp_path / "a.npy"), "pickled")
    (tmp_path / "b.npy").write_bytes(pickle.dumps(Bomb()))
    refused(lambda: io.read_npy_kspace(tmp_path / "b.npy"))
    assert sorted(os.listdir(tmp_path)) == ["a.npy", "b.npy"]


@pytest.mark.parametrize("shape", ["(99999, 99999)", "(2, 3)", "(5, 5)", "(-1, 5)", "(2,) * 99", "(10**30,)", "(1e9,)"])
def test_npy_headers_that_lie_are_refused(tmp_path, shape):
    header = f"{{'descr': '<c8', 'fortran_order': False, 'shape': {shape}, }}".encode().ljust(117) + b"\n"
    (tmp_path / "a.npy").write_bytes(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + bytes(16 * 8))
    refused(lambda: io.read_npy_kspace(tmp_path / "a.npy"), "a.npy")


def nifti_bytes(shape=(6, 5, 4)):
    image = nib.Nifti1Image(np.ones(shape, np.int16), np.diag([1.0, 2, 3, 1]))
    return bytearray(image.to_bytes())


NIFTI_LIES = [
    (40, struct.pack("<8h", 3, 5000, 5000, 5000, 1, 1, 1, 1)),
    (40, struct.pack("<8h", 7, *[32767] * 7)),
    (40, struct.pack("<h", 9)),
    (40, struct.pack("<8h", 3, 7, 5, 4, 1, 1, 1, 1)),
    (40, struct.pack("<8h", 3, -6, 5, 4, 1, 1, 1, 1)),
    (70, struct.pack("<h", 128)),
    (70, struct.pack("<h", 999)),
    *((108, struct.pack("<f", offset)) for offset in (1e30, float("nan"), -1.0)),
    (280, struct.pack("<12f", *[float("nan")] * 12)),
    (280, bytes(48)),
    (344, b"ni1\0"),
    (344, b"xxxx"),
    (0, b"\0\0\0\0"),
]


@pytest.mark.parametrize(("place", "value"), NIFTI_LIES)
def test_nifti_headers_that_lie_are_refused(tmp_path, place, value):
    raw = nifti_bytes()
    raw[place : place + len(value)] = value
    for name, data in (("a.nii", bytes(raw)), ("a.nii.gz", gzip.compress(bytes(raw)))):
        (tmp_path / name).write_bytes(data)
        refused(lambda name=name: io.read_nifti_magnitude(tmp_path / name), name)


def test_nifti_gzip_bomb_costs_no_more_than_its_header_says(tmp_path):
    raw = bytes(nifti_bytes())
    packer = zlib.compressobj(1, wbits=31)
    with open(tmp_path / "a.nii.gz", "wb") as file:
        file.write(packer.compress(raw))
        for _ in range(64):
            file.write(packer.compress(bytes(1 << 20)))
        file.write(packer.flush())
    refused(lambda: io.read_nifti_magnitude(tmp_path / "a.nii.gz"), "more than its header says")
    huge = nifti_bytes()
    huge[40:56] = struct.pack("<8h", 3, 2000, 2000, 1000, 1, 1, 1, 1)
    (tmp_path / "b.nii.gz").write_bytes(gzip.compress(bytes(huge)))
    refused(lambda: io.read_nifti_magnitude(tmp_path / "b.nii.gz"), "more data than the file stores")


def test_nifti_flipped_bit_in_a_compressed_volume_is_noticed(tmp_path):
    packed = bytearray(gzip.compress(bytes(nifti_bytes())))
    packed[-6] ^= 1  # in the checksum
    (tmp_path / "a.nii.gz").write_bytes(packed)
    refused(lambda: io.read_nifti_magnitude(tmp_path / "a.nii.gz"))


@pytest.mark.parametrize("value", [np.nan, np.inf, 0.0])
def test_nifti_without_usable_numbers_is_refused(tmp_path, value):
    nib.save(nib.Nifti1Image(np.full((4, 4, 4), value, np.float32), np.eye(4)), tmp_path / "a.nii")
    refused(lambda: io.read(tmp_path / "a.nii"))


def test_things_that_are_no_files_are_refused_without_waiting(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "empty.h5").write_bytes(b"")
    (tmp_path / "noise.h5").write_bytes(np.random.default_rng(0).bytes(4096))
    (tmp_path / "zip.npz").write_bytes(b"PK\x03\x04" + bytes(64))
    with stdio.BytesIO() as buffer:
        buffer.write(b"MATLAB 5.0 MAT-file".ljust(256))
        (tmp_path / "old.mat").write_bytes(buffer.getvalue())
    for name, hint in [("pipe", "regular"), ("empty.h5", "empty"), ("noise.h5", "no reader"), ("zip.npz", ".npy"),
                       ("old.mat", "-v7.3"),
                       ("missing.h5", "no such file"), (".", "folder")]:  # fmt: skip
        refused(lambda name=name: io.read(tmp_path / name), hint)
    refused(lambda: io.read("/dev/zero"), "regular")


# ---------------------------------------------------------------- impossible physics


BAD_PHYSICS = {
    "nan": (lambda k, m: (k * np.nan, m), "NaN"),
    "one-infinity": (lambda k, m: (np.where(np.arange(12) == 4, np.inf, k), m), "NaN or infinity"),
    "zero": (lambda k, m: (k * 0, m), "zero everywhere"),
    "no-mask": (lambda k, m: (k, m * False), "nothing was measured"),
    "no-coils": (lambda k, m: (k[:, :0], m), "coil"),
    "no-slices": (lambda k, m: (k[:0], m), "slice"),
    "short-mask": (lambda k, m: (k, m[:7]), "ky = 7"),
    "two-axes": (lambda k, m: (k[0, 0], m), "dimensions"),
    "magnitude": (lambda k, m: (np.abs(k), m), "complex"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_PHYSICS)
def test_impossible_k_space_is_refused_by_name(tmp_path, kspace, case):
    change, message = BAD_PHYSICS[case]
    kspace, mask = change(kspace, np.ones(12, bool))
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["kspace"], file["mask"] = kspace, mask
    refused(lambda: io.read(tmp_path / "a.h5"), message)
    assert io.validate(tmp_path / "a.h5")


def test_a_dead_and_a_weak_coil_are_warnings(tmp_path, kspace):
    np.save(tmp_path / "a.npy", np.concatenate([kspace, 0 * kspace[:, :1], 1e-6 * kspace[:, :1]], 1))
    notes = " ".join(io.read(tmp_path / "a.npy").warnings)
    assert "coils [2] are dead" in notes and "coils [3]" in notes


def test_messages_have_all_their_parts(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("kspace", (1, 2, 16, 12), np.complex64, chunks=(1, 1, 16, 12), compression="gzip")
    with pytest.raises(InputError) as caught:
        check_claim(10**9, 10**3, where="a.h5:/kspace", max_bytes=10**8)
    assert all((caught.value.what, caught.value.where, caught.value.expected, caught.value.found, caught.value.hint))
