"""Start the server: its folder is the one that it starts in, its port is in the command line."""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
from pathlib import Path

from . import TOKEN_FILE


def main() -> None:
    """Serve on the loopback port that the command line says, until somebody ends it."""
    folder = Path.cwd()
    for name in [name for name in os.environ if name.upper().startswith("BQEMU_")]:
        del os.environ[name]  # the settings of a bqemulator of the user's own
    os.environ.update(
        HOME=str(folder),  # DuckDB looks for its extensions there
        USERPROFILE=str(folder),
        BQEMU_ENABLE_FORMAT_EXTENSIONS="false",  # it would ask the network for one
        BQEMU_UPLOAD_STAGING_DIR=str(folder / "uploads"),
    )
    import uvicorn

    from .door import Door
    from .emulator import Emulator

    link_extension("spatial", folder)
    uvicorn.run(
        Door(Emulator(), (folder / TOKEN_FILE).read_text()),
        host="127.0.0.1",
        port=int(sys.argv[1]),
        log_level="warning",
        access_log=False,
        lifespan="off",
        timeout_graceful_shutdown=1,
    )
    sys.stderr.flush()
    os._exit(0)  # a query that still runs would keep its thread, and with it the process


def link_extension(name: str, home: Path) -> None:
    """Give DuckDB an extension from its Python package, as if it had been installed under ``home``: nothing is fetched.

    Raises:
        RuntimeError: there is no package of that extension for this DuckDB.
    """
    import duckdb

    version = f"v{duckdb.__version__}"
    spec = importlib.util.find_spec(f"duckdb_extension_{name}")
    file = Path(spec.origin or "").parent / "extensions" / version / f"{name}.duckdb_extension" if spec else None
    if file is None or not file.exists():
        raise RuntimeError(
            f"DuckDB {version} lacks its extension {name}: install duckdb-extension-{name}=={version[1:]}"
        )
    (platform,) = duckdb.sql("PRAGMA platform").fetchall()[0]
    place = home / ".duckdb" / "extensions" / version / platform / file.name
    place.parent.mkdir(parents=True, exist_ok=True)
    try:
        place.symlink_to(file)
    except OSError:  # a system on which links are not for everybody
        shutil.copy(file, place)


if __name__ == "__main__":
    main()
