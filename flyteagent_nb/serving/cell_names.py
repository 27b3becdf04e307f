"""The files that ipykernel gives to cells, named as people know them: ``Cell In[3]``."""

from __future__ import annotations

import re
import sys

_CELL_FILE = re.compile(r"(?:[^\s\"']*[/\\])?ipykernel_\d+[/\\]\d+\.py|<ipython-input-\d+-[0-9a-f]+>")


def name_cells(text: str) -> str:
    """``text`` with the cell's name wherever it names the file of a cell of this process; any thread may call it."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    names = getattr(getattr(shell, "compile", None), "_filename_map", {})  # IPython's own, for its tracebacks

    def name(found: re.Match[str]) -> str:
        number = names.get(found[0])
        return f"Cell In[{number}]" if number is not None else found[0]

    return _CELL_FILE.sub(name, text) if names else text
