"""The notebook: the same cells as its script, with outputs, and the script runs."""

from __future__ import annotations

import re

import nbformat
import notebook_run
import pytest

REGENERATE = "run: python tests/notebook_run.py"


def text_of(cell: nbformat.NotebookNode) -> str:
    """All that a cell printed."""
    return "".join(o.get("text", "") for o in cell.get("outputs", []))


@pytest.fixture(scope="module")
def committed() -> nbformat.NotebookNode:
    return nbformat.read(notebook_run.NOTEBOOK, as_version=4)


def test_the_notebook_is_its_script(committed: nbformat.NotebookNode) -> None:
    def cells(notebook: nbformat.NotebookNode) -> list[tuple[str, str]]:
        return [(cell.cell_type, cell.source) for cell in notebook.cells]

    assert cells(committed) == cells(notebook_run.read_script()), REGENERATE


def test_outputs_are_committed_and_name_no_machine(committed: nbformat.NotebookNode) -> None:
    nbformat.validate(committed)
    code = [cell for cell in committed.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1)), REGENERATE
    outputs = [output for cell in code for output in cell.outputs]
    assert {output.output_type for output in outputs} <= {"stream", "display_data"}
    assert not any(output.get("name") == "stderr" for output in outputs)
    assert "site-packages" not in nbformat.writes(committed)
    assert sum("image/png" in output.get("data", {}) for output in outputs) == 3
    assert notebook_run.NOTEBOOK.stat().st_size < 1_000_000
    assert set(committed.metadata) == {"kernelspec"}


@pytest.mark.slow
def test_the_script_runs_and_library_and_hand_agree() -> None:
    """Every cell, with less training; what it says about the loss is checked."""
    notebook = notebook_run.execute(notebook_run.read_script("4, 40, 2"))
    printed = "".join(map(text_of, notebook.cells))
    losses = re.findall(r"loss (\S+), length of its gradient (\S+)", printed)
    assert len(losses) == 2
    for by_hand, by_library in zip(*losses, strict=True):
        assert float(by_hand) == pytest.approx(float(by_library), abs=2e-6)
    difference = re.search(r"largest difference of a component: (\S+)", printed)
    assert difference
    assert float(difference[1]) < 1e-6
    shown = [o for cell in notebook.cells for o in cell.get("outputs", [])]
    assert sum("image/png" in o.get("data", {}) for o in shown) == 3
    assert any("text/html" in o.get("data", {}) for o in shown)
