"""A denoiser that sees part of a noisy image, ``h(A~^H A~ x_t, A~, sigma) = E[x_0 | A~ x_t, A~]``: not a prior's own.

This is what Ambient Diffusion learns from incomplete data (Daras et al., NeurIPS 2023). What A~ hides comes out as a
conditional mean, so integrating this denoiser as if it were ``E[x_0 | x_t]`` gives images that are too smooth where
data were hidden (covariance errors of 22 to 62 % in five dimensions, reference check 7). Samplers therefore refuse it,
except Ambient DPS, and `restore` uses it in one step.

The preconditioning keeps the output at full size as sigma goes to zero, ``D = c_skip z + s F(z c_in, side)``: what is
hidden has an error that does not vanish with the noise.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from sciinv.errors import MismatchError
from sciinv.linalg import operator_norm
from sciinv.operator import LinearOperator, column
from sciinv.prior import PARTIAL
from sciinv.priors.network import NetworkPrior
from sciinv.problem import Problem


def precondition_partial(network: nn.Module, z: Tensor, side: Tensor, sigma: Tensor, sigma_data: float) -> Tensor:
    """``h`` from the bare network, which maps ``(n, channel + 1, *space)`` to the same shape; its last channel is
    unused.

    ``z`` is ``(n, channel, *space)``, ``side`` ``(n, 1, *space)``, ``sigma`` 0-dim or ``(n,)``.
    """
    level = sigma.to(z.dtype).expand(z.shape[0])
    total = (level.square() + sigma_data**2).reshape(-1, *[1] * (z.ndim - 1))
    inside = network(torch.cat([z * total.rsqrt(), side.to(z.dtype)], 1), level.log() / 4)
    return sigma_data**2 / total * z + sigma_data * inside[:, :-1]


def describe(operator: LinearOperator, keep: Tensor | None, like: Tensor, norm: Tensor | None = None) -> Tensor:
    """What a network is told of ``A~``, ``(n, 1, *space)``; ``keep`` is bool ``(n, *codomain)``, ``like`` a state.

    The kept sampling pattern itself, averaged over what precedes the image's axes (coils), where data lie on a grid of
    the image's size (pixels, Cartesian k-space); else ``A~^H A~ 1`` for the operator divided by ``norm`` ``(n,)``,
    averaged over channels.
    """
    space = operator.domain.shape[1:]
    if keep is not None and tuple(keep.shape[-len(space) :]) == tuple(space):
        lead = tuple(range(1, keep.ndim - len(space)))
        values = keep.to(like.dtype)
        return (values.mean(lead) if lead else values)[:, None]
    with torch.no_grad():
        data = operator(torch.ones_like(like))
        out = operator.adjoint(data if keep is None else data * keep).mean(1, keepdim=True)
        return out if norm is None else out / column(norm.square(), out)


class Told(NamedTuple):
    """What a partial denoiser knows: an operator, what it keeps of the data (bool ``(n or 1, *codomain)``), its norms.

    ``norm`` is ``(n or 1,)``: training divides operators by their norm.
    """

    operator: LinearOperator
    kept: Tensor
    norm: Tensor

    def normal(self, x: Tensor) -> Tensor:
        """``A~^H A~ x`` of the operator divided by its norm."""
        return self.back(self.operator(x))

    def back(self, y: Tensor) -> Tensor:
        """``A~^H y`` of the operator divided by the square of its norm."""
        z = self.operator.adjoint(y * self.kept)
        return z / column(self.norm.square(), z)


class PartialPrior(NetworkPrior):
    """An ambient network; it denoises once `given` has told it an operator.

    Parameters are those of `NetworkPrior`; ``channels`` are the state's, the network has one more.
    """

    predicts = PARTIAL
    told: Told | None = None

    def given(self, operator: LinearOperator, kept: Tensor | None = None, rows: int = 1) -> PartialPrior:
        """The same network for one ``A~``: a linear operator on states, less what is not kept.

        ``kept`` is bool in the shape of the data, by default everything that the operator measures; ``rows`` is the
        number of states that an operator expects which stacks one for each.
        """
        bound = self.at(self.space.shape[1:])
        probe = torch.randn(self.space.shape, generator=torch.Generator().manual_seed(0))
        probe = probe.to(next(self.network.parameters()).device).expand(rows, *self.space.shape)
        with torch.no_grad():
            measured = operator(probe).abs() > 0
        norm = operator_norm(operator.normal, probe)
        norm = torch.where((norm - 1).abs() < 0.02, 1.0, norm)
        bound.told = Told(operator, measured if kept is None else measured & kept, norm)
        return bound

    def at(self, spatial: tuple[int, ...]) -> PartialPrior:
        """Return the same network for another image size, not yet told an operator."""
        return PartialPrior(
            self.network, tuple(spatial), self.sigma_data, self.sigma_min, self.sigma_max, self.channels,
            self.complex_pair, self.card,
        )  # fmt: skip

    def denoise(self, x: Tensor, sigma: Tensor) -> Tensor:
        """``E[x_0 | A~ x, A~]`` of states ``(n, *space)``."""
        return self.from_data(self._known().normal(x), sigma)

    def from_data(self, z: Tensor, sigma: Tensor) -> Tensor:
        """``E[x_0 | z = A~^H (A~ x_0 + noise), A~]`` of images ``(n, *space)`` that are seen already."""
        known = self._known()
        kept = known.kept.expand(len(z), *known.kept.shape[1:])
        side = describe(known.operator, kept, z, known.norm.expand(len(z)))
        return precondition_partial(self.network, z, side, sigma, self.sigma_data)

    def _known(self) -> Told:
        if self.told is None:
            raise MismatchError(
                f"this prior predicts {PARTIAL}, so it must be told A~ first", hint="prior.given(operator)"
            )
        return self.told


@torch.no_grad()
def restore(prior: PartialPrior, problem: Problem) -> Tensor:
    """One-step restoration ``h(A^H y, A)`` of a physical problem, in physical units: a mean, no sample.

    The level is that of the data's noise, or the smallest that the network was trained on.
    """
    inner = problem.pullback(prior.to_physical)
    bound = prior.given(inner.linear)
    known = bound._known()
    y = torch.where(known.kept[0], problem.y, torch.zeros((), dtype=problem.y.dtype, device=problem.device))
    level = y.real.new_tensor(max(problem.noise.sigma / float(known.norm), prior.sigma_min))
    return prior.to_physical(bound.from_data(known.back(y[None]), level))[0]
