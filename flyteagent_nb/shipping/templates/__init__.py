"""The templates of what is exported, and how they are rendered."""

from __future__ import annotations

import functools
from typing import Any

import jinja2

from flyteagent_nb.shipping.quoting import shell_word, yaml_text


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
    environment.filters.update(yaml=yaml_text, sh=shell_word)
    return environment


def render(template: str, **values: Any) -> str:
    """A template of this folder with its values."""
    return _environment().get_template(template).render(values)
