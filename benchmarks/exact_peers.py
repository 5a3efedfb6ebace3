"""Error, coverage and time per network call side by side with azula and deepinv, on posteriors that are known.

``gaussian``: 8 x 8 pixels of standard deviation 0.25 with neighbours correlated, half of them measured; ``mixture``: 25
touching modes in 8 dimensions, two coordinates measured, at the same scale. Everybody gets the same exact denoiser, the
same datum, number of levels (`STEPS`) and samples, float32, and the settings its authors ship. ``error`` is sliced W1
over what as many exact draws show, ``mean`` in posterior standard deviations, ``cover`` the probability that the truth
lies in the central 90 % interval. Time is CPU per network call on the batch, outside the denoiser.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from _common import finish, need, table
from torch import Tensor, nn

from sciinv.certify import metrics
from sciinv.certify.models import LinearMixture
from sciinv.generic.mask import Mask
from sciinv.noise import Gaussian
from sciinv.prior import Prior
from sciinv.priors.gaussian import GaussianPrior
from sciinv.priors.mixture import MixturePrior, grid_mixture
from sciinv.problem import Problem
from sciinv.samplers import METHODS, sample

STEPS, SAMPLES, EXACT = 100, 512, 4000
SIGMA, SCALE = 0.05, 0.25
SIGMA_MIN, SIGMA_MAX = 0.005, 20.0
OURS = ("mmps", "dps", "ddrm", "tds", "pnpdm", "sgs_smc")
F64 = torch.float64
Result = tuple[Tensor, Tensor | None]


class Timed(nn.Module):
    """The exact denoiser with a stopwatch around its forward pass."""

    def __init__(self, prior: Prior):
        super().__init__()
        self.prior, self.calls, self.seconds = prior, 0, 0.0

    def forward(self, x: Tensor, sigma: Any) -> Tensor:
        start = time.process_time()
        sigma = torch.as_tensor(sigma, dtype=x.dtype).flatten()
        flat = x.reshape(len(x), *self.prior.space.shape)
        out = self.prior.denoise(flat, sigma[0]).view_as(x)
        self.seconds += time.process_time() - start
        self.calls += 1
        return out


class OurPrior(Prior):
    """The same stopwatch for us."""

    def __init__(self, timed: Timed):
        super().__init__()
        self.timed, self.space = timed, timed.prior.space
        self.sigma_min, self.sigma_max = SIGMA_MIN, SIGMA_MAX

    def denoise(self, x: Tensor, sigma: Tensor) -> Tensor:
        return self.timed(x, sigma)


def cases() -> dict[str, tuple[GaussianPrior | MixturePrior, Tensor]]:
    """Priors, and masks of shape ``(1, height, width)``."""
    place = torch.cartesian_prod(torch.arange(8.0), torch.arange(8.0)).to(F64)
    cov = SCALE**2 * torch.exp(-torch.cdist(place, place) / 2)
    grid = grid_mixture(8, 0, 2.0)
    small = SCALE / float((grid.means.var(0, correction=0).mean() + 1).sqrt())
    half = (torch.rand(1, 8, 8, generator=torch.Generator().manual_seed(0)) < 0.5).float()
    two = torch.zeros(1, 1, 8)
    two[..., [0, 2]] = 1
    mixture = MixturePrior(grid.log_weights.exp(), small * grid.means.view(-1, 1, 1, 8), small**2)
    return {"gaussian": (GaussianPrior(torch.zeros(1, 8, 8, dtype=F64), cov), half), "mixture": (mixture, two)}


def ours(net: Timed, mask: Tensor, y: Tensor) -> dict[str, Callable[[], Result]]:
    """Our methods; those that count levels get `STEPS` of them."""
    prior, problem = OurPrior(net), Problem(y, Mask(mask, tuple(mask.shape)), Gaussian(SIGMA))

    def run(name: str) -> Result:
        fields: dict[str, Any] = {"steps": STEPS} if "steps" in METHODS[name].__dataclass_fields__ else {}
        out = sample(METHODS[name](**fields), problem, prior, SAMPLES, seed=0)
        return out.x, None if out.log_w is None else out.weights

    return {f"sciinv {name}": (lambda n=name: run(n)) for name in OURS if name in METHODS}


def azula(net: Timed, mask: Tensor, y: Tensor) -> dict[str, Callable[[], Result]]:
    """MMPS and TDS; azula leaves the twist to the user, and it gets the one that ours uses."""
    from azula.denoise import Denoiser, DiracPosterior
    from azula.guidance.mmps import MMPSDenoiser
    from azula.guidance.tds import TDSSampler
    from azula.linalg.covariance import IsotropicCovariance
    from azula.noise import VESchedule
    from azula.sample import DDPMSampler

    class Wrapped(Denoiser):
        def __init__(self) -> None:
            super().__init__()
            self.net, self.schedule = net, VESchedule(SIGMA_MIN, SIGMA_MAX)

        def forward(self, x_t: Tensor, t: Tensor, **_: Any) -> DiracPosterior:
            return DiracPosterior(mean=net(x_t, self.schedule(t)[1]))

    seen, shape = mask.flatten() > 0, (SAMPLES, *mask.shape)
    datum = y.flatten()[seen]

    def forward(x: Tensor) -> Tensor:
        return x.flatten(1)[:, seen]

    def twist(x: Tensor, sigma: Tensor) -> Tensor:
        wide = SIGMA**2 + sigma**2 * SCALE**2 / (sigma**2 + SCALE**2)
        return -0.5 * ((forward(x) - datum).square().sum(1) / wide + len(datum) * wide.log())

    den, cov = Wrapped(), IsotropicCovariance(torch.tensor(SIGMA**2))
    guided = MMPSDenoiser(den, datum.expand(SAMPLES, -1), forward, cov)
    runs = {
        "azula mmps": DDPMSampler(guided, steps=STEPS, silent=True),
        "azula tds": TDSSampler(den, twist, steps=STEPS, silent=True),
    }
    return {name: (lambda s=s: (s(s.init(shape)), None)) for name, s in runs.items()}


def deepinv(net: Timed, mask: Tensor, y: Tensor) -> dict[str, Callable[[], Result]]:
    """DPS, DDRM and moment matching."""
    import deepinv as dinv
    from deepinv import sampling

    class Denoiser(dinv.models.Denoiser):
        def __init__(self) -> None:
            super().__init__(device="cpu")

        def forward(self, x: Tensor, sigma: Any, **_: Any) -> Tensor:
            return net(x, sigma)

    shape = tuple(mask.shape)
    physics = dinv.physics.Inpainting(shape, mask=mask, noise_model=dinv.physics.GaussianNoise(SIGMA))
    common: dict[str, Any] = {"dtype": torch.float32, "minus_one_one": False}
    moments = sampling.PosteriorDiffusion(
        data_fidelity=sampling.MomentMatchingDataFidelity(), denoiser=Denoiser(),
        sde=sampling.VarianceExplodingDiffusion(sigma_min=SIGMA_MIN, sigma_max=SIGMA_MAX, dtype=torch.float32),
        solver=sampling.DDPMSolver(timesteps=torch.linspace(1, 0, STEPS)), **common,
    )  # fmt: skip
    dps = sampling.DPS(Denoiser(), num_steps=STEPS, **common)
    ddrm = sampling.DDRM(Denoiser(), sigmas=torch.linspace(1, 0, STEPS).clamp_min(1e-3).tolist())
    data, start = y[None].expand(SAMPLES, *shape).contiguous(), (SAMPLES, *shape)
    return {
        "deepinv dps": lambda: (dps(data, physics, x_init=start), None),
        "deepinv ddrm": lambda: (ddrm(data.clone(), physics), None),
        "deepinv moment matching": lambda: (moments(data, physics, x_init=start), None),
    }


def main() -> None:
    """One table a problem."""
    need("deepinv", "azula")
    rows, figures = [], {}
    for kind, (prior, mask) in cases().items():
        net, operator = Timed(prior), Mask(mask, tuple(mask.shape))
        model = LinearMixture.of(prior, operator, SIGMA)
        datum = model.simulate(1, 1)[1][0] * mask.flatten().to(F64)
        y = datum.view(mask.shape).float()

        def draw(n: int, seed: int, model: LinearMixture = model, datum: Tensor = datum) -> Tensor:
            return model.draw(datum[None], n, seed)[0]

        mean, cov, exact = model.posterior_mean(datum), model.posterior_cov(datum), draw(EXACT, 31)
        floor = metrics.wasserstein_floor(draw, SAMPLES)
        for name, run in (ours(net, mask, y) | azula(net, mask, y) | deepinv(net, mask, y)).items():
            torch.manual_seed(0)
            net.calls, net.seconds = 0, 0.0
            start = time.process_time()
            x, w = run()
            outside = time.process_time() - start - net.seconds
            x, w = x.detach().reshape(SAMPLES, -1).to(F64), None if w is None else w.to(F64)
            error = metrics.wasserstein_error(x, w, draw) / floor
            covered = metrics.coverage(x, w, exact)
            rows.append(
                [kind, name, error, metrics.moment_errors(x, w, mean, cov)[0], covered, net.calls,
                 outside / net.calls * 1e3]
            )  # fmt: skip
            figures[f"{kind} {name}"] = {"over_floor": round(error, 3), "coverage_90": round(covered, 3)}
    table(["problem", "method", "error / floor", "mean", "cover 90 %", "calls", "ms a call"], rows)
    finish(figures, ok=True)


if __name__ == "__main__":
    main()
