"""Values known as secret, and texts without them: what is shown, kept or sent has ``***`` in their place.

A value is known when a person gave it (``%agent secret``), when flytekit looked it up as a secret, or when an environment variable for
secrets holds it. Where none is known nothing is looked at. What was cut or encoded in another way than those below is not recognised.
"""

from __future__ import annotations

import base64
import contextlib
import html
import json
import os
import re
import threading
from typing import TYPE_CHECKING, Any, Final, NamedTuple
from urllib.parse import quote, quote_plus

if TYPE_CHECKING:
    from collections.abc import Container, Iterable, Iterator

MASK = "***"

SHORTEST: Final = 6
"""Characters that a value has at least to be masked: a shorter one stands in texts by chance."""

WORD: Final = 16
"""Characters from which on a value of letters alone is no word."""

VARIABLES: Final = "_FSEC_"
"""How the environment variables begin that flytekit reads secrets from."""

_SECRET_NAMES = re.compile(r"KEY|TOKEN|SECRET|PASSWORD|PASSWD|PASSPHRASE")
_ARMOUR = re.compile(r"-----(BEGIN|END) [\w ]+-----")
_PERCENT = re.compile("%[0-9A-F]{2}")
_LINES = re.compile(r"[\r\n]+|\\r|\\n")  # a key in JSON has its lines escaped
_ENTRY = re.compile(r"""(- )?["']?(?P<name>[\w.-]+)["']?\s*[:=]\s*["']?(?P<value>[^=\s"'].*?)["']?,?""")
_COMMON: Final = frozenset(
    "access account admin administrator api apikey bearer change changeme client credential credentials database default "
    "development dummy empty example false flyte flytekit foobar guest invalid kernel localhost missing nobody none notebook null "
    "number openai passphrase password postgres private production project public python sandbox secret secrets service snowflake "
    "staging string system template testing token tokens undefined unknown unset username value version "
    "123456 1234567 12345678 123456789 1234567890 000000 00000000".split()
)


class _Known(NamedTuple):
    """What is looked for: to see that none of the parts is in a text is much quicker than the pattern."""

    parts: tuple[str, ...]
    text: re.Pattern[str]
    data: re.Pattern[bytes]


