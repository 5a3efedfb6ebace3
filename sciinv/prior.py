"""The prior: a denoiser in variance-exploding notation plus the map from its units to physical ones.

``x_t = x_0 + sigma z``, ``D(x, sigma) = E[x_0 | x_t = x]``, score ``(D - x) / sigma^2`` (Tweedie). The state is real,
``(sample, channel, *space)``; ``to_physical`` turns it into the image an operator sees (scale, channels to complex,
decoder). Nothing else normalises.
"""

from __future__ import annotations

import abc
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from sciinv.errors import Unsupported
from sciinv.operator import Identity, Operator, Space
from sciinv.rng import Rng

FULL, PARTIAL = "E[x0|x_t]", "E[x0|A~ x_t, A~]"
"""What a denoiser may predict: the mean of the image given all of a noisy one, or given a part of it."""


class Prior(nn.Module, abc.ABC):
    """A denoiser bound to a state space.

    Attributes
    ----------
    space : state space ``(channel, *space)``.
    sigma_min, sigma_max : range of noise levels in which the denoiser is trusted; sampling starts at ``sigma_max``.
    predicts : `FULL`, or `PARTIAL` for a network that was trained on incomplete data and is no prior yet.
    """

    predicts: str = FULL
    space: Space
    sigma_min: float = 2e-3
    sigma_max: float = 80.0

    @property
    def to_physical(self) -> Operator:
        """From the state to the physical image; the identity unless a prior says otherwise."""
        return Identity(self.space)

    @abc.abstractmethod
    def denoise(self, x: Tensor, sigma: Tensor) -> Tensor:
        """``E[x_0 | x_0 + sigma z = x]``; ``x`` is ``(n, *space)``, ``sigma`` a 0-dim tensor or ``(n,)``."""

    def at(self, spatial: tuple[int, ...]) -> Prior:
        """Return the prior for images of this size; only a size-free prior can change."""
        if tuple(spatial) != tuple(self.space.shape[1:]):
            raise Unsupported(
                f"{type(self).__name__} is bound to one image size",
                expected=str(tuple(self.space.shape[1:])),
                found=str(tuple(spatial)),
            )
        return self

    def draw(self, rng: Rng) -> Tensor:
        """Exact draws from the prior, one per generator; only analytic priors offer them."""
        raise Unsupported(
            f"{type(self).__name__} offers no exact draw", hint="an analytic prior, or sample with the prior step"
        )


class Counted:
    """A prior that counts its network calls (per sample) and vector-Jacobian products; used by the loop.

    ``batch`` bounds how many samples the prior sees at once, for methods that need all of theirs together.
    """

    def __init__(self, prior: Prior, batch: int | None = None):
        self.prior, self.batch = prior, batch
        self.space, self.sigma_min, self.sigma_max = prior.space, prior.sigma_min, prior.sigma_max
        self.calls = 0
        self.vjps = 0

    @property
    def to_physical(self) -> Operator:
        return self.prior.to_physical

    def denoise(self, x: Tensor, sigma: float | Tensor) -> Tensor:
        """Denoise and count; a number is turned into a 0-dim tensor on the state's device."""
        self.calls += 1
        parts = [self.prior.denoise(part, level) for part, level in self._parts(x, sigma)]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def denoise_vjp(self, x: Tensor, sigma: float | Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
        """``D(x, sigma)`` and the map ``v -> J^T v``, reusable, from one forward pass."""
        self.calls += 1
        graphs = []
        with torch.enable_grad():
            for part, level in self._parts(x.detach(), sigma):
                part = part.requires_grad_()
                graphs.append((part, self.prior.denoise(part, level)))

        def pull(v: Tensor) -> Tensor:
            self.vjps += 1
            rows = v.split([len(part) for part, _ in graphs]) if len(graphs) > 1 else (v,)
            pulled = [
                torch.autograd.grad(d, part, row, retain_graph=True)[0]
                for (part, d), row in zip(graphs, rows, strict=True)
            ]
            return pulled[0] if len(pulled) == 1 else torch.cat(pulled)

        values = [d.detach() for _, d in graphs]
        return values[0] if len(values) == 1 else torch.cat(values), pull

    def _parts(self, x: Tensor, sigma: float | Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        level = sigma if isinstance(sigma, Tensor) else x.new_full((), sigma)
        if not self.batch or self.batch >= len(x):
            return iter([(x, level)])
        size = self.batch
        parts = x.split(size)
        return zip(parts, level.split(size) if level.ndim else [level] * len(parts), strict=True)
