"""What a user can mend is one line; a bug shows where it is."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from tiny_model import ROOT, environment, program

from tinycats.files import text
from tinycats.program import UserError

PROGRAM = """
from tinycats import program
from tinycats.files.tables import TableError

def main():
    {statement}

program.run(main)
"""


def fails(statement: str, **settings: str) -> str:
    """What a program prints that fails so."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(statement=statement)],
        env=environment(**settings),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    return done.stderr


MENDABLE = {
    "raise program.UserError('a: 1, should be 2')": "error: a: 1, should be 2\n",
    "raise program.UserError('a:\\n  b')": "error: a: b\n",
    "raise TableError('t.csv: cut short')": "error: t.csv: cut short\n",
    "open('/none')": "error: [Errno 2] No such file or directory: '/none'\n",
    "raise MemoryError": "error: out of memory (MemoryError); make training.micro_batch",
    "raise RuntimeError('CUDA out of memory. Tried')": "error: out of memory (CUDA out of memory",
}


@pytest.mark.parametrize("statement", MENDABLE)
def test_what_the_user_can_mend_is_one_line(statement: str) -> None:
    said = fails(statement)
    assert said.startswith(MENDABLE[statement])
    assert said.count("\n") == 1


@pytest.mark.parametrize("statement", ["int('x')", "{}['x']", "raise RuntimeError('shapes')"])
def test_a_bug_shows_its_traceback(statement: str) -> None:
    said = fails(statement)
    assert "Traceback (most recent call last)" in said
    assert "in main" in said


def test_one_variable_shows_every_traceback() -> None:
    said = fails("raise program.UserError('a: 1')", TINYCATS_TRACEBACK="1")
    assert "in main" in said
    assert said.endswith("UserError: a: 1\n")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--config", "{"), '"{" found, expected JSON'),
        (("--config", "[1]"), "--config: [1] found, expected a JSON object"),
    ],
)
def test_an_argument_that_is_no_json_object_is_named(words: tuple[str, ...], says: str) -> None:
    command = [*program("write_config"), *words, "--out", "none"]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True)
    assert done.returncode == 1
    assert says in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("read", "content", "says"),
    [
        (text.read_text, b"\xff", "not UTF-8 text"),
        (text.read_json, b"\xff", "not UTF-8 text"),
        (text.read_json, b"{", "not JSON"),
        (text.read_json, b"[]", "should hold a JSON object"),
        (text.read_json, b"[" * 100_000, "not JSON"),
        (text.read_json, b"9" * 5000, "not JSON"),
        (text.read_yaml, b"a: [", "not YAML"),
        (text.read_yaml, b"- a", "should map keys to values"),
        (text.read_yaml, b"a: 2024-13-01", "not YAML"),
    ],
)
def test_a_damaged_file_is_named(tmp_path: Path, read, content: bytes, says: str) -> None:
    path = tmp_path / "file"
    with pytest.raises(UserError, match=f"{path}: missing"):
        read(path)
    path.write_bytes(content)
    with pytest.raises(UserError, match=f"{path}: {says}"):
        read(path)


@pytest.mark.parametrize("read", [text.read_text, text.read_json, text.read_yaml])
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, read) -> None:
    with pytest.raises(UserError, match=f"{tmp_path}: cannot be read: Is a directory"):
        read(tmp_path)
    with pytest.raises(UserError, match="cannot be read: File name too long"):
        read("x" * 5000)
    if os.getuid() == 0:  # who may read everything
        return
    path = tmp_path / "file"
    path.write_text("{}")
    path.chmod(0)
    with pytest.raises(UserError, match=f"{path}: cannot be read: Permission denied"):
        read(path)


def test_letters_that_the_output_lacks_are_replaced() -> None:
    command = [sys.executable, "-c", PROGRAM.format(statement="print('猫 cat')")]
    settings = environment(PYTHONIOENCODING="ascii")
    done = subprocess.run(command, env=settings, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "? cat\n")


def test_without_docstrings_a_program_says_so() -> None:
    """transformers cannot be imported so; without assertions alone, programs run."""
    said = fails("pass", PYTHONOPTIMIZE="2")
    assert said.startswith("error: Python runs without docstrings")
    assert said.count("\n") == 1
    command = [*program("write_config"), "--help"]
    done = subprocess.run(command, env=environment(PYTHONOPTIMIZE="1"), capture_output=True)
    assert done.returncode == 0


def test_jobs_have_docstrings() -> None:
    """The workflow's jobs run where the user's shell leaves them out."""
    rules = (ROOT / "workflow/rules/common.smk").read_text(encoding="utf-8")
    assert "unset PYTHONOPTIMIZE;" in rules


def test_waiting_threads_of_jobs_soon_sleep(tmp_path: Path) -> None:
    """On a busy machine, else, they take the CPU from the thread that they wait for; a user may decide."""
    rules = (ROOT / "workflow/rules/common.smk").read_text(encoding="utf-8")
    (found,) = re.findall(r"export GOMP_SPINCOUNT=.*?;", rules)
    command = ["sh", "-c", found.replace("{{", "{").replace("}}", "}") + " echo $GOMP_SPINCOUNT"]
    outputs = [
        subprocess.run(command, env=environment(**more), capture_output=True, text=True).stdout
        for more in ({}, {"GOMP_SPINCOUNT": "7"})
    ]
    assert outputs == ["10000\n", "7\n"]
