"""The losses as objectives of the training loop: what each draws, from generators keyed by (seed, step, row).

Noise levels are those of denoising score matching, log-normal with a share of log-uniform, cut off (not piled up) below
the noise of the data where the equation holds only above it. Weights: ``1 / s^2 + 1 / sigma^2`` (EDM) for whole images;
for partial observations the second term stops at ``sigma = s / 4``, because the error of what is hidden does not fall
with sigma.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal, cast

import torch
from torch import Tensor, nn

from sciinv.errors import MismatchError, UsageError
from sciinv.operator import column
from sciinv.priors.network import precondition
from sciinv.priors.partial import precondition_partial
from sciinv.training.ambient.consistency import consistency, descend
from sciinv.training.ambient.further import Further, side
from sciinv.training.ambient.gsure import floors, gsure, signs, spectral_shape
from sciinv.training.ambient.items import Batch, Measurements
from sciinv.training.ambient.losses import Denoiser, ambient, ambient_noisy, tweedie
from sciinv.training.dsm import TrainConfig, keyed

Method = Literal["ambient", "ambient-noisy", "tweedie", "gsure"]
ABOVE = 1.05
"""Smallest level drawn, over the noise of the data: at the noise itself Tweedie's loss has no signal."""

SPARSE = 4
"""The consistency loss, of seven network calls, is computed for every so many-th row of the global batch."""

_GROUP, _HELD_STEP, _HELD_ROWS, _DESCENT = 2**33, 2**34, 64, 4


