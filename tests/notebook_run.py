"""Runs the notebook's script and writes the notebook with its outputs.

    python tests/notebook_run.py

``notebooks/aligning_tinystories.py`` is the source; the notebook beside it is generated.
"""

from __future__ import annotations

import re
from pathlib import Path

import jupytext
import nbformat
from nbclient import NotebookClient

SCRIPT = Path(__file__).parents[1] / "notebooks" / "aligning_tinystories.py"
NOTEBOOK = SCRIPT.with_suffix(".ipynb")


def read_script(sizes: str | None = None) -> nbformat.NotebookNode:
    """The notebook of the script, without outputs; with other ``STEPS, BATCH, STORIES`` if given."""
    notebook = jupytext.read(SCRIPT)
    notebook.metadata.pop("jupytext", None)
    for number, cell in enumerate(notebook.cells):
        cell["id"] = f"cell-{number:02}"  # jupytext draws random ones
        if sizes is not None and "parameters" in cell.metadata.get("tags", []):
            cell.source, changed = re.subn(
                r"^(STEPS, BATCH, STORIES) = .*$", rf"\1 = {sizes}", cell.source, flags=re.M
            )
            assert changed == 1
    return notebook


def execute(notebook: nbformat.NotebookNode, timeout: int = 600) -> nbformat.NotebookNode:
    """Run all cells in the notebook's folder; the outputs are in the notebook.

    Raises:
        CellExecutionError: a cell raised.
    """
    client = NotebookClient(
        notebook,
        timeout=timeout,
        resources={"metadata": {"path": str(SCRIPT.parent)}},
        record_timing=False,
        coalesce_streams=True,
    )
    client.execute()
    notebook.metadata = {"kernelspec": notebook.metadata["kernelspec"]}  # no version, no machine
    return notebook


if __name__ == "__main__":
    nbformat.write(execute(read_script()), NOTEBOOK)
