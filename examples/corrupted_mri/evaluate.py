"""Reconstruct with both priors, SENSE and L1-wavelet: ``evaluate.py WORK --data DIR``. Results: docs/corrupted.md.

Held-out slices of the family that was trained on, and the real 16-coil brain (``DIR`` holds
``mchiew_sense_tutorial_brain16ch_full_raw_data.mat``), its k-space cut to the central 64 x 64; three masks of it. Both
are undersampled here, and nothing but the undersampled data enters a reconstruction, except that SENSE and L1-wavelet
get the weight that is best on the reference. What ``WORK/rows.json`` holds is not computed again.
"""

from __future__ import annotations

import argparse
import dataclasses as dc
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sciinv_mri import baselines
from sciinv_mri.fft import crop_centre
from sciinv_mri.io import READERS, KSpace
from sciinv_mri.masks import undersample
from sciinv_mri.problem import MRIOptions, prepare, problem
from torch import Tensor

from sciinv.diagnostics.metrics import coverage, nmse, psnr, ssim
from sciinv.priors.checkpoint import load_prior
from sciinv.samplers import PnPDM, sample

REAL = "mchiew_sense_tutorial_brain16ch_full_raw_data.mat"
LINES, LEVEL, SIZE = {3.0: 10, 4.0: 8}, 0.9, 64
SENSE_GRID, L1_GRID = (*baselines.SENSE_GRID, 0.1, 0.3), (*baselines.L1_GRID, 0.02, 0.05)


def held_out(work: Path) -> Iterator[tuple[str, int, KSpace, Tensor]]:
    """Name, seed of the mask, full data and true magnitude of the synthetic slices."""
    for seed, path in enumerate(sorted((work / "test").glob("*.h5"))):
        data = READERS["fastmri"].read(path)
        yield "held-out slices", seed, data, torch.as_tensor(data.reference[0])


def real(folder: Path) -> Iterator[tuple[str, int, KSpace, Tensor]]:
    """The same of the measured brain; its reference is the coil combination of the full data with maps from them."""
    full = READERS["mat73"].read(folder / REAL, axes="coil,slice,ky,kx")
    kspace = crop_centre(torch.as_tensor(full.kspace), (SIZE, SIZE)).numpy()
    data = dc.replace(full, kspace=kspace, mask=full.mask[..., :SIZE], ky_range=(0, SIZE), target=(SIZE, SIZE))
    ready = prepare(data, MRIOptions(kernel=6, threshold=0.02))
    for seed in range(3):
        yield "real brain", seed, data, (ready.combine(ready.kspace) * ready.scale).abs()


def figures(image: Tensor, reference: Tensor) -> dict[str, float]:
    """Agreement of a magnitude with the reference."""
    x = image.abs()
    return {
        "psnr": float(psnr(x, reference)),
        "nrmse": float(nmse(x, reference).sqrt()),
        "ssim": float(ssim(x, reference)),
    }


def row(
    data: KSpace,
    truth: Tensor,
    rate: float,
    seed: int,
    priors: dict[str, Any],
    n: int,
    known: dict[str, Any],
    kept: Path,
) -> None:
    """Add the figures of every method that `known` lacks for one slice and mask, and its magnitudes to ``kept``."""
    few = undersample(data, rate, LINES[rate], "random", seed)
    ready, inverse = prepare(few, MRIOptions()), problem(few, 0)
    reference = truth / ready.scale
    head = reference > 0.08
    shown = {k: torch.from_numpy(v) for k, v in np.load(kept).items()} if kept.exists() else {"reference": reference}
    if not known:
        known["zero-filled"] = figures(baselines.zero_filled(ready), reference)
        for name, method, grid in (
            ("SENSE", baselines.sense, SENSE_GRID),
            ("L1-wavelet", baselines.l1_wavelet, L1_GRID),
        ):
            image, _, weight = baselines.best(method, ready, reference, grid)
            known[name], shown[name] = figures(image, reference) | {"weight": weight}, image.abs()
    for name, prior in priors.items():
        if name in known:
            continue
        start = time.process_time()
        drawn = sample(PnPDM(), inverse, prior.at(inverse.domain.shape), [(0, k) for k in range(n)], seed=seed)
        s = drawn.summary(LEVEL)
        known[name] = figures(s["mean"], reference) | {
            "coverage": float(coverage(s["lower"], s["upper"], reference, head)),
            "nominal": float(s["coverage"]),
            "std": float(s["std"][head].mean()),
            "one_sample": float(psnr(drawn.x[0].abs(), reference)),
            "chi2": float(inverse.chi2(drawn.x).mean() / inverse.n_data),
            "cpu_s": time.process_time() - start,
        }
        shown |= {name: s["mean"].abs(), f"std, {name}": s["std"]}
    np.savez_compressed(kept, **{k: v.numpy().astype(np.float32) for k, v in shown.items()})


