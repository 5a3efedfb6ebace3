"""Files made to lie, link, explode or run code: each is refused in one sentence, quickly, and nothing else is read.

Mutations are deterministic. A mutated file may still be readable (most bytes are samples); what may not happen is any
exception other than `SciinvError`, or more than 5 s of CPU time.
"""

import gzip
import io as stdio
import os
import pickle
import resource
import struct
import subprocess
import sys
import time
import tracemalloc
import zlib
from itertools import pairwise

import h5py
import nibabel as nib
import numpy as np
import pytest
import yaml
from mri_files import coil_images, fft2, make_ismrmrd
from sciinv_mri import io

from sciinv.errors import InputError, SciinvError
from sciinv.io.limits import check_claim
from sciinv.io.safe_hdf5 import Hdf5File
from sciinv.io.safe_npy import read_npy
from sciinv.io.safe_xml import parse_xml
from sciinv.io.safe_yaml import load_yaml, parse_yaml

SECRET = b"top secret bytes of another file" * 64


@pytest.fixture
def kspace():
    return fft2(coil_images(1, 2, 16, 12)).astype(np.complex64)


def refused(action, *parts: str) -> str:
    """The action raises an InputError that names the file and allocates little; returns the message."""
    tracemalloc.start()
    start = time.process_time()
    try:
        with pytest.raises(InputError) as caught:
            action()
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    message = str(caught.value)
    assert caught.value.exit_code == 3 and caught.value.where and "\n" not in message
    for part in parts:
        assert part in message, message
    assert peak < 64 << 20 and time.process_time() - start < 5
    return message


# ---------------------------------------------------------------- mutations


def originals(folder):
    kspace = fft2(coil_images(1, 2, 16, 12)).astype(np.complex64)
    np.save(folder / "k.npy", kspace)
    mask = np.arange(12) % 2 == 0
    reference = np.abs(coil_images(1, 1, 16, 12)[:, 0])
    io.write_fastmri(folder / "fast.h5", kspace * mask, mask=mask, reference=reference, size=(8, 12))
    with h5py.File(folder / "packed.h5", "w") as file:
        file.create_dataset(
            "kspace", data=kspace, chunks=(1, 1, 16, 12), compression="gzip", shuffle=True, fletcher32=True
        )
    make_ismrmrd(folder / "raw.h5", kspace, noise=np.ones((2, 64), np.complex64), recon=(8, 12))
    with h5py.File(folder / "m.mat", "w", userblock_size=512) as file:
        file["raw"] = (
            np.stack([kspace.real, kspace.imag], -1).astype("f8").view([("real", "f8"), ("imag", "f8")])[..., 0]
        )
    with open(folder / "m.mat", "r+b") as file:
        file.write(b"MATLAB 7.3 MAT-file".ljust(128))
    volume = np.arange(6 * 5 * 4, dtype=np.int16).reshape(6, 5, 4)
    nib.save(nib.Nifti1Image(volume, np.diag([1.0, 2, 3, 1])), folder / "v.nii")
    nib.save(nib.Nifti2Image(volume, np.diag([1.0, 2, 3, 1])), folder / "w.nii")
    nib.save(nib.Nifti1Image(volume, np.diag([1.0, 2, 3, 1])), folder / "v.nii.gz")
    (folder / "c.yaml").write_text("sampler: pnpdm\nsteps: 20\nlist: [1, 2.5, {a: b}]\nanchor: &a [1, 2]\nagain: *a\n")


