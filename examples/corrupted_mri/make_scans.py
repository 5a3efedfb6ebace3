"""Write undersampled, noisy multi-coil scans and, for the comparison only, their clean images: ``make_scans.py OUT``.

Scan ``k`` depends on (seed, k) alone: a slice of ``../train_brain_prior/synthetic_brain.py`` at 64 x 64, seen by eight
loops of its own, with a smooth phase, noise, and random phase-encoding lines. ``OUT/train`` and ``OUT/test`` hold
fastMRI files, ``OUT/clean_images``, for the training slices, what the same reconstruction makes of all lines without
noise: what a prior from clean data would be trained on. Only `train_clean.py` reads it. Files that exist are kept.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from sciinv_mri.fft import fftc
from sciinv_mri.io import KSpace
from sciinv_mri.io.fastmri_out import write_fastmri
from sciinv_mri.masks import undersample
from sciinv_mri.phantom import HEAD_MM, smooth_phase
from sciinv_mri.problem import MRIOptions, prepare
from sciinv_mri.simulate import loop_maps

sys.path.insert(0, str(Path(__file__).parents[1] / "train_brain_prior"))
from anatomy import Anatomy
from make_pool import heads
from synthetic_brain import acquire, cut, magnitude

SIZE, COILS, CALIB = 64, 8, 10


def scan(anatomies: list[Anatomy], seed: int, index: int) -> tuple[KSpace, NDArray[np.complexfloating]]:
    """Fully sampled noisy k-space with its truth, and the same k-space without noise."""
    rng = np.random.default_rng([seed, index])
    while True:
        weights = np.array([0.65 if a.has_head else 0.35 for a in anatomies])
        anatomy = anatomies[int(rng.choice(len(anatomies), p=weights / weights.sum()))]
        slab = cut(anatomy, rng, 2 * SIZE, rng.uniform(190.0, 260.0) / (2 * SIZE))
        if float((slab.distance < 0).float().mean()) > 0.08:
            break
    image = acquire(*magnitude(slab, rng), rng, SIZE).numpy()
    image = image * np.exp(1j * smooth_phase((SIZE, SIZE), int(rng.integers(2**31)), 0.0, HEAD_MM))
    maps = loop_maps(COILS, (SIZE, SIZE), [0.0], HEAD_MM, int(rng.integers(2**31)))
    clean = fftc(torch.from_numpy(maps * image[None, None]), (-2, -1)).numpy().astype(np.complex64)
    mean = np.abs(image)[np.abs(image) > 0.1].mean()
    noise = rng.normal(size=clean.shape) + 1j * rng.normal(size=clean.shape)
    noisy = (clean + mean / rng.uniform(20.0, 50.0) * noise).astype(np.complex64)
    return whole(noisy, np.abs(image)[None].astype(np.float32)), clean


def whole(kspace: NDArray[np.complexfloating], reference: NDArray[np.float32]) -> KSpace:
    """Fully sampled k-space ``(1, coil, 64, 64)``."""
    full = np.ones((1, 1, SIZE), bool)
    return KSpace(kspace=kspace, mask=full, ky_range=(0, SIZE), target=(SIZE, SIZE), format="fastmri",
                  reference=reference)  # fmt: skip


def write(path: Path, data: KSpace) -> None:
    """As a fastMRI file with its truth."""
    write_fastmri(path, data.kspace, mask=data.mask, reference=data.reference, voxel=(3.3, 2.8, 5.0))


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--colin", type=Path, help="Colin27 head, see ../train_brain_prior")
    parser.add_argument("--count", type=int, default=240)
    parser.add_argument("--tests", type=int, default=8)
    parser.add_argument("--rate", type=float, default=2.0, help="net acceleration of the training scans")
    parser.add_argument("--seed", type=int, default=2026)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    anatomies = heads(arguments.colin)
    for name in ("train", "clean_images", "test"):
        (arguments.out / name).mkdir(parents=True, exist_ok=True)
    for index in range(arguments.tests):  # fully sampled; evaluate.py undersamples them
        path = arguments.out / "test" / f"test_{index:02d}.h5"
        if not path.exists():
            write(path, scan(anatomies, arguments.seed + 1, index)[0])
    for index in range(arguments.count):
        path, other = (arguments.out / name / f"scan_{index:04d}" for name in ("train", "clean_images"))
        if path.with_suffix(".h5").exists():
            continue
        noisy, clean = scan(anatomies, arguments.seed, index)
        ready = prepare(whole(clean, noisy.reference), MRIOptions(calib=CALIB))
        image = torch.view_as_real(ready.combine(ready.kspace)).permute(2, 0, 1)
        np.save(other.with_suffix(".npy"), image.numpy().astype(np.float32))
        write(path.with_suffix(".h5"), undersample(noisy, arguments.rate, CALIB, "random", index))


if __name__ == "__main__":
    main()
