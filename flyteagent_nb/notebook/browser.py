"""The way from the page to the kernel: one widget without a view, through which clicks in our HTML arrive.

What a person sees is HTML, replaced when something changes: it needs no widget to be shown, so it stays in the saved notebook as it
is. Only what acts on the kernel goes through here. Without a front end that runs it, everything is there but the buttons.
"""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anywidget
import traitlets

if TYPE_CHECKING:
    from collections.abc import Callable


class Browser(anywidget.AnyWidget):
    """The page's end of our HTML.

    Attributes:
        kernel: marks the HTML of this kernel, as a page may show notebooks of several.
        ready: whether a front end runs it; the page says so.
    """

    _esm = Path(__file__).with_name("browser.js")

    kernel = traitlets.Unicode().tag(sync=True)

    def __init__(self, on_act: Callable[[dict[str, Any]], object]) -> None:
        super().__init__(kernel=secrets.token_hex(6))
        self.ready = False
        self._on_act = on_act
        self.on_msg(self._message)
        comm = self.comm
        if comm is not None and hasattr(comm, "_reply_subshell_for"):
            # ipykernel 7.4 sends a click to the shell that last wrote to the widget, which is the busy one.
            comm._reply_subshell_for = lambda data, default: default

    def _message(self, _: Any, content: Any, __: Any) -> None:
        """A message of the page; on whatever thread ipykernel chooses, so it is only handed on."""
        if not isinstance(content, dict):
            return
        self._on_act(content)
