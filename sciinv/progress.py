"""What a person sees while a run goes on (stderr) and what a machine can read afterwards (``log.jsonl``).

Results go to stdout, everything else to stderr. A terminal gets a bar, a batch job one line per half minute.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

MODES = ("auto", "bar", "plain", "none")
PLAIN_EVERY = 30.0


class Log:
    """Messages of one command.

    Parameters
    ----------
    verbosity : -1 errors and warnings only, 0 the usual, 1 details.
    mode : ``auto`` shows a bar on a terminal and plain lines elsewhere.
    """

    def __init__(self, verbosity: int = 0, mode: str = "auto"):
        self.verbosity = verbosity
        terminal = sys.stderr.isatty() and not os.environ.get("CI")
        self.mode = ("bar" if terminal else "plain") if mode == "auto" else mode
        self.warnings: list[str] = []
        self._file: Path | None = None
        self._scrub: Callable[[str], str] = str
        self._bar: Any = None
        self._held: list[dict[str, Any]] = []

    def to_file(self, path: Path, scrub: Callable[[str], str]) -> None:
        """Keep events in this file from now on, those held back so far included; `scrub` cleans each line."""
        self._file, self._scrub = path, scrub
        held, self._held = self._held, []
        for event in held:
            self._append(event)

    def event(self, kind: str, **fields: Any) -> None:
        """Record one event."""
        event = {"time": round(time.time(), 3), "event": kind, **fields}
        if self._file is None:
            self._held.append(event)
        else:
            self._append(event)

    def info(self, text: str) -> None:
        """Say something; ``-q`` silences it."""
        self.event("info", text=text)
        if self.verbosity >= 0:
            self._say(text)

    def detail(self, text: str) -> None:
        """Say something that only ``-v`` shows."""
        self.event("detail", text=text)
        if self.verbosity >= 1:
            self._say(text)

    def warn(self, text: str) -> None:
        """Say and remember a warning; one that was said already is not repeated."""
        if text in self.warnings:
            return
        self.warnings.append(text)
        self.event("warning", text=text)
        self._say(f"! {text}")

    def bar(self, total: int, done: int = 0) -> Progress:
        """Progress over `total` tasks of which `done` are finished."""
        return Progress(self, total, done)

    def _say(self, text: str) -> None:
        if self._bar is not None:
            self._bar.console.print(text, markup=False, highlight=False)
        else:
            sys.stderr.write(text + "\n")
            sys.stderr.flush()

    def _append(self, event: dict[str, Any]) -> None:
        assert self._file is not None
        line = self._scrub(json.dumps(event, ensure_ascii=False, default=str)) + "\n"
        # one write of one line to a file opened for appending: a kill leaves whole lines
        with open(self._file, "ab", buffering=0) as file:
            file.write(line.encode())


class Progress:
    """A bar, plain lines, or nothing; a context manager."""

    def __init__(self, log: Log, total: int, done: int):
        self.log, self.total, self.done = log, max(total, 1), done
        self._inside, self._start, self._last, self._at_start = 0.0, time.monotonic(), time.monotonic(), float(done)
        self._task: Any = None

    def __enter__(self) -> Progress:
        if self.log.mode == "bar" and self.log.verbosity >= 0:
            from rich.console import Console
            from rich.progress import BarColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
            from rich.progress import Progress as RichProgress

            bar = RichProgress(
                TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:>3.0f}%"),
                TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn(), console=Console(stderr=True),
            )  # fmt: skip
            bar.start()
            self.log._bar, self._task = bar, bar.add_task("sampling", total=self.total, completed=self.done)
        return self

    def __exit__(self, *exc: object) -> None:
        if self.log._bar is not None:
            self.log._bar.stop()
            self.log._bar = None

    def step(self, done: int, total: int) -> None:
        """The present task has done `done` of `total` steps."""
        self._inside = done / max(total, 1)
        self._show()

    def finished(self) -> None:
        """The present task is over."""
        self.done, self._inside = self.done + 1, 0.0
        self._show()

    def _show(self) -> None:
        at = self.done + self._inside
        if self.log._bar is not None:
            self.log._bar.update(
                self._task, completed=at, description=f"task {min(self.done + 1, self.total)}/{self.total}"
            )
            return
        moment = time.monotonic()
        if self.log.mode == "none" or self.log.verbosity < 0 or moment - self._last < PLAIN_EVERY:
            return
        self._last = moment
        spent, rate = moment - self._start, (at - self._at_start) / max(moment - self._start, 1e-9)
        left = f", {clock((self.total - at) / rate)} left" if rate > 0 else ""
        self.log.info(
            f"{100 * at / self.total:3.0f}%  task {min(self.done + 1, self.total)}/{self.total}  "
            f"{clock(spent)} elapsed{left}"
        )


def clock(seconds: float) -> str:
    """Minutes and seconds."""
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"
