"""Values from outside (headers, cards, provenance) turned into short, harmless text.

HTML escaping is the template's work; here control and direction-changing characters go, which escaping leaves alone.
"""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

MAX_TEXT = 4000  # characters of one string; a hostile header may hold megabytes
MAX_ITEMS = 500  # entries of one list or table
MAX_DEPTH = 8


def clean(value: str) -> str:
    """`value` without control, format and surrogate characters (line feeds and tabs stay), cut at ``MAX_TEXT``."""
    text = value[:MAX_TEXT] + (" … (cut)" if len(value) > MAX_TEXT else "")
    return "".join(c if c in "\n\t" or unicodedata.category(c) not in ("Cc", "Cf", "Cs") else "\ufffd" for c in text)


def plain(value: Any, depth: int = 0) -> Any:
    """`value` as clean strings, numbers, booleans, ``None``, lists, dictionaries; paths keep only their last part."""
    if hasattr(value, "item") and getattr(value, "size", 0) == 1:
        value = value.item()
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, PurePath):
        return clean(value.name)
    if isinstance(value, str) or depth >= MAX_DEPTH:
        return clean(str(value))
    if isinstance(value, Mapping):
        return {clean(str(k)): plain(v, depth + 1) for k, v in list(value.items())[:MAX_ITEMS]}
    if isinstance(value, set | frozenset):
        value = sorted(value, key=str)
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, list | tuple):
        return [plain(v, depth + 1) for v in value[:MAX_ITEMS]]
    return clean(str(value))


def show(value: Any) -> str:
    """One plain value for a reader: four significant digits, yes/no, lists with commas."""
    if value is None:
        return "not given"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list):
        return ", ".join(show(v) for v in value) or "none"
    if isinstance(value, dict):
        return "; ".join(f"{k}: {show(v)}" for k, v in value.items()) or "none"
    return str(value) if value != "" else "not given"


def heading(key: str) -> str:
    """A field name as a reader's label: ``trained_on`` -> ``Trained on``."""
    words = key.replace("_", " ").strip()
    return words[:1].upper() + words[1:]


def number(value: Any) -> float | None:
    """`value` as a finite float, else ``None``."""
    value = plain(value)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)


def percent(value: float) -> str:
    """A fraction of one as a percentage with at most one decimal."""
    return f"{100 * value:.1f}".removesuffix(".0") + " %"
