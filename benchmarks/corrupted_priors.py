"""Priors learned from corrupted data: Gaussian closed forms, and a mixture learned by a small network every way.

``--fast`` runs the checks of ``tests/test_ambient_gaussian.py`` and prints what they measured. Without it, a mixture of
four Gaussians in eight pixels is learned from clean data, from masked data (each pixel missing with probability 0.4,
noise 0.05) and from noisy data (noise 0.3), by one network with the same optimiser steps, and drawn from: the table is
the sliced Wasserstein-1 distance of 2,000 draws from the truth, over seeds. The first row is that of two exact samples.
"""

from __future__ import annotations

import argparse
import importlib
import inspect
import itertools
import json
import statistics
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import torch
from _common import table, versions
from torch import Tensor, nn

from sciinv.generic.mask import Mask
from sciinv.noise import Gaussian
from sciinv.prior import Counted
from sciinv.priors.network import NetworkPrior
from sciinv.priors.partial import precondition_partial
from sciinv.problem import Problem
from sciinv.rng import Rng
from sciinv.samplers.explicit.mmps import MMPS
from sciinv.samplers.kernels import prior_step
from sciinv.training.ambient.em import Draws, expectation, same
from sciinv.training.ambient.further import Further, side
from sciinv.training.ambient.gaussian import fit as fit_gaussian
from sciinv.training.ambient.items import Measurements
from sciinv.training.ambient.objective import ABOVE, Corrupted, Method
from sciinv.training.dsm import TrainConfig, train
from sciinv.training.loop import fit

TESTS = Path(__file__).resolve().parents[1] / "tests"
D, ITEMS, DRAWN, STEPS, LAPS = 8, 2000, 2000, 1800, 6
MISSING, SMALL, LARGE, CONSISTENCY = 0.4, 0.05, 0.3, 1.0


def gaussian_checks() -> int:
    """Run the tests as they are; returns how many failed."""
    sys.path.insert(0, str(TESTS))
    law, tests = importlib.import_module("ambient_law"), importlib.import_module("test_ambient_gaussian")
    failed = 0
    for name, test in inspect.getmembers(tests, lambda v: inspect.isfunction(v) and v.__name__.startswith("test_")):
        marks = [m for m in getattr(test, "pytestmark", []) if m.name == "parametrize"]
        for value in marks[0].args[1] if marks else [None]:
            try:
                test(*([] if value is None else [value]))
            except Exception:
                traceback.print_exc()
                print(f"FAILED {name}")
                failed += 1
    rows = sorted(law.MEASURED.items(), key=lambda item: int(item[0].split(" ")[0].rstrip("b")))
    table(("check", "measured"), rows)
    return failed


class Small(nn.Module):
    """Four-layer perceptron with sines and cosines of the noise level; any number of channels, out as in."""

    def __init__(self, channels: int, seed: int, width: int = 128):
        super().__init__()
        size = channels * D
        self.enter, self.leave = nn.Linear(size + 8, width), nn.Linear(width, size)
        self.blocks = nn.ModuleList(nn.Linear(width, width) for _ in range(3))
        generator = torch.Generator().manual_seed(seed)
        for p in self.parameters():
            with torch.no_grad():
                if p.ndim == 2:
                    p.copy_(torch.randn(p.shape, generator=generator) / p.shape[1] ** 0.5)
                else:
                    p.zero_()
        nn.init.zeros_(self.leave.weight)

    def forward(self, x: Tensor, noise: Tensor) -> Tensor:
        angle = noise[:, None] * torch.tensor([1.0, 2.0, 4.0, 8.0])
        h = self.enter(torch.cat([x.flatten(1), angle.sin(), angle.cos()], 1))
        for block in self.blocks:
            h = h + block(nn.functional.silu(h))
        return self.leave(nn.functional.silu(h)).view_as(x)


def truth(n: int, seed: int) -> Tensor:
    """Smooth profiles: two bumps and two slopes with random height and a little texture, ``(n, 1, 1, 8)``."""
    g = torch.Generator().manual_seed(seed)
    line = torch.linspace(-1, 1, D)
    shapes = torch.stack([torch.exp(-((line - 0.4) ** 2) / 0.1), torch.exp(-((line + 0.4) ** 2) / 0.1), line, -line])
    k = torch.multinomial(torch.tensor([0.4, 0.3, 0.2, 0.1]), n, replacement=True, generator=g)
    height = 1 + 0.25 * torch.randn(n, 1, generator=g)
    return (height * shapes[k] + 0.1 * torch.randn(n, D, generator=g))[:, None, None]


def wasserstein(a: Tensor, b: Tensor) -> float:
    """Sliced Wasserstein-1 over 128 directions."""
    u = torch.randn(D, 128, generator=torch.Generator().manual_seed(1))
    u /= u.norm(dim=0)
    return float(((a.flatten(1) @ u).sort(0).values - (b.flatten(1) @ u).sort(0).values).abs().mean())


def measure(x: Tensor, missing: float, sigma: float, seed: int) -> Measurements:
    """What the methods may see of the truth."""
    g = torch.Generator().manual_seed(seed)
    masks = torch.rand(x.shape, generator=g) >= missing
    masks[~masks.flatten(1).any(1), 0, 0, 0] = True
    y = (x + sigma * torch.randn(x.shape, generator=g)) * masks
    return Measurements([Problem(v, Mask(m), Gaussian(sigma)) for v, m in zip(y, masks, strict=True)])


def settings(steps: int, seed: int) -> TrainConfig:
    return TrainConfig(
        steps=steps, batch=64, learning_rate=2e-3, sigma_data=0.6, sigma_max=8.0, sigma_min=5e-3, log_mean=-1.2,
        log_std=1.4, ema=0.995, seed=seed, save_every=10**6,
    )  # fmt: skip


