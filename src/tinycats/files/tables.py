"""Tables as CSV and as JSON lines, checked against their columns when written and when read.

A column that is missing, misspelt or infinite is an error in the job that writes it, not in a later
stage that reads it. The columns of a table are defined in its stage's ``columns.py``.
"""

from __future__ import annotations

import csv
import errno
import io
import json
import logging
import math
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from tinycats.files.atomic import checksum_file, problem, seal, write_text
from tinycats.program import UserError

log = logging.getLogger(__name__)

Row = dict[str, Any]
#: column → what it means
Columns = Mapping[str, str]


class TableError(UserError):
    """A file does not have the columns or values that its stage defines."""


def _check(path: str | Path, found: Iterable[str], columns: Columns) -> None:
    expected, found = list(columns), list(found)
    if expected != found:
        missing = [c for c in expected if c not in found]
        extra = [c for c in found if c not in expected]
        raise TableError(
            f"{path}: missing columns {missing}, unexpected columns {extra}"
            if missing or extra
            else f"{path}: columns are in another order: {found}, should be {expected}"
        )


#: how a text begins that a spreadsheet would take for a formula, with apostrophes before it or not
_FORMULA = re.compile(r"'*[=+\-@\t\r]")


def _cell(value: Any) -> str:
    """A value as the text of a CSV cell; a text that looks like a formula gets an apostrophe."""
    text = format_number(value)
    return f"'{text}" if isinstance(value, str) and _is_formula(text) else text


def _from_cell(text: str) -> str:
    """The text that :func:`_cell` wrote."""
    return text[1:] if text[:1] == "'" and _is_formula(text[1:]) else text


def _is_formula(text: str) -> bool:
    if not _FORMULA.match(text):
        return False
    try:
        float(text)
    except ValueError:
        return True
    return False  # a number with a sign


def _line(cells: Iterable[str]) -> str:
    """A line of CSV. Before Python 3.13, csv quotes a cell with a line break of any kind only if the
    line ends in both: a token may hold a carriage return."""
    csv.writer(buffer := io.StringIO(), lineterminator="\r\n").writerow(cells)
    return buffer.getvalue().removesuffix("\r\n") + "\n"


def format_number(value: Any) -> str:
    """A value as text: whole numbers below 1e15 in full, others with 7 significant digits."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(int(value))
    if isinstance(value, float) or hasattr(value, "dtype"):
        number = float(value)
        if math.isnan(number):
            return ""
        return str(int(number)) if number.is_integer() and abs(number) < 1e15 else f"{number:.7g}"
    return str(value)


def write_table(path: str | Path, rows: Iterable[Mapping[str, Any]], columns: Columns) -> None:
    """Write rows as CSV after checking that they have these columns.

    Raises:
        TableError: a row has other columns, or an infinite value.
    """
    write_text(path, _line(columns) + _lines(path, rows, columns))
    seal(path)


def _lines(path: str | Path, rows: Iterable[Mapping[str, Any]], columns: Columns) -> str:
    """Rows as lines of CSV, checked."""
    lines = []
    for row in rows:
        if set(row) != set(columns):
            _check(path, row, columns)
        for column in columns:
            if isinstance(row[column], float) and math.isinf(row[column]):
                raise TableError(f"{path}: column {column} would be infinite")
        lines.append(_line(_cell(row[column]) for column in columns))
    return "".join(lines)


class GrowingTable:
    """A table that others may read while it grows: rows are appended whole, as they are made.

    It has no checksum, so no stage takes it for finished; :func:`write_table` writes it at the end,
    with the same lines. A file that cannot be written to stops no work: rows that are missing are
    tried again with the next one.
    """

    def __init__(self, path: str | Path, columns: Columns) -> None:
        self.path, self.columns = Path(path), columns
        self._size = 0  # bytes of whole lines in the file
        self._missing = ""  # lines that are not yet in it
        self._warned = False

    def restart(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Cut the file back to these rows, or begin it."""
        checksum_file(self.path).unlink(missing_ok=True)
        text = _line(self.columns) + _lines(self.path, rows, self.columns)
        data = text.encode()
        there = self.path.exists() and self.path.read_bytes().startswith(data)
        self._size, self._missing = (len(data), "") if there else (0, text)
        self._append()

    def add(self, row: Mapping[str, Any]) -> None:
        """Append one row."""
        self._missing += _lines(self.path, [row], self.columns)
        self._append()

    def _append(self) -> None:
        data = self._missing.encode()
        try:
            with open(self.path, "ab", buffering=0) as file:
                file.truncate(self._size)  # what is beyond, a killed run wrote
                if file.write(data) < len(data):
                    file.truncate(self._size)
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            if not self._warned:
                log.warning("%s does not grow for now: %s", self.path, error.strerror)
            self._warned = True
            return
        self._size, self._missing = self._size + len(data), ""


def read_table(path: str | Path, columns: Columns) -> list[dict[str, str]]:
    """Rows of a CSV table as text, after checking its columns.

    Raises:
        TableError: the file is cut short, is not what its stage wrote, or has other columns.
    """
    try:
        with open(path, encoding="utf-8", newline="") as file:
            reader = csv.DictReader(file)
            _check(path, reader.fieldnames or [], columns)
            rows = list(reader)
    except (UnicodeDecodeError, csv.Error) as error:
        raise TableError(f"{path}: not a text file ({error})") from error
    for number, row in enumerate(rows, start=2):
        if None in row or None in row.values():
            raise TableError(f"{path}: line {number} is cut short or too long")
    if damage := problem(path):
        raise TableError(damage)
    return [{column: _from_cell(text) for column, text in row.items()} for row in rows]


def write_lines(path: str | Path, rows: Iterable[Mapping[str, Any]], fields: Columns) -> None:
    """Write one JSON object a line after checking its fields."""
    lines = []
    for row in rows:
        if list(row) != list(fields):
            raise TableError(f"{path}: a line has fields {list(row)}, should be {list(fields)}")
        lines.append(json.dumps(row, ensure_ascii=False, allow_nan=False))
    write_text(path, "".join(line + "\n" for line in lines))
    seal(path)


def read_lines(path: str | Path, fields: Columns) -> Iterator[Row]:
    """Read what :func:`write_lines` wrote.

    Raises:
        TableError: a line is cut short or has other fields, or the file is not what its stage wrote.
    """
    with open(path, "rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                row = json.loads(line.decode("utf-8"))
            except (ValueError, RecursionError) as error:
                raise TableError(f"{path}: line {number} is damaged or cut short") from error
            if not isinstance(row, dict) or list(row) != list(fields):
                raise TableError(f"{path}: line {number} has fields other than {list(fields)}")
            yield row
    if damage := problem(path):
        raise TableError(damage)
