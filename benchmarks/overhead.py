"""Time per network call that a sampler spends outside the network, forward and backward, against deepinv and azula.

A 3-layer convolutional denoiser on 1 x 1 x 64 x 64, inpainting and circular blur; every method that another package has
in the same form, with the same network, number of steps and solver iterations (azula has moment matching, PiGDM, TMPD
and DiffPIR; deepinv moment matching, PiGDM, DiffPIR and DDRM; both have DPS). deepinv's ALD, Score-SDE and ILVR are
gradient terms rather than the published chains and projections, so they are left out. The network's forward and
backward passes are timed inside the network and taken off. All in float32 (deepinv's own default is float64, slower).
azula's PiGDM is the published noiseless one, deepinv's the proper one. mmps has 1 or 3 iterations of the inner solve.
Budget: at most 1 against the better peer, on every problem.
"""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from _common import finish, need, table
from torch import Tensor, nn

from sciinv.generic.blur import Blur
from sciinv.generic.mask import Mask
from sciinv.noise import Gaussian
from sciinv.operator import LinearOperator, Space
from sciinv.prior import Prior
from sciinv.problem import Problem
from sciinv.samplers import METHODS, Sampler, sample

N, STEPS, SIGMA, REPEATS = 64, 20, 0.05, 9
SIGMA_MIN, SIGMA_MAX = 0.02, 20.0
Run = Callable[[], Any]


class Timed(nn.Module):
    """The network, with a stopwatch (CPU time) around its forward and its backward pass.

    Half the identity plus a little of the convolutions: its Jacobian is nearly symmetric and positive, as a denoiser's
    is, without which the inner solves of moment matching mean nothing.
    """

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        first, second, third = (nn.Conv2d(i, o, 3, padding=1) for i, o in ((1, 32), (32, 32), (32, 1)))
        self.body = nn.Sequential(first, nn.SiLU(), second, nn.SiLU(), third)
        self.calls, self.seconds, self.since = 0, 0.0, 0.0

    def _start(self, _: Tensor) -> None:
        self.since = time.process_time()

    def _stop(self, _: Tensor) -> None:
        self.seconds += time.process_time() - self.since

    def forward(self, x: Tensor) -> Tensor:
        start = time.process_time()
        if x.requires_grad:
            x = x.view_as(x)  # a node of its own: its hook runs when the whole network has been walked back
            x.register_hook(self._stop)
        out = 0.5 * x + 0.1 * self.body(x)
        if out.requires_grad:
            out.register_hook(self._start)
        self.seconds += time.process_time() - start
        self.calls += 1
        return out


class OurPrior(Prior):
    """The network as sciinv sees it."""

    def __init__(self, net: nn.Module):
        super().__init__()
        self.net, self.space = net, Space((1, N, N), torch.float32)
        self.sigma_min, self.sigma_max = SIGMA_MIN, SIGMA_MAX

    def denoise(self, x: Tensor, sigma: Tensor) -> Tensor:
        return self.net(x)


def operators() -> dict[str, tuple[LinearOperator, Tensor]]:
    """Our operator and what the peers need to build the same: the mask, or the blur kernel."""
    g = torch.Generator().manual_seed(1)
    mask = (torch.rand(1, N, N, generator=g) > 0.5).float()
    line = torch.exp(-0.5 * (torch.arange(-4.0, 5.0) / 1.5) ** 2)
    kernel = line[:, None] * line[None]
    kernel = kernel / kernel.sum()
    return {"inpainting": (Mask(mask, (1, N, N)), mask), "blur": (Blur(kernel, (1, N, N)), kernel)}


