"""The same task on a Flyte cluster: registered, executed and followed with flytekit's FlyteRemote, and shown as any other run.

Nothing of the cluster's side is ours: FlyteRemote registers the task and uploads what its inputs need, the cluster's FlytePropeller and
its agents do the work. A thread for each run asks how it goes.
"""

from __future__ import annotations

import configparser
import hashlib
import json
import secrets
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
import yaml
from flytekit.configuration import Config, ImageConfig, SerializationSettings
from flytekit.configuration.file import ConfigFile
from flytekit.configuration.internal import Platform
from flytekit.core.python_function_task import PythonFunctionTask
from flytekit.exceptions.base import FlyteException
from flytekit.models.core.execution import WorkflowExecutionPhase as P
from flytekit.models.literals import LiteralMap
from flytekit.remote import FlyteRemote

from flyteagent_nb import scalars
from flyteagent_nb.errors import ArgumentError, CodeLocationError, FlyteAgentNBError, RunAbortedError, RunFailedError
from flyteagent_nb.running import tasks
from flyteagent_nb.running.contexts import current_context, in_context
from flyteagent_nb.running.notebook_code import needs_code
from flyteagent_nb.running.run import PhaseChange, Run, RunSnapshot
from flyteagent_nb.running.task_inputs import complete_inputs

if TYPE_CHECKING:
    from collections.abc import Mapping

    from flytekit.core.base_task import PythonTask

    from flyteagent_nb.workspace import Workspace

LOOK = (0.2, 5.0)
"""Seconds between two looks at an execution: at first, and after a while."""

ANSWER = 60.0
"""Seconds in which the cluster must have answered a call."""

FAILURES = 5
"""So many looks must have failed in a row, over the setting ``poll_failure_limit``, before the run is given up; the execution goes on."""

SERVICE = "cluster"
"""The name that stands for the cluster where others have that of an agent service."""

_PHASES = {
    P.UNDEFINED: "QUEUED",
    P.QUEUED: "QUEUED",
    P.RUNNING: "RUNNING",
    P.SUCCEEDING: "RUNNING",
    P.SUCCEEDED: "SUCCEEDED",
    P.FAILING: "RUNNING",
    P.FAILED: "FAILED",
    P.TIMED_OUT: "FAILED",
    P.ABORTED: "ABORTED",
    P.ABORTING: "RUNNING",
}


def submit_to_cluster(workspace: Workspace, task: PythonTask[Any], inputs: Mapping[str, Any], config: str) -> Run:
    """Start a task on a cluster; returns at once.

    Args:
        workspace: the open workspace, among whose runs it is listed.
        task: the task. A function task whose code is in the notebook is sent along pickled, by flytekit's interactive mode, and runs in
            the task's own image or flytekit's default one; any other is its template.
        inputs: Python values by name.
        config: the configuration file of flytectl and flytekit, or ``sandbox`` for flytekit's own local cluster.

    Returns:
        The run: ``cancel`` terminates its execution.

    Raises:
        ArgumentError: there is no such file, or one that is no configuration of a cluster.
        CodeLocationError: a function of the notebook that has no image, on a Python for which flytekit has none.
        InputError: inputs that do not fit the interface.
    """
    types = task.python_interface.inputs
    values = {name: scalars.for_type(value, types[name]) for name, value in complete_inputs(task, inputs).items()}
    sends_code = isinstance(task, PythonFunctionTask) and needs_code(task)
    if sends_code and not task.container_image and _images().default_image is None:
        raise CodeLocationError(
            f"task '{task.name}' has no image to run in: flytekit has no default one for Python {sys.version_info.major}."
            f"{sys.version_info.minor}",
            task=task.name,
            hint="give it one, with the same Python: @task(container_image='...')",
        )
    remote = _remote(config, workspace, sends_code=sends_code)
    metadata = task.metadata
    snapshot = RunSnapshot(
        id=secrets.token_hex(5),
        name=task.name,
        task_type=task.task_type,
        version=task.task_type_version,
        service=SERVICE,
        phases=(PhaseChange("QUEUED", time.time()),),
        attempts=(metadata.retries if metadata else 0) + 1,
        submitted=time.time(),
    )
    control = _Execution(workspace, remote, task, values)
    run = Run(snapshot, control)
    workspace.runner.adopt(run)
    context = current_context()
    threading.Thread(
        target=lambda: in_context(context, control.drive, run),
        name=f"flyteagent_nb-cluster-{run.id}",
        daemon=True,
    ).start()
    return run


