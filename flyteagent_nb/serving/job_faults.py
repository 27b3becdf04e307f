"""The known faults of flytekit's connectors for Slurm and Databricks; ``tests/plugin_faults.py`` drives the released plug-ins into them."""

from __future__ import annotations

from flyteagent_nb.serving.known_fault import KnownFault

_SEEN = ("1.16.31",)
_ALSO = "the same."


def _slurm(
    name: str, task_types: tuple[str, ...], what: str, here: str, remedy: str, production: str = _ALSO, sign: str = ""
) -> tuple[KnownFault, ...]:
    return tuple(
        KnownFault(f"{each}-{name}", each, "flytekitplugins-slurm", _SEEN, what, here, production, remedy, sign)
        for each in task_types
    )


def _databricks(name: str, what: str, here: str, remedy: str, sign: str) -> tuple[KnownFault, ...]:
    return tuple(
        KnownFault(f"{each}-{name}", each, "flytekitplugins-spark", _SEEN, what, here, _ALSO, remedy, sign)
        for each in ("databricks", "spark")
    )


_SCRIPT, _FUNCTION = ("slurm",), ("slurm_fn",)

# fmt: off
JOB_FAULTS = (
    *_slurm("unread-output", _SCRIPT, "while the job has written no output file, get meets a name that it did not import.",
        "polls that fail with `name 'SFTPNoSuchFile' is not defined` until the job writes; they are made again.",
        "Let the script begin with an echo.",
        "a job that waits for its turn is given up after a few polls, and may run all the same.",
        r"name 'SFTPNoSuchFile' is not defined"),
    *_slurm("no-logger", _FUNCTION, "each poll ends at a name that the module did not import, `logger`.",
        "polls that fail with `name 'logger' is not defined`; after a minute the run fails, though its job runs.",
        "Before the first run: import flytekit, flytekitplugins.slurm.function.connector as c; c.logger = flytekit.logger.",
        "no job is ever followed to its end.", r"name 'logger' is not defined"),
    *_slurm("no-inputs", _SCRIPT, "a task with inputs or output locations cannot be written as a template: their types are no JSON.",
        "`TypeError: Object of type type is not JSON serializable`, before anything is sent.",
        "Write the values into the script, and read what it leaves by other means."),
    *_slurm("exit", _SCRIPT + _FUNCTION, "a failed connection ends in sys.exit(1), or as if keys were missing; why is only logged.",
        "`SystemExit: 1`, after which the kernel goes on, or `Both the secret ... are missing`.",
        "Give ssh_config.username, and try `ssh USER@HOST` with the same key where the connector runs.",
        "the connector service ends, with all that it serves.",
        r"^SystemExit: 1\b|Both the secret for key FLYTE_SLURM_PRIVATE_KEY"),
    *_slurm("username", _SCRIPT + _FUNCTION, "without ssh_config.username no connection is made, whatever OpenSSH's configuration says.",
        "a connection that fails.", "Give ssh_config.username."),
    *_slurm("key-file", _SCRIPT + _FUNCTION, "the secret's private key is written to ./slurm_private_key, and stays.",
        "that file in the kernel's folder.", "Use a key that OpenSSH's configuration names, and delete the file.",
        "that file in the folder of the connector service."),
    *_slurm("host-keys", _SCRIPT + _FUNCTION, "host keys are not checked (known_hosts is None): whoever answers for the host is believed.",
        "a connection to any host.", "Reach the cluster over a network that you trust."),
    *_databricks("create-error", "create reads an answer as JSON before it looks at the status: what an error page says is lost.",
        "`ContentTypeError` with the status and the URL, without the words of the page.",
        "Open the workspace's address where the connector runs: a proxy, an access list of addresses or a wrong instance says so.",
        "unexpected mimetype"),
    *_databricks("poll-error", "get and delete tell of an error only the HTTP reason, not Databricks' own message.",
        "`Failed to get databricks job ... with error: Bad Request`.", "The run's page in the workspace has the reason.",
        r"Failed to (get|cancel) databricks job \S+ with error: "),
)
# fmt: on
