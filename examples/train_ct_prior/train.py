"""Train a CT prior on one of the two synthetic families: ``train.py body OUT --steps 4000``.

The pool of slices is drawn first (seeded, kept in ``OUT/pool.npy``); its first 64 are held out. Running the same line
again continues the run. A network with ``--fine`` has one more stage, at twice the resolution; ``--grow RUN`` starts
its other stages from those of a run without.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from sciinv_ct.phantom import FAMILIES
from torch import Tensor

from sciinv.io.atomic import atomic_path
from sciinv.priors.card import UNetSpec
from sciinv.priors.unet import UNet
from sciinv.training.dsm import TrainConfig, keyed, train

COARSE = UNetSpec(channels=1, widths=(48, 80, 128), blocks=(1, 2, 3), fold=4)
FINE = UNetSpec(channels=1, widths=(32, 48, 80, 128), blocks=(1, 1, 2, 3), fold=2)
HELD_OUT = 64
SEED = {"piecewise": 11, "body": 12}


def pool(family: str, path: Path, count: int, n: int) -> np.ndarray:
    """``count`` slices ``(count, n, n)`` in float16, drawn once; slice i depends on (family, i) alone."""
    if not path.is_file():
        draw = FAMILIES[family]
        images = np.stack([draw(np.random.default_rng([SEED[family], i]), n) for i in range(count)])
        with atomic_path(path) as temporary, open(temporary, "wb") as file:
            np.save(file, images.astype(np.float16))
    return np.load(path, mmap_mode="r", allow_pickle=False)


class Slices:
    """Slices of the pool, mirrored, turned by quarter turns (objects only) and rescaled in value at random."""

    def __init__(self, images: np.ndarray, turns: bool, jitter: float):
        self.images, self.turns, self.jitter = images, turns, jitter

    def image(self, generator: torch.Generator) -> Tensor:
        """One training image (1, n, n)."""
        pick = torch.randint(2**31, (3,), generator=generator).tolist()
        x = torch.from_numpy(self.images[HELD_OUT + pick[0] % (len(self.images) - HELD_OUT)].astype(np.float32))[None]
        if pick[1] % 2:
            x = x.flip(2)
        if self.turns:
            x = torch.rot90(x, pick[2] % 4, (1, 2))
        return x.contiguous() * (1 + self.jitter * (2 * float(torch.rand((), generator=generator)) - 1))


def spec_of(run: Path) -> UNetSpec:
    """The architecture of a run, by the number of its stages."""
    with safe_open(run / "state.safetensors", "pt") as file:
        stages = {name.split(".")[2] for name in file.keys() if name.startswith("average.down.")}
    return FINE if len(stages) == len(FINE.widths) else COARSE


def grow(fine: UNet, run: Path) -> None:
    """Start the stages of a fine network that a coarse one has too from the average of its run."""
    weights = fine.state_dict()
    with safe_open(run / "state.safetensors", "pt") as file:
        for name in file.keys():
            first, *rest = name.split(".")
            if first != "average" or rest[0] in ("enter", "leave"):
                continue
            if rest[0] != "embed":
                rest[1] = str(int(rest[1]) + 1)
            weights[".".join(rest)] = file.get_tensor(name)
    fine.load_state_dict(weights)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("family", choices=sorted(FAMILIES))
    parser.add_argument("out", type=Path)
    parser.add_argument("--steps", type=int, default=2200)
    parser.add_argument("--minutes", type=float, help="stop by the clock; such a run cannot be repeated to the bit")
    parser.add_argument("--count", type=int, default=4096, help="slices in the pool")
    parser.add_argument("--size", type=int, default=128, help="pixels along a side")
    parser.add_argument("--fine", action="store_true", help="one more stage, at twice the resolution")
    parser.add_argument("--grow", type=Path, help="run without --fine whose stages to start from")
    parser.add_argument("--pool-only", action="store_true", help="draw the pool and stop")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    images = pool(arguments.family, arguments.out / "pool.npy", arguments.count, arguments.size)
    if arguments.pool_only:
        return
    objects = arguments.family == "piecewise"
    config = TrainConfig(
        steps=arguments.steps, minutes=arguments.minutes, learning_rate=1.5e-3, sigma_data=0.5, sigma_max=10.0,
        uniform_share=0.3, log_mean=-1.4 if objects else -2.3, log_std=1.4, ema=0.998, seed=SEED[arguments.family],
        log_every=20, save_every=200,
    )  # fmt: skip
    network = UNet(**(FINE if arguments.fine else COARSE).model_dump())
    network.initialise(keyed(SEED[arguments.family]))
    if arguments.grow is not None:
        grow(network, arguments.grow)
    network.to(memory_format=torch.channels_last)
    held_out = torch.from_numpy(images[:HELD_OUT].astype(np.float32))[:, None]
    # attenuation is a physical scale in a body, not in an object of unknown material
    source = Slices(images, objects, 0.1 if objects else 0.01)
    train(network, source, config, arguments.out, held_out=held_out)


if __name__ == "__main__":
    main()
