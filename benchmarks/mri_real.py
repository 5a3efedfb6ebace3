"""Real 16-coil brain k-space, retrospectively undersampled: PnP-DM against SENSE and L1-wavelet, six cases, three
masks each.

``mri_real.py --data DIR`` with DIR holding ``mchiew_sense_tutorial_brain16ch_full_raw_data.mat``. Everything that the
sampler uses (maps, noise, scale, phase) comes from the undersampled data; both baselines get the regularisation that
is best ON THE REFERENCE. The reference is the magnitude of the coil combination of the full data with maps from the
full data, one image for all cases. Coverage is that of 90 % intervals inside the head.
"""

from __future__ import annotations

import argparse
import dataclasses as dc
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from _common import finish, table
from sciinv_mri import baselines
from sciinv_mri.io import READERS
from sciinv_mri.masks import undersample
from sciinv_mri.problem import MRIOptions, prepare, problem

from sciinv.calibration import load_calibration
from sciinv.diagnostics.metrics import coverage, error_correlation, psnr, ssim
from sciinv.priors.checkpoint import load_prior
from sciinv.samplers import PnPDM, sample

FILE = "mchiew_sense_tutorial_brain16ch_full_raw_data.mat"
CASES = [(coils, rate) for coils in (0, 4) for rate in (4.0, 6.0, 8.0)]
CALIBRATION_LINES = {4.0: 10, 6.0: 9, 8.0: 8}
CALIBRATION = Path(__file__).parents[1] / "operators" / "mri" / "sciinv_mri" / "calibration.json"
LEVEL = 0.9


def read(folder: Path) -> Any:
    """The slice as the package reads it."""
    return READERS["mat73"].read(folder / FILE, axes="coil,slice,ky,kx")


def reference_image(full: Any) -> torch.Tensor:
    """Coil combination of the full data with maps from the full data, in file units."""
    ready = prepare(full, MRIOptions(kernel=6, threshold=0.02))
    return (ready.combine(ready.kspace) * ready.scale).abs()


def run_case(
    full: Any, truth: torch.Tensor, prior: Any, sampler: PnPDM, coils: int, rate: float, seed: int, n: int
) -> dict[str, Any]:
    """Baselines, samples and their figures for one mask."""
    options = MRIOptions(coils=coils)
    data = undersample(full, rate, CALIBRATION_LINES[rate], "random", seed)
    ready = prepare(data, options)
    reference = truth / ready.scale
    head = reference > 0.08
    row: dict[str, Any] = {"coils": coils or 16, "rate": rate, "seed": seed}
    zero = baselines.zero_filled(ready)
    row["zero_filled"] = psnr(zero.abs(), reference)
    for name, method, grid in (
        ("sense", baselines.sense, baselines.SENSE_GRID),
        ("l1_wavelet", baselines.l1_wavelet, baselines.L1_GRID),
    ):
        image, row[name], row[f"{name}_lambda"] = baselines.best(method, ready, reference, grid)
        row[f"{name}_ssim"] = ssim(image.abs(), reference)
    inverse = problem(data, 0, options)
    cpu = time.process_time()
    drawn = sample(sampler, inverse, prior.at(inverse.domain.shape), [(0, k) for k in range(n)], seed=seed)
    row["cpu_s"] = time.process_time() - cpu
    s = drawn.summary(LEVEL)
    mean = s["mean"].abs()
    row |= {
        "calls": drawn.provenance["network_calls"],
        "pnpdm": psnr(mean, reference),
        "pnpdm_ssim": ssim(mean, reference),
        "one_sample": psnr(drawn.x[0].abs(), reference),
        "coverage_90": coverage(s["lower"], s["upper"], reference, head),
        "nominal": s["coverage"],
        "corr": error_correlation(s["std"], s["magnitude_mean"] - reference, head),
        "chi2": float(inverse.chi2(drawn.x).mean() / inverse.n_data),
        "rhat_max": drawn.provenance.get("rhat_max", float("nan")),
    }
    if CALIBRATION.is_file():
        calibration = load_calibration(CALIBRATION)
        factor = calibration.factor(data.acceleration)
        if factor is not None:
            row["coverage_90_calibrated"] = coverage(*calibration.bounds(s, factor), reference, head)
    row["gain_db"] = row["pnpdm"] - max(row["sense"], row["l1_wavelet"])
    row["gain_ssim"] = row["pnpdm_ssim"] - max(row["sense_ssim"], row["l1_wavelet_ssim"])
    return {k: float(v) for k, v in row.items()}


def averages(rows: list[dict[str, float]]) -> Iterator[dict[str, float]]:
    """Mean over the masks of each case."""
    for coils, rate in CASES:
        same = [r for r in rows if r["coils"] == (coils or 16) and r["rate"] == rate]
        if same:
            yield {k: sum(r[k] for r in same) / len(same) for k in same[0] if all(k in r for r in same)}


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--prior", default="brain_mri")
    parser.add_argument("--samples", type=int, default=16)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument(
        "--cases", type=int, nargs="+", default=list(range(len(CASES))), help="indices into the six cases"
    )
    parser.add_argument("--set", action="append", default=[], metavar="FIELD=VALUE", help="a PnP-DM field")
    parser.add_argument("--rows", type=Path, help="write the row of every mask as JSON")
    args = parser.parse_args()
    torch.set_num_threads(1)
    fields = {k: json.loads(v) for k, v in (item.split("=", 1) for item in args.set)}
    sampler, prior, full = dc.replace(PnPDM(), **fields), load_prior(args.prior), read(args.data)
    truth = reference_image(full)
    rows = []
    for i in args.cases:
        for seed in args.seeds:
            rows.append(run_case(full, truth, prior, sampler, *CASES[i], seed, args.samples))
            if args.rows:
                args.rows.write_text(json.dumps(rows, indent=1))
    shown = [
        "coils",
        "rate",
        "zero_filled",
        "sense",
        "l1_wavelet",
        "pnpdm",
        "one_sample",
        "gain_db",
        "gain_ssim",
        "coverage_90",
        "coverage_90_calibrated",
        "corr",
        "chi2",
        "rhat_max",
        "calls",
        "cpu_s",
    ]
    means = list(averages(rows))
    table(shown, [[f"{m[k]:.4g}" if k in m else "-" for k in shown] for m in means])
    figures = {"psnr_gain_db": min(m["gain_db"] for m in means), "coverage_90": min(m["coverage_90"] for m in means)}
    calibrated = [m["coverage_90_calibrated"] for m in means if "coverage_90_calibrated" in m]
    figures |= {"coverage_90_calibrated": min(calibrated)} if calibrated else {}
    enough = all(m["gain_db"] >= (1.5 if m["rate"] == 4 else 1.0) and m["gain_ssim"] > 0 for m in means)
    inside = bool(calibrated) and all(0.82 <= c <= 0.95 for c in calibrated)
    finish(figures, ok=enough and figures["coverage_90"] >= 0.65 and inside)


if __name__ == "__main__":
    main()
