"""A stand-in for Google Cloud Storage, in a process of its own: it prints its address, and ends when its standard input does."""

from __future__ import annotations

import sys

from gcp_storage_emulator.server import create_server


def main() -> None:
    """Serve a bucket ``runs`` in memory, on a free port of loopback."""
    server = create_server("127.0.0.1", 0, in_memory=True, default_bucket="runs")
    server.start()
    host, port = server._api._httpd.server_address  # which it tells in no other way
    print(f"http://{host}:{port}", flush=True)  # noqa: T201 - the test reads it
    sys.stdin.read()
    server.stop()


if __name__ == "__main__":
    main()
