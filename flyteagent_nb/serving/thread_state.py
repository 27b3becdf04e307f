"""What a library sets up only on the thread that imports it, set up on the agents' thread too.

flytekit's own connector service calls the plug-ins on the thread that imported them. In a kernel one thread imports and another calls, and
a ``threading.local`` that was filled during the import is empty there.
"""

from __future__ import annotations

import sys
from threading import local


def share_thread_state() -> None:
    """Fill what is known to be empty on this thread; nanoseconds where there is nothing to do. Imports nothing."""
    # Airflow 2.10 and 2.11: an operator's `execute` outside of a TaskInstance, which is how flytekitplugins-airflow calls it, reads
    # ExecutorSafeguard._sentinel.callers, which only the importing thread has: AttributeError on every other one.
    module = sys.modules.get("airflow.models.baseoperator")
    if module is None:
        return
    sentinel = getattr(getattr(module, "ExecutorSafeguard", None), "_sentinel", None)
    if isinstance(sentinel, local) and not hasattr(sentinel, "callers"):
        sentinel.callers = {}
