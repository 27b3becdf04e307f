"""The templates of what is exported, and how they are rendered."""

from __future__ import annotations

import functools
import json
import re
import shlex
from typing import Any

import jinja2


@functools.cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("flyteagent_nb.shipping", "templates"),
        undefined=jinja2.StrictUndefined,  # a name that is not given is our mistake, not an empty text
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,
    )
    # A text as a YAML scalar, which JSON's form is, and as one word of a shell, so that it means itself.
    environment.filters["yaml"] = lambda text: json.dumps(str(text), ensure_ascii=False)
    environment.filters["sh"] = lambda text: shlex.quote(str(text))
    environment.filters["plain"] = plain
    return environment


def plain(text: str) -> str:
    """A text for a comment, a docstring or Markdown, with nothing in it that ends those."""
    return re.sub(r"[^\w .:/@()+-]", "_", text)


def render(template: str, **values: Any) -> str:
    """A template of this folder with its values."""
    return _environment().get_template(template).render(values)