def mutated(data: bytes, index: int) -> bytes:
    rng = np.random.default_rng([20240, index])
    raw = bytearray(data)
    kind = index % 5
    head = min(len(raw), 600 if index % 2 else len(raw))  # half of the damage goes to the header
    if kind == 0:  # a few bytes changed
        for place in rng.integers(0, head, rng.integers(1, 9)):
            raw[place] = int(rng.integers(0, 256))
    elif kind == 1:  # cut short
        raw = raw[: int(rng.integers(1, len(raw)))]
    elif kind == 2:  # a number replaced by an extreme one
        place = int(rng.integers(0, max(1, head - 8)))
        word = [
            b"\xff" * 8,
            b"\x00" * 8,
            struct.pack("<q", 2**62),
            struct.pack("<i", -1) * 2,
            struct.pack("<d", float("nan")),
        ]
        raw[place : place + 8] = word[rng.integers(0, len(word))]
    elif kind == 3:  # a piece moved over another
        size = int(rng.integers(1, 65))
        a, b = (int(place) for place in rng.integers(0, max(1, len(raw) - size), 2))
        raw[a : a + size] = raw[b : b + size]
    else:  # one bit
        place = int(rng.integers(0, head))
        raw[place] ^= 1 << int(rng.integers(0, 8))
    return bytes(raw)


FORMATS = {
    "fast.h5": "fastmri", "packed.h5": "fastmri", "raw.h5": "ismrmrd", "m.mat": "mat73", "k.npy": "npy",
    "v.nii": "nifti", "w.nii": "nifti", "v.nii.gz": "nifti", "c.yaml": "yaml",
}  # fmt: skip


@pytest.mark.parametrize("name", FORMATS)
def test_two_hundred_mutations_raise_nothing_but_our_errors(tmp_path, name):
    originals(tmp_path)
    original = (tmp_path / name).read_bytes()
    target = tmp_path / f"mutated-{name}"
    target.write_bytes(original)
    read = load_yaml if FORMATS[name] == "yaml" else io.READERS[FORMATS[name]].read
    read(target)
    bad, errors, slowest = [], 0, 0.0
    for index in range(200):
        target.write_bytes(mutated(original, index))
        start = time.process_time()
        try:
            if FORMATS[name] != "yaml":
                io.validate(target, format=FORMATS[name])
                if index % 8 == 0:
                    assert all(isinstance(reader.sniff(target), bool) for reader in io.READERS.values())
            result = read(target)
            if hasattr(result, "info"):
                result.info()
        except SciinvError as error:
            errors += 1
            assert error.exit_code in (2, 3) and "\n" not in str(error)
        except Exception as error:
            bad.append((index, repr(error)))
        slowest = max(slowest, time.process_time() - start)
    assert not bad
    assert errors > 30, "the mutations are too mild to test anything"
    assert slowest < 5


# ---------------------------------------------------------------- HDF5


@pytest.fixture
def secret(tmp_path):
    (tmp_path / "secret.bin").write_bytes(SECRET)
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["kspace"] = np.ones((1, 2, 16, 12), np.complex64)
        file["group/kspace"] = np.ones((1, 2, 16, 12), np.complex64)
    return tmp_path


def test_hdf5_external_storage_is_refused(secret):
    with h5py.File(secret / "a.h5", "w") as file:
        place = [(str(secret / "secret.bin"), 0, 64 * 8)]
        file.create_dataset("kspace", (1, 2, 4, 8), np.complex64, external=place)
    refused(lambda: io.read(secret / "a.h5"), "external storage", "a.h5:/kspace")


@pytest.mark.parametrize("link", ["external", "soft-then-external", "middle", "virtual"])
def test_hdf5_links_out_of_the_file_are_refused(secret, link):
    path = secret / "a.h5"
    with h5py.File(path, "w") as file:
        if link == "external":
            file["kspace"] = h5py.ExternalLink("other.h5", "/kspace")
        elif link == "soft-then-external":
            file["kspace"] = h5py.SoftLink("/inner")
            file["inner"] = h5py.ExternalLink("other.h5", "/kspace")
        elif link == "middle":
            file["door"] = h5py.ExternalLink("other.h5", "/group")
            file["kspace"] = h5py.SoftLink("/door/kspace")
        else:
            layout = h5py.VirtualLayout((1, 2, 16, 12), np.complex64)
            layout[...] = h5py.VirtualSource(str(secret / "other.h5"), "kspace", (1, 2, 16, 12))
            file.create_virtual_dataset("kspace", layout)
    refused(lambda: io.read(path), "virtual" if link == "virtual" else "link into another file")
    refused(lambda: io.READERS["fastmri"].read(path))
    assert io.validate(path, format="fastmri")


