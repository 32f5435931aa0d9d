"""The JSON schema of a class of settings, for editors and readers."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import MISSING
from typing import Any, get_args, get_origin, get_type_hints

from tinycats.settings import (
    KINDS,
    LARGEST,
    LONGEST_NAME,
    NAME,
    as_mapping,
    short_form,
    without_none,
)


def schema(cls: type) -> dict[str, Any]:
    """The JSON schema (draft 2020-12) of a block of settings."""
    hints, properties, required = get_type_hints(cls), {}, []
    for field in dataclasses.fields(cls):
        rules = field.metadata
        about = _schema(hints[field.name], rules)
        properties[field.name] = {"description": rules["help"], **about}
        if field.default is MISSING:
            required.append(field.name)
        else:
            properties[field.name]["default"] = as_mapping(field.default)
    return {
        "type": "object",
        "additionalProperties": False,
        "required": required,
        "properties": properties,
    }


def _schema(hint: Any, rules: Mapping[str, Any]) -> dict[str, Any]:
    hint, nullable = without_none(hint)
    about: dict[str, Any]
    if hint is Any:
        return {}
    if dataclasses.is_dataclass(hint):
        about = schema(hint)  # type: ignore[arg-type]
        if short := short_form(hint):
            kinds = [{"const": short}, about, *([{"type": "null"}] if nullable else [])]
            return {"anyOf": kinds}
    elif get_origin(hint) is tuple:
        about = {"type": "array", "minItems": 1, "items": _schema(get_args(hint)[0], rules)}
        about |= {"uniqueItems": True} if rules["distinct"] else {}
    elif get_origin(hint) is Mapping:
        value = _schema(get_args(hint)[1] | None, rules)  # null takes away
        name = {"pattern": f"^{NAME}$", "maxLength": LONGEST_NAME}
        about = {"type": "object", "minProperties": 1}
        about |= {"propertyNames": name, "additionalProperties": value}
    elif rules["choices"]:
        about = {"enum": list(rules["choices"])}
    else:
        about = {"type": KINDS[hint]}
        if hint is str:
            about["pattern"] = f"^(?:{rules['pattern']})$" if rules["pattern"] else r"\S"
        names = {"minimum": "minimum", "above": "exclusiveMinimum", "maximum": "maximum"}
        names |= {"longest": "maxLength"}
        about |= {"maximum": LARGEST} if hint is int else {}
        about |= {word: rules[rule] for rule, word in names.items() if rules[rule] is not None}
    if nullable:
        about["type"] = [about["type"], "null"]
    return about
