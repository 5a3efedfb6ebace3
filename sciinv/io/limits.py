"""What every reader shares: how large a file may claim to be, and how a third-party failure becomes one sentence.

A header is a claim, not a fact: 1.4 kB of HDF5 can ask for 75 GB. Each reader therefore checks the claimed bytes
against ``max_bytes`` and against what is really stored *before* it allocates anything.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
import warnings
from collections.abc import Iterator
from pathlib import Path

from sciinv.errors import InputError, SciinvError

MAX_EXPANSION = 2000  # deflate cannot beat about 1030:1, so an honest file never comes near
SMALL = 1 << 20  # below 1 MiB a claim costs nothing and is always allowed
MAX_TEXT = 16 << 20


def default_max_bytes() -> int:
    """Bytes one array may occupy unless the user says otherwise: the smaller of 16 GB and half of the memory."""
    try:
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):
        memory = 8_000_000_000
    return int(min(16_000_000_000, memory // 2))


def check_file(path: str | os.PathLike[str]) -> Path:
    """Return `path` if it is a readable, non-empty regular file (a pipe or a device would block or never end)."""
    path = Path(path)
    try:
        status = path.stat()
    except FileNotFoundError:
        raise InputError("there is no such file", where=path.name, hint="check the path") from None
    except (OSError, ValueError) as error:
        raise InputError(f"the file cannot be opened ({_short(error)})", where=path.name[:200]) from None
    if stat.S_ISDIR(status.st_mode):
        raise InputError("this is a folder", where=path.name, expected="one file", hint="name the file inside it")
    if not stat.S_ISREG(status.st_mode):
        raise InputError("this is not a regular file", where=path.name, expected="a file on disk, not a pipe or device")
    if not os.access(path, os.R_OK):
        raise InputError("you may not read this file", where=path.name, hint="check its permissions")
    if status.st_size == 0:
        raise InputError("the file is empty", where=path.name, hint="copy it again from its source")
    return path


def check_claim(nbytes: int, stored: int, *, where: str, max_bytes: int | None = None) -> None:
    """Refuse an array that claims more than `max_bytes` or ``MAX_EXPANSION`` times the bytes `stored`."""
    limit = default_max_bytes() if max_bytes is None else max_bytes
    if nbytes > limit:
        raise InputError(
            "the header asks for more memory than allowed",
            where=where,
            expected=f"at most {limit:,} bytes",
            found=f"{nbytes:,} bytes",
            hint="if the file is trusted, raise --max-bytes",
        )
    if nbytes > SMALL and nbytes > MAX_EXPANSION * stored:
        raise InputError(
            "the header claims far more data than the file stores",
            where=where,
            expected=f"at most {MAX_EXPANSION} times the {stored:,} bytes stored",
            found=f"{nbytes:,} bytes claimed",
            hint="the file is truncated or hostile; copy it again from its source",
        )


@contextlib.contextmanager
def reading(path: str | os.PathLike[str], kind: str) -> Iterator[None]:
    """Turn whatever a third-party library raises on `path` into one `InputError` that names the file and the format.

    Fuzzing the field's readers shows more than sixteen exception classes, so nothing narrower than `Exception` is safe.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # numpy and h5py warn about the very values that we then refuse
            yield
    except SciinvError:
        raise
    except MemoryError:
        raise InputError(
            f"not enough memory to read this {kind} file", where=Path(path).name, hint="use a machine with more memory"
        ) from None
    except Exception as error:
        raise InputError(
            f"this file cannot be read as {kind} ({_short(error)})",
            where=Path(path).name,
            expected=f"a complete {kind} file",
            found="a damaged or different file",
            hint="copy it again from its source, or check the format with `sciinv info`",
        ) from error


def sha256(path: str | os.PathLike[str]) -> str:
    """Hexadecimal SHA-256 of a file, read in 4 MiB pieces."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 22):
            digest.update(block)
    return digest.hexdigest()


def starts_with(path: str | os.PathLike[str], *magics: bytes) -> bool:
    """Say whether the file begins with one of `magics`; never raises."""
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            return False
        with open(path, "rb") as file:
            head = file.read(max(map(len, magics)))
    except (OSError, ValueError):
        return False
    return any(head.startswith(magic) for magic in magics)


def _short(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:160]}" if text else type(error).__name__
