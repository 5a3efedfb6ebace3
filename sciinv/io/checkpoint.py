"""Checkpoints as safetensors: tensors and a JSON note in one file, replaced atomically; nothing in it is executed.

`FileStore` is the `Store` of the sampling loop. A checkpoint belongs to one plan: one written under another plan, by
another version, or damaged by a dying disk is not used, and the chunk starts again from its seed (same samples, more
time).
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as _load
from safetensors.torch import save as _save
from torch import Tensor

from sciinv.errors import InputError
from sciinv.io.atomic import write_bytes

_HEADER_LIMIT = 100 << 20


def pack(tensors: Mapping[str, Tensor], note: Mapping[str, Any]) -> bytes:
    """Serialise named tensors (any shapes, real or complex) with a JSON-ready `note`."""
    plain = {}
    for name, tensor in tensors.items():
        value = tensor.detach().cpu()
        if value.is_complex():  # stored as real pairs, which every safetensors version knows
            name, value = f"complex:{name}", torch.view_as_real(value.resolve_conj())
        plain[name] = value.clone(memory_format=torch.contiguous_format)
    return _save(plain, {"note": json.dumps(note)})


def unpack(data: bytes, *, where: str = "checkpoint") -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Inverse of `pack`.

    Raises
    ------
    InputError
        The bytes are not a complete file written by `pack`.
    """
    try:
        size = int.from_bytes(data[:8], "little")
        if size > min(_HEADER_LIMIT, len(data)):
            raise ValueError("the header is longer than the file")
        note = json.loads(json.loads(data[8 : 8 + size])["__metadata__"]["note"])
        found = _load(data)
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            "this is not a complete checkpoint",
            where=where,
            expected="a safetensors file written by sciinv",
            found=type(error).__name__,
            hint="delete it and run the same command again",
        ) from error
    out = {}
    for name, value in found.items():
        # a copy: safetensors hands out views at any byte offset, and torch.Generator.set_state crashes on an
        # unaligned one
        value = value.clone()
        if name.startswith("complex:"):
            name, value = name.removeprefix("complex:"), torch.view_as_complex(value)
        out[name] = value
    return out, note


class FileStore:
    """The loop's checkpoints as files in `folder`, tied to the plan `plan` (a hash)."""

    def __init__(self, folder: Path, plan: str):
        self.folder, self.plan = Path(folder), plan

    def path(self, name: str) -> Path:
        """File of the checkpoint called `name`."""
        return self.folder / f"{re.sub(r'[^A-Za-z0-9]+', '-', name).strip('-')}.checkpoint"

    def save(self, name: str, tensors: Mapping[str, Tensor], meta: Mapping[str, Any]) -> None:
        """Replace the checkpoint called `name`."""
        write_bytes(self.path(name), pack(tensors, {"plan": self.plan, "meta": dict(meta)}))

    def load(self, name: str) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """Return the last checkpoint called `name`, or ``None`` when there is none that can be used."""
        try:
            tensors, note = unpack(self.path(name).read_bytes(), where=self.path(name).name)
        except (FileNotFoundError, InputError):
            return None
        return (tensors, note["meta"]) if note.get("plan") == self.plan else None

    def clear(self) -> None:
        """Remove every checkpoint."""
        for path in self.folder.glob("*.checkpoint"):
            with contextlib.suppress(FileNotFoundError):
                path.unlink()
