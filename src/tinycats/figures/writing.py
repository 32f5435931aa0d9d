"""Writes a figure: SVG, PNG from the same source, and a JSON with its texts."""

from __future__ import annotations

import importlib
import io
import json
import re
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

from matplotlib import pyplot
from matplotlib.figure import Figure

from tinycats.figures.fonts import missing_glyphs
from tinycats.figures.reading import Tables
from tinycats.figures.registry import SHEET, find
from tinycats.figures.style import Drawing
from tinycats.files.atomic import whole, write_sealed

DOTS_PER_INCH = 200


def draw(name: str, tables: Tables) -> Drawing:
    """Draw one figure."""
    figure, _ = find(name)
    module = importlib.import_module(f"tinycats.figures.{figure.module}")
    drawing: Drawing = module.draw(tables)
    return drawing


def _svg(figure: Figure) -> str:
    """The SVG, small and fit for a page: short ids, no page-wide style, no dates, no comments."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None}, transparent=True)
    text = buffer.getvalue().decode("utf-8")
    text = text[text.index("<svg") :]
    text = re.sub(r"<!--.*?-->\n?", "", text, flags=re.DOTALL)
    text = re.sub(r"\s*<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r"\s*<defs>\s*<style.*?</style>\s*</defs>", "", text, flags=re.DOTALL)
    used = dict.fromkeys(re.findall(r'(?:href="|url\()#([^")]+)', text))
    short = {old: f"i{number}" for number, old in enumerate(used)}
    text = re.sub(r' id="([^"]*)"', lambda m: f' id="{short[m[1]]}"' if m[1] in short else "", text)
    text = re.sub(r'(href="|url\()#([^")]+)', lambda m: f"{m[1]}#{short[m[2]]}", text)
    text = re.sub(r'(?<= )(d|x|y)="[^"]*"', _round, text)
    text = re.sub(r"\n\s*", "\n", text)
    start = '<svg role="img" style="stroke-linejoin: round; stroke-linecap: butt"'
    return text.replace("<svg", start, 1)


def _described(svg: str, alt: str) -> str:
    """The SVG on a white sheet with a description, without characters that XML does not allow."""
    allowed = re.sub(r"[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]", "\ufffd", alt)
    return re.sub(
        r"(<svg[^>]*>)", lambda m: f"{m[1]}\n<desc>{escape(allowed)}</desc>\n{SHEET}", svg, count=1
    )


def _round(found: re.Match[str]) -> str:
    """A coordinate to a twentieth of a point where large, a hundredth in the shape of a mark."""

    def shorter(number: re.Match[str]) -> str:
        value = float(number[0])
        return f"{value:.1f}" if abs(value) >= 20 else f"{value:.2f}".rstrip("0").rstrip(".")

    return re.sub(r"-?\d+\.\d+", shorter, found[0]).replace(" \n", "").replace("\n", "")


def write(drawing: Drawing, prefix: Path, words: dict[str, Any]) -> None:
    """Write <prefix>.svg, .png and .json; the JSON last, so that its presence means a complete figure."""
    with missing_glyphs() as missing, whole(Path(f"{prefix}.png")) as temporary:
        svg = _svg(drawing.figure)
        drawing.figure.savefig(
            temporary,
            format="png",
            dpi=DOTS_PER_INCH,
            facecolor="white",
            metadata={"Software": None},
        )
    if missing:
        drawing.finding += f" Boxes stand for characters that no font here has: {' '.join(missing)}"
    write_sealed(Path(f"{prefix}.svg"), _described(svg, drawing.alt))
    document = {"title": drawing.title, "finding": drawing.finding, "alt": drawing.alt, **words}
    write_sealed(Path(f"{prefix}.json"), json.dumps(document, ensure_ascii=False, indent=1) + "\n")
    pyplot.close(drawing.figure)
