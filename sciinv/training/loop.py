"""The training loop of every method: AdamW, cosine decay, average of the weights, saves, early stop, processes.

A method is an `Objective`: what it draws is keyed by (seed, step, row of the global batch), so a resumed run repeats
what an uninterrupted one does, and processes under ``torchrun`` or ``accumulate`` parts of a batch do what one process
does with the whole batch. Gradients are averaged over processes after the last part; a method may therefore call the
network as often as it likes, and differentiate it twice.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch
import torch.distributed as dist
from torch import Tensor, nn

from sciinv.errors import NumericalError, UsageError
from sciinv.training.ema import Ema
from sciinv.training.state import append_json, load_state, save_state

if TYPE_CHECKING:
    from sciinv.training.dsm import TrainConfig


class Objective(Protocol):
    """What is minimised."""

    def loss(self, network: nn.Module, step: int, rows: range) -> Tensor:
        """Mean loss, 0-dim, over these rows of the global batch of a step."""

    def held_out(self, network: nn.Module) -> dict[str, float]:
        """Errors of the averaged network on data that are not trained on; empty when there are none."""


def fit(
    network: nn.Module,
    objective: Objective,
    config: TrainConfig,
    out: Path,
    progress: Callable[[dict[str, Any]], None] | None = None,
) -> tuple[nn.Module, dict[str, float]]:
    """Train until ``config.steps`` (the clock, or no progress) and return the averaged network and its held-out errors.

    ``out`` gets ``state.safetensors`` (weights, average and optimiser: the run goes on from it) and ``log.jsonl``. The
    device is that of the network. SIGTERM saves and leaves with exit code 143.
    """
    device = next(network.parameters()).device
    rank, world = processes(device)
    if config.batch % (world * config.accumulate):
        raise UsageError(
            "the batch must split evenly over processes and parts", expected=f"a multiple of {world*config.accumulate}",
            found=str(config.batch),
        )  # fmt: skip
    size = config.batch // (world * config.accumulate)
    first_row = rank * size * config.accumulate
    parts = [range(first_row + k * size, first_row + (k + 1) * size) for k in range(config.accumulate)]
    ema = Ema(network, config.ema)
    optimiser = torch.optim.AdamW(
        network.parameters(), config.learning_rate, (0.9, 0.99), weight_decay=config.weight_decay
    )
    first, spent = load_state(out, network, ema.average, optimiser, config)
    start, step, errors = time.monotonic() - spent, first, dict[str, float]()
    history = _history(out / "log.jsonl", first)
    done = _stalled(history, config.patience)  # a run that ended by patience does not go on when it is repeated
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
            if step > first and (done or step % config.save_every == 0) and (rank == 0 or config.patience):
                if not killed:
                    errors = objective.held_out(ema.average)
                    history += [sum(errors.values())] if errors else []
                    done |= _stalled(history, config.patience)  # the same on every process: they share the average
                if rank == 0:
                    if not killed and errors:
                        append_json(out / "log.jsonl", {"step": step, "held_out": errors})
                    save_state(out, network, ema.average, optimiser, config, step, elapsed)
            if killed:
                raise SystemExit(143)
            if done:
                break
            for group in optimiser.param_groups:
                group["lr"] = rate
            optimiser.zero_grad(set_to_none=True)
            loss = torch.zeros((), device=device)
            for rows in parts:
                share = objective.loss(network, step, rows) / config.accumulate
                share.backward()  # type: ignore[no-untyped-call]
                loss += share.detach()
            if world > 1:
                _average_gradients(network, world)
            norm = nn.utils.clip_grad_norm_(network.parameters(), config.clip)
            optimiser.step()
            ema.update(network, step)
            total, seen, step = total + loss, seen + 1, step + 1
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
    return ema.average, errors or objective.held_out(ema.average)


def _stalled(history: list[float], patience: int) -> bool:
    """Whether the last ``patience`` evaluations brought nothing better than what came before them."""
    return 0 < patience < len(history) and min(history[-patience:]) >= min(history[:-patience])


def _history(path: Path, step: int) -> list[float]:
    """Held-out sums that the log of a continued run holds, up to the step it goes on from."""
    if step == 0 or not path.exists():
        return []
    entries = [json.loads(line) for line in path.read_text("utf-8").splitlines() if '"held_out"' in line]
    return [sum(entry["held_out"].values()) for entry in entries if entry["step"] <= step]


def _average_gradients(network: nn.Module, world: int) -> None:
    """The mean of all processes' gradients, in one message."""
    gradients = [p.grad for p in network.parameters() if p.grad is not None]
    flat = torch.cat([g.flatten() for g in gradients])
    dist.all_reduce(flat)
    for gradient, mean in zip(gradients, (flat / world).split([g.numel() for g in gradients]), strict=True):
        gradient.copy_(mean.view_as(gradient))


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


def processes(device: torch.device) -> tuple[int, int]:
    """Rank and number of processes; joins the group that ``torchrun`` announces."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and not dist.is_initialized():
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    return (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
