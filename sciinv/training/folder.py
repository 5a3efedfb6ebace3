"""``sciinv train``: from a folder of images to a checkpoint with its model card."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sciinv.errors import MismatchError, ResourceError, UsageError
from sciinv.priors.card import ModelCard, UNetSpec
from sciinv.priors.checkpoint import save_prior
from sciinv.priors.network import NetworkPrior
from sciinv.priors.unet import UNet
from sciinv.training.data import FolderSource, read_folder
from sciinv.training.dsm import TrainConfig, keyed, train
from sciinv.training.loop import processes
from sciinv.training.page import write_page


def _split(volumes: list[Tensor], paths: list[Path]) -> tuple[list[Tensor], list[Tensor]]:
    """Every tenth file (or, of a single file, the last tenth of its slices) is held out."""
    if len(paths) > 1:
        kept = [v for i, v in enumerate(volumes) if i % 10 != 9 and i != len(volumes) - 1]
        return kept, [v for i, v in enumerate(volumes) if i % 10 == 9 or i == len(volumes) - 1]
    last = max(1, len(volumes[0]) // 10)
    if len(volumes[0]) < 2:
        raise MismatchError(
            "one image cannot be split into training and held-out data", expected="at least two images", found="1"
        )
    return [volumes[0][:-last]], [volumes[0][-last:]]


def train_from_folder(
    data: Path,
    out: Path,
    *,
    steps: int = 20000,
    minutes: float | None = None,
    batch: int = 16,
    crop: int = 96,
    learning_rate: float = 1e-3,
    widths: tuple[int, ...] = (64, 96, 144),
    blocks: tuple[int, ...] = (1, 2, 2),
    complex_pair: bool = True,
    mean: float | None = None,
    sigma_max: float = 5.0,
    name: str = "",
    licence: str = "not stated",
    device: str = "cpu",
    seed: int = 0,
    accumulate: int = 1,
    patience: int = 0,
    progress: Callable[[dict[str, Any]], None] | None = None,
) -> Path:
    """Train a prior on the images under ``data``; return the path ``out/prior.safetensors``.

    Parameters
    ----------
    data : folder of .npy, .nii, .nii.gz, .h5 or .fits images, see `sciinv.training.data`.
    out : folder of the run; the same call goes on from what it holds.
    steps, minutes : the run ends at whichever comes first.
    crop : side of the training crops in pixels; the trained network runs at any size.
    complex_pair : two channels (re, im) of a complex image; otherwise one real channel.
    mean : every image is scaled to this mean (a total flux), without jitter; ``None`` scales each file to a 99th
        percentile of one.
    sigma_max : largest noise level, far above the norm of what images differ by.
    name, licence : for the model card.
    accumulate, patience : see `TrainConfig`.
    progress : called with a dict of ``step, steps, part, loss, rate, gradient, seconds`` every so often.

    Raises
    ------
    InputError
        A file cannot be read, or there is none.
    MismatchError
        ``out`` holds a run with other settings.
    """
    stride = 2 ** len(widths)
    if crop < 2 * stride or crop % stride:
        raise UsageError("the crop does not fit the network", expected=f"a multiple of {stride}", found=str(crop))
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise ResourceError("there is no CUDA device", expected="a GPU", found="none", hint="--device cpu")
    spec = UNetSpec(channels=2 if complex_pair else 1, widths=widths, blocks=blocks)
    paths, volumes = read_folder(data, complex_pair, mean)
    kept, others = _split(volumes, paths)
    source, held = FolderSource(kept, crop, jitter=0.1 if mean is None else 0.0), FolderSource(others, crop, jitter=0.0)
    held_out = torch.stack([held.image(keyed(seed, 2**41, i)) for i in range(32)])
    config = TrainConfig(
        steps=steps,
        minutes=minutes,
        batch=batch,
        learning_rate=learning_rate,
        seed=seed,
        sigma_max=sigma_max,
        sigma_data=source.deviation(),
        accumulate=accumulate,
        patience=patience,
    )
    network = UNet(**spec.model_dump())
    network.initialise(keyed(seed, 2**42))
    start = time.monotonic()
    average, errors = train(network.to(device), source, config, out, held_out=held_out, progress=progress)
    card = ModelCard(
        name=name or data.name,
        summary=f"Trained by `sciinv train` on {len(paths)} files ({sum(map(len, kept))} slices).",
        data=f"{len(paths)} files under {data.name}; {sum(map(len, others))} slices held out.",
        licence=licence,
        resolution=f"random crops of {crop} x {crop} pixels",
        intensity="each file divided by the 99th percentile of its magnitude"
        if mean is None
        else f"each image scaled to a mean of {mean:g}",
        anatomy="what the files show",
        known_failures="Not examined. Structures that the training images lack may be removed or replaced.",
        training=f"{config.steps} steps of {batch} at most, {(time.monotonic() - start) / 60:.1f} minutes",
        seed=seed,
        held_out_error={k: max(v, 1e-9) for k, v in errors.items()},
    )
    prior = NetworkPrior(
        average, (crop, crop), config.sigma_data, config.sigma_min, config.sigma_max, spec.channels, complex_pair,
        mean=mean if mean is not None and not complex_pair and source.shares(mean) else None,
    )  # fmt: skip
    path = out / "prior.safetensors"
    if processes(next(network.parameters()).device)[0] == 0:
        save_prior(prior, spec, card, path)
        write_page(out, card, prior.predicts)
    return path