def picture(files: list[Path], path: Path) -> None:
    """One row a file: all magnitudes on one scale, standard deviations times five."""
    import matplotlib.pyplot as plt

    loaded = [np.load(file, allow_pickle=False) for file in files]
    _, axes = plt.subplots(len(files), len(loaded[0].files), figsize=(2 * len(loaded[0].files), 2.2 * len(files)))
    for line, images in zip(np.atleast_2d(axes), loaded, strict=True):
        for axis, name in zip(line, images.files, strict=True):
            axis.imshow(images[name] * (5 if name.startswith("std") else 1), cmap="gray", vmin=0, vmax=1.1)
            axis.set_title(name + (" x 5" if name.startswith("std") else ""), fontsize=9)
            axis.axis("off")
    plt.tight_layout()
    plt.savefig(path, dpi=70)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("work", type=Path)
    parser.add_argument("--data", type=Path, help="folder of the real brain; left out if not given")
    parser.add_argument("--samples", type=int, default=16)
    parser.add_argument("--rates", type=float, nargs="+", default=list(LINES))
    parser.add_argument("--priors", nargs="+", default=["clean", "em"], help="folders of WORK with a prior.safetensors")
    parser.add_argument("--figure", type=Path, help="PNG of two of the held-out slices")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    priors = {f"prior: {name}": load_prior(arguments.work / name / "prior.safetensors") for name in arguments.priors}
    path, start = arguments.work / "rows.json", time.process_time()
    rows: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    sources = [*held_out(arguments.work), *(real(arguments.data) if arguments.data else ())]
    for rate in arguments.rates:
        for name, seed, data, truth in sources:
            key = f"{name}, x{rate:g}, {seed}"
            known = rows.setdefault(key, {})
            if not known or not priors.keys() <= known.keys():
                kept = arguments.work / f"{key.replace(', ', '_').replace(' ', '-')}.npz"
                row(data, truth, rate, seed, priors, arguments.samples, known, kept)
                path.write_text(json.dumps(rows, indent=1))
    print("| data | method | PSNR | NRMSE | SSIM | coverage | one sample | n |\n|---|---|---|---|---|---|---|---|")
    if arguments.figure:
        picture(sorted(arguments.work.glob(f"held-out*x{arguments.rates[-1]:g}_[04].npz")), arguments.figure)
    means = {}
    for case in dict.fromkeys(key.rpartition(", ")[0] for key in rows):
        same = [v for key, v in rows.items() if key.rpartition(", ")[0] == case]
        for method in same[0]:
            mean = {k: sum(r[method][k] for r in same) / len(same) for k in same[0][method]}
            means[f"{case}, {method}"] = {k: round(v, 4) for k, v in mean.items()}
            cells = [f"{mean[k]:.{d}f}" if k in mean else "" for k, d in
                     (("psnr", 2), ("nrmse", 3), ("ssim", 3), ("coverage", 2), ("one_sample", 2))]  # fmt: skip
            print("| " + " | ".join([case, method, *cells, str(len(same))]) + " |")
    print(json.dumps({"cpu_seconds": round(time.process_time() - start), "means": means}))


if __name__ == "__main__":
    main()
