"""Write the averaged network of a run as the embedded prior, with its model card: ``export.py OUT WEIGHTS``."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from safetensors import safe_open

from sciinv.priors.card import ModelCard, UNetSpec
from sciinv.priors.checkpoint import save_prior
from sciinv.priors.network import NetworkPrior
from sciinv.priors.unet import UNet


def card(steps: int, minutes: float, held_out: dict[str, float], coverage: dict[str, float]) -> ModelCard:
    """What the training of this prior amounts to."""
    return ModelCard(
        name="brain_mri",
        summary="Demo prior for coil-combined complex brain MRI, trained on synthetic slices of two heads.",
        data="Synthetic only: oblique slices of the MNI152 2009a template (nilearn) and the Colin27 head, elastically "
        "deformed, with random tissue contrasts (T1-, T2-, PD-, FLAIR-like and free), redrawn cortical folds, drawn "
        "skull and scalp, vessels, receive shading, smooth phase, chemical shift, finite resolution. No measured "
        "k-space was used for training; the real 16-coil test slice was looked at while the generator was designed.",
        licence="MIT (weights). MNI152: copyright 1993-2009 Louis Collins, McConnell Brain Imaging Centre, Montreal "
        "Neurological Institute, McGill University; Colin27: same holder; both free to use, copy, modify and "
        "distribute with this notice, without warranty.",
        resolution="0.85-3.1 mm pixels, 1-5 mm slices, matrices of 84 to 224; 96 x 96 crops; runs at any size",
        intensity="99th percentile of the magnitude at one, within -20 % to +35 %; air is zero; the low-resolution "
        "phase is removed, so that the imaginary part is small",
        anatomy="adult heads without pathology beyond blobs; axial 3/4, coronal and sagittal the rest",
        known_failures="Two heads are not a population: cortical folds at high acceleration are plausible, not "
        "measured, and the spread of samples is too small (see coverage). Not trained on tumours, implants, "
        "haemorrhage, infants, motion, noise floors, large uncorrected phase or other organs. Not for diagnosis.",
        training=f"{steps} steps of 16 crops in {minutes:.0f} minutes on two shared CPU cores, float32; AdamW 1e-3, "
        "cosine, average 0.999; 1.9 M parameters stored in float16",
        seed=0,
        held_out_error=held_out,
        coverage=coverage,
    )


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("weights", type=Path)
    parser.add_argument("--coverage", type=json.loads, default={}, help="measured, e.g. '{\"held-out slices\": 0.81}'")
    arguments = parser.parse_args()
    spec = UNetSpec()
    network = UNet(**spec.model_dump())
    with safe_open(arguments.run / "state.safetensors", "pt") as file:
        metadata = file.metadata()
        names = [name for name in file.keys() if name.startswith("average.")]
        network.load_state_dict({name.removeprefix("average."): file.get_tensor(name) for name in names})
    config = json.loads(metadata["config"])
    lines = [json.loads(line) for line in (arguments.run / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    held_out = [line["held_out"] for line in lines if "held_out" in line and line["step"] <= int(metadata["step"])]
    errors = {k: round(v, 5) for k, v in held_out[-1].items()} if held_out else {}
    text = card(int(metadata["step"]), float(metadata["seconds"]) / 60, errors, arguments.coverage)
    prior = NetworkPrior(network, (96, 96), config["sigma_data"], config["sigma_min"], config["sigma_max"])
    save_prior(prior, spec, text, arguments.weights)


if __name__ == "__main__":
    main()
