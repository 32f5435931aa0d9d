"""The digest of a program's code changes with what the code means, and with nothing else."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tiny_model import ROOT

from tinycats import source_code

SCRIPTS = sorted((ROOT / "workflow/scripts").glob("*.py"))
MODULES = sorted((ROOT / "src/tinycats").rglob("*.py"))
#: digests of all programs of the repository at argv[1], and of the rewards' code
DIGESTS = """
import sys
from pathlib import Path
from tinycats.source_code import digest
for path in sorted(Path(sys.argv[1]).glob("workflow/scripts/*.py")):
    print(path.stem, digest(path))
print("figure", digest(Path(sys.argv[1]) / "workflow/scripts/draw_figure.py",
                       "tinycats.figures.by_prompt"))
print("rewards", digest("tinycats.reward.similarity"))
"""


def reworded(text: str) -> str:
    """The same code in another dress: other docstrings, a comment, other formatting."""
    tree = ast.parse(text)
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            if ast.get_docstring(node, clean=False) is not None:
                del node.body[0]
            node.body.insert(0, ast.Expr(ast.Constant('Says "this".\n\nAnd – that.')))
    return "# a comment\n" + ast.unparse(ast.fix_missing_locations(tree)) + "  # another\n"


def digest(text: str) -> str:
    return source_code.code_digest(ast.parse(text))


@pytest.mark.parametrize("path", [*MODULES, *SCRIPTS], ids=lambda p: f"{p.parent.name}/{p.stem}")
def test_another_wording_has_the_same_digest(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    other = reworded(text)
    assert other != text
    assert digest(other) == digest(text)


CODE = '''
"""Module."""
from a import b

LIMIT: float = 0.1

def f(x, *, n=3, k=None, m, **more):
    """What it does."""
    table = {"one": 1, **more}
    return [f"{x:.{n}f} of {k!r}"[:-1] for x in x if x <= n - 1 and "é" in k] and b(*table)

class C:
    """Holds nothing."""

async def g():
    """Does nothing."""
'''


def test_the_code_of_the_test_reads_the_same_when_reworded() -> None:
    assert digest(reworded(CODE)) == digest(CODE)
    nothing = 'def f():\n    """Does nothing."""\n'
    assert digest(nothing) == digest("def f(): pass")
    assert digest('x = u"a" "b"') == digest("x = 'ab'")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("0.1", "0.2"),
        ("0.1", "0.1j"),
        ("n=3", "n=4"),
        ("n=3", "n=3.0"),
        ("n=3", "n='3'"),
        ("k=None", "k=False"),
        ("k=None, m", "m, k=None"),
        ("k=None, m", "k, m=None"),
        ("<=", "<"),
        ("n - 1", "n + 1"),
        ("if x <= n - 1 and", "if x <= n - 1 or"),
        (":.{n}f", ":.{n}e"),
        ("!r", "!s"),
        (" of ", " Of "),
        ("é", "e"),
        ("[:-1]", "[-1:]"),
        ("**more}", "None: more}"),
        ('"one": 1', '"one": True'),
        ("*table", "table"),
        ("import b", "import c as b"),
        (": float", ": int"),
        ("async def", "def"),
        ('    """Does nothing."""\n', "    return 1\n"),
    ],
)
def test_another_meaning_has_another_digest(old: str, new: str) -> None:
    assert old in CODE
    assert digest(CODE.replace(old, new, 1)) != digest(CODE)


def test_the_serialised_form_is_the_same_in_every_version_of_python() -> None:
    """Digests that were worked out once; compared by hand with Python 3.11, 3.12 and 3.13."""
    assert digest(CODE)[:16] == "193a164434c732f3"
    match = "match x:\n  case None | -1 | {'a': [1, *b], **c}: pass\n  case P(x=1): f'{x=}{\"\"}'"
    assert digest(match)[:16] == "ab761edb1232b87c"


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Library and programs at another place."""
    folder = tmp_path_factory.mktemp("elsewhere")
    for path in (*MODULES, *SCRIPTS):
        new = folder / path.relative_to(ROOT)
        new.parent.mkdir(parents=True, exist_ok=True)
        new.write_bytes(path.read_bytes())
    return folder


