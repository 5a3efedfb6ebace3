"""What a checkpoint says about itself: architecture, units and the model card, validated before any tensor is read."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Text = Annotated[str, Field(max_length=2000)]
Width = Annotated[int, Field(ge=1, le=1024)]
Count = Annotated[int, Field(ge=0, le=16)]
Positive = Annotated[float, Field(gt=0, lt=1e6, allow_inf_nan=False)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class UNetSpec(_Strict):
    """Hyperparameters of `sciinv.priors.unet.UNet`."""

    channels: Annotated[int, Field(ge=1, le=16)] = 2
    widths: Annotated[tuple[Width, ...], Field(min_length=1, max_length=6)] = (64, 96, 144)
    blocks: Annotated[tuple[Count, ...], Field(min_length=1, max_length=6)] = (1, 2, 2)
    fold: Annotated[int, Field(ge=1, le=8)] = 2
    embedding: Width = 128

    @model_validator(mode="after")
    def _stages(self) -> UNetSpec:
        if len(self.widths) != len(self.blocks):
            raise ValueError("widths and blocks must have the same length")
        return self


class ModelCard(_Strict):
    """What a user must know before trusting a prior; printed by `sciinv priors` and in every report.

    ``held_out_error`` is the root-mean-square denoising error per real component at each noise level, ``coverage`` the
    measured coverage of nominal 90 % intervals by data set. ``method`` is how it was trained and ``corruption`` what
    was wrong with the data it was trained on; ``measured`` are further numbers of the training by name.
    """

    name: Text
    summary: Text
    data: Text
    licence: Text
    resolution: Text
    intensity: Text
    anatomy: Text
    known_failures: Text
    training: Text
    seed: int
    method: Text = "dsm"
    corruption: Text = "none: trained on images taken as clean"
    measured: Annotated[dict[str, Annotated[float, Field(allow_inf_nan=False)]], Field(max_length=64)] = {}
    held_out_error: Annotated[dict[str, Positive], Field(max_length=64)] = {}
    coverage: Annotated[dict[str, Annotated[float, Field(ge=0, le=1)]], Field(max_length=64)] = {}


class CheckpointNote(_Strict):
    """The JSON in the metadata of a prior's safetensors file.

    ``mean`` is that of all images of a nonnegative family (`sciinv.priors.simplex`).
    """

    format: Literal["sciinv-prior-1"] = "sciinv-prior-1"
    architecture: Literal["unet"] = "unet"
    hyperparameters: UNetSpec
    sigma_data: Positive
    sigma_min: Positive
    sigma_max: Positive
    complex_pair: bool = True
    spatial_shape: tuple[Width, Width] = (96, 96)
    predicts: Literal["E[x0|x_t]", "E[x0|A~ x_t, A~]"] = "E[x0|x_t]"
    mean: Positive | None = None
    card: ModelCard

    @property
    def channels(self) -> int:
        """Channels of the state; a network that is told A~ has one more."""
        return self.hyperparameters.channels - (self.predicts != "E[x0|x_t]")

    @model_validator(mode="after")
    def _consistent(self) -> CheckpointNote:
        if self.sigma_min >= self.sigma_max:
            raise ValueError("sigma_min must be below sigma_max")
        if self.channels < 1:
            raise ValueError("a network that is told A~ needs a channel for it")
        if self.complex_pair and self.channels != 2:
            raise ValueError("a complex image needs two channels")
        if self.mean is not None and (self.complex_pair or self.predicts != "E[x0|x_t]"):
            raise ValueError("only real images denoised as a whole can share a mean")
        return self
