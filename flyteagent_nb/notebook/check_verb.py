"""``%agent check``, and the same on a command line: which task, which service, and how the findings are told."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from flyteagent_nb.errors import ArgumentError, CheckError, TaskStopped
from flyteagent_nb.notebook.doctor import Diagnosis
from flyteagent_nb.notebook.named_tasks import named_task
from flyteagent_nb.notebook.values import input_values
from flyteagent_nb.shipping.check import END, JOBS, Subject, check

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from flyteagent_nb.findings import Finding
    from flyteagent_nb.notebook.arguments import AgentArguments
    from flyteagent_nb.notebook.showing import Showing
    from flyteagent_nb.shipping.cells import Cell
    from flyteagent_nb.workspace import Workspace


class CheckReport(Diagnosis):
    """What a check found: a list of findings that shows itself as a table.

    Attributes:
        task_type: the agent's task type.
        version: its version.
    """

    def __init__(self, task_type: str, version: int, findings: Iterable[Finding]) -> None:
        super().__init__(findings)
        self.task_type = task_type
        self.version = version

    @property
    def skipped(self) -> list[Finding]:
        """What was not tried."""
        return [finding for finding in self if finding.sign == "skip"]

    @property
    def passed(self) -> bool:
        """Whether nothing is wrong."""
        return not self.bad

    def summary(self) -> str:
        """How it is, in a line."""
        version = f" (version {self.version})" if self.version else ""
        skipped = f", {len(self.skipped)} not tried" if self.skipped else ""
        if any(finding.what == JOBS for finding in self.skipped):
            skipped = ", but no job was tried"
        return f"{self.task_type}{version}: {super().summary()}{skipped}"

    def data(self) -> dict[str, Any]:
        """The same as plain values, for JSON."""
        return {
            "task_type": self.task_type,
            "version": self.version,
            "passed": self.passed,
            "findings": [finding._asdict() for finding in self],
        }

    def raise_for_findings(self) -> None:
        """Raise where something is wrong.

        Raises:
            CheckError: it names what, and what mends it.
        """
        if not self.passed:
            raise CheckError(
                f"the agent of '{self.task_type}' would have trouble under FlytePropeller: {Diagnosis.summary(self)}",
                task_type=self.task_type,
                findings=self,
            )


def run_check(
    arguments: AgentArguments,
    workspace: Workspace,
    showing: Showing,
    namespace: Mapping[str, Any],
    cells: Sequence[Cell],
) -> CheckReport:
    """Do what the line says.

    Raises:
        ArgumentError: inputs without a task.
        CheckError: something is wrong, and the line says ``--strict``.
        TaskStopped: the stop button.
    """
    _refuse_a_task(arguments, workspace, namespace)
    task = named_task(arguments.task, namespace) if arguments.task else None
    failing = named_task(arguments.failing, namespace) if arguments.failing else None
    inputs = input_values(arguments.inputs, "", namespace)
    try:
        with showing.work(f"Checking {arguments.task_type}", done=f"Check of {arguments.task_type}") as work:
            report = check_type(
                workspace, arguments.task_type, arguments.version,
                task=task, failing=failing, inputs=inputs, service=arguments.service,
                timeout=END if arguments.timeout is None else arguments.timeout.total_seconds(),
                cells=cells, namespace=namespace, say=work.say,
            )  # fmt: skip
    except KeyboardInterrupt:
        raise TaskStopped(
            f"the check of {arguments.task_type} was stopped; the jobs that it made are deleted in the background"
        ) from None
    if arguments.strict:
        report.raise_for_findings()
    return report


def _refuse_a_task(arguments: AgentArguments, workspace: Workspace, namespace: Mapping[str, Any]) -> None:
    """Raise ArgumentError where the variable of a task stands in the place of a task type, as it does for ``%agent run``."""
    from flytekit.core.base_task import PythonTask

    name = arguments.task_type
    task = namespace.get(name)
    served = any(entry.task_type == name for entry in workspace.catalog.entries())
    if isinstance(task, PythonTask) and not served and not workspace.runner.router.versions(name):
        hint = f"write %agent check {task.task_type} --task {name}"
        raise ArgumentError(f"{name} is a task, and %agent check takes a task type", hint=hint)


def check_type(
    workspace: Workspace,
    task_type: str,
    version: int | None = None,
    *,
    task: Any = None,
    failing: Any = None,
    inputs: Mapping[str, Any] | None = None,
    service: str = "",
    timeout: float = END,
    cells: Sequence[Cell] = (),
    namespace: Mapping[str, Any] | None = None,
    modules: Sequence[str] = (),
    say: Callable[[str], object] = lambda text: None,
) -> CheckReport:
    """Check the agent of a task type. The arguments are those of :class:`Subject`, with tasks for calls.

    Raises:
        ArgumentError: inputs, and no task that takes them.
        InputError: inputs that do not fit the task's interface.
    """
    if inputs and task is None:
        raise ArgumentError(
            f"the inputs need --task: no task is run without it, and {', '.join(inputs)} would be of no use",
            hint="--task TASK gives the variable that holds one",
        )
    version = _version(workspace, task_type, version, task, service)
    inputs = inputs or {}
    fitting = {name: value for name, value in inputs.items() if failing and name in failing.python_interface.inputs}
    subject = Subject(
        task_type,
        version,
        service,
        call=workspace.call_of(task, inputs) if task is not None else None,
        failing=workspace.call_of(failing, fitting) if failing is not None else None,
        timeout=timeout,
        cells=cells,
        namespace=namespace or {},
        modules=tuple(modules),
    )
    return CheckReport(task_type, version, check(workspace, subject, say))


def _version(workspace: Workspace, task_type: str, version: int | None, task: Any, service: str) -> int:
    """The version that is meant: as said, else the task's, else the only one that is served."""
    if version is not None:
        return version
    if task is not None and task.task_type == task_type:
        return int(task.task_type_version)
    versions = sorted({e.version for e in workspace.catalog.entries() if e.task_type == task_type})
    return versions[-1] if versions and not service else 0
