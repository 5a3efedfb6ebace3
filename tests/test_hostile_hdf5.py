"""HDF5 that lies, links out, explodes or breaks the library: refused quickly, and nothing else is read."""

import resource
import struct
import subprocess
import sys

import h5py
import numpy as np
import pytest
from hostile import refused
from mri_files import coil_images, fft2, make_ismrmrd
from sciinv_mri import io

from sciinv.errors import InputError
from sciinv.io.safe_hdf5 import Hdf5File

SECRET = b"top secret bytes of another file" * 64


@pytest.fixture
def kspace():
    return fft2(coil_images(1, 2, 16, 12)).astype(np.complex64)


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


def test_hdf5_chunk_shorter_than_its_checksum_does_not_crash_the_library(tmp_path, kspace):
    """HDF5 2.0 checks ``size - 4`` bytes, wrapped around: a segmentation fault, found by mutation."""
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset("kspace", data=kspace, chunks=(1, 1, 16, 12), compression="gzip", fletcher32=True)
        size = file["kspace"].id.get_chunk_info(0).size
    raw = path.read_bytes()
    entry = struct.pack("<II", size, 0) + bytes(32)  # the chunk's size, filter mask and its offsets (all zero)
    assert raw.count(entry) == 1
    for lie in (0, 3, 2**31):
        path.write_bytes(raw.replace(entry, struct.pack("<II", lie, 0) + bytes(32)))
        refused(lambda: io.read(path), "a.h5:/kspace")


def test_hdf5_float_with_a_bent_exponent_does_not_corrupt_memory(tmp_path, kspace):
    """It becomes a long double of 16 bytes; in a compound that overlaps its neighbour and h5py writes past the end."""
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        pair = np.stack([kspace.real, kspace.imag], -1).astype("f8")
        file["kspace"] = pair.view([("real", "f8"), ("imag", "f8")])[..., 0]
    raw = path.read_bytes()
    bias = struct.pack("<I", 1023)
    at = raw.index(bytes([52, 11, 0, 52]) + bias) + 4  # exponent place and size, mantissa place and size, then the bias
    path.write_bytes(raw[:at] + struct.pack("<I", 1021) + raw[at + 4 :])
    with h5py.File(path) as file:
        assert file["kspace"].dtype["real"].itemsize == 16  # the trap is set
    refused(lambda: io.read(path), "no standard type")
