"""What imports what: a stage reads the stages before it, and no module is part of a circle."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

from tinycats.source_code import source_files

PACKAGE = Path(__file__).parents[1] / "src" / "tinycats"

#: packages and modules of the library, from the lowest to the highest
ORDER = (
    "program", "progress", "source_code", "mentions", "random_numbers", "settings", "schema", "files", "published", "kinds", "layout", "compute", "models",
    "language_model", "reward", "policies", "watch", "completions", "stories", "scores", "frontier",
    "tables", "columns", "study", "lengths", "figures", "report",
)  # fmt: skip
#: stands aside: nothing else imports it, and it imports nothing above this
ASIDE = {"pretrain": "reward"}


def module(path: Path) -> str:
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__")


MODULES = {module(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def imports(name: str) -> Iterator[str]:
    """Modules of the library that one imports anywhere, inside functions too."""
    for node in ast.walk(ast.parse(MODULES[name].read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "tinycats":
            parent = (node.module or "").removeprefix("tinycats").lstrip(".")
            for alias in node.names:
                child = f"{parent}.{alias.name}".lstrip(".")
                if child in MODULES:
                    yield child
                elif parent:
                    yield parent
        elif isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.startswith("tinycats."):
                    yield alias.name.removeprefix("tinycats.")


def place(package: str) -> int:
    """Where a package stands in the order; a package aside, just above the last one it may import."""
    return ORDER.index(ASIDE[package]) if package in ASIDE else ORDER.index(package)


def test_every_package_has_a_place() -> None:
    packages = {name.split(".")[0] for name in MODULES} - {"__init__"}
    assert packages <= {*ORDER, *ASIDE}


@pytest.mark.parametrize("name", sorted(set(MODULES) - {"__init__"}))
def test_no_module_imports_what_lies_above_it(name: str) -> None:
    own = name.split(".")[0]
    for other in imports(name):
        package = other.split(".")[0]
        if package == own:
            continue
        assert package not in ASIDE, f"{name} imports {other}, which stands aside"
        above = place(package) > place(own) if own in ASIDE else place(package) >= place(own)
        assert not above, f"{name} imports {other}, which lies above it"


def test_no_circle_of_imports() -> None:
    graph = {name: set(imports(name)) - {name} for name in MODULES}
    list(TopologicalSorter(graph).static_order())  # raises CycleError


def test_packages_hold_nothing_themselves() -> None:
    for path in PACKAGE.glob("*/__init__.py"):
        assert not path.read_text(encoding="utf-8").strip(), path


@pytest.mark.parametrize("script", ["train_policy", "sample_completions", "tell_stories"])
def test_a_metric_can_be_edited_without_new_policies_or_stories(script: str) -> None:
    read = source_files(PACKAGE.parents[1] / f"workflow/scripts/{script}.py")
    assert "tinycats.files.tables" in read
    later = tuple(f"tinycats.{p}" for p in ("scores", "frontier", "tables", "figures", "report"))
    assert not [name for name in read if name.startswith((*later, "tinycats.columns"))]


def test_the_list_of_tables_is_read_without_torch() -> None:
    code = (
        "import sys, tinycats.columns; sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=PACKAGE.parent, check=False)
    assert done.returncode == 0
