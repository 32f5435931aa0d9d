"""Which source files a program runs: what Snakemake must watch so that no result goes stale."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

PACKAGE = Path(__file__).parent


def _path(module: str) -> Path | None:
    """File of ``a.b`` within the package, or None if there is none."""
    base = PACKAGE.joinpath(*module.split("."))
    return next((p for p in (base.with_suffix(".py"), base / "__init__.py") if p.is_file()), None)


@cache
def _imports(path: Path) -> tuple[str, ...]:
    """Modules of this package that a file imports anywhere, inside functions too."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module] + [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            continue
        found |= {n.removeprefix("tinycats.") for n in names if n.startswith("tinycats.")}
    return tuple(sorted(found))


def source_files(root: Path, script: str, *modules: str) -> list[str]:
    """A script of workflow/scripts, the modules named, and all that these import of the package.

    Args:
        root: the repository; paths are returned relative to it.
        script: name without ``.py``.
        modules: further modules, such as ``figures/frontier``, that are imported by name at run time.

    Raises:
        FileNotFoundError: a named script or module does not exist.
    """
    program = root / "workflow" / "scripts" / f"{script}.py"
    seen = {program}
    waiting = list(_imports(program))
    for module in modules:
        if _path(module.replace("/", ".")) is None:
            raise FileNotFoundError(f"no module {module} in {PACKAGE}")
        waiting.append(module.replace("/", "."))
    while waiting:
        path = _path(waiting.pop())
        if path is not None and path not in seen:
            seen.add(path)
            waiting += _imports(path)
    return sorted(str(path.relative_to(root)) for path in seen)
