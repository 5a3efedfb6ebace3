"""Errors a user can act on: what went wrong, where, what was expected, what was found, what to try.

Each class carries the process exit code the command line ends with (0 ok, 1 bug, 2 usage, 3 input, 4 mismatch,
5 partial, 6 resources, 7 numerical, 130 SIGINT, 143 SIGTERM).
"""

from __future__ import annotations


class SciinvError(Exception):
    """Base of every expected failure; ``str(error)`` is one readable message without a traceback."""

    exit_code = 1

    def __init__(
        self,
        what: str,
        *,
        where: str = "",
        expected: str = "",
        found: str = "",
        hint: str = "",
        exit_code: int | None = None,
    ):
        self.what, self.where, self.expected, self.found, self.hint = what, where, expected, found, hint
        if exit_code is not None:
            self.exit_code = exit_code
        super().__init__(str(self))

    def __str__(self) -> str:
        text = f"{self.where}: {self.what}" if self.where else self.what
        text = text.rstrip(".")
        if self.expected:
            text += f"; expected {self.expected}"
        if self.found:
            text += f"; found {self.found}"
        return f"{text}. Try: {self.hint}" if self.hint else f"{text}."


class UsageError(SciinvError):
    """The command line or configuration cannot be understood."""

    exit_code = 2


class InputError(SciinvError):
    """A file is missing, malformed, hostile or physically impossible."""

    exit_code = 3


class MismatchError(SciinvError):
    """Prior, operator, sampler or calibration do not fit each other."""

    exit_code = 4


class Unsupported(MismatchError):
    """An operator or prior was asked for a capability that it does not offer."""


class PartialError(SciinvError):
    """Some items failed; the others are complete and written."""

    exit_code = 5


class ResourceError(SciinvError):
    """Memory, disk, device or time ran out."""

    exit_code = 6


class NumericalError(SciinvError):
    """Every sample diverged or became non-finite."""

    exit_code = 7
