"""Executes the notebooks of the site, and keeps what they print beside their sources.

  python -m tools.execute_notebooks            # all of docs/notebooks
  python -m tools.execute_notebooks 1_search

A notebook is a pair: the .py file is written, reviewed and tested; the .ipynb file holds the
same cells with their outputs, for the site and for whoever opens it.
"""

import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parents[1] / "docs" / "notebooks"
MINUTES = 10


def execute(source: Path) -> Any:
    """Runs one notebook in a folder of its own.

    Args:
      source: the .py file.

    Returns:
      The notebook, of whose outputs texts stay: pages and pictures of a run name its machine.
    """
    import jupytext
    from nbclient import NotebookClient

    notebook: Any = jupytext.read(source)
    with tempfile.TemporaryDirectory() as folder:
        place = {"metadata": {"path": folder}}
        NotebookClient(notebook, timeout=60 * MINUTES, resources=place).execute()
    for number, cell in enumerate(notebook.cells):
        cell["id"] = f"cell-{number}"
        cell.metadata.clear()
        if cell.cell_type == "code":
            outputs = (_kept(output, f"{Path(folder).resolve()}/") for output in cell.outputs)
            cell.outputs = [output for output in outputs if output]
    return notebook


def _kept(output: Any, folder: str) -> Any:
    """What a cell printed, or the text of what it shows, without the folder that it ran in."""
    if output.output_type == "stream":
        output.text = output.text.replace(folder, "")
        return output if output.name == "stdout" else None
    text = output.get("data", {}).get("text/plain")
    if text is None:
        return None
    output.data = {"text/plain": text}
    output.metadata = {}
    return output


def main(arguments: Sequence[str]) -> None:
    """Executes those that are named, or all."""
    import nbformat

    for source in sorted(FOLDER.glob("*.py")):
        if arguments and source.stem not in arguments:
            continue
        nbformat.write(execute(source), source.with_suffix(".ipynb"))
        print(source.with_suffix(".ipynb"))


if __name__ == "__main__":
    main(sys.argv[1:])
