"""The state of a training run on disk: weights, average and optimiser in one safetensors file, replaced atomically."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from sciinv.errors import InputError, MismatchError

if TYPE_CHECKING:
    from sciinv.training.dsm import TrainConfig

_FREE = ("steps", "minutes", "levels", "log_every", "save_every", "accumulate", "patience")
"""Settings that may change between a run and its continuation."""


def append_json(path: Path, entry: dict[str, Any]) -> None:
    """Add one line to a log."""
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(entry) + "\n")


def _fixed(config: TrainConfig) -> dict[str, Any]:
    return {k: v for k, v in asdict(config).items() if k not in _FREE}


def save_state(
    out: Path,
    network: nn.Module,
    average: nn.Module,
    optimiser: torch.optim.Optimizer,
    config: TrainConfig,
    step: int,
    seconds: float,
) -> None:
    """Write ``out/state.safetensors`` through a temporary file."""
    tensors = {f"network.{k}": v for k, v in network.state_dict().items()}
    tensors |= {f"average.{k}": v for k, v in average.state_dict().items()}
    for name, parameter in network.named_parameters():
        for key, value in optimiser.state[parameter].items():
            tensors[f"optimiser.{key}.{name}"] = value
    tensors = {k: v.detach().cpu().contiguous() for k, v in tensors.items()}
    metadata = {"step": str(step), "seconds": str(seconds), "config": json.dumps(_fixed(config))}
    temporary = out / "state.safetensors.tmp"
    save_file(tensors, temporary, metadata)
    with temporary.open("rb") as file:
        os.fsync(file.fileno())
    os.replace(temporary, out / "state.safetensors")


def load_state(
    out: Path, network: nn.Module, average: nn.Module, optimiser: torch.optim.Optimizer, config: TrainConfig
) -> tuple[int, float]:
    """Continue from ``out`` if it holds a run with the same settings; returns the steps done and the seconds spent."""
    out.mkdir(parents=True, exist_ok=True)
    path = out / "state.safetensors"
    if not path.exists():
        return 0, 0.0
    try:
        with safe_open(path, "pt") as file:
            metadata, tensors = file.metadata() or {}, {k: file.get_tensor(k) for k in file.keys()}
        step, seconds, before = int(metadata["step"]), float(metadata["seconds"]), json.loads(metadata["config"])
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        raise InputError(
            "the training state cannot be read", where=str(path), found=str(error), hint="a new output folder"
        ) from error
    changed = [k for k, v in _fixed(config).items() if before.get(k) != v]
    if changed:
        raise MismatchError(
            "the folder holds a run with other settings", where=str(path),
            found=", ".join(f"{k}={before.get(k)}" for k in changed),
            hint="the same settings, or a new output folder",
        )  # fmt: skip
    try:
        for prefix, module in (("network.", network), ("average.", average)):
            module.load_state_dict({k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)})
        for name, parameter in network.named_parameters():
            optimiser.state[parameter] = {
                key: tensors[f"optimiser.{key}.{name}"].to("cpu" if key == "step" else parameter.device, copy=True)
                for key in ("step", "exp_avg", "exp_avg_sq")
            }
    except (KeyError, RuntimeError) as error:
        raise MismatchError(
            "the folder holds a run of another network", where=str(path), hint="a new output folder"
        ) from error
    return step, seconds
