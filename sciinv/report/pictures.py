"""Arrays to small embedded pictures in fixed units.

A grey level or colour index is ``round((value - lo) / (hi - lo) * top)`` with one window ``[lo, hi]`` per kind of map
for the whole report, so pictures of different slices can be compared by eye. Under each picture runs a strip with its
name and the research-use text: whoever copies the picture out copies these too, and no anatomy is covered.
"""

from __future__ import annotations

import base64
import dataclasses as dc
import functools
import io
import math
from collections.abc import Iterable, Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from sciinv.report.model import ReportItem

MIN_WIDTH = 256  # narrower pictures are enlarged by whole pixels so that the strip stays readable
_DATA_LEVELS = 248  # palette entries for data; the last eight are the strip's ramp from black to its text colour
_PAPER, _INK, _AMBER = 14, (232, 232, 232), (255, 191, 71)
COLOURS = {"std": "viridis", "error": "viridis", "cov": "cividis", "phase": "twilight"}


@dc.dataclass(frozen=True)
class Window:
    """Fixed limits of one kind of map."""

    lo: float
    hi: float
    units: str

    def label(self, value: float) -> str:
        """`value` for the end of a colour bar."""
        return f"{value:.3g}" if abs(value) < 1000 or abs(value) >= 1e6 else f"{value:.0f}"


@dc.dataclass(frozen=True)
class Codec:
    """How pictures are stored: lossless PNG, or WebP of a quality; ``shrink`` averages blocks of that many pixels."""

    quality: int = 0
    shrink: int = 1

    @property
    def note(self) -> str:
        """What a reader must know, empty for a faithful picture."""
        parts = [f"averaged over {self.shrink} x {self.shrink} pixels"] if self.shrink > 1 else []
        parts += [f"compressed with loss (WebP quality {self.quality})"] if self.quality else []
        return " and ".join(parts)


def nice_ceiling(value: float) -> float:
    """The next number of two significant digits above `value`; 1 where `value` is not positive."""
    if not math.isfinite(value) or value <= 0:
        return 1.0
    step = 10.0 ** (math.floor(math.log10(value)) - 1)
    return float(f"{math.ceil(value / step - 1e-9) * step:.6g}")


def windows(items: Sequence[ReportItem], units: str) -> dict[str, Window]:
    """One window per kind over all slices: the 99.8 % level in the masks, so hot pixels do not darken the rest."""
    grey = _high(items, ("mean", "reference"))
    spread = _high(items, ("std", "error"))
    return {
        "grey": Window(0.0, grey, units),
        "std": Window(0.0, spread, units),
        "error": Window(0.0, spread, units),
        "cov": Window(0.0, min(1.0, _high(items, ("cov",))), "ratio"),
        "phase": Window(-math.pi, math.pi, "rad"),
    }


def _high(items: Iterable[ReportItem], keys: Sequence[str]) -> float:
    tops = [1e-300]
    for item in items:
        for key in keys:
            if key in item.images:
                values = np.abs(item.images[key])
                inside = values[np.asarray(item.mask, bool)] if item.mask is not None and np.any(item.mask) else values
                inside = inside[np.isfinite(inside)]
                if inside.size:
                    tops.append(float(np.percentile(inside, 99.8)))
    return nice_ceiling(max(tops)) if max(tops) > 1e-300 else 1.0


def kind_of(key: str) -> str:
    """Which window and colours a map has: ``std``, ``error``, ``cov``, ``phase`` have their own, the rest is grey."""
    return key if key in COLOURS else "grey"


@functools.cache
def colours(kind: str) -> np.ndarray:
    """The ``(248, 3)`` colour table of a kind, 8 bits."""
    if kind == "grey":
        return np.repeat(np.linspace(0, 255, _DATA_LEVELS).round().astype(np.uint8)[:, None], 3, 1)
    import matplotlib  # half a second: only when colours are needed

    table = matplotlib.colormaps[COLOURS[kind]](np.linspace(0, 1, _DATA_LEVELS), bytes=True)
    return np.asarray(table)[:, :3].copy()