def ours(net: nn.Module, op: LinearOperator, y: Tensor) -> dict[str, Run]:
    """The contestants of sciinv."""
    prior, problem = OurPrior(net), Problem(y[0], op, Gaussian(SIGMA))
    plain = ("dps", "pigdm", "tmpd", "diffpir", "ddrm")
    methods: dict[str, Sampler] = {name: METHODS[name](steps=STEPS) for name in plain}
    methods["pigdm-official"] = METHODS["pigdm"](steps=STEPS, variant="official")
    methods |= {f"mmps-{k}": METHODS["mmps"](steps=STEPS, cg_iterations=k, cg_tol=1e-12) for k in (1, 3)}
    return {name: (lambda m=m: sample(m, problem, prior, 1, seed=0)) for name, m in methods.items()}


def deepinv(net: nn.Module, kind: str, extra: Tensor, y: Tensor) -> dict[str, Run]:
    """The contestants of deepinv."""
    import deepinv as dinv
    from deepinv import sampling

    class Denoiser(dinv.models.Denoiser):
        def __init__(self) -> None:
            super().__init__(device="cpu")
            self.net = net

        def forward(self, x: Tensor, sigma: Any, **_: Any) -> Tensor:
            return self.net(x)

    noise = dinv.physics.GaussianNoise(SIGMA)
    if kind == "inpainting":
        physics = dinv.physics.Inpainting((1, N, N), mask=extra, noise_model=noise)
    else:
        physics = dinv.physics.BlurFFT((1, N, N), filter=extra[None, None], noise_model=noise)
    times = torch.linspace(1, 0, STEPS, dtype=torch.float32)

    def guided(fidelity: Any) -> Any:
        return sampling.PosteriorDiffusion(
            data_fidelity=fidelity, denoiser=Denoiser(),
            sde=sampling.VarianceExplodingDiffusion(sigma_min=SIGMA_MIN, sigma_max=SIGMA_MAX, dtype=torch.float32),
            solver=sampling.DDPMSolver(timesteps=times), dtype=torch.float32, minus_one_one=False,
        )  # fmt: skip

    start = (1, 1, N, N)
    models = {"dps": sampling.DPS(Denoiser(), num_steps=STEPS, dtype=torch.float32, minus_one_one=False)}
    models |= {f"mmps-{k}": guided(sampling.MomentMatchingDataFidelity(cg_max_iter=k, cg_tol=1e-12)) for k in (1, 3)}
    models["pigdm"] = guided(sampling.PiGDMDataFidelity())
    runs = {name: (lambda m=m: m(y, physics, x_init=start)) for name, m in models.items()}
    fidelity = dinv.optim.data_fidelity.L2()
    diffpir = sampling.DiffPIR(Denoiser(), fidelity, sigma=SIGMA, max_iter=STEPS)
    ddrm = sampling.DDRM(Denoiser(), sigmas=torch.linspace(1, 0, STEPS).clamp_min(1e-3).tolist())
    return runs | {"diffpir": lambda: diffpir(y, physics), "ddrm": lambda: ddrm(y.clone(), physics)}