def test_hdf5_soft_links_inside_the_file_work_and_circles_do_not(tmp_path, kspace):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["data/real"] = kspace
        file["alias"] = h5py.SoftLink("data")
        file["kspace"] = h5py.SoftLink("/alias/real")
        file["loop"] = h5py.SoftLink("/pool")
        file["pool"] = h5py.SoftLink("/loop")
        file["dangling"] = h5py.SoftLink("/nowhere")
    np.testing.assert_array_equal(io.read(tmp_path / "a.h5").kspace, kspace)
    with Hdf5File(tmp_path / "a.h5") as file:
        refused(lambda: file.find("/loop"), "circle")
        assert file.find("/dangling") is None and file.find("/data/real/deeper") is None
        assert file.find("/data/real") is not None


def test_hdf5_lying_shape_is_refused_before_it_is_allocated(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("kspace", (100, 100, 1000, 1000), np.complex64, chunks=(1, 1, 100, 100))
    assert (tmp_path / "a.h5").stat().st_size < 10_000
    refused(lambda: io.read(tmp_path / "a.h5"), "more memory than allowed", "--max-bytes")
    refused(lambda: io.read(tmp_path / "a.h5", max_bytes=10**13), "more data than the file stores")


def test_hdf5_compression_bomb_and_giant_chunk_are_refused(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        zeros = np.zeros((1, 8, 1024, 1024), np.complex64)
        file.create_dataset("kspace", data=zeros, chunks=(1, 1, 1024, 1024), compression="gzip")
    refused(lambda: io.read(tmp_path / "a.h5", max_bytes=32 << 20), "more memory")
    with h5py.File(tmp_path / "b.h5", "w") as file:
        shape, most = (1, 1, 8, 8), (None, None, None, None)
        file.create_dataset("kspace", shape, np.complex64, maxshape=most, chunks=(64, 64, 64, 64), compression="gzip")
    refused(lambda: io.read(tmp_path / "b.h5"), "chunk")


def test_hdf5_unknown_filter_is_refused_and_no_plugin_loads(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        plist.set_chunk((1, 1, 8, 8))
        plist.set_filter(32015, h5py.h5z.FLAG_OPTIONAL, (3,))
        space = h5py.h5s.create_simple((1, 1, 8, 8))
        h5py.h5d.create(file.id, b"kspace", h5py.h5t.py_create(np.dtype(np.complex64)), space, plist)
    refused(lambda: io.read(tmp_path / "a.h5"), "filter 32015")
    script = "import sciinv.io.safe_hdf5, os; print(os.environ['HDF5_PLUGIN_PRELOAD'])"
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60).stdout == "::\n"


def test_hdf5_text_bombs_are_refused(tmp_path, kspace):
    for name, value in [("vlen", "x" * (17 << 20)), ("fixed", np.bytes_(b"x" * (17 << 20)))]:
        with h5py.File(tmp_path / f"{name}.h5", "w") as file:
            file["kspace"], file["ismrmrd_header"] = kspace, value
        with pytest.raises(InputError, match="one string"):
            io.read(tmp_path / f"{name}.h5")
    with h5py.File(tmp_path / "bytes.h5", "w") as file:
        file["kspace"], file["ismrmrd_header"] = kspace, np.bytes_(b"\xff\xfe\x00bad")
    refused(lambda: io.read(tmp_path / "bytes.h5"))


def test_ismrmrd_records_that_claim_too_much_are_refused(tmp_path, kspace):
    path = make_ismrmrd(tmp_path / "a.h5", kspace)
    with h5py.File(path, "r+") as file:
        data = file["dataset/data"][()]
        data["head"]["number_of_samples"] = 65535
        data["head"]["active_channels"] = 65535
        file["dataset/data"][...] = data
    refused(lambda: io.read(path), "a.h5")
    data["head"]["number_of_samples"], data["head"]["active_channels"] = 17, 2
    with h5py.File(path, "r+") as file:
        file["dataset/data"][...] = data
    refused(lambda: io.read(path), "does not hold what its header says", "record")
    path = make_ismrmrd(tmp_path / "b.h5", kspace)
    with h5py.File(path, "r+") as file:
        xml = file["dataset/xml"][0]
        file["dataset/xml"][0] = xml.replace(b"<mrd:x>16</mrd:x>", b"<mrd:x>16000</mrd:x>").replace(
            b"<mrd:y>12<", b"<mrd:y>16000<"
        )
    refused(lambda: io.read(path), "far more data")


@pytest.mark.parametrize("what", ["header", "attribute", "xml", "trajectory", "samples"])
def test_hdf5_variable_lengths_that_lie_cost_nothing(tmp_path, kspace, what):
    """The library would allocate and clear 4 or 16 GB for each of these before it looks whether the data exist."""
    path = tmp_path / "a.h5"
    if what in ("header", "attribute"):
        with h5py.File(path, "w") as file:
            file["kspace"], file["ismrmrd_header"] = kspace, "<ismrmrdHeader>" + " " * 4000
            file.attrs["acquisition"] = "AXT2"
        length = {"header": 4015, "attribute": 4}[what]
    else:
        make_ismrmrd(path, kspace, noise=np.ones((2, 50), np.complex64))
        with h5py.File(path) as file:
            length = {"xml": len(file["dataset/xml"][0]), "trajectory": 0, "samples": 2 * 2 * 50}[what]
    raw = bytearray(path.read_bytes())
    places = [
        at
        for at in range(len(raw) - 16)
        if struct.unpack_from("<I", raw, at)[0] == length and points_at_heap(raw, at, what)
    ]
    assert places
    raw[places[0] : places[0] + 4] = b"\xff\xff\xff\xff"
    path.write_bytes(raw)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    if what in ("header", "xml", "samples"):
        refused(lambda: io.read(path), "a.h5")
    elif what == "attribute":
        with Hdf5File(path) as file:
            assert file.attribute("/", "acquisition") is None
    else:
        np.testing.assert_allclose(
            io.read(path).kspace, kspace, atol=1e-6
        )  # the trajectory of a Cartesian scan is not read
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300_000  # kB


def points_at_heap(raw: bytes, at: int, what: str) -> bool:
    address, index = struct.unpack_from("<QI", raw, at + 4)
    if what == "trajectory":  # an empty value in a record: the samples' reference follows it
        return not address and not index and points_at_heap(raw, at + 16, "")
    return 0 < address < len(raw) and raw[address : address + 4] == b"GCOL" and 0 < index < 1000


def test_text_attributes_are_found_without_the_library(tmp_path, kspace):
    for libver in ("earliest", "latest"):
        with h5py.File(tmp_path / "a.h5", "w", libver=libver) as file:
            file["kspace"] = kspace
            file.attrs["max"], file.attrs["norm"] = 1.0, 2.0
            file.attrs["acquisition"] = "AXT2"
            for number in range(12):  # enough for the dense storage of new files
                file.attrs[f"x{number}"] = f"value {number}"
        with Hdf5File(tmp_path / "a.h5") as file:
            assert file.attribute("/", "acquisition") == "AXT2" and file.attribute("/", "x7") == "value 7"
            assert file.attribute("/", "max") == 1.0 and file.attribute("/", "nothing") is None


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
    refused(lambda: io.read(tmp_path / "a.h5"), "a.h5:/ismrmrd_header")


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