def _remote(config: str, workspace: Workspace, *, sends_code: bool) -> FlyteRemote:
    settings = workspace.config.freeze()
    made = Config.for_sandbox() if config == "sandbox" else Config.auto(_configuration(config))
    limit = json.dumps({"methodConfig": [{"name": [{}], "timeout": f"{ANSWER}s"}]})
    return FlyteRemote(
        made,
        settings.project,
        settings.domain,
        interactive_mode_enabled=sends_code,
        options=[("grpc.service_config", limit)],  # flytekit's client gives its calls no deadline
    )


def _images() -> ImageConfig:
    """flytekit's default image; none where it has none for this Python, which a task that is a template does not miss."""
    try:
        return ImageConfig.auto_default_image()
    except ValueError:
        return ImageConfig()


def _configuration(config: str) -> ConfigFile:
    """The file, read anew, as flytekit keeps what it once read; and with an endpoint, as flytekit would take its own default for it."""
    path = Path(config).expanduser()
    if not path.is_file():
        raise ArgumentError(
            f"there is no configuration {config}",
            hint="--on takes flytectl's file, mostly ~/.flyte/config.yaml, or sandbox for a local cluster",
        )
    is_yaml = path.name.endswith(("yaml", "yml"))  # as flytekit tells it from its older INI files
    try:
        if is_yaml:
            yaml.safe_load(path.read_text(encoding="utf-8"))  # flytekit passes over one that is none
        made = ConfigFile(str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise ArgumentError(f"{config} cannot be read: {getattr(error, 'strerror', None) or error}") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark is not None else ""
        raise ArgumentError(f"{config} is not YAML: {where}{getattr(error, 'problem', None) or error}") from None
    except configparser.Error as error:
        raise ArgumentError(
            f"{config} is no INI file of flytekit's: {_line(error)}", hint="the name of a YAML file ends with .yaml"
        ) from None
    if Platform.URL.read(made) is None:
        raise ArgumentError(
            f"{config} names no endpoint ({'admin.endpoint' if is_yaml else 'url under [platform]'})",
            hint="--on takes flytectl's file, mostly ~/.flyte/config.yaml, or sandbox for a local cluster",
        )
    return made


class _Execution:
    """Drives one execution, on a thread of its own; what its run shows is published on the loop's thread."""

    def __init__(
        self, workspace: Workspace, remote: FlyteRemote, task: PythonTask[Any], inputs: Mapping[str, Any]
    ) -> None:
        self._workspace = workspace
        self._runner = workspace.runner
        self._remote = remote
        self._task = task
        self._inputs = dict(inputs)
        self._cancelled = threading.Event()
        self._began = time.monotonic()
        self._patience = workspace.config.poll_failure_limit

    # --- what a run asks of its control; any thread ---

    def cancel(self, run: Run) -> None:
        """Terminate the execution; returns at once."""
        if not run.done:
            self._cancelled.set()
            self._publish(run, stopping=True)

    def logs(self, run: Run) -> list[str]:
        """Nothing: the agents are elsewhere, and their logs behind the links."""
        return []

    def check_may_block(self) -> None:
        """As any run."""
        self._runner.check_may_block()

    def check_may_await(self) -> None:
        """As any run."""
        self._runner.check_may_await()

    # --- its own thread ---

    def drive(self, run: Run) -> None:
        """Register, execute, and look until the end."""
        try:
            values, returned = self._drive(run)
        except FlyteAgentNBError as error:
            phase = "ABORTED" if isinstance(error, RunAbortedError) else "FAILED"
            self._finish(run, phase, error=error)
        except Exception as error:  # flytekit's, gRPC's and a type's own errors, of many kinds; whoever waits must wake
            self._finish(run, "FAILED", error=self._failed(run, f"{type(error).__name__}: {_line(error)}", cause=error))
        else:
            self._finish(run, "SUCCEEDED", values, returned)

    def _drive(self, run: Run) -> tuple[dict[str, Any], Any]:
        self._publish(run, message="registering the task")
        remote = self._remote
        settings = SerializationSettings(
            image_config=_images(), project=remote.default_project, domain=remote.default_domain
        )
        execution = remote.execute_local_task(
            self._task, self._inputs, version=self._version(settings), serialization_settings=settings
        )
        links = (("console", remote.generate_console_url(execution)),)
        self._publish(run, log_links=links, message=f"execution {execution.id.name}")
        delay, failures, terminated, answered = LOOK[0], 0, False, time.monotonic()
        while True:
            try:
                if self._cancelled.is_set() and not terminated:
                    remote.terminate(execution, "cancelled from a notebook")
                    terminated = True
                execution = remote.sync(execution)
            except (FlyteException, grpc.RpcError) as error:
                failures += 1
                silent = time.monotonic() - answered
                if failures >= FAILURES and silent >= self._patience:
                    raise self._given_up(run, error, silent) from error
                self._publish(run, message=f"it cannot be asked, for {silent:.0f} s: {_line(error)}")
            else:
                failures, answered = 0, time.monotonic()
                phase = execution.closure.phase
                self._publish(run, phase=_PHASES.get(phase, "RUNNING") if not execution.is_done else run.phase)
                if execution.is_done:
                    return self._ended(run, execution)
            # A cancel wakes it, once.
            (time.sleep if self._cancelled.is_set() else self._cancelled.wait)(delay)
            delay = min(LOOK[1], delay * 1.3)

    def _ended(self, run: Run, execution: Any) -> tuple[dict[str, Any], Any]:
        phase, problem = execution.closure.phase, execution.closure.error
        if phase == P.SUCCEEDED:
            found = execution.outputs.literals if execution.outputs is not None else {}
            with self._remote.remote_context() as context:
                return tasks.convert_outputs(self._task, context, LiteralMap(found).to_flyte_idl())
        said = problem.message if problem is not None else P.enum_to_string(phase)
        if phase == P.ABORTED:
            raise RunAbortedError(
                f"run {run.id} of task '{run.name}' was cancelled on the cluster", run_id=run.id, task=run.name,
                task_type=run.task_type, phase="ABORTED", log_links=run.log_links, attempts=1,
            )  # fmt: skip
        raise self._failed(run, said, code=problem.code if problem is not None else "")

    def _given_up(self, run: Run, error: Exception, silent: float) -> RunFailedError:
        asked = (
            "it was to be terminated, which did not get through, and" if self._cancelled.is_set() else "its execution"
        )
        return RunFailedError(
            f"task '{run.name}' ({run.task_type}) is on a cluster that has not answered for {silent:.0f} s: {asked} may still run. "
            f"{_line(error)}",
            run_id=run.id, task=run.name, task_type=run.task_type, phase="FAILED", log_links=run.log_links, attempts=1,
            agent_message=_line(error), hint="the console tells what became of it; %config FlyteAgentNB.poll_failure_limit waits longer",
        )  # fmt: skip

    def _failed(self, run: Run, said: str, *, code: str = "", cause: Exception | None = None) -> RunFailedError:
        error = RunFailedError(
            f"task '{run.name}' ({run.task_type}) failed on the cluster: {said}", run_id=run.id, task=run.name,
            task_type=run.task_type, phase="FAILED", code=code, agent_message=said, log_links=run.log_links, attempts=1,
            hint="the console has its logs" if run.log_links else "look into the file that --on names: endpoint, insecure, sign-in",
        )  # fmt: skip
        error.__cause__ = cause
        return error

    def _version(self, settings: SerializationSettings) -> str:
        """The same for the same task, so that it is registered once; another each time where code goes along."""
        if self._remote.interactive_mode_enabled:
            return f"nb-{secrets.token_hex(8)}"
        template = tasks.serialized(self._task, settings)
        return f"nb-{hashlib.sha256(template.SerializeToString(deterministic=True)).hexdigest()[:16]}"

    # --- to the loop's thread ---

    def _publish(self, run: Run, **changes: Any) -> None:
        def publish() -> None:
            snapshot = run.snapshot
            if snapshot.done:
                return
            masked = {name: self._workspace.masking.value(value) for name, value in changes.items()}
            phase = masked.get("phase", snapshot.phase)
            if phase != snapshot.phase:
                masked["phases"] = (*snapshot.phases, PhaseChange(phase, time.time()))
            run.publish(snapshot._replace(**masked))

        self._runner.thread.call_soon(publish)

    def _finish(
        self, run: Run, phase: str, values: dict[str, Any] | None = None, returned: Any = None, *,
        error: FlyteAgentNBError | None = None,
    ) -> None:  # fmt: skip
        def finish() -> None:
            snapshot, now = run.snapshot, time.time()
            self._workspace.masking.error(error)
            last = snapshot._replace(
                phase=phase,
                phases=(*snapshot.phases, PhaseChange(phase, now)),
                ended=now,
                seconds=time.monotonic() - self._began,
                error=error,
                error_code=getattr(error, "code", ""),
            )
            run.finish(last, values, returned)

        self._runner.thread.call_soon(finish)


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:400] or type(error).__name__
