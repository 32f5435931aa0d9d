"""What training broke: the metrics that the figure ``what_broke`` leaves out."""

from __future__ import annotations

from tinycats.figures import style, what_broke
from tinycats.figures.reading import Tables


def draw(tables: Tables) -> style.Drawing:
    return what_broke.drawing(tables, what_broke.MORE, what_broke.MORE, "the other ")
