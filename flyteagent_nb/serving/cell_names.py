"""The files that ipykernel gives to cells, named as people know them: ``Cell In[3]``."""

from __future__ import annotations

import sys


def name_cells(text: str) -> str:
    """``text`` with the cell's name wherever it names the file of a cell of this process; any thread may call it."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    names = getattr(getattr(shell, "compile", None), "_filename_map", {})  # IPython's own, for its tracebacks
    if "ipykernel_" not in text and "<ipython-input-" not in text:
        return text
    # By their names, not by a pattern: an agent's text may be a megabyte in one word.
    for file, number in tuple(names.items()):
        if file in text:
            text = text.replace(file, f"Cell In[{number}]")
    return text
