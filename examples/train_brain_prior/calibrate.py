"""Learn how much too narrow the demo prior's intervals are on heads it was not trained on: ``calibrate.py OUT.json``.

For each acceleration, phantoms made from equations (`sciinv_mri.phantom`; other heads, contrasts, coils and noise than
the prior's synthetic training slices, and never the data a user brings) run through the whole path: file, reader,
maps, noise model, PnP-DM. The factor f makes ``mean -/+ f z std`` cover 90 % of the head's pixels on average over the
slices. The result is what `sciinv_mri/calibration.json` holds.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from statistics import NormalDist

import numpy as np
import torch
from numpy.typing import NDArray
from sciinv_mri.fft import fftc
from sciinv_mri.io import READERS, KSpace
from sciinv_mri.masks import undersample
from sciinv_mri.problem import problem
from sciinv_mri.simulate import loop_maps, simulate

from sciinv.diagnostics.metrics import coverage
from sciinv.io.atomic import write_json
from sciinv.prior import Prior
from sciinv.priors.checkpoint import load_prior
from sciinv.samplers import PnPDM, sample

LEVEL = 0.9
LINES = {4.0: 10, 6.0: 9, 8.0: 8}
CONTRASTS = ("t1", "t2", "pd", "flair")


def phantom(rate: float, head: int) -> KSpace:
    """A phantom's undersampled file, read back."""
    with tempfile.TemporaryDirectory() as folder:
        path = simulate(
            "phantom",
            Path(folder) / "k.h5",
            acceleration=rate,
            calib_lines=LINES[rate],
            coils=(8, 16)[head % 2],
            snr=(25.0, 50.0)[head // 2 % 2],
            seed=100 + head,
            slices=1,
            matrix=(96, 96),
            contrast=CONTRASTS[head % 4],
        )
        return READERS["fastmri"].read(path)


def held_out(image: NDArray[np.float32], rate: float, seed: int) -> KSpace:
    """Undersampled 8-coil data of one held-out synthetic slice ``(2, h, w)``, noise 1/40 of its mean magnitude."""
    rng, size = np.random.default_rng([seed, 5]), (image.shape[1], image.shape[2])
    coils = loop_maps(8, size, [0.0], (220.0, 220.0), seed)[0] * (image[0] + 1j * image[1])
    clean = fftc(torch.from_numpy(coils), (-2, -1)).numpy()
    magnitude = np.hypot(*image)
    noise = rng.normal(size=clean.shape) + 1j * rng.normal(size=clean.shape)
    kspace = (clean + magnitude[magnitude > 0.1].mean() / 40 * noise).astype(np.complex64)[None]
    whole = np.ones((1, 1, size[1]), bool)
    data = KSpace(
        kspace=kspace, mask=whole, ky_range=(0, size[1]), target=size, format="fastmri", reference=magnitude[None]
    )
    return undersample(data, rate, LINES[rate], "random", seed)


def scaled_errors(data: KSpace, key: int, prior: Prior, samples: int) -> tuple[torch.Tensor, float]:
    """``|error| / (z std)`` inside the support, and the raw coverage there."""
    inverse = problem(data, 0)
    drawn = sample(PnPDM(), inverse, prior.at(inverse.domain.shape), [(key, k) for k in range(samples)], seed=1)
    s, truth, support = drawn.summary(LEVEL), inverse.meta["reference"] / inverse.meta["scale"], inverse.meta["support"]
    error = (s["magnitude_mean"] - truth).abs() / (NormalDist().inv_cdf((1 + LEVEL) / 2) * s["std"])
    return error[support], float(coverage(s["lower"], s["upper"], truth, support))


def factor(errors: list[torch.Tensor]) -> float:
    """Smallest f whose mean coverage over the slices reaches the level, by bisection."""
    low, high = 0.1, 100.0
    for _ in range(60):
        middle = (low * high) ** 0.5
        inside = sum(float((e <= middle).float().mean()) for e in errors) / len(errors)
        low, high = (low, middle) if inside >= LEVEL else (middle, high)
    return high


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--heads", type=int, default=4)
    parser.add_argument("--samples", type=int, default=20)
    parser.add_argument("--rates", type=float, nargs="+", default=list(LINES))
    parser.add_argument("--held-out", type=Path, help="a pool chunk that was not trained on: its raw coverage at x4")
    args = parser.parse_args()
    torch.set_num_threads(1)
    prior = load_prior("brain_mri")
    factors, raw = {}, {}
    for rate in args.rates:
        runs = [scaled_errors(phantom(rate, head), head, prior, args.samples) for head in range(args.heads)]
        factors[rate] = round(factor([errors for errors, _ in runs]), 3)
        raw[rate] = round(sum(covered for _, covered in runs) / len(runs), 3)
    record: dict[str, object] = {
        "prior_sha256": prior.card["sha256"],
        "method": "pnpdm",
        "pattern": "lines",
        "level": LEVEL,
        "samples": args.samples,
        "factors": factors,
        "protocol": "random phase-encoding lines, 8 or 16 coils, 96 x 96, 8 to 10 calibration lines",
        "learned_on": f"{args.heads} phantom heads made from equations an acceleration",
        "raw_coverage": raw,
    }
    if args.held_out:
        images = np.load(args.held_out, allow_pickle=False)[: args.heads, :, 8:104, 8:104].astype(np.float32)
        covered = [scaled_errors(held_out(x, 4.0, i), i, prior, args.samples)[1] for i, x in enumerate(images)]
        record["held_out_coverage"] = round(sum(covered) / len(covered), 3)
    write_json(args.out, record)


if __name__ == "__main__":
    main()
