"""What mkdocs adds to the pages of docs/: the config's reference, and links out of docs/."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[1]
SCHEMA = ROOT / "workflow" / "schemas" / "config.schema.yaml"
GITHUB = "https://github.com/"
COLAB = "https://colab.research.google.com/github/"
#: a link out of docs/, as it works on a forge
OUTSIDE = re.compile(r"\[([^\]]*)\]\(((?:\.\./)+[^)#\s]+)(?:#[^)\s]*)?\)")


def on_files(files: Files, config: Any) -> Files:
    """Add config.md, which is generated from the schema."""
    files.append(File.generated(config, "config.md", content=config_page()))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, **_: Any) -> str:
    """Make a link to a file outside docs/ one to the repository, or plain text without ``repo_url``.

    A notebook of a repository on GitHub has a second link, which opens it in Colab.

    Raises:
        FileNotFoundError: the file does not exist.
    """
    folder = (ROOT / "docs" / page.file.src_uri).parent

    def link(found: re.Match[str]) -> str:
        path = (folder / found[2]).resolve()
        if path.is_relative_to(ROOT / "docs"):
            return found[0]
        if not path.exists():
            raise FileNotFoundError(f"docs/{page.file.src_uri} links to {found[2]}")
        name = path.relative_to(ROOT).as_posix()
        text = found[1] if name in found[1] or path.name in found[1] else f"{found[1]} (`{name}`)"
        if not config.repo_url:
            return text
        address = f"{config.repo_url.rstrip('/')}/blob/main/{name}"
        more = ""
        if path.suffix == ".ipynb" and address.startswith(GITHUB):
            more = f" ([open in Colab]({COLAB}{address.removeprefix(GITHUB)}))"
        return f"[{text}]({address}){more}"

    return OUTSIDE.sub(link, markdown)


# ---------------------------------------------------------------------------- the config


def config_page() -> str:
    """Every key of the config as Markdown: a table for each block."""
    schema = yaml.safe_load(SCHEMA.read_text(encoding="utf-8"))
    defaults = yaml.safe_load((ROOT / "config.yaml").read_text(encoding="utf-8"))
    parts = [
        "# Config\n",
        "Every key of `config.yaml`, generated from `workflow/schemas/config.schema.yaml`. The"
        " comments of `config.yaml` say how to choose a value. A study is a file with the keys that"
        " differ; an unknown key or a wrong value stops Snakemake with one line before any job.\n",
        *block("Study", "", schema, defaults),
    ]
    return "\n".join(parts)


def block(title: str, prefix: str, schema: dict[str, Any], defaults: Any) -> list[str]:
    """The table of one block, then those of the blocks in it."""
    lines = [f"\n## {title}\n", "| key | value | default study | meaning |", "|---|---|---|---|"]
    inner: list[str] = []
    for name, about in schema["properties"].items():
        default = defaults.get(name, about.get("default")) if isinstance(defaults, dict) else None
        if defaults is None:
            default = about.get("default")
        nested = about if "properties" in about else about.get("additionalProperties") or {}
        shown = "see below" if "properties" in nested else f"`{_short(default)}`"
        lines.append(
            f"| `{prefix}{name}` | {_cell(values(about))} | {shown} | {_cell(about['description'])} |"
        )
        if "properties" in nested:
            named = "" if nested is about else "<name>."
            inner += block(
                f"`{name}`", f"{name}.{named}", nested, default if nested is about else None
            )
    return lines + inner


def values(about: dict[str, Any]) -> str:
    """What a key may hold, in words."""
    kinds = about.get("type")
    kinds = [kinds] if isinstance(kinds, str) else list(kinds or [])
    or_null = " or null" if "null" in kinds else ""
    kind = next((k for k in kinds if k != "null"), "")
    if "enum" in about:
        return ", ".join(str(value) for value in about["enum"]) + or_null
    if kind == "array":
        return f"list of {values(about['items'])}" + or_null
    if kind == "object":
        return "block" if "properties" in about else "names, each with its value"
    word = {"integer": "whole number", "string": "text", "boolean": "true or false"}.get(kind, kind)
    limits = [
        f"{sign} {about[rule]}"
        for rule, sign in (("minimum", "≥"), ("exclusiveMinimum", ">"), ("maximum", "≤"))
        if rule in about and kind in ("integer", "number")
    ]
    return " ".join([word, ", ".join(limits[:2])]).strip() + or_null


def _short(value: Any) -> str:
    text = yaml.safe_dump(value, default_flow_style=True, allow_unicode=True, width=10**6)
    text = text.removesuffix("...\n").strip()
    return text if len(text) <= 60 else text[:57] + "…"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;").replace("\n", " ")
