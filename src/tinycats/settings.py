"""Settings as dataclass fields: type, default, bounds and help in one place.

A class of settings is a frozen dataclass whose fields are made by :func:`setting`. From the fields
follow the check of a config file (:func:`check`), its JSON schema (:mod:`tinycats.schema`) and the
flags of a program (:func:`add_flags`, :func:`read_flags`). Types: ``int``, ``float``, ``bool``, ``str``, a
``tuple`` of one of these, a ``Mapping`` from names, another class of settings, or one of these or
``None``. A class of settings with an attribute ``SHORT`` may be given as that text: every default.
"""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import json
import math
import re
from collections.abc import Mapping
from dataclasses import MISSING
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from tinycats.program import UserError

T = TypeVar("T")
NAME = r"[A-Za-z0-9][A-Za-z0-9_-]*"
LONGEST_NAME = 100  # names become folders: most file systems allow 255 bytes
LONGEST_TEXT = 1000  # of texts that become a word of a command
LARGEST = 2**53  # of whole numbers: readers of JSON keep them exactly up to here
_METAVARS = {int: "N", float: "X", bool: "BOOL", str: "TEXT"}
KINDS = {int: "integer", float: "number", bool: "boolean", str: "string"}


def setting(
    default: Any = MISSING,
    help: str = "",
    *,
    minimum: float | None = None,
    above: float | None = None,
    maximum: float | None = None,
    choices: tuple[str, ...] = (),
    pattern: str = "",
    spelled: str = "",
    longest: int | None = None,
    distinct: bool = False,
    first: str = "",
) -> Any:
    """A field of a class of settings.

    Args:
        default: the value where none is given; without it, one must be given.
        help: what the setting does, for ``--help`` and the schema.
        minimum, above, maximum: bounds of a number (``above`` itself excluded); of a list, of each
            item.
        choices: the only texts allowed.
        pattern, spelled: what the whole text must match, and the same in words.
        longest: most characters of a text.
        distinct: whether the items of a list must differ; they are then put in ascending order.
        first: the name that comes first in a mapping; the others follow by name. So the order of
            keys in a config decides nothing.
    """
    rules = {k: v for k, v in locals().items() if k != "default"}
    return dataclasses.field(default=default, metadata=rules)


