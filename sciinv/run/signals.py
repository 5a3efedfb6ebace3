"""Ctrl-C and termination: the first asks the loop to save and stop, a second one stops at once."""

from __future__ import annotations

import signal
from types import FrameType, TracebackType
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupted(BaseException):
    """The run was asked to stop; no `Exception`, so that no reader takes it for a broken file, no parser for its
    own.
    """

    def __init__(self, signum: int):
        self.exit_code = 128 + signum
        super().__init__(f"interrupted by {signal.Signals(signum).name}")


class Stop:
    """Remembers a request to stop while it is entered; outside `gentle` code a signal interrupts immediately."""

    def __init__(self) -> None:
        self.signum = 0
        self.gentle = False
        self._former: dict[int, Any] = {}

    def __enter__(self) -> Stop:
        try:
            for number in SIGNALS:
                self._former[number] = signal.signal(number, self._handle)
        except ValueError:  # not the main thread: the caller keeps its own handlers
            self._former.clear()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        for number, handler in self._former.items():
            signal.signal(number, handler)

    @property
    def requested(self) -> bool:
        """Whether a signal has come."""
        return self.signum != 0

    def check(self) -> None:
        """Raise `Interrupted` if a signal has come."""
        if self.signum:
            raise Interrupted(self.signum)

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        again, self.signum = self.requested, signum
        if again or not self.gentle:
            raise Interrupted(signum)
