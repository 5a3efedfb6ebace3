"""Results as files of the field: NIfTI maps with a JSON beside each, all samples in HDF5, a fastMRI prediction on
request.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from sciinv.results import ItemResult, RunContext
from sciinv_mri.io import KSpace, write_dataset_description, write_maps, write_reconstruction, write_samples

Volume = NDArray[np.float32]


def write(out: Path, data: KSpace, results: Sequence[ItemResult], context: RunContext) -> list[Path]:
    """Write the maps, samples and (with the flag ``fastmri``) the prediction of these slices; return the paths.

    The slices of a volume keep their place in the patient when they are evenly spaced; otherwise, and where the file
    tells no orientation, the maps carry the voxel size only and their JSON says so.
    """
    chosen = data.select([result.item for result in results])
    maps = {name: _stack(results, make) for name, make in _MAPS.items()}
    if any(result.samples.is_complex() for result in results):
        maps["phase"] = _stack(results, lambda r: r.summary["mean"].angle())
    first = results[0]
    coverage = {
        "Statement": context.statement,
        "Nominal": context.level,
        "ExactForPerfectSampler": first.summary["coverage"],
        "Measured": _mean([r.measured["coverage"] for r in results if r.measured]),
    }
    facts = [r.meta for r in results]
    noise = [float(m["noise_std"]) for m in facts if isinstance(m.get("noise_std"), float)]
    speed = [float(m["acceleration"]) for m in facts if isinstance(m.get("acceleration"), float | int)]
    about: dict[str, Any] = {
        "units": str(first.meta.get("units", "a.u.")),
        "samples": min(len(r.samples) for r in results),
        "noise_std": _mean(noise),
        "acceleration": _mean(speed),
        "prior": str(context.prior.get("name")),
        "prior_sha256": str(context.prior.get("sha256")),
        "method": context.method,
        "coverage": {key: value for key, value in coverage.items() if value is not None},
        "extra": {"Slices": [r.item for r in results], "InputSha256": context.input_sha256, "Plan": context.plan},
    }
    paths = write_maps(out, maps, chosen.affine, about, voxel=data.voxel)
    if all(r.calibrated is not None for r in results):
        ends = {"lower_calibrated": 0, "upper_calibrated": 1}
        bounds = {name: _stack(results, lambda r, end=end: r.calibrated["bounds"][end]) for name, end in ends.items()}
        measured = _mean([r.measured["coverage_calibrated"] for r in results if r.measured])
        about["coverage"] |= {"Factors": [r.calibrated["factor"] for r in results if r.calibrated]}
        about["coverage"] |= {} if measured is None else {"MeasuredCalibrated": measured}
        paths += write_maps(out, bounds, chosen.affine, about | {"calibrated": True}, voxel=data.voxel)
    if all(r.reference is not None for r in results):
        truth = {"reference": _stack(results, lambda r: r.reference.abs())}
        paths += write_maps(out, truth, chosen.affine, {"units": about["units"]}, voxel=data.voxel)
    count = about["samples"]
    samples = np.stack([r.samples[:count].numpy() for r in results], 1).astype(np.complex64)
    facts_h5 = {
        "method": context.method, "prior_sha256": about["prior_sha256"], "seed": context.seed, "plan": context.plan,
        "coverage": context.statement, "slices": ",".join(str(r.item) for r in results),
    }  # fmt: skip
    paths.append(write_samples(out / "samples.h5", samples, facts_h5))
    if context.flags.get("fastmri"):
        paths.append(write_reconstruction(out / "reconstruction.h5", maps["mean"]))
    return [*paths, write_dataset_description(out)]


def _cov(result: ItemResult) -> Tensor:
    mean, std = result.summary["magnitude_mean"], result.summary["std"]
    signal = mean > 0.05 * mean.max() if result.support is None else result.support
    return (std / mean.clamp_min(1e-12)).where(signal & (mean > 0), 0.0)


_MAPS: dict[str, Callable[[ItemResult], Tensor]] = {
    "mean": lambda r: r.summary["magnitude_mean"],
    "std": lambda r: r.summary["std"],
    "lower": lambda r: r.summary["lower"],
    "upper": lambda r: r.summary["upper"],
    "cov": _cov,
}


def _stack(results: Sequence[ItemResult], make: Callable[[ItemResult], Tensor]) -> Volume:
    return np.stack([make(result).float().numpy() for result in results]).astype(np.float32)


def _mean(values: Sequence[float]) -> float | None:
    return float(np.mean(values)) if values else None
