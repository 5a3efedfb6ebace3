"""Write the averaged network of a run as a shipped prior, with its model card: ``export.py FAMILY RUN WEIGHTS``."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from safetensors import safe_open
from train import SEED, spec_of

from sciinv.priors.card import ModelCard
from sciinv.priors.checkpoint import save_prior
from sciinv.priors.network import NetworkPrior
from sciinv.priors.unet import UNet

ABOUT = {
    "piecewise": {
        "summary": "Objects of one or a few materials: discs with holes, heaps of shapes; drawn, not measured.",
        "data": "Synthetic only (sciinv_ct.phantom.piecewise): discs with circular, polygonal, slotted or Voronoi-cell "
        "holes, whole or seen closer, 20 % heaps of overlapping shapes, shading of some per cent, blur to 0.8 pixel. "
        "The family was designed after a look at two segmentations of the Helsinki Tomography Challenge 2022 (discs tb "
        "and td); discs 01a and 03a were not looked at. No measured data were used.",
        "resolution": "128 x 128 pixels, objects of 0.7 to 3.5 times the image; runs at any size from 64 on",
        "intensity": "attenuation over that of the main material: about 1, air 0, inserts up to 1.8",
        "anatomy": "technical objects: homogeneous parts with sharp edges",
        "known_failures": "Textures, porous materials and smooth gradients are flattened. Spread of samples is not "
        "calibrated. On images much larger than 128 pixels only the local structure is known.",
    },
    "body": {
        "summary": "Cross-sections of a body: thorax, abdomen, pelvis-like, head; drawn, not measured.",
        "data": "Synthetic only (sciinv_ct.phantom.body): outlines, fat, muscle, lungs with vessels, organs, contrast "
        "agent, bowel gas, ribs, spine, hips, skull and brain as drawn shapes with weak smooth texture, blur up to 0.9 "
        "pixel. No image of a patient was used.",
        "resolution": "128 x 128 pixels, whole sections or closer; runs at any size from 64 on",
        "intensity": "attenuation over that of water: 1, within 1 %; air 0, bone up to 2.4",
        "anatomy": "adult-like sections without implants or metal; drawn, so anatomy is only roughly right",
        "known_failures": "It knows tissues and edges, not bodies: drawn without data its samples are lumps of tissue, "
        "so what wide gaps between views hide is invented without anatomy. Use it where the views go all round. Metal, "
        "implants, texture of trabecular bone and lung parenchyma are unknown to it. Not for diagnosis.",
    },
}


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("family", choices=sorted(ABOUT))
    parser.add_argument("run", type=Path)
    parser.add_argument("weights", type=Path)
    parser.add_argument("--grown", type=int, default=0, help="steps of the coarse run that it was grown from")
    parser.add_argument("--coverage", type=json.loads, default={}, help="measured, e.g. '{\"discs, 90 degrees\": 0.8}'")
    a = parser.parse_args()
    spec = spec_of(a.run)
    network = UNet(**spec.model_dump())
    with safe_open(a.run / "state.safetensors", "pt") as file:
        metadata = file.metadata()
        names = [name for name in file.keys() if name.startswith("average.")]
        network.load_state_dict({name.removeprefix("average."): file.get_tensor(name) for name in names})
    config, step = json.loads(metadata["config"]), int(metadata["step"])
    lines = [json.loads(line) for line in (a.run / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    held_out = [line["held_out"] for line in lines if "held_out" in line and line["step"] <= step]
    grown = f"; its coarser stages from a network without the finest one, {a.grown} steps" if a.grown else ""
    count = sum(p.numel() for p in network.parameters()) / 1e6
    card = ModelCard(
        name=f"ct_{a.family}",
        licence="MIT",
        training=f"{step} steps of {config['batch']} slices of a pool of 4,096, {float(metadata['seconds']) / 60:.0f} "
        f"minutes on a shared core, float32; AdamW {config['learning_rate']:g}, cosine, average {config['ema']:g}; "
        f"{count:.1f} M parameters stored in float16{grown}",
        seed=SEED[a.family],
        held_out_error={k: round(v, 5) for k, v in held_out[-1].items()} if held_out else {},
        coverage=a.coverage,
        **ABOUT[a.family],
    )
    prior = NetworkPrior(
        network, (128, 128), config["sigma_data"], config["sigma_min"], config["sigma_max"], 1, complex_pair=False
    )
    save_prior(prior, spec, card, a.weights)


if __name__ == "__main__":
    main()
