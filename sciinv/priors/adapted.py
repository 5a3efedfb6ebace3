"""Test-time adaptation of a trained prior (DDIP; Chung and Ye 2024, arXiv 2407.10641; Barbano et al., arXiv
2308.14409).

Where the image is unlike what a network was trained on, its weights get a low-rank correction ``W + U V`` that is
learned from the one measurement at hand while a sampler runs: before it denoises, the wrapper takes some Adam steps on
``max(0, |y - A D(x_t)|^2 / (n sigma_y^2) - 1)``, mean over the samples. The cut at one (the discrepancy principle) ends
the adaptation when the data are fitted to their noise; levels above ``start``, where D is a blur that cannot fit them,
are left alone. The prior then depends on the data: what a sampler draws is a reconstruction, no posterior of any prior.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor, nn

from sciinv.errors import MismatchError, UsageError
from sciinv.operator import Operator
from sciinv.prior import FULL, Prior
from sciinv.priors.network import NetworkPrior
from sciinv.problem import Problem


class AdaptedPrior(Prior):
    """A network prior that bends to one measurement; any sampler takes it in place of the prior.

    Parameters
    ----------
    prior : trained prior, bound to the size of the image; its weights stay as they are.
    problem : the measurement, in physical units.
    rank : of the correction of each weight matrix (convolutions count as matrices).
    rate : of Adam.
    inner : Adam steps before each denoising.
    start : largest level at which it adapts, in units of the state; by default the ``sigma_data`` of the prior.
    seed : of the corrections' first factor; the second starts at zero, so nothing changes before the first step.
    """

    def __init__(
        self, prior: NetworkPrior, problem: Problem, *, rank: int = 4, rate: float = 1e-3, inner: int = 2,
        start: float | None = None, seed: int = 0,
    ):  # fmt: skip
        super().__init__()
        if rank < 1 or inner < 0 or not rate > 0:
            raise UsageError("settings of the adaptation are out of range", expected="rank >= 1, inner >= 0, rate > 0",
                             found=f"{rank}, {inner}, {rate}")  # fmt: skip
        if prior.predicts != FULL:
            raise MismatchError("only a prior can be adapted", expected=FULL, found=prior.predicts)
        self.prior, self.inner, self.rate, self.rank = prior, inner, rate, rank
        self.start = prior.sigma_data if start is None else start
        self.space, self.sigma_min, self.sigma_max = prior.space, prior.sigma_min, prior.sigma_max
        self.problem, self.seed = problem.pullback(prior.to_physical), seed
        self.reset()

    @property
    def to_physical(self) -> Operator:
        return self.prior.to_physical

    def reset(self) -> None:
        """Forget what was learned, to start on another image."""
        generator = torch.Generator().manual_seed(self.seed)
        self.factors: dict[str, tuple[Tensor, Tensor]] = {}
        for name, weight in self.prior.network.named_parameters():
            if weight.ndim >= 2:
                rows, columns = weight.shape[0], weight[0].numel()
                down = torch.randn(self.rank, columns, generator=generator) / columns**0.5
                up = torch.zeros(rows, self.rank, device=weight.device, requires_grad=True)
                self.factors[name] = (up, down.to(weight.device).requires_grad_())
        self.optimiser = torch.optim.Adam([f for pair in self.factors.values() for f in pair], self.rate)

    def denoise(self, x: Tensor, sigma: Tensor) -> Tensor:
        """Adapt to the data at these states ``(n, *space)``, then denoise them."""
        for _ in range(self.inner):
            self._adapt(x.detach(), sigma)
        with torch.no_grad():
            weights = {k: v.detach() for k, v in self._weights().items()}
        return self._denoise(x, sigma, weights)

    @torch.enable_grad()
    def _adapt(self, x: Tensor, sigma: Tensor) -> None:
        chi2 = self.problem.chi2(self._denoise(x, sigma, self._weights())) / self.problem.n_data
        # a sample above the start, or fitted to the noise, has no gradient; nothing is read back to the host
        loss = ((chi2 - 1).clamp_min(0) * (sigma <= self.start)).mean()
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimiser.step()

    def _weights(self) -> dict[str, Tensor]:
        out: dict[str, Tensor] = dict(self.prior.network.named_parameters())
        for name, (up, down) in self.factors.items():
            out[name] = out[name] + (up @ down).view_as(out[name])
        return out

    def _denoise(self, x: Tensor, sigma: Tensor, weights: dict[str, Tensor]) -> Tensor:
        def network(z: Tensor, noise: Tensor) -> Tensor:
            return cast(Tensor, torch.func.functional_call(self.prior.network, weights, (z, noise)))

        call: Callable[[Tensor, Tensor], Tensor] = network
        return self.prior.estimate(cast(nn.Module, call), x, sigma)
