"""Denoising score matching: train a network prior on clean images.

Minimises ``E lambda(sigma) |D(x_0 + sigma z, sigma) - x_0|^2`` with ``lambda = (sigma^2 + s^2) / (sigma s)^2``
(Karras et al., NeurIPS 2022, equation 2 and table 1; Vincent, Neural Computation 23, 2011), noise levels from a
log-normal and, for a share of the images, log-uniform over the whole range. AdamW, cosine decay, an exponential moving
average.

Every draw is keyed by (seed, step, image of the global batch): a resumed run repeats what an uninterrupted one does,
and two processes under ``torchrun`` do what one does with the same global batch.
"""

from __future__ import annotations

import contextlib
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch import Tensor, nn

from sciinv.errors import NumericalError, UsageError
from sciinv.priors.network import precondition
from sciinv.training.ema import Ema
from sciinv.training.state import append_json, load_state, save_state

HELD_OUT_LEVELS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0)


@dataclass(frozen=True)
class TrainConfig:
    """What a training run depends on besides its data.

    ``batch`` counts the images of all processes together. ``minutes``, if set, ends the run (and the cosine) early by
    the clock: such a run is not repeatable to the bit. Noise levels are in units of the data; ``levels`` are those of
    the held-out errors.
    """

    steps: int = 20000
    batch: int = 16
    learning_rate: float = 1e-3
    warmup: int = 100
    weight_decay: float = 1e-4
    clip: float = 1.0
    ema: float = 0.999
    sigma_data: float = 0.25
    sigma_min: float = 3e-3
    sigma_max: float = 5.0
    log_mean: float = -2.3
    log_std: float = 1.3
    uniform_share: float = 0.25
    minutes: float | None = None
    levels: tuple[float, ...] = HELD_OUT_LEVELS
    seed: int = 0
    log_every: int = 50
    save_every: int = 500

    def __post_init__(self) -> None:
        counts = (self.steps, self.batch, self.log_every, self.save_every)
        if (
            min(counts) < 1
            or not 0 < self.sigma_min < self.sigma_max
            or not self.sigma_data > 0
            or not 0 <= self.ema < 1
        ):
            raise UsageError(
                "training settings are out of range",
                expected="counts >= 1; 0 < sigma_min < sigma_max; sigma_data > 0; 0 <= ema < 1",
                found=str(self),
            )


class Source(Protocol):
    """Where clean images come from."""

    def image(self, generator: torch.Generator) -> Tensor:
        """One image ``(channel, height, width)``, always of one size, chosen and augmented by the generator."""


def keyed(*key: int) -> torch.Generator:
    """A host generator that depends on all the numbers of its key (mixed as in splitmix64)."""
    state = 0
    for number in key:
        state = (state ^ (number & (2**63 - 1))) * 0xBF58476D1CE4E5B9 % 2**64
        state = (state ^ (state >> 27)) * 0x94D049BB133111EB % 2**64
        state ^= state >> 31
    return torch.Generator().manual_seed(state % 2**63)


def noise_levels(config: TrainConfig, generator: torch.Generator) -> Tensor:
    """One noise level, 0-dim: log-normal, or log-uniform over the range for a share of the draws."""
    pick, u = torch.rand(2, generator=generator)
    low, high = math.log(config.sigma_min), math.log(config.sigma_max)
    normal = config.log_mean + config.log_std * torch.randn((), generator=generator)
    return torch.where(pick < config.uniform_share, low + u * (high - low), normal.clamp(low, high)).exp()


def draw_batch(source: Source, config: TrainConfig, step: int, rows: range) -> tuple[Tensor, Tensor, Tensor]:
    """Clean images, noise levels and unit noise for these rows of the global batch of a step."""
    clean, sigma, noise = [], [], []
    for row in rows:
        generator = keyed(config.seed, step, row)
        clean.append(source.image(generator))
        sigma.append(noise_levels(config, generator))
        noise.append(torch.randn(clean[-1].shape, generator=generator))
    return torch.stack(clean), torch.stack(sigma), torch.stack(noise)


@torch.no_grad()
def held_out_error(network: nn.Module, images: Tensor, config: TrainConfig, chunk: int = 16) -> dict[str, float]:
    """Root-mean-square denoising error per real component at each level, over ``(n, channel, height, width)``."""
    noise = torch.randn(images.shape, generator=keyed(config.seed, 2**40)).to(images.device)
    errors = {}
    for level in config.levels:
        total = images.new_zeros((), dtype=torch.float64)
        for clean, z in zip(images.split(chunk), noise.split(chunk), strict=True):
            sigma = clean.new_full((len(clean),), level)
            total += (
                (precondition(network, clean + level * z, sigma, config.sigma_data) - clean).double().square().sum()
            )
        errors[f"{level:g}"] = float((total / images.numel()).sqrt())
    return errors


