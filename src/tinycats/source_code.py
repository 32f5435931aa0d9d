"""A digest of the code that a program runs, so that a change of the code reruns its rules.

Each rule has the digest of its program as a parameter, and Snakemake reruns a rule whose parameters
change. The digest is a hash of the syntax tree (:mod:`ast`), in a form that is the same in every
supported version of Python; comments, docstrings and formatting do not change it.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.util
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

PACKAGE = Path(__file__).parent

_WITH_DOCSTRING = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


def digest(*programs: Path | str) -> str:
    """sha256 of the code of programs and of all modules of this package that they import.

    Args:
        programs: a program's file, or the name of a module such as ``tinycats.reward.memo``.
            Modules that are imported by name at run time have to be named here.

    Raises:
        FileNotFoundError: there is no such file or module.
    """
    found = hashlib.sha256()
    for name, path in source_files(*programs).items():
        found.update(f"{name} {_code(path)[0]}\n".encode())
    return found.hexdigest()


def source_files(*programs: Path | str) -> dict[str, Path]:
    """Module name → file of programs and of all modules of this package that they import.

    A program that is no module of the package goes by its file's name. Imports inside functions
    count. Arguments and errors are those of :func:`digest`.
    """
    seen: dict[str, Path] = {}
    waiting: list[str] = []
    for program in programs:
        if isinstance(program, str):
            if _path(program) is None:
                raise FileNotFoundError(f"no module {program} in {PACKAGE}")
            waiting.append(program)
        else:
            seen[program.name] = program.resolve()
            waiting += _code(seen[program.name])[1]
    while waiting:
        name = waiting.pop()
        path = _path(name)
        if path is not None and name not in seen:
            seen[name] = path
            parent = name.rpartition(".")[0]  # imported first, for its __init__.py
            waiting += [*_code(path)[1], parent]
    return dict(sorted(seen.items()))


def code_digest(tree: ast.Module) -> str:
    """sha256 of one file's code: its syntax tree without positions, comments and docstrings."""
    parts: list[str] = []
    _serialise(tree, parts.append)
    return hashlib.sha256("".join(parts).encode("utf-8")).hexdigest()


def _path(module: str) -> Path | None:
    """File of a module below ``tinycats``, or None if there is none."""
    # tinycats/__init__.py is left out: it holds the version, which changes no result
    package, _, rest = module.partition(".")
    if package != PACKAGE.name or not rest:
        return None
    base = PACKAGE.joinpath(*rest.split("."))
    return next((p for p in (base.with_suffix(".py"), base / "__init__.py") if p.is_file()), None)


@cache
def _code(path: Path) -> tuple[str, tuple[str, ...]]:
    """A file's digest, and the names of what it imports."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    package = ""
    if PACKAGE in path.parents:
        package = ".".join(path.relative_to(PACKAGE.parent).parent.parts)
    return code_digest(tree), tuple(sorted(set(_imports(tree, package))))


def _imports(tree: ast.Module, package: str) -> Iterator[str]:
    """Names that a module of ``package`` imports anywhere: modules, and what it takes from them."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            name = "." * node.level + (node.module or "")
            module = importlib.util.resolve_name(name, package)
            yield module
            yield from (f"{module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def _serialise(value: object, write: Callable[[str], object]) -> None:
    """Write a syntax tree as text, the same in every version of Python.

    Empty fields are omitted: a field new in a later Python is empty in code valid for earlier ones.
    """
    if isinstance(value, ast.Constant):
        write(f"(Constant {_constant(value.value)})")
    elif isinstance(value, ast.AST):
        write(f"({type(value).__name__}")
        for name in value._fields:
            field = getattr(value, name, None)
            if name == "body" and isinstance(value, _WITH_DOCSTRING):
                field = _without_docstring(value)
            elif name == "values" and isinstance(value, ast.JoinedStr):
                field = _joined(value.values)
            if field is not None and field != [] and name != "type_comment":
                write(f" {name}=")
                _serialise(field, write)
        write(")")
    elif isinstance(value, list):
        write("[")
        for item in value:
            _serialise(item, write)
            write(",")
        write("]")
    else:  # a name, the dots of an import, or None, as ** has it in place of a key
        write(_constant(value))


def _without_docstring(
    node: ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef,
) -> list[ast.stmt]:
    if ast.get_docstring(node, clean=False) is None:
        return node.body
    return node.body[1:] or ([] if isinstance(node, ast.Module) else [ast.Pass()])


def _joined(parts: list[ast.expr]) -> list[ast.expr]:
    """Parts of an f-string, whose literal text Python's versions divide differently."""
    joined: list[ast.expr] = []
    for part in parts:
        if isinstance(part, ast.Constant):
            text = str(part.value)
            if joined and isinstance(last := joined[-1], ast.Constant):
                joined.pop()
                text = str(last.value) + text
            if not text:
                continue
            part = ast.Constant(text)
        joined.append(part)
    return joined


def _constant(value: object) -> str:
    if not isinstance(value, str):
        return f"{type(value).__name__} {value!r}"
    # not repr(): which letters it escapes depends on Python's version of Unicode
    text = value.replace("\\", "\\\\").replace('"', '\\"')
    return '"' + text.encode("utf-8", "backslashreplace").decode("utf-8") + '"'
