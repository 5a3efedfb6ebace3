"""Where tables are printed."""

from __future__ import annotations

from rich.console import Console

PIPE = 150  # columns of what is no terminal, and so has no width of its own


def console() -> Console:
    """Standard output, without colours for numbers."""
    found = Console(highlight=False)
    if not found.is_terminal:
        found.width = PIPE
    return found