@dataclass
class Corrupted:
    """A method that trains on measurements; an `Objective`.

    Attributes
    ----------
    method : which loss.
    data, others : what is trained on, and held out (``None`` for nothing).
    further : what ambient methods hide.
    coefficient : weight of the consistency loss below the noise of the data (tweedie only).
    late : part of the steps before the consistency loss sets in: it carries downwards what is right above.
    """

    method: Method
    data: Measurements
    config: TrainConfig
    others: Measurements | None = None
    further: Further = field(default_factory=Further)
    coefficient: float = 0.0
    late: float = 0.5

    def __post_init__(self) -> None:
        if self.coefficient and self.method != "tweedie":
            raise UsageError("only tweedie has a consistency loss", found=f"method {self.method}")
        if self.method == "tweedie":
            require_whole(self.data)
        for data in (self.data, self.others or self.data):
            require_room(self.config, taught_above(self.method, data), self.method)

    @property
    def partial(self) -> bool:
        """Whether the network is told ``A~``, and so has a channel more than the images."""
        return self.method in ("ambient", "ambient-noisy")

    def loss(self, network: nn.Module, step: int, rows: range) -> Tensor:
        """Mean weighted loss of these rows of the global batch."""
        batch, generators = self._draw(self.data, step, rows)
        loss = self._rows(network, batch, generators)
        if self.coefficient and step >= self.late * self.config.steps:
            some = [k for k, row in enumerate(rows) if row % SPARSE == 0]
            if some:
                extra = self._consistency(network, batch, some, [generators[k] for k in some])
                where = torch.tensor(some, device=loss.device)
                loss = loss.index_add(0, where, SPARSE * self.coefficient * extra)
        return loss.mean()

    def held_out(self, network: nn.Module) -> dict[str, float]:
        """The same loss on the held-out items, with noise that is always the same, without consistency."""
        if self.others is None:
            return {}
        total = 0.0
        with torch.no_grad():
            for number, group in enumerate(self.others.groups):
                share, parts = len(group) / len(self.others), []
                rows = range(max(8, round(share * _HELD_ROWS)))
                for some in (rows[k : k + 16] for k in rows[::16]):
                    generators = [keyed(self.config.seed, _HELD_STEP + number, row) for row in some]
                    batch = self.others.batch([group[row % len(group)] for row in some])
                    parts.append(self._rows(network, batch, generators))
                total += share * float(torch.cat(parts).mean())
        return {"loss": total}

    def _draw(self, data: Measurements, step: int, rows: range) -> tuple[Batch, list[torch.Generator]]:
        """Items of these rows, and the generators that go on to draw their noise."""
        choice = torch.rand((), generator=keyed(self.config.seed, step, _GROUP))
        generators = [keyed(self.config.seed, step, row) for row in rows]
        return data.batch(data.pick(choice, torch.stack([torch.rand((), generator=g) for g in generators]))), generators

    def _rows(self, network: nn.Module, batch: Batch, generators: list[torch.Generator]) -> Tensor:
        config, s = self.config, self.config.sigma_data
        lowest = _lowest(self.method, batch).tolist()
        levels = [level_above(config, g, f) for g, f in zip(generators, lowest, strict=True)]
        sigma = torch.stack(levels).to(batch.y.device)
        rule = getattr(self, "_" + self.method.replace("-", "_"))
        least = s / 4 if self.partial or self.method == "gsure" else 0.0
        weight = 1 / s**2 + sigma.clamp_min(least).square().reciprocal()
        return weight * cast(Tensor, rule(network, batch, sigma, Draw(generators, batch.y.device)))

    def _keep(self, batch: Batch, draw: Draw) -> Tensor:
        return self.further.keep(batch.pattern, batch.always, draw.uniform(batch.pattern.shape[1:]))

    def _ambient(self, network: nn.Module, batch: Batch, sigma: Tensor, draw: Draw) -> Tensor:
        keep = self._keep(batch, draw)
        noise = draw.normal(batch.operator.domain.shape)
        return ambient(self._told(network, side(batch, keep)), batch, keep, sigma, noise)

    def _ambient_noisy(self, network: nn.Module, batch: Batch, sigma: Tensor, draw: Draw) -> Tensor:
        keep = self._keep(batch, draw)
        noise = draw.normal(batch.y.shape[1:], batch.y.dtype)
        return ambient_noisy(self._told(network, side(batch, keep)), batch, keep, sigma, noise)

    def _tweedie(self, network: nn.Module, batch: Batch, sigma: Tensor, draw: Draw) -> Tensor:
        noise = draw.normal(batch.operator.domain.shape)
        return tweedie(self._full(network), batch.operator.adjoint(batch.y), batch.sigma, sigma, noise)

    def _gsure(self, network: nn.Module, batch: Batch, sigma: Tensor, draw: Draw) -> Tensor:
        shape, dtype = spectral_shape(batch)[1:], batch.operator.svd().V.domain.dtype
        probe = signs(draw.uniform(shape, dtype))
        return gsure(self._full(network), batch, sigma, draw.normal(shape, dtype), probe)

    def _consistency(
        self, network: nn.Module, batch: Batch, some: list[int], generators: list[torch.Generator]
    ) -> Tensor:
        """Weighted consistency of some rows between a level t, mostly below the noise of the data, and ``s < t``."""
        config, shape, draw = self.config, batch.operator.domain.shape, Draw(generators, batch.y.device)
        floor, image = batch.sigma[some], batch.operator.adjoint(batch.y)[some]
        low, high = 1.3 * config.sigma_min, 1.3 * ABOVE * floor
        t = low * (high / low) ** draw.uniform(())
        s = t * (0.5 + 0.4 * draw.uniform(()))
        top = torch.maximum(t, ABOVE * floor)
        x = image + column((top.square() - floor.square()).sqrt(), image) * draw.normal(shape)
        h = self._full(network)
        ladder = [top * (t / top) ** (k / _DESCENT) for k in range(_DESCENT + 1)]
        x = descend(h, x, ladder, [draw.normal(shape) for _ in range(_DESCENT)])
        return consistency(h, x, t, s, draw.normal(shape), draw.normal(shape)) / config.sigma_data**2

    def _full(self, network: nn.Module) -> Denoiser:
        return mixed(lambda z, sigma: precondition(network, z, sigma, self.config.sigma_data))

    def _told(self, network: nn.Module, told: Tensor) -> Denoiser:
        return mixed(lambda z, sigma: precondition_partial(network, z, told, sigma, self.config.sigma_data))


@dataclass
class Draw:
    """Random numbers of the rows of a batch, each row from its own generator."""

    generators: list[torch.Generator]
    device: torch.device

    def normal(self, shape: tuple[int, ...] | torch.Size, dtype: torch.dtype = torch.float32) -> Tensor:
        """Standard normal numbers ``(n, *shape)``, of unit variance per real component."""
        if dtype.is_complex:
            return torch.view_as_complex(self.normal((*shape, 2)))
        rows = [torch.randn(tuple(shape), generator=g) for g in self.generators]
        return torch.stack(rows).to(self.device)

    def uniform(self, shape: tuple[int, ...] | torch.Size, dtype: torch.dtype = torch.float32) -> Tensor:
        """Uniform numbers on [0, 1), ``(n, *shape)``."""
        if dtype.is_complex:
            return torch.view_as_complex(self.uniform((*shape, 2)))
        return torch.stack([torch.rand(tuple(shape), generator=g) for g in self.generators]).to(self.device)


