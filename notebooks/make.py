"""Makes the notebooks from their sources, and runs them: each NN_name.py becomes NN_name.ipynb with its outputs.

    python notebooks/make.py          all lessons
    python notebooks/make.py 3 5      lessons 3 and 5
    python notebooks/make.py --norun  the cells alone, without outputs

A source is a Python file in jupytext's percent format. `# %%` begins a cell of code, `# %% [markdown]` one of text. The
first cell of every lesson installs the project, the second says what the lesson ends with. The cell with the tag
`parameters` holds the numbers that the tests make smaller. Lessons share a folder, notebooks/runs, so that one may use
what another has trained.
"""

import argparse
import copy
import time
from pathlib import Path

import jupytext
import nbclient
import nbformat

HERE = Path(__file__).parent
WIDGET = "application/vnd.jupyter.widget-view+json"  # a progress bar, which is nothing without a kernel


def sources() -> list[Path]:
    """The lessons, in order."""
    return sorted(HERE.glob("[0-9][0-9]_*.py"))


def notebook_of(source: Path) -> nbformat.NotebookNode:
    """The cells of a source, without outputs. Equal sources give equal notebooks."""
    notebook = jupytext.read(source)
    for number, cell in enumerate(notebook.cells):
        cell["id"] = f"cell-{number}"
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    notebook.metadata = nbformat.from_dict({"kernelspec": kernel, "language_info": {"name": "python"}})
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    return notebook


def run(notebook: nbformat.NotebookNode, folder: Path) -> None:
    """Runs the cells in a kernel that works in the folder, and stores their outputs. CellExecutionError at an error."""
    folder.mkdir(exist_ok=True)
    metadata = copy.deepcopy(notebook.metadata)
    nbclient.NotebookClient(notebook, timeout=1200, resources={"metadata": {"path": str(folder)}}).execute()
    notebook.metadata = metadata  # without the kernel's version and the states of progress bars
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if WIDGET not in output.get("data", {})]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("lessons", nargs="*", type=int, help="numbers of lessons; all by default")
    parser.add_argument("--norun", action="store_true", help="do not run the cells")
    flags = parser.parse_args()
    for source in sources():
        if flags.lessons and int(source.name[:2]) not in flags.lessons:
            continue
        notebook, start = notebook_of(source), time.monotonic()
        if not flags.norun:
            run(notebook, HERE / "runs")
        nbformat.write(notebook, source.with_suffix(".ipynb"))
        print(f"{source.stem}.ipynb  {time.monotonic() - start:.0f} s", flush=True)


if __name__ == "__main__":
    main()
