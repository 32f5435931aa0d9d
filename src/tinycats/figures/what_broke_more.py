"""What training broke: the metrics that the figure ``what_broke`` leaves out."""

from __future__ import annotations

from tinycats.figures import style, what_broke
from tinycats.figures.reading import Tables


def draw(tables: Tables) -> style.Drawing:
    drawing = what_broke.drawing(tables, what_broke.MORE, what_broke.MORE)
    if drawing.title == what_broke.UNCLEAR:
        drawing.title = "The other metrics: " + drawing.title[0].lower() + drawing.title[1:]
    return drawing