def mixed(denoise: Denoiser) -> Denoiser:
    """The forward pass in bfloat16 on a GPU, its result in the precision of the input."""

    def wrapped(z: Tensor, sigma: Tensor) -> Tensor:
        with torch.autocast("cuda", torch.bfloat16, enabled=z.is_cuda):
            return denoise(z, sigma).to(z.dtype)

    return wrapped


def level_above(config: TrainConfig, generator: torch.Generator, floor: float) -> Tensor:
    """A noise level, 0-dim, between the larger of ``sigma_min`` and ``floor`` and ``sigma_max``: cut, not clamped."""
    require_room(config, floor)
    low, high = math.log(max(config.sigma_min, floor)), math.log(config.sigma_max)
    pick, u = torch.rand(2, generator=generator).double().tolist()
    if pick < config.uniform_share:
        return torch.tensor(math.exp(low + u * (high - low)))
    ends = [0.5 * (1 + math.erf((v - config.log_mean) / (config.log_std * math.sqrt(2)))) for v in (low, high)]
    if ends[1] - ends[0] < 1e-6:  # the log-normal has nothing to give up there
        return torch.tensor(math.exp(low + u * (high - low)))
    p = min(max(ends[0] + u * (ends[1] - ends[0]), 1e-7), 1 - 1e-7)
    normal = math.sqrt(2) * float(torch.erfinv(torch.tensor(2 * p - 1, dtype=torch.float64)))
    return torch.tensor(math.exp(min(max(config.log_mean + config.log_std * normal, low), high)))


def require_room(config: TrainConfig, floor: float, method: str = "") -> None:
    """Refuse data above whose noise there is no level left to train at."""
    if floor >= config.sigma_max:
        weakest = method == "gsure"
        raise MismatchError(
            f"{'the weakest coordinate of the data is' if weakest else 'the data are'} noisier than the noisiest level "
            "of the training",
            expected=f"below {config.sigma_max:g}", found=f"{floor:.3g}",
            hint=f"a larger --sigma-max{', or --method ambient-noisy or em' if weakest else ''}",
        )  # fmt: skip


def taught_above(method: str, data: Measurements) -> float:
    """The level above which a method's loss holds for all items; zero where it holds at any."""
    return max(float(_lowest(method, data.batch(group)).max()) for group in data.groups)


def _lowest(method: str, batch: Batch) -> Tensor:
    """The same of each row, ``(n,)``: a little above the noise, of gsure's weakest coordinate where none is missing."""
    if method == "ambient":
        return torch.zeros_like(batch.sigma)
    if method != "gsure":
        return ABOVE * batch.sigma
    widest = floors(batch)
    return ABOVE * torch.where(widest.isfinite(), widest, batch.sigma)


def require_whole(data: Measurements) -> None:
    """Refuse items whose ``A^H A`` is not the identity: Tweedie's loss needs whole images with white noise."""
    for number, problem in enumerate(data.problems):
        codec = data.codec(problem.domain)
        x = torch.randn(1, *codec.domain.shape, generator=torch.Generator().manual_seed(number)).to(problem.device)
        error = float((codec.adjoint(problem.linear.normal(codec(x))) - x).norm() / x.norm())
        if error > 1e-3:
            raise MismatchError(
                "tweedie needs noisy but complete images, A^H A = 1", where=f"item {number}",
                found=f"A^H A differs from it by {100 * error:.2g} %",
                hint="--method ambient-noisy or em for incomplete data",
            )  # fmt: skip


def predicts_full(method: str, data: Measurements) -> bool:
    """Whether a method's network is ``E[x_0 | x_t]`` on these data."""
    if method == "gsure":
        return all(bool(floors(data.batch(group)).isfinite().all()) for group in data.groups)
    return method not in ("ambient", "ambient-noisy")