@contextlib.contextmanager
def _terminated() -> Iterator[Callable[[], bool]]:
    """Whether SIGTERM has arrived; handled in the main thread only (elsewhere the answer stays no)."""
    seen = threading.Event()
    main = threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGTERM, lambda *_: seen.set()) if main else None
    try:
        yield seen.is_set
    finally:
        if main:
            signal.signal(signal.SIGTERM, before)


def _processes(device: torch.device) -> tuple[int, int]:
    """Rank and number of processes; joins the group that ``torchrun`` announces."""
    import os

    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and not dist.is_initialized():
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    return (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)


def train(
    network: nn.Module,
    source: Source,
    config: TrainConfig,
    out: Path,
    *,
    held_out: Tensor | None = None,
    progress: Callable[[dict[str, Any]], None] | None = None,
) -> tuple[nn.Module, dict[str, float]]:
    """Train until ``config.steps`` (or the clock) and return the averaged network and its held-out errors.

    ``out`` gets ``state.safetensors`` (weights, average and optimiser: the run goes on from it) and ``log.jsonl``. The
    device is that of the network; on a GPU the forward pass runs in bfloat16. ``held_out`` is
    ``(n, channel, height, width)``. SIGTERM saves and leaves with exit code 143.
    """
    device = next(network.parameters()).device
    rank, world = _processes(device)
    if config.batch % world:
        raise UsageError(
            "the batch must split evenly over processes", expected=f"a multiple of {world}", found=str(config.batch)
        )
    share = config.batch // world
    rows = range(rank * share, (rank + 1) * share)
    ema = Ema(network, config.ema)
    optimiser = torch.optim.AdamW(
        network.parameters(), config.learning_rate, (0.9, 0.99), weight_decay=config.weight_decay
    )
    first, spent = load_state(out, network, ema.average, optimiser, config)
    model: nn.Module = nn.parallel.DistributedDataParallel(network) if world > 1 else network
    start, step, errors, done = time.monotonic() - spent, first, {}, False
    total, seen = torch.zeros((), device=device), 0
    with _terminated() as terminated:
        while not done:
            elapsed = time.monotonic() - start
            part = max(step / config.steps, elapsed / (60 * config.minutes) if config.minutes else 0.0)
            rate = (
                config.learning_rate
                * min(1.0, (step + 1) / config.warmup)
                * 0.5
                * (1 + math.cos(math.pi * min(part, 1.0)))
            )
            stop = torch.tensor([float(terminated()), float(part >= 1.0)], device=device)
            if world > 1:
                dist.all_reduce(stop, dist.ReduceOp.MAX)
            killed, done = (bool(v) for v in stop.tolist())
            done |= killed
            if rank == 0 and step > first and (done or step % config.save_every == 0):
                if held_out is not None and not killed:
                    errors = held_out_error(ema.average, held_out.to(device), config)
                    append_json(out / "log.jsonl", {"step": step, "held_out": errors})
                save_state(out, network, ema.average, optimiser, config, step, elapsed)
            if killed:
                raise SystemExit(143)
            if done:
                break
            for group in optimiser.param_groups:
                group["lr"] = rate
            clean, sigma, noise = (t.to(device, non_blocking=True) for t in draw_batch(source, config, step, rows))
            level = sigma.reshape(-1, 1, 1, 1)
            with torch.autocast("cuda", torch.bfloat16, enabled=device.type == "cuda"):
                estimate = precondition(model, clean + level * noise, sigma, config.sigma_data)
            weight = (level.square() + config.sigma_data**2) / (level * config.sigma_data).square()
            loss = (weight * (estimate.float() - clean).square()).mean()
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            norm = nn.utils.clip_grad_norm_(network.parameters(), config.clip)
            optimiser.step()
            ema.update(network, step)
            total, seen, step = total + loss.detach(), seen + 1, step + 1
            if step % config.log_every == 0:
                mean = float(total / seen)
                if not math.isfinite(mean):
                    raise NumericalError(
                        "the training loss is not finite", found=str(mean), hint="a lower learning rate"
                    )
                entry = {"step": step, "loss": round(mean, 5), "gradient": round(float(norm), 4), "rate": rate,
                         "seconds": round(time.monotonic() - start, 1)}  # fmt: skip
                total, seen = total.zero_(), 0
                if rank == 0:
                    append_json(out / "log.jsonl", entry)
                    if progress is not None:
                        progress(entry | {"steps": config.steps, "part": part})
    if held_out is not None and not errors:
        errors = held_out_error(ema.average, held_out.to(device), config)
    return ema.average, errors
