"""A small fully convolutional U-Net: the ``F`` of a preconditioned denoiser, for images of any size.

The image is first folded ``fold x fold`` into channels (FFDNet; Zhang, Zuo and Zhang, IEEE TIP 27, 2018), which makes
the finest stage four times cheaper than at full resolution; residual blocks without normalisation layers are modulated
by the noise level (FiLM; Perez et al., AAAI 2018). Nothing depends on the size of the image; sizes that the strides do
not divide are padded by reflection and cropped.
"""

from __future__ import annotations

import itertools
import math
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Modulated(nn.Module):
    """Residual block ``h + conv(silu((1 + g) conv(silu(h)) + b))`` with gain g and shift b from the noise embedding."""

    def __init__(self, width: int, embedding: int):
        super().__init__()
        self.first = nn.Conv2d(width, width, 3, padding=1)
        self.second = nn.Conv2d(width, width, 3, padding=1)
        self.film = nn.Linear(embedding, 2 * width)

    def forward(self, h: Tensor, embedding: Tensor) -> Tensor:
        gain, shift = self.film(embedding)[:, :, None, None].chunk(2, 1)
        inner = torch.addcmul(shift, self.first(F.silu(h)), 1 + gain)
        return h + self.second(F.silu(inner))


class UNet(nn.Module):
    """U-Net over folded pixels.

    Parameters
    ----------
    channels : channels of the image, in and out.
    widths : feature channels of each stage, finest first; each further stage halves the resolution.
    blocks : residual blocks of each stage; the coarsest runs once, the others on the way down and on the way up.
    fold : side of the pixel block folded into channels at the door.
    embedding : width of the noise embedding.

    Notes
    -----
    ``forward(x, noise)`` takes images ``(n, channels, height, width)`` and one number per image ``(n,)``.
    """

    def __init__(
        self, channels: int = 2, widths: tuple[int, ...] = (64, 96, 144), blocks: tuple[int, ...] = (1, 2, 2),
        fold: int = 2, embedding: int = 128,
    ):  # fmt: skip
        super().__init__()
        self.fold, self.stride = fold, fold * 2 ** (len(widths) - 1)
        self.embed = nn.Sequential(nn.Linear(16, embedding), nn.SiLU(), nn.Linear(embedding, embedding), nn.SiLU())
        self.enter = nn.Conv2d(channels * fold**2, widths[0], 3, padding=1)
        self.leave = nn.Conv2d(widths[0], channels * fold**2, 3, padding=1)

        def stage(i: int) -> nn.ModuleList:
            return nn.ModuleList(Modulated(widths[i], embedding) for _ in range(blocks[i]))

        self.down = nn.ModuleList(stage(i) for i in range(len(widths)))
        self.up = nn.ModuleList(stage(i) for i in range(len(widths) - 1))
        self.shrink = nn.ModuleList(nn.Conv2d(a, b, 2, stride=2) for a, b in itertools.pairwise(widths))
        self.grow = nn.ModuleList(nn.Conv2d(b, a, 1) for a, b in itertools.pairwise(widths))

    @torch.no_grad()
    def initialise(self, generator: torch.Generator) -> None:
        """Draw the weights to start training from: blocks near the identity, output zero; the generator's device."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.kaiming_uniform_(module.weight, a=math.sqrt(5), generator=generator)
                if module.bias is not None:
                    module.bias.zero_()
        for module in self.modules():
            if isinstance(module, Modulated):
                module.second.weight.mul_(0.1)
                module.film.weight.mul_(0.1)
        self.leave.weight.zero_()

    def forward(self, x: Tensor, noise: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        below, right = -height % self.stride, -width % self.stride
        if below or right:
            x = F.pad(x, (0, right, 0, below), mode="reflect" if below < height and right < width else "replicate")
        octaves = torch.arange(-2, 6, device=noise.device, dtype=noise.dtype)
        angle = noise[:, None] * (math.pi * torch.exp2(octaves))
        embedding = self.embed(torch.cat([angle.sin(), angle.cos()], 1))
        h = F.pixel_unshuffle(x, self.fold).contiguous(memory_format=torch.channels_last)
        h, kept = self.enter(h), []
        for i, stage in enumerate(self.down):
            for block in cast(nn.ModuleList, stage):
                h = block(h, embedding)
            if i < len(self.shrink):
                kept.append(h)
                h = self.shrink[i](h)
        for i in reversed(range(len(self.up))):
            h = F.interpolate(self.grow[i](h), scale_factor=2.0, mode="nearest") + kept[i]
            for block in cast(nn.ModuleList, self.up[i]):
                h = block(h, embedding)
        x = F.pixel_shuffle(self.leave(F.silu(h)), self.fold).contiguous()
        return x[..., :height, :width]
