"""A display that is replaced: as IPython makes it at first, and past IPython from then on. And where the cell that makes it came from."""

from __future__ import annotations

from typing import Any


def display(shell: Any, data: dict[str, str], display_id: str) -> Any:
    """Show ``data``, text by MIME type, in the cell that runs now.

    Returns:
        IPython's publisher, through which it was shown.
    """
    publisher = shell.display_pub
    publisher.publish(data=data, metadata={}, transient={"display_id": display_id}, update=False)
    return publisher


def replace(shell: Any, data: dict[str, str], display_id: str, publisher: Any) -> None:
    """Replace what was shown through ``publisher``. Any thread."""
    content = {"data": data, "metadata": {}, "transient": {"display_id": display_id}}
    if not _sends(publisher):  # of a %%capture, which may be over by now
        publisher = shell.display_pub
    if not _sends(publisher):
        publisher.publish(**content, update=True)
        return
    # As ipykernel's own publish does, but for its flush of stdout and stderr: that waits for its turn among busy threads, 40 ms and
    # more, and matters to what is new on the page only.
    publisher.session.send(
        publisher.pub_socket,
        "update_display_data",
        content,
        parent=publisher.parent_header,
        ident=publisher.topic,
    )


def _sends(publisher: Any) -> bool:
    """Whether it sends what it is given to a front end, as ipykernel's does; those of ``%%capture`` and of a terminal do not."""
    return all(hasattr(publisher, name) for name in ("session", "pub_socket", "parent_header", "topic"))


def from_page(shell: Any) -> bool:
    """Whether what runs came from a page: its cells name themselves, and a message of a widget is of a page that shows it. nbclient and
    papermill send neither, and would save our widget's code.
    """
    get_parent = getattr(getattr(shell, "kernel", None), "get_parent", None)
    parent = get_parent() if get_parent is not None else None
    if not isinstance(parent, dict):
        return False
    return "cellId" in (parent.get("metadata") or {}) or (parent.get("header") or {}).get("msg_type") == "comm_msg"
