"""Atomic files: a reader sees the old file or the new one, never half of one, whatever kills the writer.

Temp file in the same folder, fsync, ``os.replace``, fsync of the folder (POSIX rename is atomic within a filesystem).
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import secrets
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from sciinv.errors import InputError, ResourceError


@contextlib.contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success it replaces `path`, on any failure it is removed.

    For libraries that want a file name (HDF5). The temporary name ends in ``.partial``.

    Raises
    ------
    ResourceError
        The disk is full or a quota is reached.
    InputError
        The folder cannot be written.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
        _sync_folder(path.parent)
    except OSError as error:
        raise _explain(error, path) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def write_bytes(path: str | os.PathLike[str], data: bytes) -> Path:
    """Write `data` to `path` atomically and return the path."""
    with atomic_path(path) as temporary:
        # O_EXCL: a link planted under the temporary name is never followed
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
    return Path(path)


def write_text(path: str | os.PathLike[str], text: str) -> Path:
    """Write UTF-8 `text` to `path` atomically and return the path."""
    return write_bytes(path, text.encode())


def write_json(path: str | os.PathLike[str], value: Mapping[str, Any] | list[Any]) -> Path:
    """Write `value` as indented JSON, refusing NaN and infinity (they are not JSON)."""
    return write_text(path, json.dumps(value, indent=2, allow_nan=False, ensure_ascii=False) + "\n")


def _sync_folder(folder: Path) -> None:
    with contextlib.suppress(OSError):  # not every filesystem lets a folder be opened; the rename itself is done
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _explain(error: OSError, path: Path) -> ResourceError | InputError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return ResourceError("the disk is full", where=path.name, hint="free some space and run the same command again")
    return InputError(
        f"the file cannot be written ({os.strerror(error.errno) if error.errno else error})",
        where=path.name,
        hint="choose another output folder with -o, or check its permissions",
    )
