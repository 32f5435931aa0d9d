"""Text and JSON from files that a person or another program may have written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tinycats.program import UserError


def read_text(path: str | Path) -> str:
    """The text of a UTF-8 file.

    Raises:
        UserError: it is missing, cannot be read or is not UTF-8.
    """
    try:
        return Path(path).read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UserError(f"{path}: missing; the stage that writes it has not run") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text (byte {error.start})") from error
    except OSError as error:  # no right to read it, a folder, a name too long
        raise UserError(f"{str(path)[:200]}: cannot be read: {error.strerror}") from error


def read_json(path: str | Path) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
        UserError: it is missing, or not a JSON object.
    """
    try:
        found = json.loads(read_text(path))
    except (ValueError, RecursionError) as error:  # also of numbers of thousands of digits
        raise UserError(f"{path}: not JSON ({error}); regenerate it") from error
    if not isinstance(found, dict):
        raise UserError(f"{path}: should hold a JSON object")
    return found


def read_yaml(path: str | Path) -> dict[str, Any]:
    """The mapping in a YAML file; an empty file is an empty one.

    Raises:
        UserError: it is missing, or not a YAML mapping.
    """
    import yaml

    try:
        found = yaml.safe_load(read_text(path)) or {}
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: a 13th month
        raise UserError(f"{path}: not YAML ({' '.join(str(error).split())})") from error
    if not isinstance(found, dict):
        raise UserError(f"{path}: should map keys to values")
    return found
