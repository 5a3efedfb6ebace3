"""Trained priors on disk: one safetensors file, weights in float16 or float32, model card in its metadata.

A checkpoint is untrusted input. Nothing in it is executed, the architecture comes from an allow-list, the shapes are
compared with those the architecture has before a tensor is read, and whatever is wrong is one `InputError`.
"""

from __future__ import annotations

import json
from importlib import resources
from pathlib import Path

import torch
from pydantic import ValidationError
from safetensors import safe_open
from safetensors.torch import save
from torch import nn

from sciinv.errors import InputError, UsageError
from sciinv.io.atomic import write_bytes
from sciinv.io.limits import check_file, reading, sha256
from sciinv.prior import PARTIAL
from sciinv.priors.card import CheckpointNote, ModelCard, UNetSpec
from sciinv.priors.network import NetworkPrior
from sciinv.priors.partial import PartialPrior
from sciinv.priors.unet import UNet

ARCHITECTURES: dict[str, type[nn.Module]] = {"unet": UNet}
"""What a checkpoint may ask for."""

EMBEDDED = {
    "ct_body": "5ffb0a449cc841fcb7144a271b21e1e7356c5526dcaf44ccd620e5953adbbf01",
    "ct_piecewise": "24fa7ea9a3e625b434b963d590a09c7afce666aef0fe67212102b9f6d029be14",
    "brain_mri": "d73f67cff42ebe398e642d66d2a103b9844e23f13618595f0014de71f9d4fe98",
    "vlbi_64": "83a512c137cf78ad94f9e009b1713ba0f3d4c5512a9ee4fb0499b713859a2421",
}
"""Priors that come with the package, and the SHA-256 of their files."""

NOTE_KEY, NOTE_LIMIT, FILE_LIMIT = "sciinv", 64 << 10, 1 << 30


def embedded_path(name: str) -> Path:
    """File of an embedded prior."""
    return Path(str(resources.files("sciinv.priors"))) / "weights" / f"{name}.safetensors"


def save_prior(
    prior: NetworkPrior, spec: UNetSpec, card: ModelCard, path: Path, dtype: torch.dtype = torch.float16
) -> Path:
    """Write a prior with its card; ``spec`` are the hyperparameters its network was made with."""
    height, width = prior.space.shape[1:]
    note = CheckpointNote(
        hyperparameters=spec, sigma_data=prior.sigma_data, sigma_min=prior.sigma_min, sigma_max=prior.sigma_max,
        complex_pair=prior.complex_pair, spatial_shape=(height, width), card=card,
        predicts=prior.predicts, mean=prior.mean,  # type: ignore[arg-type]
    )  # fmt: skip
    weights = {k: v.detach().to("cpu", dtype).contiguous() for k, v in prior.network.state_dict().items()}
    text = note.model_dump_json()
    if len(text.encode()) > NOTE_LIMIT:
        raise UsageError(
            "the model card is too long", expected=f"at most {NOTE_LIMIT} bytes", found=str(len(text.encode()))
        )
    return write_bytes(path, save(weights, {NOTE_KEY: text}))


def read_note(path: Path) -> CheckpointNote:
    """Architecture, units and card of a checkpoint, without its weights.

    Raises
    ------
    InputError
        The file is not a safetensors file with a valid note.
    """
    path = check_file(path)
    size = path.stat().st_size
    with path.open("rb") as file:
        header = int.from_bytes(file.read(8), "little")
    if size > FILE_LIMIT or not 2 <= header <= min(size - 8, 16 * NOTE_LIMIT):
        raise InputError(
            "this is not a checkpoint of a prior", where=path.name, expected="a safetensors file with a short header",
            found=f"{size:,} bytes, header of {header:,}",
            hint="`sciinv train` writes such files; pickles are not accepted",
        )  # fmt: skip
    with reading(path, "safetensors"), safe_open(path, "pt") as opened:
        text = (opened.metadata() or {}).get(NOTE_KEY, "")
    if not text or len(text.encode()) > NOTE_LIMIT:
        raise InputError(
            "the file has no model card", where=path.name,
            expected=f"metadata `{NOTE_KEY}` of at most {NOTE_LIMIT:,} bytes",
            found=f"{len(text.encode()):,} bytes", hint="convert it with `save_prior`",
        )  # fmt: skip
    try:
        with reading(path, "model card"):
            return CheckpointNote.model_validate(json.loads(text), strict=False)
    except InputError as error:
        cause = error.__cause__
        if not isinstance(cause, ValidationError):
            raise
        first = cause.errors(include_url=False)[0]
        field = ".".join(str(p) for p in first["loc"]) or "the card"
        raise InputError(
            "the model card is not valid",
            where=path.name,
            expected=f"`{field}`: {first['msg']}",
            found=repr(first["input"])[:80],
        ) from cause


def _weights(path: Path, blank: nn.Module) -> dict[str, torch.Tensor]:
    """The tensors that ``blank`` (on the meta device) needs, in float32, checked by name, shape, type and value."""
    want = {k: tuple(v.shape) for k, v in blank.state_dict().items()}
    with reading(path, "safetensors"), safe_open(path, "pt") as opened:
        have = {k: tuple(opened.get_slice(k).get_shape()) for k in opened.keys()}
        if have != want:
            odd = sorted({k for k in have.keys() | want.keys() if have.get(k) != want.get(k)})
            raise InputError(
                f"{len(odd)} tensors do not fit the architecture", where=path.name,
                expected=f"{odd[0]} {want.get(odd[0], '(none)')}", found=str(have.get(odd[0], "(none)")),
            )  # fmt: skip
        found = {k: opened.get_tensor(k) for k in want}
    for name, tensor in found.items():
        if not tensor.is_floating_point() or not bool(torch.isfinite(tensor).all()):
            raise InputError(
                "a weight is not a finite number", where=f"{path.name}: {name}",
                expected="finite floating-point weights",
                found=str(tensor.dtype), hint="the training diverged or the file is damaged",
            )  # fmt: skip
    return {k: v.to(torch.float32) for k, v in found.items()}


def load_prior(source: str | Path) -> NetworkPrior:
    """Load an embedded prior by name, or a checkpoint by path; evaluation mode, float32, on the host.

    Raises
    ------
    InputError
        The file is missing, damaged, hostile or not the one that was shipped.
    """
    embedded = str(source) in EMBEDDED
    path = embedded_path(str(source)) if embedded else Path(source)
    note = read_note(path)
    if embedded and sha256(path) != EMBEDDED[str(source)]:
        raise InputError(
            "the embedded prior is not the one that was shipped", where=path.name, expected=EMBEDDED[str(source)],
            found=sha256(path), hint="reinstall the package",
        )  # fmt: skip
    settings = note.hyperparameters.model_dump()
    with torch.device("meta"):
        network = ARCHITECTURES[note.architecture](**settings)
    network.load_state_dict(_weights(path, network), assign=True)
    network = network.eval().requires_grad_(False)
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    kind = PartialPrior if note.predicts == PARTIAL else NetworkPrior
    return kind(
        network, note.spatial_shape, note.sigma_data, note.sigma_min, note.sigma_max, note.channels,
        note.complex_pair, note.card.model_dump() | {"predicts": note.predicts, "sha256": sha256(path)},
        note.mean,
    )  # fmt: skip
