"""Output in a Jupyter notebook: its progress bars, and a picture below the cell that is replaced by newer ones.

IPython and ipywidgets are optional, and imported only in a notebook.
"""

import contextlib
import sys
from typing import Any


def in_jupyter() -> bool:
    """Whether this process is the kernel of a notebook: Jupyter, Colab or VS Code, and not IPython in a terminal."""
    ipython = sys.modules.get("IPython")
    shell = None if ipython is None else ipython.get_ipython()
    return shell is not None and hasattr(shell, "kernel")


def notebook_bar() -> Any:
    """The class of Jupyter's progress bars in a notebook with ipywidgets, else None."""
    with contextlib.suppress(ImportError):
        if in_jupyter():
            import ipywidgets  # noqa: F401  # tqdm only warns without it
            from tqdm.notebook import tqdm

            return tqdm
    return None


class Inline:
    """A place below the cell that runs. `show` draws something there, which replaces what was shown before."""

    def __init__(self) -> None:
        self._handle: Any = None

    def show(self, what: Any) -> None:
        """Displays a picture or any other object that Jupyter displays. Nothing happens outside a notebook."""
        if not in_jupyter():
            return
        if self._handle is None:
            from IPython.display import display

            self._handle = display(what, display_id=True)
        else:
            self._handle.update(what)
