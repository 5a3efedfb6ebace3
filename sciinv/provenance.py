"""What must be known to repeat a run, and nothing that identifies a person.

Paths are reduced to names, and a name is kept only when it follows the BIDS pattern ``sub-XX_...`` (made to be
public) or when the user asks; hashes identify files otherwise. `Scrubber` applies the same rule to every line that
goes into the output folder.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import os
import platform
import re
import subprocess
import sys
from collections.abc import Iterable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

SCHEMA = 1
PACKAGES = ("sciinv", "torch", "numpy", "scipy", "h5py", "nibabel", "safetensors", "pydantic", "sigpy", "typer", "rich")
_PUBLIC = re.compile(r"sub-[A-Za-z0-9]+(_[a-z]+-[A-Za-z0-9]+)*(_[A-Za-z0-9]+)?\.[a-z0-9.]+")
_SUFFIX = re.compile(r"\.[a-z0-9]{1,8}(\.gz)?")
DISCLAIMER = (
    "Research use only. Not a medical device, not cleared or approved by any regulator. Not for diagnosis or treatment."
)


def now() -> str:
    """UTC time, seconds."""
    return dt.datetime.now(dt.UTC).isoformat(timespec="seconds")


def file_hash(path: str | os.PathLike[str]) -> str:
    """SHA-256 of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def public_name(path: str | os.PathLike[str], sha256: str, *, keep: bool = False) -> str:
    """A name for a file that may be stored: its own when it is a BIDS name or `keep`, else ``input-`` and the hash's
    head.
    """
    path = Path(path)
    if keep or _PUBLIC.fullmatch(path.name):
        return path.name
    suffix = "".join(path.suffixes[-2:]) if path.name.endswith(".gz") else path.suffix
    return f"input-{sha256[:8]}{suffix if _SUFFIX.fullmatch(suffix) else ''}"


class Scrubber:
    """Replaces private paths and file names in text that is stored."""

    def __init__(self) -> None:
        self._rules: list[tuple[str, str]] = []

    def hide(self, path: str | os.PathLike[str], public: str) -> None:
        """From now on `path`, however it is written, and its base name read `public`."""
        path = Path(path)
        if path.name == public:
            names = {str(path.absolute()), str(path)} - {path.name}
        else:
            names = {str(path.absolute()), str(path), path.name, path.name.split(".")[0]}
        self._rules += [(name, public) for name in names if len(name) >= 4]
        self._rules.sort(key=lambda rule: -len(rule[0]))

    def __call__(self, text: str) -> str:
        """Return `text` with the known names replaced and home folders shortened."""
        for private, public in self._rules:
            text = text.replace(private, public)
        return re.sub(r"(/home/|/Users/|\\Users\\)[^/\\\s\"']+", r"~", text)

    def tree(self, value: Any) -> Any:
        """Scrub every string in a JSON-ready value."""
        if isinstance(value, str):
            return self(value)
        if isinstance(value, Mapping):
            return {key: self.tree(child) for key, child in value.items()}
        if isinstance(value, (list, tuple)):
            return [self.tree(child) for child in value]
        return value


def environment(device: str = "cpu") -> dict[str, Any]:
    """Versions, machine and threads."""
    import torch

    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    out: dict[str, Any] = {
        "python": platform.python_version(),
        "packages": versions,
        "commit": commit(),
        "os": f"{platform.system()} {platform.release()}",
        "machine": platform.machine(),
        "cpu": _cpu(),
        "cpus": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "device": device,
    }
    if device.startswith("cuda"):
        out["gpu"] = torch.cuda.get_device_name(device)
        out["cuda"] = torch.version.cuda
        out["cudnn"] = torch.backends.cudnn.version()
        out["tf32"] = torch.backends.cuda.matmul.allow_tf32
    return out


def commit() -> str | None:
    """The commit of a source checkout, with ``+changes`` when the tree differs; ``None`` in an installed package."""
    root = Path(__file__).resolve().parents[1]
    if not (root / ".git").exists():
        return None
    try:
        options = {"cwd": root, "capture_output": True, "text": True, "timeout": 5, "check": True}
        head = subprocess.run(["git", "rev-parse", "HEAD"], **options).stdout.strip()  # type: ignore[call-overload]
        dirty = subprocess.run(["git", "status", "--porcelain", "-uno"], **options).stdout  # type: ignore[call-overload]
    except (OSError, subprocess.SubprocessError):
        return None
    return head + ("+changes" if dirty.strip() else "")


def arguments(scrub: Scrubber, argv: Iterable[str] | None = None) -> list[str]:
    """The command line, scrubbed."""
    words = list(sys.argv if argv is None else argv)
    return [scrub(Path(words[0]).name), *(scrub(word) for word in words[1:])] if words else []


def _cpu() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or "unknown"
