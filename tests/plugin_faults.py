"""Drives the released connectors of Slurm and Databricks into their known faults, against real servers on loopback.

``python plugin_faults.py PLUGINS FOLDER`` prints those that are there, as JSON. PLUGINS is a folder with the plug-ins and asyncssh,
FOLDER an empty one, which becomes the home and the working folder. It is a process of its own, as importing a plug-in registers its agents.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import json
import os
import site
import ssl
import sys
import threading
import types
from collections import OrderedDict
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from certificates import Authority

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

KEY = "FLYTE_SLURM_PRIVATE_KEY"


# --- Slurm ---


@contextlib.asynccontextmanager
async def cluster(home: Path) -> AsyncIterator[None]:
    """An SSH server that knows one job, and whose output file is not there; OpenSSH's configuration calls it ``cluster``."""
    import asyncssh

    key = home / "key"
    asyncssh.generate_private_key("ssh-ed25519").write_private_key(str(key))
    asyncssh.read_private_key(str(key)).write_public_key(f"{key}.pub")

    def answer(process: Any) -> None:
        process.stdout.write(
            json.dumps({"jobs": [{"job_state": ["PENDING"], "standard_output": str(home / "not-yet.out")}]})
        )
        process.exit(0)

    server = await asyncssh.listen(
        "127.0.0.1", 0, server_host_keys=[asyncssh.generate_private_key("ssh-ed25519")],
        authorized_client_keys=f"{key}.pub", process_factory=answer, sftp_factory=True,
    )  # fmt: skip
    config = home / ".ssh"
    config.mkdir(mode=0o700)
    (config / "config").write_text(
        f"Host cluster\n  HostName 127.0.0.1\n  Port {server.get_port()}\n  User me\n  IdentityFile {key}\n"
        "Host gone\n  HostName 127.0.0.1\n  Port 1\n"
    )
    async with server:
        yield


async def slurm(home: Path) -> dict[str, bool]:
    from flytekitplugins.slurm import ssh_utils
    from flytekitplugins.slurm.function.connector import SlurmFunctionConnector
    from flytekitplugins.slurm.function.connector import SlurmJobMetadata as FunctionMetadata
    from flytekitplugins.slurm.script.connector import SlurmJobMetadata, SlurmScriptConnector

    found = {}
    async with cluster(home):
        login = {"host": "cluster", "username": "me"}
        connection = await ssh_utils.ssh_connect(login)
        # The server's key was made a moment ago: nobody can know it.
        found["host-keys"] = True
        connection.close()
        try:
            await ssh_utils.ssh_connect({"host": "cluster"})
        except ValueError as error:
            found["username"] = "are missing" in str(error)  # they are not: the configuration names the key
        try:
            await SlurmScriptConnector().get(SlurmJobMetadata("101", login, {}))
        except NameError as error:
            found["unread-output"] = "SFTPNoSuchFile" in str(error)
        try:
            await SlurmFunctionConnector().get(FunctionMetadata("101", login))
        except NameError as error:
            found["no-logger"] = "'logger'" in str(error)
    os.environ[f"_FSEC_{KEY}"] = "a private key"
    try:
        await ssh_utils.ssh_connect({"host": "gone", "username": "me"})
    except SystemExit:
        found["exit"] = True
    found["key-file"] = "slurm_private_key" in os.listdir()
    return found


def slurm_template() -> bool:
    from flytekit.configuration import ImageConfig, SerializationSettings
    from flytekit.tools.translator import get_serializable
    from flytekitplugins.slurm import SlurmConfig, SlurmShellTask

    settings = SerializationSettings(image_config=ImageConfig.auto(img_name="none:1"), project="p", domain="d")
    config = SlurmConfig(ssh_config={"host": "h"})
    get_serializable(OrderedDict(), settings, SlurmShellTask("plain", config, "true")).to_flyte_idl()
    try:
        get_serializable(
            OrderedDict(), settings, SlurmShellTask("given", config, "true", inputs={"x": int})
        ).to_flyte_idl()
    except TypeError:
        return True
    return False


# --- Databricks ---

PAGE = "the address is on no access list"
MESSAGE = "Run 7 does not exist."


@contextlib.contextmanager
def workspace(folder: Path) -> Iterator[str]:
    """A workspace that refuses everything, over TLS with a certificate that this process trusts."""
    certificate, key = Authority(folder / "certificates").issue("127.0.0.1")

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self._answer(403, "text/html", f"<html>{PAGE}</html>")

        def do_GET(self) -> None:
            self._answer(
                400, "application/json", json.dumps({"error_code": "INVALID_PARAMETER_VALUE", "message": MESSAGE})
            )

        def _answer(self, status: int, kind: str, text: str) -> None:
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key)
        server.socket = context.wrap_socket(server.socket, server_side=True)
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        yield f"127.0.0.1:{server.server_address[1]}"
        server.shutdown()


async def databricks(instance: str) -> dict[str, bool]:
    from flytekitplugins.spark.connector import DatabricksConnectorV2, DatabricksJobMetadata

    os.environ["_FSEC_FLYTE_DATABRICKS_ACCESS_TOKEN"] = "a token"
    custom = {"databricksConf": {"existing_cluster_id": "c"}, "databricksInstance": instance}
    template = SimpleNamespace(custom=custom, container=SimpleNamespace(env={}, args=["x"], image="none:1"))
    connector, found = DatabricksConnectorV2(), {}
    try:
        await connector.create(template)
    except Exception as error:  # of whatever class: its words are asked for
        assert "403" in str(error), error
        found["create-error"] = PAGE not in str(error)
    meta = DatabricksJobMetadata(databricks_instance=instance, run_id="7", auth_token="a token")
    for ask in (connector.get, connector.delete):
        try:
            await ask(meta)
        except Exception as error:  # as above
            found["poll-error"] = found.get("poll-error", True) and MESSAGE not in str(error) and PAGE not in str(error)
    return found


def main() -> None:
    """Print the faults that were found."""
    plugins, folder = (Path(word).resolve() for word in sys.argv[1:])
    os.environ["HOME"] = str(folder)
    os.chdir(folder)
    with workspace(folder) as instance:
        os.environ["SSL_CERT_FILE"] = str(folder / "certificates" / "ca.pem")  # before aiohttp makes its context
        import flytekit  # noqa: F401 - before the plug-ins are found: it would import all of each

        site.addsitedir(str(plugins))
        importlib.import_module("flytekitplugins.slurm")
        # The package itself imports pyspark, 300 MB; its connector does not.
        package = types.ModuleType("flytekitplugins.spark")
        package.__path__ = [str(plugins / "flytekitplugins" / "spark")]
        sys.modules["flytekitplugins.spark"] = package
        found: dict[str, dict[str, bool]] = {}
        found["slurm"] = {**asyncio.run(slurm(folder)), "no-inputs": slurm_template()}
        found["databricks"] = asyncio.run(databricks(instance))
    sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
