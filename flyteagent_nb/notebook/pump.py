"""Hand what the page sends to our widget, while a cell keeps the kernel busy.

A kernel answers one message after another, so a click waits for the cell that it should stop: always on ipykernel 6 and 7.4, and on
others where the front end has no subshells. While a cell runs a filter stands on the kernel's own message stream: messages for our
widget are answered at once, every other goes its usual way, in order. It touches names of ipykernel that are not public; where they
are not as expected there is no filter, and a click arrives after the cell.
"""

from __future__ import annotations

import threading
from typing import Any


class Pump:
    """The filter of one kernel, for the messages of one comm.

    Args:
        kernel: ipykernel's kernel.
        comm_id: the widget's.
    """

    def __init__(self, kernel: Any, comm_id: str) -> None:
        self._kernel = kernel
        self._comm_id = comm_id
        self._usual: Any = None
        self._copy = False
        self._stream: Any = None
        try:
            thread = getattr(kernel, "shell_channel_thread", None)  # ipykernel 7; 6 has the stream on the main loop
            if thread is not None:
                stream = thread.manager.get_shell_channel_to_subshell_pair(None).to_stream
            else:
                stream = kernel.shell_stream
            _ = (
                stream._recv_callback,
                stream._recv_copy,
                stream.flush,
                kernel.comm_manager.comm_msg,
                kernel.session.feed_identities,
            )
            self._stream = stream
        except Exception:  # another ipykernel than those we know: whatever is missing, there is no filter then
            self._stream = None

    @property
    def works(self) -> bool:
        """Whether this ipykernel is as expected."""
        return self._stream is not None

    def hold(self) -> None:
        """Put the filter on, for as long as a cell runs on the main thread; those of subshells are not in the way."""
        if threading.current_thread() is not threading.main_thread() or self._stream is None:
            return
        if self._usual is None and self._stream._recv_callback is not None:
            self._usual, self._copy = self._stream._recv_callback, self._stream._recv_copy
            self._stream.on_recv(self._received, copy=self._copy)

    def release(self) -> None:
        """Take the filter off."""
        if self._usual is not None and threading.current_thread() is threading.main_thread():
            usual, self._usual = self._usual, None
            self._stream.on_recv(usual, copy=self._copy)

    def step(self) -> None:
        """Look for messages once, where the loop does not run because a cell blocks it."""
        if self._usual is not None and threading.current_thread() is threading.main_thread():
            self._stream.flush(1)  # zmq.POLLIN

    def _received(self, message: Any) -> Any:
        usual = self._usual
        kernel, session = self._kernel, self._kernel.session
        try:
            _, frames = session.feed_identities(message, copy=False)
            # content=False leaves the message unread for others.
            head = session.deserialize(frames, content=False, copy=False)
            ours = (
                head["header"]["msg_type"] == "comm_msg" and session.unpack(head["content"])["comm_id"] == self._comm_id
            )
        except Exception:  # whatever is wrong with a message is for the kernel to say
            ours = False
        if not ours:
            return usual(message)
        parent = session.deserialize(frames, content=True, copy=False)
        try:
            kernel.comm_manager.comm_msg(None, None, parent)
        finally:
            session.send(
                kernel.iopub_socket, "status", {"execution_state": "idle"}, parent=parent, ident=kernel._topic("status")
            )
        return None
