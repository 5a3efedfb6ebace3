"""Draw a pool of training images and write it in chunks: ``make_pool.py OUT --count 12000 [--colin ch2.nii.gz]``.

Chunk ``k`` depends on (seed, k) alone, so several workers can share the work and any chunk can be made again.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import numpy as np
import torch
from anatomy import Anatomy, colin27, mni152
from synthetic_brain import draw


def heads(colin: Path | None) -> list[Anatomy]:
    """The anatomies at hand."""
    return [mni152()] + ([colin27(colin)] if colin else [])


def chunk(anatomies: list[Anatomy], seed: int, index: int, count: int) -> np.ndarray:
    """``count`` images, float16 (count, 2, 112, 112)."""
    rng = np.random.default_rng([seed, index])
    images: list[torch.Tensor] = []
    while len(images) < count:
        images += draw(anatomies, rng)
    return torch.stack(images[:count]).numpy().astype(np.float16)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--colin", type=Path, help="Colin27 head, ch2.nii.gz (Debian package mricron-data)")
    parser.add_argument("--count", type=int, default=12000)
    parser.add_argument("--chunk", type=int, default=200)
    parser.add_argument("--first", type=int, default=0, help="first chunk of this worker")
    parser.add_argument("--step", type=int, default=1, help="number of workers")
    parser.add_argument("--seed", type=int, default=20261122)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    arguments.out.mkdir(parents=True, exist_ok=True)
    anatomies = heads(arguments.colin)
    for index in range(arguments.first, -(-arguments.count // arguments.chunk), arguments.step):
        path = arguments.out / f"chunk_{index:05d}.npy"
        if not path.exists():
            temporary = path.with_suffix(".tmp")
            with temporary.open("wb") as file:
                np.save(file, chunk(anatomies, arguments.seed, index, arguments.chunk))
            os.replace(temporary, path)


if __name__ == "__main__":
    main()
