"""A trained denoiser as a prior, with the preconditioning of EDM.

``D(x, sigma) = c_skip x + c_out F(c_in x, c_noise)`` with ``c_skip = s^2 / (sigma^2 + s^2)``,
``c_out = sigma s / sqrt(sigma^2 + s^2)``, ``c_in = 1 / sqrt(sigma^2 + s^2)``, ``c_noise = log(sigma) / 4`` and ``s``
the standard deviation of the data (Karras et al., NeurIPS 2022, equation 7 and table 1).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sciinv.errors import MismatchError
from sciinv.generic.codec import ChannelsToComplex
from sciinv.operator import Identity, LinearOperator, Space
from sciinv.prior import Prior
from sciinv.priors.simplex import to_simplex


def precondition(network: nn.Module, x: Tensor, sigma: Tensor, sigma_data: float) -> Tensor:
    """``D(x, sigma)`` from the bare network; ``x`` is ``(n, channel, height, width)``, ``sigma`` 0-dim or ``(n,)``."""
    level = sigma.to(x.dtype).expand(x.shape[0])
    s = level.reshape(-1, *[1] * (x.ndim - 1))
    total = (s.square() + sigma_data**2).sqrt()
    inside = network(x / total, level.log() / 4)
    return (sigma_data / total).square() * x + (s * sigma_data / total) * inside


class NetworkPrior(Prior):
    """An EDM-preconditioned network bound to an image size.

    Parameters
    ----------
    network : module called as ``network(x, noise)``.
    spatial_shape : height and width; `at` rebinds.
    sigma_data : standard deviation of the training data, in the units of the state.
    sigma_min, sigma_max : range of noise levels it was trained on.
    channels : channels of the state; with ``complex_pair`` they are (re, im) of one complex image.
    complex_pair : whether `to_physical` joins two channels to one complex image.
    card : the model card, as read from the checkpoint (empty for a network that was just made).
    mean : of all its images, if they are nonnegative and share one (`to_simplex`); None for other families.
    """

    def __init__(
        self, network: nn.Module, spatial_shape: tuple[int, ...], sigma_data: float = 0.25, sigma_min: float = 2e-3,
        sigma_max: float = 5.0, channels: int = 2, complex_pair: bool = True, card: dict[str, object] | None = None,
        mean: float | None = None,
    ):  # fmt: skip
        super().__init__()
        if complex_pair and channels != 2:
            raise MismatchError("a complex image needs two channels", expected="2", found=str(channels))
        self.network, self.sigma_data = network, float(sigma_data)
        self.sigma_min, self.sigma_max = float(sigma_min), float(sigma_max)
        self.channels, self.complex_pair, self.card = channels, complex_pair, dict(card or {})
        self.mean = mean
        self.space = Space((channels, *spatial_shape), torch.float32)

    @property
    def to_physical(self) -> LinearOperator:
        """Two channels to one complex image, scale one; the identity for a real prior."""
        return ChannelsToComplex(self.space.shape[1:]) if self.complex_pair else Identity(self.space)

    def denoise(self, x: Tensor, sigma: Tensor) -> Tensor:
        """``E[x_0 | x]``; shapes as in `Prior.denoise`."""
        return self.estimate(self.network, x, sigma)

    def estimate(self, network: nn.Module, x: Tensor, sigma: Tensor) -> Tensor:
        """What `denoise` returns with this network in place of the prior's own."""
        d = precondition(network, x, sigma, self.sigma_data)
        return d if self.mean is None else to_simplex(d, self.mean)

    def at(self, spatial: tuple[int, ...]) -> NetworkPrior:
        """Return the same network (shared weights) for another image size, this prior for its own."""
        if tuple(spatial) == tuple(self.space.shape[1:]):
            return self
        if len(spatial) != 2 or min(spatial) < 1:
            raise MismatchError(
                "a network prior needs a height and a width", expected="(height, width)", found=str(tuple(spatial))
            )
        return NetworkPrior(
            self.network,
            tuple(spatial),
            self.sigma_data,
            self.sigma_min,
            self.sigma_max,
            self.channels,
            self.complex_pair,
            self.card,
            self.mean,
        )