def draw(network: nn.Module, config: TrainConfig, seed: int, lowest: float = 5e-3) -> Tensor:
    """Unconditional draws of a whole denoiser, by the multistep reverse diffusion down to the level it was taught."""
    prior = NetworkPrior(network, (1, D), config.sigma_data, lowest, config.sigma_max, 1, complex_pair=False)
    rng = Rng(seed, range(DRAWN))
    x = config.sigma_max * rng.normal((1, 1, D))
    with torch.no_grad():
        return prior_step(Counted(prior), x, config.sigma_max, rng, 0.15)


@torch.no_grad()
def draw_ambient(
    network: nn.Module, config: TrainConfig, data: Measurements, further: Further, seed: int, lowest: float
) -> Tensor:
    """The published sampler: one A~ a sample, held fixed, the probability-flow ODE with h in place of a denoiser."""
    batch = data.batch(range(DRAWN))
    keep = further.keep(batch.pattern, batch.always, Rng(seed, range(DRAWN)).uniform(batch.pattern.shape[1:]))
    told, x = side(batch, keep), config.sigma_max * Rng(seed + 1, range(DRAWN)).normal((1, 1, D))
    levels = [config.sigma_max * (lowest / config.sigma_max) ** (i / 100) for i in range(101)]
    for t, s in itertools.pairwise([*levels, 0.0]):
        h = precondition_partial(network, x * keep, told, torch.full((DRAWN,), t), config.sigma_data)
        x = h + s / t * (x - h)
    return x


def em(data: Measurements, seed: int, folder: Path) -> Tensor:
    """EM with moment matching from a Gaussian start; the optimiser steps are shared out over the laps."""
    gaussian = fit_gaussian(data, seed)
    for prior in gaussian.values():
        prior.sigma_max = 8.0
    priors, network, config = gaussian.__getitem__, Small(1, seed), settings(STEPS // LAPS, seed)
    for lap in range(LAPS):
        drawn = expectation(data, priors, MMPS(steps=24), seed, lap, chunk=ITEMS)
        average, _ = train(network, drawn, config, folder / f"{lap}")
        prior = NetworkPrior(average, (1, D), config.sigma_data, 5e-3, config.sigma_max, 1, complex_pair=False).eval()
        priors = same(prior, data)
    return draw(average, config, seed)


def contestants(seed: int, folder: Path) -> dict[str, Callable[[], Tensor]]:
    """What makes the draws of every method; nothing is drawn below the level that a network was taught."""
    x = truth(ITEMS, 100 + seed)
    config, further = settings(STEPS, seed), Further(0.2)
    masked, noisy = measure(x, MISSING, SMALL, seed), measure(x, 0.0, LARGE, seed)

    def images(rows: Tensor, name: str) -> Tensor:
        return draw(train(Small(1, seed), Draws([rows]), config, folder / name)[0], config, seed)

    def told(method: Method) -> Tensor:
        task = Corrupted(method, masked, config, further=further)
        lowest = 5e-3 if method == "ambient" else ABOVE * SMALL
        return draw_ambient(
            fit(Small(2, seed), task, config, folder / method)[0], config, masked, further, seed, lowest
        )

    def whole(method: Method, data: Measurements, lowest: float, coefficient: float = 0.0) -> Tensor:
        task = Corrupted(method, data, config, coefficient=coefficient)
        return draw(fit(Small(1, seed), task, config, folder / f"{method}{coefficient}")[0], config, seed, lowest)

    return {
        "exact sample": lambda: truth(DRAWN, 500 + seed),
        "clean data": lambda: images(x, "clean"),
        "masked, zeros taken for data": lambda: images(torch.stack([p.y for p in masked.problems]), "zeros"),
        "masked, ambient": lambda: told("ambient"),
        "masked, ambient-noisy": lambda: told("ambient-noisy"),
        "masked, gsure": lambda: whole("gsure", masked, ABOVE * SMALL),
        "masked, em": lambda: em(masked, seed, folder / "em"),
        "noisy, noise taken for data": lambda: images(torch.stack([p.y for p in noisy.problems]), "noise"),
        "noisy, tweedie": lambda: whole("tweedie", noisy, ABOVE * LARGE),
        "noisy, tweedie + consistency": lambda: whole("tweedie", noisy, 5e-3, CONSISTENCY),
        "noisy, em": lambda: em(noisy, seed, folder / "em-noisy"),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--fast", action="store_true", help="the Gaussian checks alone")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--only", default="", help="one row of the table, by its name")
    arguments = parser.parse_args()
    figures: dict[str, object] = {}
    start = time.process_time()
    if arguments.fast:
        figures["gaussian_checks_failed"] = gaussian_checks()
    else:
        found: dict[str, list[float]] = {}
        for seed in arguments.seeds:
            with tempfile.TemporaryDirectory() as folder:
                for name, make in contestants(seed, Path(folder)).items():
                    if arguments.only not in ("", name):
                        continue
                    found.setdefault(name, []).append(wasserstein(make(), truth(DRAWN, 900 + seed)))
                    print(f"seed {seed}  {name}  {found[name][-1]:.4f}", file=sys.stderr, flush=True)
        means = {name: statistics.mean(values) for name, values in found.items()}
        spread = {name: max(values) - min(values) for name, values in found.items()}
        table(("learned from", "sliced W1", "range over seeds"), [(n, means[n], spread[n]) for n in found])
        figures |= {"sliced_w1": {k: round(v, 4) for k, v in means.items()}, "seeds": arguments.seeds}
    figures["cpu_seconds"] = round(time.process_time() - start, 1)
    print(json.dumps({**figures, "versions": versions()}))
    sys.exit(1 if figures.get("gaussian_checks_failed") else 0)


if __name__ == "__main__":
    main()
