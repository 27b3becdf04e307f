"""A stand-in for S3 on this machine, in a process of its own: it prints its address, and ends when its standard input does."""

from __future__ import annotations

import sys

from moto.server import ThreadedMotoServer


def main() -> None:
    """Serve on a free port of loopback."""
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    print(f"http://{host}:{port}", flush=True)  # noqa: T201 - the test reads it
    sys.stdin.read()
    server.stop()


if __name__ == "__main__":
    main()