def check(cls: type[T], found: Any, key: str = "") -> T:
    """Read a mapping, as YAML or JSON gives it, into ``cls``; every key and value is checked.

    Args:
        cls: class of settings.
        found: key → value.
        key: where ``found`` is, as the error names it.

    Raises:
        UserError: one line that names the key, the value found and what is expected.
    """
    if not isinstance(found, Mapping):
        raise UserError(
            f"{key or 'settings'}: {shown_in_line(found)} found, expected a block of keys"
        )
    known = {field.name: field for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
    for name in found:
        if name not in known:
            near = difflib.get_close_matches(str(name), known, 1)
            hint = f"did you mean {near[0]}?" if near else f"known keys are {', '.join(known)}"
            shown = (
                name if isinstance(name, str) and re.fullmatch(NAME, name) else shown_in_line(name)
            )
            raise UserError(f"{_join(key, shown)}: unknown key; {hint}")
    hints, values = get_type_hints(cls), {}
    for name, field in known.items():
        if name in found:
            values[name] = _check(hints[name], field.metadata, found[name], _join(key, name))
        elif field.default is MISSING:
            raise UserError(
                f"{_join(key, name)}: this key is missing; expected"
                f" {expected(hints[name], field.metadata)}"
            )
    return cls(**values)


def expected(hint: Any, rules: Mapping[str, Any]) -> str:
    """What a value must be, in words: ``a whole number of at least 1``."""
    hint, nullable = without_none(hint)
    low, above, high = rules["minimum"], rules["above"], rules["maximum"]
    if get_origin(hint) is tuple:
        words = f"a list of one or more, each {expected(get_args(hint)[0], rules)}"
        words += ", no two equal" if rules["distinct"] else ""
    elif hint not in KINDS:
        words = "a block of keys"
    elif rules["choices"]:
        words = f"one of {', '.join(rules['choices'])}"
    elif hint is str:
        words = rules["spelled"] or "text, not blank"
        words += f", at most {rules['longest']} characters" if rules["longest"] else ""
    elif hint is bool:
        words = "true or false"
    else:
        words = "a whole number" if hint is int else "a number"
        if low is not None and high is not None:
            words += f" from {low:g} to {high:g}"
        elif low is not None:
            words += f" of at least {low:g}"
        elif above is not None:
            words += f" above {above:g}"
            words += f" and at most {high:g}" if high is not None else ""
    return words + (", or null" if nullable else "")


def typed(hint: Any, found: Any) -> Any:
    """``found`` with texts turned into what ``hint`` asks for, where they can be.

    A command line gives texts, and Snakemake's ``--config`` gives them inside nested values. A text
    that cannot be read is left, so that :func:`check` refuses it.
    """
    hint, nullable = without_none(hint)
    if isinstance(found, Mapping):
        hints: Mapping[str, Any] = {}
        if dataclasses.is_dataclass(hint):
            hints = get_type_hints(hint)
        elif get_origin(hint) is Mapping:
            hints = dict.fromkeys(found, get_args(hint)[1] | None)
        return {k: typed(hints.get(k, Any), v) for k, v in found.items()}
    if isinstance(found, list) and get_origin(hint) is tuple:
        return [typed(get_args(hint)[0], item) for item in found]
    if not isinstance(found, str):
        return found
    if nullable and found in ("null", "~", ""):
        return None
    try:
        if hint is int or hint is float:
            return hint(found)
        if hint is bool:
            return {"true": True, "false": False}.get(found.lower(), found)
    except ValueError:
        pass
    return found


def short_form(cls: Any) -> str:
    """The text that may stand for a block of settings with every default, if it has one."""
    return str(getattr(cls, "SHORT", ""))


def as_mapping(settings: Any) -> Any:
    """A class of settings as plain dictionaries and lists, for JSON and YAML."""
    if (short := short_form(settings)) and settings == type(settings)():
        return short
    if dataclasses.is_dataclass(settings):
        return {f.name: as_mapping(getattr(settings, f.name)) for f in dataclasses.fields(settings)}
    if isinstance(settings, Mapping):
        return {key: as_mapping(value) for key, value in settings.items()}
    return [as_mapping(v) for v in settings] if isinstance(settings, tuple) else settings


def as_json(settings: Any) -> str:
    """The value of a program's ``--settings``."""
    return json.dumps(as_mapping(settings), ensure_ascii=False)


# ---- flags of a program


def add_flags(parser: argparse.ArgumentParser, cls: type, whole: bool = False) -> None:
    """One flag for each field of ``cls``.

    Args:
        parser: gets the flags.
        cls: class of settings.
        whole: add ``--settings`` too, which gives all fields at once; a flag beside it wins.
    """
    if whole:
        parser.add_argument(
            "--settings",
            type=read_json,
            default={},
            metavar="JSON",
            help="the settings below as one JSON object, or @FILE that holds it",
        )
        parser.set_defaults(settings_class=cls)
    hints = get_type_hints(cls)
    for field in dataclasses.fields(cls):
        what = expected(hints[field.name], field.metadata)
        default = "" if field.default in (MISSING, None) else f"; default: {field.default}"
        about = f"{field.metadata['help']} ({what}{default})"
        parser.add_argument(
            _flag(field.name),
            default=argparse.SUPPRESS,
            metavar=_METAVARS.get(without_none(hints[field.name])[0], "JSON"),
            help=about.replace("%", "%%"),
        )


def read_flags(args: argparse.Namespace, cls: type[T]) -> T:
    """The settings that ``--settings`` and flags give.

    Raises:
        UserError: one line that names the flag or key, the value found and what is expected.
    """
    hints = get_type_hints(cls)
    fields = {field.name: field for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
    values = {name: field.default for name, field in fields.items() if field.default is not MISSING}
    whole = args.settings if getattr(args, "settings_class", None) is cls else {}
    given = {name: getattr(args, name) for name in fields if name in args}
    for name, text in given.items():
        scalar = without_none(hints[name])[0] in KINDS
        value = typed(hints[name], text if scalar else read_json(text))
        values[name] = _check(hints[name], fields[name].metadata, value, _flag(name))
    if not isinstance(whole, Mapping):
        raise UserError(f"--settings: {shown_in_line(whole)} found, expected a JSON object")
    values = as_mapping(values) | {k: v for k, v in whole.items() if k not in given}
    missing = [name for name in fields if name not in values]
    if missing and values.keys() <= fields.keys():  # else check names the unknown key
        what = expected(hints[missing[0]], fields[missing[0]].metadata)
        raise UserError(f"{_flag(missing[0])}: missing; expected {what}")
    return check(cls, values)


def read_json(text: str) -> Any:
    """JSON from an argument, or from the file that ``@FILE`` names.

    Raises:
        UserError: it is not JSON.
    """
    try:
        return json.loads(
            Path(text[1:]).read_text(encoding="utf-8") if text.startswith("@") else text
        )
    except (ValueError, RecursionError) as error:
        raise UserError(f"{shown_in_line(text)} found, expected JSON ({error})") from None


# ---- one value


def _check(hint: Any, rules: Mapping[str, Any], value: Any, key: str) -> Any:
    """``value`` as ``hint`` and ``rules`` ask for it."""
    hint, nullable = without_none(hint)
    if hint is Any or (value is None and nullable):
        return value
    if dataclasses.is_dataclass(hint):
        if isinstance(value, str) and (short := short_form(hint)):
            if value == short:
                return hint()  # type: ignore[operator]
            raise UserError(
                f"{key}: {shown_in_line(value)} found, expected {short} or a block of keys"
            )
        return check(hint, value, key)  # type: ignore[arg-type]
    what = expected(hint | None if nullable else hint, rules)
    wrong = f"{key}: {shown_in_line(value)} found, expected {what}"
    if get_origin(hint) is tuple:
        if not isinstance(value, list | tuple) or not value:
            raise UserError(wrong)
        each = tuple(
            _check(get_args(hint)[0], rules, item, f"{key}.{number}")
            for number, item in enumerate(value)
        )
        if rules["distinct"] and len(set(each)) < len(each):
            raise UserError(wrong)
        return tuple(sorted(each)) if rules["distinct"] else each
    if get_origin(hint) is Mapping:
        return _check_named(get_args(hint)[1], rules, value, key)
    if hint is float and type(value) is int:
        value = _as_float(value)
    if type(value) is not hint:
        raise UserError(wrong + _hint(hint, value))
    if hint is float and not math.isfinite(value):
        raise UserError(wrong.replace("expected a number", "expected a finite number"))
    if excess := _beyond_all(value):
        raise UserError(wrong + excess)
    if not _within(rules, value):
        raise UserError(wrong)
    return value


def _beyond_all(value: Any) -> str:
    """What no setting may hold, as the end of a message; empty if it holds none."""
    if isinstance(value, str) and "\0" in value:
        return ", without NUL characters"
    if isinstance(value, str) and re.search("[\ud800-\udfff]", value):
        return ", without halves of surrogate pairs"
    if type(value) is int and abs(value) > LARGEST:
        return f", not beyond {LARGEST}"
    return ""


def _within(rules: Mapping[str, Any], value: Any) -> bool:
    """Whether a value of the right type keeps the rules."""
    if isinstance(value, str):
        if not value.strip():
            return False
        return not (
            (rules["choices"] and value not in rules["choices"])
            or (rules["pattern"] and not re.fullmatch(rules["pattern"], value))
            or (rules["longest"] and len(value) > rules["longest"])
        )
    return not (
        (rules["minimum"] is not None and value < rules["minimum"])
        or (rules["above"] is not None and value <= rules["above"])
        or (rules["maximum"] is not None and value > rules["maximum"])
    )


def _check_named(hint: Any, rules: Mapping[str, Any], value: Any, key: str) -> dict[str, Any]:
    """Values by name; null takes away what a file below has under that name."""
    if not isinstance(value, Mapping):
        raise UserError(f"{key}: {shown_in_line(value)} found, expected names, each with its value")
    kept = {name: inner for name, inner in value.items() if inner is not None}
    if not kept:
        raise UserError(f"{key}: nothing found, expected at least one name with its value")
    for name in kept:
        if not (isinstance(name, str) and re.fullmatch(NAME, name) and len(name) <= LONGEST_NAME):
            quotes = "" if isinstance(name, str) else "; put it in quotes"
            raise UserError(
                f"{key}: the name {shown_in_line(name)} found, expected letters, digits, dash and"
                f" underscore, at most {LONGEST_NAME}{quotes}"
            )
    ordered = sorted(kept, key=lambda name: (name != rules["first"], name))
    return {name: _check(hint, rules, kept[name], f"{key}.{name}") for name in ordered}


def _as_float(value: int) -> float:
    try:
        return float(value)
    except OverflowError:
        return math.inf


def _hint(hint: Any, value: Any) -> str:
    """What to do about a value of another type, where that is known."""
    if hint is str and not isinstance(value, list | Mapping | NoneType):
        return "; put it in quotes"
    if not isinstance(value, str) or hint not in (int, float):
        return "; in digits alone" if hint is int else ""
    try:
        number = hint(value)
    except ValueError:
        return "; in digits alone" if hint is int else ""
    if re.fullmatch(r"[-+]?\d+e[-+]?\d+", value, re.IGNORECASE):
        spelling = repr(number) if "." in repr(number) else repr(number).replace("e", ".0e")
        return f"; YAML reads {value} as text, write it with a point, like {spelling}"
    return "; without quotes"


def shown_in_line(value: Any) -> str:
    """A value for a message: as JSON where that is possible, on one line and not long."""
    try:
        plain = isinstance(value, str | int | float | bool | list | Mapping | NoneType)
        # other types are YAML's: dates, sets, binary data
        text = json.dumps(value, ensure_ascii=False, default=str) if plain else str(value)
    except (TypeError, ValueError, RecursionError):  # a date as key, 5,000 digits, a list in itself
        kind = "a number of thousands of digits" if isinstance(value, int) else "a value"
        return f"{kind} that cannot be shown"
    text = text if len(text) < 80 else text[:77] + "..."
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def without_none(hint: Any) -> tuple[Any, bool]:
    """A type without its ``None``, and whether it had one."""
    if get_origin(hint) not in (Union, UnionType):
        return hint, False
    (kind,) = (kind for kind in get_args(hint) if kind is not NoneType)
    return kind, True


def _join(key: str, name: Any) -> str:
    return f"{key}.{name}" if key else str(name)


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")
