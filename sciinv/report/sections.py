"""What a field adds to the page: sections of text, figures and tables, and lines for the verdict box.

A domain gives them by `sciinv.plugins.Domain.sections`; everything in them is plain data, so that they are stored
beside the report and the page can be made again without the domain.
"""

from __future__ import annotations

import dataclasses as dc
import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from sciinv.errors import InputError

SYMBOLS = {"ok": "✓", "caution": "!", "alarm": "✗", "unknown": "?"}
PNG = b"\x89PNG\r\n\x1a\n"


@dc.dataclass(frozen=True)
class Finding:
    """One line of the verdict: level (``ok``, ``caution``, ``alarm``, ``unknown``), a short title and a sentence."""

    level: str
    title: str
    text: str

    def __post_init__(self) -> None:
        if self.level not in SYMBOLS:
            raise InputError("a finding has no such level", found=self.level, expected=", ".join(SYMBOLS))

    @property
    def symbol(self) -> str:
        """A sign that carries the level without colour."""
        return SYMBOLS[self.level]


@dc.dataclass(frozen=True, eq=False)
class Plate:
    """A figure: a PNG, what it shows (read under it), and what it says to who cannot see it."""

    png: bytes
    caption: str
    alt: str

    def __post_init__(self) -> None:
        if not self.png.startswith(PNG):
            raise InputError(
                "a figure of the report is no PNG", where=self.caption[:60], expected="bytes of a PNG file"
            )


@dc.dataclass(frozen=True)
class Table:
    """Rows of text and numbers under column names; the first column names the row."""

    caption: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str | float | None]]

    def __post_init__(self) -> None:
        wrong = [len(row) for row in self.rows if len(row) != len(self.columns)]
        if wrong or not self.columns:
            raise InputError(
                "the rows of a table have the wrong length", where=self.caption[:60],
                expected=f"{len(self.columns)} cells", found=str(wrong[:5]),
            )  # fmt: skip


@dc.dataclass(frozen=True, eq=False)
class Section:
    """A part of the page.

    Attributes
    ----------
    title : its heading.
    text : paragraphs.
    findings : lines for the verdict box; those of level ``caution`` and ``alarm`` go to the log too.
    """

    title: str
    text: Sequence[str] = ()
    plates: Sequence[Plate] = ()
    tables: Sequence[Table] = ()
    findings: Sequence[Finding] = ()


def plate(figure: Any, caption: str, alt: str) -> Plate:
    """A figure of matplotlib as a `Plate`; the same figure gives the same bytes."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    FigureCanvasAgg(figure)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return Plate(buffer.getvalue(), caption, alt)


def dump(sections: Sequence[Section]) -> tuple[list[dict[str, Any]], dict[str, np.ndarray]]:
    """JSON-ready values and the bytes of the figures by name; `load` reverses it."""
    pictures: dict[str, np.ndarray] = {}
    notes = []
    for k, section in enumerate(sections):
        for j, figure in enumerate(section.plates):
            pictures[f"section.{k}.{j}"] = np.frombuffer(figure.png, np.uint8)
        notes.append(
            {
                "title": section.title,
                "text": list(section.text),
                "plates": [{"caption": figure.caption, "alt": figure.alt} for figure in section.plates],
                "tables": [dc.asdict(table) for table in section.tables],
                "findings": [dc.asdict(finding) for finding in section.findings],
            }
        )
    return notes, pictures


def load(notes: Sequence[Mapping[str, Any]], pictures: Mapping[str, np.ndarray]) -> list[Section]:
    """Sections from what `dump` made."""
    return [
        Section(
            title=note["title"],
            text=note["text"],
            plates=[
                Plate(bytes(np.asarray(pictures[f"section.{k}.{j}"], np.uint8)), **words)
                for j, words in enumerate(note["plates"])
            ],
            tables=[Table(**table) for table in note["tables"]],
            findings=[Finding(**finding) for finding in note["findings"]],
        )
        for k, note in enumerate(notes)
    ]
