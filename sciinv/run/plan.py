"""The plan: everything that decides the samples, frozen before the first one is drawn."""

from __future__ import annotations

import dataclasses as dc
import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from sciinv import __version__
from sciinv.config import RunConfig, as_dict, build
from sciinv.errors import ResourceError, UsageError
from sciinv.plugins import Domain
from sciinv.prior import Prior
from sciinv.samplers import METHODS, Sampler

SCHEMA = 1
CHUNK = 8  # samples per task unless asked otherwise: small enough to lose little, large enough to fill a batch
PARTICLES = 64  # of a population unless asked otherwise: fewer keep too few ancestors, more cost too many calls


@dc.dataclass(frozen=True)
class Task:
    """Some samples of one item; ``keys`` are the pairs of numbers that seed them."""

    item: int
    chunk: int
    keys: tuple[tuple[int, int], ...]

    @property
    def name(self) -> str:
        """File stem of the task's result."""
        return f"i{self.item:04d}_c{self.chunk:03d}"


def method(name: str) -> type[Sampler]:
    """The sampler class called `name`."""
    if name not in METHODS:
        raise UsageError(
            "unknown method", expected=", ".join(METHODS), found=name, hint="`sciinv methods` describes each"
        )
    return METHODS[name]


def fitted(config: RunConfig, domain: Domain) -> Sampler:
    """The method with the user's settings, over those that fit the domain better than the defaults."""
    given = config.options.get(domain.name, {})
    settings = {**domain.method_settings(config.method, given), **config.sampler}
    return build(method(config.method), settings, f"settings of {config.method}")


def population(config: RunConfig, sampler: Sampler) -> int | None:
    """How many particles an item gets; ``None`` for methods whose samples are independent.

    At least the samples that are drawn from them, and a multiple of the islands.
    """
    if not sampler.population:
        if config.particles is not None:
            raise UsageError(
                f"{sampler.name} draws independent samples and has no particles", where="--particles",
                hint="--samples says how many",
            )  # fmt: skip
        return None
    islands = int(getattr(sampler, "islands", 1))
    if config.particles is None:
        return -(-max(PARTICLES, config.samples) // islands) * islands
    if config.particles < config.samples or config.particles % islands:
        raise UsageError(
            "this population cannot be", where="--particles", found=str(config.particles),
            expected=f"at least the {config.samples} samples" + f" and a multiple of {islands} islands" * (islands > 1),
        )  # fmt: skip
    return config.particles


def tasks(items: Sequence[int], samples: int, chunk: int, coupled: bool = False) -> list[Task]:
    """One task an item and chunk, items in order; a population is one chunk.

    Coupled items share their seeds (common random numbers): sample k of every item is made of the same noise, so that
    it changes from slice to slice as the data do. The law of each item is what it was; items are no longer independent.
    """
    out = []
    for item in items:
        for number, first in enumerate(range(0, samples, chunk)):
            keys = tuple((0 if coupled else item, k) for k in range(first, min(first + chunk, samples)))
            out.append(Task(item, number, keys))
    return out


def document(
    config: RunConfig,
    sampler: Sampler,
    options: Any,
    *,
    domain: str,
    reader: Mapping[str, Any],
    input_file: Mapping[str, Any],
    prior_sha256: str,
    items: Sequence[int],
    device: str,
) -> dict[str, Any]:
    """The plan as JSON-ready values; its hash identifies the run."""
    particles = population(config, sampler)
    return {
        "schema": SCHEMA,
        "code": {"sciinv": __version__, "torch": torch.__version__},
        "input": dict(input_file),
        "domain": domain,
        "reader": dict(reader),
        "options": as_dict(options),
        "prior": prior_sha256,
        "method": sampler.name,
        "sampler": as_dict(sampler),
        "items": list(items),
        "samples": config.samples,
        **({} if particles is None else {"particles": particles}),
        "chunk": min(config.chunk or CHUNK, particles or config.samples),
        "seed": config.seed,
        **({"coupled": True} if config.coupled else {}),
        "device": device,
        "level": config.level,
        "fastmri": config.fastmri,
    }  # fmt: skip


def resolve_device(wanted: str) -> str:
    """``cpu`` or ``cuda``; a device that is asked for and absent is an error, never a silent fall-back."""
    if wanted == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if wanted == "cuda" and not torch.cuda.is_available():
        built = (
            "this torch was built without CUDA"
            if torch.version.cuda is None
            else "no working NVIDIA driver or device was found"
        )
        raise ResourceError(
            "there is no CUDA device",
            where="--device cuda",
            expected="a GPU that torch can use",
            found=built,
            hint="--device cpu, or --device auto to use a GPU where there is one",
        )
    return wanted


def prior_hash(prior: Prior) -> str:
    """SHA-256 over the names and values of a prior's tensors (the file's own hash is recorded beside it)."""
    digest = hashlib.sha256(type(prior).__name__.encode())
    for name, tensor in sorted(prior.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
