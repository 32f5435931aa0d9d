"""Fonts of figures: DejaVu from matplotlib's own folder, another one only for what it lacks.

A concept or a story may be in a script that DejaVu has no glyphs for (Chinese, Japanese, emoji).
Then a font of the machine is used for those characters. Where none has them, boxes are drawn, and
the figure's caption says so.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import matplotlib
from matplotlib import font_manager

SANS, SERIF = "DejaVu Sans", "DejaVu Serif"

#: families with many scripts that are common on Linux, macOS and Windows, or freely available
FALLBACK = (
    "Noto Sans CJK SC",
    "Noto Sans CJK JP",
    "Noto Sans SC",
    "Noto Sans JP",
    "Source Han Sans",
    "WenQuanYi Zen Hei",
    "WenQuanYi Micro Hei",
    "Droid Sans Fallback",
    "PingFang SC",
    "Hiragino Sans GB",
    "Microsoft YaHei",
    "SimHei",
    "Noto Sans Arabic",
    "Noto Sans Devanagari",
    "Noto Emoji",
    "Symbola",
    "Segoe UI Symbol",
    "Arial Unicode MS",
    "Unifont",
)


def use_own() -> None:
    """Use matplotlib's own fonts, and of the machine's only those of :data:`FALLBACK`."""
    own = str(Path(matplotlib.get_data_path()))
    fonts = font_manager.fontManager
    fonts.ttflist = [
        font for font in fonts.ttflist if font.fname.startswith(own) or font.name in FALLBACK
    ]


def families(first: str = SANS) -> list[str]:
    """The family and, for characters that it lacks, those of :data:`FALLBACK` that are installed."""
    installed = {font.name for font in font_manager.fontManager.ttflist}
    return [first, *(name for name in FALLBACK if name in installed)]


@contextmanager
def missing_glyphs() -> Iterator[list[str]]:
    """A list that holds, at the end, the characters that were drawn as boxes."""
    found: list[str] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield found
    for warning in caught:
        if match := re.match(r"Glyph (\d+) .* missing from font", str(warning.message)):
            found.append(chr(int(match[1])))
        else:
            warnings.warn_explicit(
                warning.message, warning.category, warning.filename, warning.lineno
            )
    found[:] = dict.fromkeys(found)
