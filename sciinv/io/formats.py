"""The file formats of a domain: which one a file is, what is in it, and what is wrong with it."""

from __future__ import annotations

import dataclasses as dc
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from sciinv.errors import InputError, SciinvError
from sciinv.io.limits import check_file
from sciinv.io.spec import HeaderView, load_spec, violations


class Format(NamedTuple):
    """A format: how to recognise, read and view it, and the stem of its specification.

    Attributes
    ----------
    product : what `read` returns, where a domain reads several kinds of things.
    viewed : options of the reader that `view` takes too.
    """

    sniff: Callable[..., bool]
    read: Callable[..., Any]
    spec: str
    view: Callable[..., HeaderView]
    product: str = ""
    viewed: tuple[str, ...] = ()


def _no_hint(path: Path) -> str:
    return ""


@dc.dataclass(frozen=True)
class Formats:
    """The formats of a domain by name, in the order in which a file is offered to them.

    Attributes
    ----------
    hint : ``path -> what to try``, for a file that none of them recognises.
    """

    known: Mapping[str, Format]
    hint: Callable[[Path], str] = _no_hint

    def find_reader(self, path: str | os.PathLike[str]) -> str:
        """Name of the format that recognises the file by its content, not by its extension.

        Raises
        ------
        InputError
            None does; the message lists the formats.
        """
        path = check_file(path)
        for name, known in self.known.items():
            if known.sniff(path):
                return name
        raise InputError(
            "no reader recognises this file", where=path.name, expected=", ".join(self.known), hint=self.hint(path)
        )

    def read(self, path: str | os.PathLike[str], *, format: str | None = None, **options: Any) -> Any:
        """Read a file in the format named `format` (default: found by content); `options` go to its reader."""
        name = format or self.find_reader(path)
        if name not in self.known:
            raise InputError("no such format", where=Path(path).name, expected=", ".join(self.known), found=name[:40])
        return self.known[name].read(path, **options)

    def describe(self, path: str | os.PathLike[str], **options: Any) -> dict[str, Any]:
        """Facts about a file for ``sciinv info``: JSON-ready, free of patient data."""
        facts: dict[str, Any] = self.read(path, **options).info()
        return facts

    def validate(self, path: str | os.PathLike[str], *, format: str | None = None, **options: Any) -> list[str]:
        """Everything wrong with a file, as sentences: all violations of its specification, else what reading it says.

        Empty when the file is good. Raises only when the file is missing, or no reader knows it.
        """
        known = self.known[format or self.find_reader(check_file(path))]
        try:
            chosen = {key: options[key] for key in known.viewed if key in options}
            found = violations(known.view(path, **chosen), load_spec(known.spec))
            if not found:
                known.read(path, **options)
        except SciinvError as error:
            found = [str(error)]
        return found
