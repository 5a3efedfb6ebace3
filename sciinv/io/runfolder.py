"""The output folder of a run: one plan, one owner at a time, one marker that is written last.

``plan.json`` is frozen before the first sample and its SHA-256 is the plan's id; the same plan resumes, another one is
refused. ``.lock`` is created as with O_EXCL and names the owner (process, host); a lock whose process is gone is
taken over, by one process at a time (``flock`` on the folder).
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
import shutil
import socket
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from sciinv.errors import InputError, ResourceError, SciinvError, UsageError
from sciinv.io.atomic import write_json, write_text

MARKERS = ("SUCCESS", "PARTIAL", "FAILED")
LOCK = ".lock"


def plan_id(document: Mapping[str, Any]) -> str:
    """SHA-256 of the plan's canonical JSON (sorted keys, no spaces)."""
    text = json.dumps(document, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


class RunFolder:
    """A locked output folder; use as a context manager.

    Parameters
    ----------
    path
        The folder, created when it does not exist.
    document
        The plan, JSON-ready.
    overwrite
        Start anew even if a run is here. Only files that a run wrote are removed.

    Attributes
    ----------
    resumed, complete
        Once entered: whether the folder holds this plan's run, and whether that run is finished and whole.

    Raises
    ------
    UsageError
        The folder holds something else, or another process works in it.
    ResourceError
        The folder cannot be written.
    """

    def __init__(self, path: str | os.PathLike[str], document: Mapping[str, Any], *, overwrite: bool = False):
        self.path = Path(path)
        self.document, self.id, self.overwrite = dict(document), plan_id(document), overwrite
        self.resumed = self.complete = False

    @property
    def work(self) -> Path:
        """Folder of finished tasks."""
        return self.path / "work"

    @property
    def checkpoints(self) -> Path:
        """Folder of the unfinished task's checkpoint."""
        return self.work / "unfinished"

    def __enter__(self) -> RunFolder:
        _make(self.path)
        self._take_lock()
        try:
            self._adopt()
        except BaseException:
            self._release()
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        self._release()

    def mark(self, marker: str, text: str) -> None:
        """Write the final marker; the others are gone already (`_adopt`)."""
        write_text(self.path / marker, text + "\n")

    def drop_work(self) -> None:
        """Remove the per-task files; the run can no longer be resumed without computing again."""
        shutil.rmtree(self.work, ignore_errors=True)

    def _adopt(self) -> None:
        found = read_plan(self.path)
        mine = {LOCK, "log.jsonl"}
        others = [p.name for p in self.path.iterdir() if p.name not in mine and not p.name.endswith(".partial")]
        if found is not None and plan_id(found) == self.id and not self.overwrite:
            self.resumed = True
            self.complete = self._is_complete()
            if self.complete:
                return
        elif found is not None and not self.overwrite:
            raise UsageError(
                "the output folder holds a run with another plan",
                where=self.path.name,
                expected=", ".join(_differences(found, self.document)),
                found=", ".join(_differences(self.document, found)),
                hint="another folder with -o, or --overwrite to replace that run",
            )
        elif others and found is None and not self.overwrite:
            raise UsageError(
                "the output folder is not empty and holds no sciinv run",
                where=self.path.name,
                expected="a new or empty folder",
                found=f"{len(others)} other files",
                hint="another folder with -o, or --overwrite to write beside them",
            )
        elif found is not None:
            self._clean()
        for folder in (self.work, self.checkpoints):
            if folder.is_symlink():
                raise UsageError(
                    "this part of the output folder is a link and would be written elsewhere", where=folder.name
                )
        for marker in MARKERS:
            (self.path / marker).unlink(missing_ok=True)
        # before any folder is made: without it a folder that a kill left behind would belong to nobody
        if not self.resumed:
            write_json(self.path / "plan.json", self.document)
        for folder in (self.work, self.checkpoints):
            _make(folder)
        for folder in (self.path, self.work, self.checkpoints):
            for leftover in folder.glob(".*.partial"):  # a killed writer's temporary files
                leftover.unlink(missing_ok=True)

    def _is_complete(self) -> bool:
        """Whether the run succeeded and everything it wrote is still here."""
        record = _read_json(self.path / "provenance.json")
        if not (self.path / "SUCCESS").exists() or record is None or record.get("plan") != self.id:
            return False
        names = record.get("outputs")
        return isinstance(names, list) and all((self.path / str(name)).is_file() for name in names)

    def _clean(self) -> None:
        """Remove what the former run wrote, and nothing else."""
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            for name in json.loads((self.path / "provenance.json").read_text("utf-8"))["outputs"]:
                if name == Path(name).name:  # a name, never a path that leaves the folder
                    (self.path / name).unlink(missing_ok=True)
        for name in ("plan.json", "provenance.json", "config.yaml", "report.html", "log.jsonl", *MARKERS):
            (self.path / name).unlink(missing_ok=True)
        if not self.work.is_symlink():
            shutil.rmtree(self.work, ignore_errors=True)

    def _take_lock(self) -> None:
        path = self.path / LOCK
        owner = {"pid": os.getpid(), "host": socket.gethostname(), "born": _born(os.getpid())}
        mine = self.path / f".lock.{os.getpid()}-{secrets.token_hex(4)}.partial"
        try:
            mine.write_text(json.dumps(owner), "utf-8")
            with _alone(self.path):
                # the lock appears with its content in one step: link() fails if it exists, as O_EXCL does
                held = _read_json(path) if path.exists() else None
                if path.exists() and (held is None or _gone(held)):
                    path.unlink(missing_ok=True)
                os.link(mine, path)
        except FileExistsError:
            held = _read_json(path) or {}
            raise UsageError(
                "another process works in this output folder",
                where=self.path.name,
                found=f"process {held.get('pid')} on {held.get('host')}",
                hint=f"wait for it, or remove {LOCK} if that process is gone",
            ) from None
        except OSError as error:
            raise _unwritable(self.path, error) from error
        finally:
            with contextlib.suppress(OSError):
                mine.unlink(missing_ok=True)

    def _release(self) -> None:
        with contextlib.suppress(OSError):
            (self.path / LOCK).unlink(missing_ok=True)


def read_plan(path: str | os.PathLike[str]) -> dict[str, Any] | None:
    """Return the plan in a run folder, or ``None`` when there is none."""
    file = Path(path) / "plan.json"
    if not file.exists():
        return None
    found = _read_json(file)
    if found is None:
        raise InputError("the plan of this run is damaged", where="plan.json", hint="--overwrite, or another folder")
    return found


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Keep other processes of this host out, so that a stale lock is looked at and replaced in one step.

    The kernel releases this one with its process. Where a file system offers none, only the takeover is left unguarded.
    """
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(ImportError, OSError):
            import fcntl

            handle = os.open(folder, os.O_RDONLY)
            stack.callback(os.close, handle)
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _unwritable(folder, error) from error
    if not os.access(folder, os.W_OK | os.X_OK):
        raise _unwritable(folder, None)


def _unwritable(folder: Path, error: OSError | None) -> SciinvError:
    reason = f" ({os.strerror(error.errno)})" if error is not None and error.errno else ""
    return ResourceError(
        f"the output folder cannot be written{reason}",
        where=folder.name,
        expected="a folder with free space that you may write to",
        hint="another folder with -o",
    )


def _read_json(path: Path) -> dict[str, Any] | None:
    try:
        value = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return None
    return value if isinstance(value, dict) else None


def _gone(owner: Mapping[str, Any]) -> bool:
    """Whether the owner ran on this host and no longer does (its number may have been given to another process)."""
    pid = owner.get("pid")
    if owner.get("host") != socket.gethostname() or not isinstance(pid, int) or pid <= 0:
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        pass
    return owner.get("born") != _born(pid)


def _born(pid: int) -> str | None:
    """Start time of a process in clock ticks since boot, where the system tells (Linux, proc(5) field 22)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return None


def _differences(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[str]:
    """Entries of `a` that `b` does not share, as short text."""
    out = []
    for key in sorted(a):
        if a[key] != b.get(key):
            inner = a[key]
            if isinstance(inner, Mapping) and isinstance(b.get(key), Mapping):
                out += [f"{key}.{text}" for text in _differences(inner, b[key])]
            else:
                text = json.dumps(inner)
                out.append(f"{key}={text if len(text) < 40 else text[:36] + '...'}")
    return out or ["the same"]
