"""The environment variables of this process that sandboxes set, in layers, so that each can be put back on its own."""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, MutableMapping


class Variables:
    """Sets variables for owners and puts back what was there. What somebody else has changed since then is left alone.

    Args:
        environment: where they are set; this process's own where nothing is said.
    """

    def __init__(self, environment: MutableMapping[str, str] | None = None) -> None:
        self._environment = os.environ if environment is None else environment
        self._lock = threading.Lock()
        self._layers: dict[str, Mapping[str, str]] = {}
        self._before: dict[str, str | None] = {}
        self._ours: dict[str, str] = {}

    def set(self, owner: str, values: Mapping[str, str]) -> None:
        """Set ``values`` for ``owner``, which has set none."""
        with self._lock:
            self._layers[owner] = dict(values)
            for name, value in values.items():
                if name not in self._before or self._changed(name):
                    self._before[name] = self._environment.get(name)
                self._environment[name] = self._ours[name] = value

    def put_back(self, owner: str) -> None:
        """Take away what ``owner`` has set. Idempotent."""
        with self._lock:
            for name in self._layers.pop(owner, {}):
                changed = self._changed(name)
                others = [layer[name] for layer in self._layers.values() if name in layer]
                if others:
                    value: str | None = others[-1]
                    self._ours[name] = others[-1]
                else:
                    value = self._before.pop(name)
                    del self._ours[name]
                if changed:
                    continue
                if value is None:
                    del self._environment[name]
                else:
                    self._environment[name] = value

    def before(self, name: str) -> str | None:
        """What the variable was before any of ours."""
        with self._lock:
            return self._before[name] if name in self._before else self._environment.get(name)

    def names(self) -> tuple[str, ...]:
        """The variables that are set for somebody now, and that nobody else has changed."""
        with self._lock:
            return tuple(name for name in self._ours if not self._changed(name))

    def _changed(self, name: str) -> bool:
        """Whether somebody else has changed what we have set."""
        return self._environment.get(name) != self._ours.get(name)
