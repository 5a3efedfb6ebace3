"""Two hundred damaged files of each format: whatever happens, it is a `SciinvError` or a result, and it is quick.

Mutations are deterministic. A damaged file may still be readable, for most of its bytes are samples.
"""

import h5py
import nibabel as nib
import numpy as np
import pytest
from hostile import survives_mutations
from mri_files import coil_images, fft2, make_ismrmrd
from sciinv_mri import io

from sciinv.io.safe_yaml import load_yaml


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

    def attempt(path, index):
        if FORMATS[name] != "yaml":
            io.validate(path, format=FORMATS[name])
            if index % 8 == 0:
                assert all(isinstance(reader.sniff(path), bool) for reader in io.READERS.values())
        result = read(path)
        if hasattr(result, "info"):
            result.info()

    survives_mutations(target, original, attempt)