def digests(root: Path, cwd: Path) -> dict[str, str]:
    done = subprocess.run(
        [sys.executable, "-c", DIGESTS, os.path.relpath(root, cwd)],
        env={**os.environ, "PYTHONPATH": str(root / "src")},
        cwd=cwd,
        capture_output=True,
        text=True,
        check=True,
    )
    return dict(line.split() for line in done.stdout.splitlines())


@pytest.fixture(scope="module")
def here() -> dict[str, str]:
    return digests(ROOT, ROOT)


def changed_by(copy: Path, here: dict[str, str], module: str, old: str, new: str) -> set[str]:
    """Programs whose digest an edit of a module changes."""
    path = copy / "src/tinycats" / module
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new, 1), encoding="utf-8")
    try:
        found = digests(copy, copy)
    finally:
        path.write_text(text, encoding="utf-8")
    return {name for name in found if found[name] != here[name]}


def test_place_and_working_directory_change_nothing(
    copy: Path, here: dict[str, str], tmp_path: Path
) -> None:
    assert len(set(here.values())) == len(SCRIPTS) + 2
    assert digests(copy, copy) == here
    assert digests(copy, tmp_path) == here


def test_an_edited_function_changes_the_programs_that_run_it(
    copy: Path, here: dict[str, str]
) -> None:
    edit = ("policies/objective.py", "return rewards - rewards.mean()", "return rewards")
    trains_or_measures = {"train_policy", "sample_completions"}
    assert changed_by(copy, here, *edit) == trains_or_measures
    encoder = changed_by(
        copy, here, "reward/encoder.py", "\n\nclass ", "\n\nEDITED = 1\n\n\nclass "
    )
    assert {"train_policy", "sample_completions", "score", "rewards"} <= encoder
    assert not {"frontier", "tell_stories", "draw_figure"} & encoder
    figure = changed_by(copy, here, "figures/by_prompt.py", "\ndef draw(", "\nX = 1\n\ndef draw(")
    assert figure == {"figure"}


def test_a_label_of_a_metric_leaves_what_trains_and_tells_alone(
    copy: Path, here: dict[str, str]
) -> None:
    label = '"stories that mention the concept"'
    changed = changed_by(copy, here, "scores/columns.py", label, '"another label"')
    assert "render_report" in changed
    assert not {"train_policy", "tell_stories", "sample_completions", "obtain_models"} & changed
    assert "rewards" not in changed


def test_what_is_imported_by_name_or_within_a_function_counts(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text("def f():\n    from tinycats.policies import objective\n")
    found = source_code.source_files(program, "tinycats.figures.frontier")
    names = {"program.py", "tinycats.policies.objective", "tinycats.figures.frontier"}
    assert names | {"tinycats.policies", "tinycats.figures"} <= set(found)
    other = tmp_path / "other.py"
    other.write_text("import tinycats.policies.objective\n")  # runs policies/__init__.py first
    assert {"tinycats.policies", "tinycats.policies.objective"} <= set(
        source_code.source_files(other)
    )
    with pytest.raises(FileNotFoundError, match=r"no module tinycats\.figures\.none"):
        source_code.digest(program, "tinycats.figures.none")


def test_the_package_itself_holds_its_version_alone() -> None:
    """It is in no digest."""
    tree = ast.parse((ROOT / "src/tinycats/__init__.py").read_text(encoding="utf-8"))
    assert re.fullmatch(r"(__version__ = '.*')?", ast.unparse(ast.Module(tree.body[1:], [])))


def test_all_digests_take_no_time_to_speak_of() -> None:
    """A job needs its own alone; all of them cost half a second of one core."""
    source_code._code.cache_clear()
    began = time.process_time()
    for path in SCRIPTS:
        source_code.digest(path)
    assert time.process_time() - began < 3
