"""How a text is written in YAML and in a shell's command, so that it means itself."""

from __future__ import annotations

import json
import shlex


def yaml_text(text: object) -> str:
    """A text as a YAML scalar: JSON's form, which YAML reads as it is."""
    return json.dumps(str(text), ensure_ascii=False)


def shell_word(text: object) -> str:
    """A text as one word of a shell."""
    return shlex.quote(str(text))
