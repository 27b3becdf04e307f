"""The secrets that a person gave, in the memory of this process, where flytekit's secrets manager finds them.

flytekit looks into environment variables (``_FSEC_NAME``) and files. What is put into ``SecretsManager.get`` here answers first, so that
connectors and tasks of this process get a secret without a variable, which every child process would inherit. What flytekit finds
elsewhere is known as secret from then on, and masked.
"""

from __future__ import annotations

import re
import threading
from typing import TYPE_CHECKING, Any

from flyteagent_nb.errors import ArgumentError
from flyteagent_nb.masking import VARIABLES

if TYPE_CHECKING:
    from collections.abc import Callable

    from flyteagent_nb.masking import Masking

_NAME = re.compile(r"[\w.-]+(/[\w.-]+)*", re.ASCII)


def name_of(text: str) -> str:
    """A secret's name as flytekit makes it of its group and key: ``openai/api_key``, ``OPENAI_API_KEY`` and its variable are one.

    Raises:
        ArgumentError: no secret of flytekit's has such a name.
    """
    if not _NAME.fullmatch(text):
        # Not with the text, which may be the secret itself.
        raise ArgumentError("this is no name of a secret", hint="write KEY or GROUP/KEY, as %agent doctor tells it")
    return text.removeprefix(VARIABLES).replace("/", "_").upper()


class SecretStore:
    """Secrets by name. Any thread may call it; a value is told to nobody but flytekit.

    Args:
        masking: what masks the values.
        is_replaced: whether a variable is set for a sandbox now, whose own secret must not be the person's.
    """

    def __init__(self, masking: Masking, is_replaced: Callable[[str], bool] = lambda variable: False) -> None:
        self._masking = masking
        self._is_replaced = is_replaced
        self._lock = threading.Lock()
        self._values: dict[str, str] = {}
        self._remove: Callable[[], object] | None = None

    def __repr__(self) -> str:
        return f"<SecretStore of {', '.join(self.names) or 'nothing'}>"

    @property
    def names(self) -> tuple[str, ...]:
        """The names, in the order in which they came."""
        return tuple(self._values)

    def variables(self) -> dict[str, str]:
        """The secrets as flytekit's environment variables, for a process of ours that runs the same agents."""
        with self._lock:
            return {f"{VARIABLES}{name}": value for name, value in self._values.items()}

    def put(self, name: str, value: str) -> bool:
        """Keep a secret, instead of an earlier one of that name.

        Returns:
            Whether its value is masked; one that is short or a common word is not.
        """
        value = value.strip()  # as flytekit does with what it reads
        self.forget(name)
        with self._lock:
            self._values[name] = value
        return self._masking.add(value)

    def forget(self, name: str) -> bool:
        """Drop a secret; whether there was one. Its value is not masked any more, as nothing of it is left."""
        with self._lock:
            value = self._values.pop(name, None)
            if value is not None and value not in self._values.values():
                self._masking.discard(value)
        return value is not None

    def install(self) -> None:
        """Answer for flytekit's secrets manager. It imports flytekit."""
        from flytekit.core.context_manager import SecretsManager

        if self._remove is not None:
            return
        original = SecretsManager.get
        installed = True

        def get(
            manager: Any,
            group: str | None = None,
            key: str | None = None,
            group_version: str | None = None,
            encode_mode: str = "r",
        ) -> Any:
            __tracebackhide__ = True
            if not installed:  # somebody has wrapped ours
                return original(manager, group, key, group_version, encode_mode)
            name = "_".join(part.upper() for part in (group, group_version, key) if part)
            given = self._values.get(name)
            if given is not None and not self._is_replaced(f"{VARIABLES}{name}"):
                return given
            found = original(manager, group, key, group_version, encode_mode)
            self._masking.add(found if isinstance(found, str) else found.decode("utf-8", "replace"))
            return found

        get.__doc__ = original.__doc__
        SecretsManager.get = get

        def remove() -> None:
            nonlocal installed
            installed = False
            if SecretsManager.get is get:
                SecretsManager.get = original

        self._remove = remove

    def remove(self) -> None:
        """Leave flytekit's secrets manager as it was found, and forget all secrets. Idempotent."""
        remove, self._remove = self._remove, None
        if remove is not None:
            remove()
        for name in self.names:
            self.forget(name)
