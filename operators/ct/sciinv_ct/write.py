"""Results as files of the field: NIfTI and DICOM in Hounsfield units or 1/mm, all samples in HDF5."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from sciinv.io.atomic import write_json
from sciinv.io.maps import RESEARCH_USE, generated_by, write_dataset_description, write_nifti, write_samples
from sciinv.results import ItemResult, RunContext
from sciinv_ct.io.maps import on_grid, write_dicom
from sciinv_ct.io.scan import Placement, Scan

Volume = NDArray[np.float32]
MAPS = {
    "mean": "posterior mean",
    "std": "posterior standard deviation",
    "lower": "lower bound of the credible interval",
    "upper": "upper bound of the credible interval",
}


def write(out: Path, data: Scan, results: Sequence[ItemResult], context: RunContext) -> list[Path]:
    """Write maps, samples and the reference of these slices; return the paths.

    Attenuation becomes Hounsfield units ``1000 (mu / mu_water - 1)`` where the input was in them; a standard deviation
    has no offset.
    """
    hounsfield, water = data.units == "HU", data.mu_water
    items = [r.item for r in results]
    size, pixel = results[0].samples.shape[-1], float(results[0].meta["pixel_mm"])
    if data.place is None:
        place = Placement((pixel, pixel), pixel)
    else:
        place = on_grid(data.place, data.values.shape[1:], size, items)

    def units(x: Volume, spread: bool = False) -> Volume:
        if not hounsfield:
            return x
        return (1000 / water * x - (0 if spread else 1000)).astype(np.float32)

    shared: dict[str, Any] = {
        "GeneratedBy": generated_by(), "Units": data.units, "Method": context.method,
        "NumberOfPosteriorSamples": min(len(r.samples) for r in results),
        "PriorName": context.prior.get("name"), "PriorSha256": context.prior.get("sha256"),
        "Coverage": {"Statement": context.statement, "Nominal": context.level},
        "Slices": items, "InputSha256": context.input_sha256, "Plan": context.plan,
        "OrientationKnown": place.affine is not None, "ResearchUseOnly": RESEARCH_USE,
    }  # fmt: skip
    if hounsfield:
        shared["MuWaterPerMm"] = water

    def save(name: str, volume: Volume, description: str) -> list[Path]:
        path, voxel = out / f"recon_{name}.nii.gz", (*place.pixel, place.thickness)
        write_nifti(path, volume, place.affine, voxel=voxel, description="sciinv, research use only")
        return [path, write_json(out / f"recon_{name}.json", shared | {"Description": description})]

    paths: list[Path] = []
    volumes = {name: units(_stack([r.summary[name] for r in results]), name == "std") for name in MAPS}
    for number, (name, volume) in enumerate(volumes.items(), 1):
        paths += save(name, volume, MAPS[name])
        paths += write_dicom(
            out / "dicom", volume, place, name=name, units=data.units, seed=context.plan, number=number
        )  # fmt: skip
    if all(r.reference is not None for r in results):
        truth = units(_stack([r.reference for r in results if r.reference is not None]))
        paths += save("reference", truth, "image that was projected, or filtered backprojection of all views")
    count = shared["NumberOfPosteriorSamples"]
    samples = units(np.stack([_flat(r.samples[:count]) for r in results], 1))
    facts = {
        "method": context.method, "units": data.units, "prior_sha256": str(context.prior.get("sha256")),
        "seed": context.seed, "plan": context.plan, "coverage": context.statement, "slices": ",".join(map(str, items)),
    }  # fmt: skip
    paths.append(write_samples(out / "samples.h5", samples, facts))
    return [*paths, write_dataset_description(out)]


def _flat(x: Tensor) -> Volume:
    """Without the channel axis."""
    return x.float().squeeze(-3).cpu().numpy().astype(np.float32)


def _stack(images: Sequence[Tensor]) -> Volume:
    return np.stack([_flat(image) for image in images])
