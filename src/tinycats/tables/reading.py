"""Tables read as this stage needs them: with rows, uncut, and text as numbers."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

from tinycats.files.tables import Columns, TableError, read_table


def read(path: str | Path, columns: Columns) -> list[dict[str, str]]:
    """Rows of a table, at least one, as text.

    Raises:
        TableError: the file is empty, cut short, not text, or has other columns.
    """
    try:
        with open(path, "rb") as file:
            data = file.read()
        if not data.endswith(b"\n"):
            raise TableError(f"{path}: cut short: its last line has no end")
        rows = read_table(path, columns)
    except UnicodeDecodeError as error:
        raise TableError(f"{path}: not a text file ({error})") from error
    if not rows:
        raise TableError(f"{path}: has no rows; delete it and rerun")
    return rows


def number(row: Mapping[str, str], column: str, path: str | Path) -> float:
    """A value of a table; nan if it is empty.

    Raises:
        TableError: the value is neither a finite number nor empty.
    """
    text = row[column]
    if text == "":
        return math.nan
    try:
        value = float(text)
    except ValueError:
        value = math.inf
    if not math.isfinite(value):
        raise TableError(
            f"{path}: column {column} holds {text!r}, should be a finite number or empty"
        )
    return value