def azula(net: nn.Module, kind: str, extra: Tensor, y: Tensor) -> dict[str, Run]:
    """The contestants of azula; its covariance algebra wants flat data."""
    from azula.denoise import Denoiser, DiracPosterior
    from azula.guidance.diffpir import DiffPIRDenoiser
    from azula.guidance.dps import DPSSampler
    from azula.guidance.mmps import MMPSDenoiser
    from azula.guidance.pgdm import PGDMSampler
    from azula.guidance.tmpd import TMPDenoiser
    from azula.linalg.covariance import IsotropicCovariance
    from azula.noise import VESchedule
    from azula.sample import DDPMSampler

    class Wrapped(Denoiser):
        def __init__(self) -> None:
            super().__init__()
            self.net, self.schedule = net, VESchedule(SIGMA_MIN, SIGMA_MAX)

        def forward(self, x_t: Tensor, t: Tensor, **_: Any) -> DiracPosterior:
            return DiracPosterior(mean=self.net(x_t))

    padded = torch.zeros(N, N)
    if kind == "blur":
        padded[:9, :9] = extra
    response = torch.fft.rfft2(padded.roll((-4, -4), (0, 1)))

    def forward(x: Tensor) -> Tensor:
        out = extra * x if kind == "inpainting" else torch.fft.irfft2(response * torch.fft.rfft2(x), s=(N, N))
        return out.flatten(1)

    def inverse(z: Tensor) -> Tensor:
        z = z.view(-1, 1, N, N)
        out = extra * z if kind == "inpainting" else torch.fft.irfft2(torch.fft.rfft2(z) / response, s=(N, N))
        return out.view(-1, 1, N, N)

    flat, den, cov = y.flatten(1), Wrapped(), IsotropicCovariance(torch.tensor(SIGMA**2))
    samplers = {
        "dps": DPSSampler(den, flat, forward, steps=STEPS, silent=True),
        "pigdm-official": PGDMSampler(den, flat, forward, inverse, steps=STEPS, silent=True),
        "tmpd": DDPMSampler(TMPDenoiser(den, flat, forward, SIGMA**2), steps=STEPS, silent=True),
        "diffpir": DDPMSampler(DiffPIRDenoiser(den, flat, forward, SIGMA**2), steps=STEPS, silent=True),
    }
    for solver in ("gmres", "cg"):
        for k in (1, 3):
            guided = MMPSDenoiser(den, flat, forward, cov, solver=solver, iterations=k)
            samplers[f"mmps-{k} {solver}"] = DDPMSampler(guided, steps=STEPS, silent=True)
    return {name: (lambda s=s: s(s.init((1, 1, N, N)))) for name, s in samplers.items()}


def measure(net: Timed, runs: dict[str, Run]) -> dict[str, tuple[float, float]]:
    """Median milliseconds per network call outside the network, and calls per step; contestants take turns."""
    spent: dict[str, list[float]] = {name: [] for name in runs}
    calls = {}
    order, shuffle = list(runs.items()), random.Random(0).shuffle
    for number in range(REPEATS + 1):
        shuffle(order)  # nobody always runs after the same rival
        for name, run in order:
            net.calls, net.seconds = 0, 0.0
            start = time.process_time()
            run()
            outside = time.process_time() - start - net.seconds
            calls[name] = net.calls / STEPS
            if number:  # the first round warms up
                spent[name].append(outside / net.calls * 1e3)
    return {name: (statistics.median(values), calls[name]) for name, values in spent.items()}


def main() -> None:
    """Print the table, the ratios, and the last line."""
    need("deepinv", "azula")
    net, rows, ratios = Timed(), [], {}
    net.requires_grad_(False)
    for kind, (op, extra) in operators().items():
        g = torch.Generator().manual_seed(2)
        clean = torch.rand(1, 1, N, N, generator=g)
        y = op(clean) + SIGMA * torch.randn(1, 1, N, N, generator=g)
        teams = {"sciinv": ours(net, op, y)}
        teams |= {"deepinv": deepinv(net, kind, extra, y), "azula": azula(net, kind, extra, y)}
        result = measure(net, {f"{team} {name}": run for team, runs in teams.items() for name, run in runs.items()})
        for method in teams["sciinv"]:
            mine = result[f"sciinv {method}"][0]
            rivals = {k: v for k, v in result.items() if k.split()[1] == method and not k.startswith("sciinv")}
            best = min(rivals, key=lambda name: rivals[name][0])
            ratio = mine / rivals[best][0]
            key = method.split("-")[0]
            ratios[key] = max(ratios.get(key, 0.0), ratio)
            rows.append([kind, method, mine, *(f"{n}: {v[0]:.3g}" for n, v in sorted(rivals.items())), best, ratio])
    for row in rows:
        row[3:-2] = ["; ".join(row[3:-2])]
    table(["problem", "method", "sciinv ms", "peers ms", "best peer", "ratio"], rows)
    finish({"ratio_to_best_peer": {k: round(v, 3) for k, v in ratios.items()}}, ok=max(ratios.values()) <= 1)


if __name__ == "__main__":
    main()