def indices(values: np.ndarray, window: Window, top: int) -> np.ndarray:
    """`values` as 8-bit levels ``0..top``, clipped to the window; non-finite values are level 0."""
    scaled = (np.asarray(values, np.float64) - window.lo) / (window.hi - window.lo)
    return np.round(np.clip(np.nan_to_num(scaled, nan=0.0, posinf=1.0, neginf=0.0), 0, 1) * top).astype(np.uint8)


def block_mean(values: np.ndarray, factor: int) -> np.ndarray:
    """Means over ``factor`` x ``factor`` blocks of a 2-D array; edges are repeated where they do not divide."""
    if factor == 1:
        return values
    h, w = values.shape
    padded = np.pad(values, ((0, -h % factor), (0, -w % factor)), mode="edge")
    return padded.reshape(padded.shape[0] // factor, factor, padded.shape[1] // factor, factor).mean((1, 3))


def strip_height(height: int, width: int) -> int:
    """Rows of the text strip under a stored picture of this size."""
    return 2 * _font_size(height, width) + 6


def _font_size(height: int, width: int) -> int:
    return max(9, min(20, round(min(height, width) * 0.039)))


def enlarge(width: int) -> int:
    """Whole-number factor that brings a narrow picture to ``MIN_WIDTH``."""
    return max(1, math.ceil(MIN_WIDTH / width))


def encode(
    values: np.ndarray, kind: str, window: Window, codec: Codec, lines: tuple[str, str], *, alarm: bool = False
) -> str:
    """A ``data:`` address of the picture with its two-line strip (``alarm``: first line in amber)."""
    values = block_mean(np.asarray(values), codec.shrink)
    if kind == "phase" and codec.shrink > 1:
        raise ValueError("phase wraps and cannot be averaged; store it unshrunk")
    grey = kind == "grey"
    level = indices(values, window, 255 if grey else _DATA_LEVELS - 1)
    factor = enlarge(level.shape[1])
    level = level.repeat(factor, 0).repeat(factor, 1)
    strip = _strip(level.shape[0], level.shape[1], lines)
    buffer = io.BytesIO()
    if grey:
        image = Image.fromarray(np.vstack([level, strip]))
    else:
        ramp = np.linspace(0, 7, 256).round().astype(np.uint8)[strip]
        image = Image.fromarray(np.vstack([level, _DATA_LEVELS + ramp]), mode="P")
        ink = np.asarray(_AMBER if alarm else _INK)
        text = (_PAPER + np.linspace(0, 1, 8)[:, None] * (ink - _PAPER)).round().astype(np.uint8)
        image.putpalette(np.vstack([colours(kind), text]).tobytes())
    if codec.quality:
        image.convert("RGB").save(buffer, "WEBP", quality=codec.quality, method=2)
    else:
        image.save(buffer, "PNG")
    name = "webp" if codec.quality else "png"
    return f"data:image/{name};base64,{base64.b64encode(buffer.getvalue()).decode()}"


@functools.cache
def _font(size: int) -> ImageFont.FreeTypeFont:
    import matplotlib  # its bundled font is the same everywhere and knows the Greek and accented letters of units

    return ImageFont.truetype(f"{matplotlib.get_data_path()}/fonts/ttf/DejaVuSans.ttf", size)


@functools.lru_cache(maxsize=64)
def _strip(height: int, width: int, lines: tuple[str, str]) -> np.ndarray:
    size = _font_size(height, width)
    image = Image.new("L", (width, strip_height(height, width)), _PAPER)
    draw = ImageDraw.Draw(image)
    for row, line in enumerate(lines):
        font = _font(size)
        for smaller in range(size, 5, -1):  # long texts shrink before they are cut
            font = _font(smaller)
            if draw.textlength(line, font=font) <= width - 6:
                break
        draw.text((3, 2 + row * (size + 1)), line, fill=_INK[0], font=font)
    return np.asarray(image)


@functools.cache
def colour_bar(kind: str) -> str:
    """A ``data:`` address of the 248 x 1 colour table of a kind."""
    buffer = io.BytesIO()
    Image.fromarray(colours(kind)[None]).save(buffer, "PNG")
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"