class Masking:
    """The values that are known as secret. Any thread may call it.

    Attributes:
        active: whether any is known; where none is, every method returns what it was given.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._values: set[str] = set()
        self._known: _Known | None = None

    def __repr__(self) -> str:
        return f"<Masking of {len(self._values)} values>"

    @property
    def active(self) -> bool:
        """Whether any value is known."""
        return self._known is not None

    # --- what is known ---

    def add(self, value: str) -> bool:
        """Know ``value`` as secret.

        Returns:
            Whether it is masked from now on: what is short or a common word would shred every text, and is left alone.
        """
        value = value.strip()
        if not can_be_masked(value):
            return False
        with self._lock:
            if value not in self._values:
                self._values.add(value)
                self._compile()
        return True

    def discard(self, value: str) -> None:
        """Know ``value`` no more."""
        with self._lock:
            self._values.discard(value.strip())
            self._compile()

    def learn(self, names: Iterable[str] = ()) -> None:
        """Know the values of the environment's variables for secrets.

        Args:
            names: further variables, those of them that sound like one.
        """
        found = [name for name in os.environ if name.startswith(VARIABLES)]
        for name in (*found, *(name for name in names if _SECRET_NAMES.search(name.upper()))):
            value = os.environ.get(name)
            if value and value.strip() not in self._values:
                self.add(value)

    def _compile(self) -> None:
        secrets = {part for value in self._values for part in (value, *_in_lines(value)) if can_be_masked(part)}
        parts = {part: re.escape(part) for secret in secrets for part in _in_base64(secret)}
        parts.update((part, _expression(part)) for secret in secrets for part in _spellings(secret))
        longest_first = tuple(sorted(parts, key=len, reverse=True))
        expression = "|".join(parts[part] for part in longest_first)
        data = re.compile(expression.encode("utf-8", "replace"))
        self._known = _Known(longest_first, re.compile(expression), data) if parts else None

    # --- what is masked ---

    def text(self, text: str) -> str:
        """``text`` without the values."""
        known = self._known
        if known is None or not any(part in text for part in known.parts):
            return text
        return known.text.sub(MASK, text)

    def lines(self, lines: list[str]) -> list[str]:
        """``lines`` without the values."""
        known = self._known
        if known is None:
            return lines
        whole = "\n".join(lines)
        return [self.text(line) for line in lines] if any(part in whole for part in known.parts) else lines

    def data(self, data: bytes) -> bytes:
        """``data`` with stars for each byte of the values, so that a format that counts its bytes stays whole."""
        known = self._known
        return data if known is None else known.data.sub(lambda found: b"*" * len(found[0]), data)

    def finds(self, data: bytes) -> bool:
        """Whether one of the values is in ``data``."""
        known = self._known
        return known is not None and known.data.search(data) is not None

    def value(self, value: Any) -> Any:
        """``value`` with its texts masked, where it is a text, or tuples, lists and dicts of such."""
        if self._known is None:
            return value
        kind = type(value)
        if kind is str:
            return self.text(value)
        if kind in (tuple, list):
            return kind(self.value(each) for each in value)
        if kind is dict:
            return {self.value(key): self.value(each) for key, each in value.items()}
        return value

    def error(self, error: BaseException | None) -> None:
        """Mask what ``error`` and all that stands behind it say, in place."""
        if self._known is None:
            return
        seen: set[int] = set()
        behind = [error]
        while behind:
            at = behind.pop()
            if at is None or id(at) in seen:
                continue
            seen.add(id(at))
            with contextlib.suppress(AttributeError, TypeError):  # somebody's class that does not let itself be changed
                at.args = tuple(self.value(each) for each in at.args)
            facts = getattr(at, "__dict__", {})  # an exception of a language other than Python may have none
            facts.update({name: self.value(each) for name, each in facts.items()})
            behind += (at.__cause__, at.__context__, *getattr(at, "exceptions", ()))

    def message(self, message: Any, *, besides: Container[str] = (), data: bool = False) -> None:
        """Mask the texts of a protobuf message, in place.

        Args:
            message: the message.
            besides: the names of fields that stay as they are.
            data: whether fields of bytes are masked too, which keep their lengths.
        """
        if self._known is None:
            return
        for field, content in message.ListFields():
            if field.name in besides:
                continue
            if isinstance(content, (str, bytes)):
                masked = self._scalar(content, data)
                if masked != content:
                    setattr(message, field.name, masked)
            elif hasattr(content, "ListFields"):
                self.message(content, besides=besides, data=data)
            elif hasattr(content, "keys"):
                for key in list(content):  # a map that is changed on the way hands out some keys twice, others never
                    self._item(content, key, besides, data)
            elif hasattr(content, "__len__"):
                for place in range(len(content)):
                    self._item(content, place, besides, data)

    def _item(self, content: Any, place: Any, besides: Container[str], data: bool) -> None:
        item = content[place]
        if hasattr(item, "ListFields"):
            self.message(item, besides=besides, data=data)
        elif isinstance(item, (str, bytes)):
            masked = self._scalar(item, data)
            if masked != item:
                content[place] = masked

    def _scalar(self, content: str | bytes, data: bool) -> str | bytes:
        if isinstance(content, str):
            return self.text(content)
        return self.data(content) if data else content


def can_be_masked(value: str) -> bool:
    """Whether a value stands in a text as itself only: it is neither short nor a common word."""
    return len(value) >= SHORTEST and value.lower() not in _COMMON


def _spellings(secret: str) -> Iterator[str]:
    """How it is written as it is, in Python, JSON, HTML and an address."""
    yield from (secret, repr(secret)[1:-1], repr(secret.encode("utf-8", "replace"))[2:-1])
    yield from (json.dumps(secret)[1:-1], json.dumps(secret, ensure_ascii=False)[1:-1])
    escaped = html.escape(secret)
    yield from (
        html.escape(secret, quote=False),
        escaped,
        escaped.replace("&#x27;", "&#39;").replace("&quot;", "&#34;"),
    )
    for quoted in (
        quote(secret, safe="", errors="replace"),
        quote(secret, errors="replace"),
        quote_plus(secret, errors="replace"),
    ):
        yield from (quoted, _PERCENT.sub(lambda found: found[0].lower(), quoted))


def _in_base64(secret: str) -> Iterator[str]:
    """The characters that it alone makes in base64, by where in three bytes it begins: behind a user's name, as in Basic authentication."""
    data = secret.encode("utf-8", "replace")
    for before in range(3):
        for encode in (base64.b64encode, base64.urlsafe_b64encode):
            made = encode(bytes(before) + data).decode("ascii").rstrip("=")
            yield made[(0, 2, 3)[before] : (before + len(data)) * 4 // 3]
            if not before:
                yield made


def _in_lines(value: str) -> Iterator[str]:
    """What is secret by itself in a value of several lines: each line of a key or of a list.

    Of a configuration, most of whose lines stand in other texts too, it is what has a secret's name, or is long.
    """
    lines = [line.strip() for line in _LINES.split(value)]
    if len(lines) == 1:
        return
    entries = [_ENTRY.fullmatch(line) for line in lines]
    is_list, in_key = not any(entries), False
    for line, entry in zip(lines, entries, strict=True):
        if _ARMOUR.search(line):
            in_key = "-----BEGIN" in line
        elif in_key or is_list:
            yield line
        elif entry is None:
            yield from [line] if _is_long(line) else ()
        elif _SECRET_NAMES.search(entry["name"].upper()) or _is_long(entry["value"]):
            yield entry["value"]


def _is_long(text: str) -> bool:
    return len(text) >= WORD and not re.search(r"\s", text) and (not text.startswith("http") or "@" in text)


def _expression(part: str) -> str:
    # What is short and of letters or of digits alone may be a part of other words and numbers.
    alone = len(part) < WORD and (part.isalpha() or part.isdigit())
    return rf"(?<!\w){re.escape(part)}(?!\w)" if alone else re.escape(part)
