"""The verbs about runs on record, of this kernel and of others: list, show, logs, cancel, attach, settle."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Any

from flyteagent_nb import wire
from flyteagent_nb.errors import ArgumentError, FlyteAgentNBError, TaskStopped, WaitTimeoutError
from flyteagent_nb.notebook import render
from flyteagent_nb.notebook.named_tasks import named_task
from flyteagent_nb.notebook.views import Lines, Pruned, RunList, View, run_details

if TYPE_CHECKING:
    from flyteagent_nb.notebook.arguments import AgentArguments
    from flyteagent_nb.running.run import Run
    from flyteagent_nb.workspace import Workspace

FOLLOW = 0.1
"""Seconds between two looks at the output of a run that is followed."""

ASK = 1.0
"""The same, where another service has to be asked for it."""


class RecordVerbs:
    """What the magics dispatch to."""

    def __init__(self, workspace: Workspace, shell: Any) -> None:
        self._workspace = workspace
        self._shell = shell

    def runs(self, arguments: AgentArguments) -> View:
        """List runs, or what would be forgotten of them."""
        workspace = self._workspace
        if arguments.prune:
            return Pruned(workspace.prune(dry_run=not arguments.yes), done=arguments.yes)
        if arguments.yes:
            raise ArgumentError("--yes goes with --prune", hint="%agent runs --prune tells what it would forget")
        looked_at = arguments.limit if arguments.limit and not arguments.phase else -1
        runs = workspace.kept.runs(looked_at) if arguments.all_runs else workspace.runner.runs()
        found = [run for run in runs if arguments.phase in ("", run.phase)]
        shown = RunList(found[: arguments.limit])
        if runs:
            shown.empty = f"no run is {arguments.phase}"
        return shown

    def show(self, arguments: AgentArguments) -> View:
        """All that is known of a run."""
        return run_details(self._workspace, self._workspace.kept.find(arguments.run_id))

    def logs(self, arguments: AgentArguments) -> View | None:
        """What a run printed."""
        run = self._workspace.kept.find(arguments.run_id)
        if arguments.follow and not run.snapshot.held:
            self._follow(run)
            return None
        lines = run.logs()
        shown = Lines(lines if arguments.lines is None else lines[-arguments.lines :])
        if run.service not in ("", wire.KERNEL_SERVICE):
            there = f"the agent service '{run.service}' hands out no log of this job; what its agent prints stays there"
            elsewhere = f"the log is not here: %agent show {run.id} tells where it ran, and has the log links"
            shown.empty = there if self._workspace.runner.router.connected(run.service) else elsewhere
        return shown

    def cancel(self, arguments: AgentArguments) -> View:
        """Stop runs; one that no kernel follows is attached first."""
        workspace = self._workspace
        runs = (
            [run for run in workspace.runner.runs() if not run.done]
            if arguments.all_runs
            else [workspace.kept.find(i) for i in arguments.run_ids]
        )
        for i, run in enumerate(runs):
            if run.snapshot.held:
                runs[i] = workspace.attach(run.id)
            runs[i].cancel()
        until = time.monotonic() + workspace.config.stop_grace
        try:
            for run in runs:
                run.exception(max(0.0, until - time.monotonic()))
        except WaitTimeoutError:
            pass  # the list tells which of them are still stopping
        except KeyboardInterrupt:
            left = [run for run in runs if not run.done]
            raise TaskStopped(
                f"stopped waiting for {len(left)} run{'s' * (len(left) != 1)} to end: the delete goes on in the background",
                run_ids=[run.id for run in left],
                hint="%agent runs tells what came of it",
            ) from None
        shown = RunList(runs)
        shown.empty = "no run is under way"
        return shown

    def attach(self, arguments: AgentArguments) -> Any:
        """Follow one run, or all that nobody follows."""
        workspace = self._workspace
        if arguments.all_runs == bool(arguments.run_id):
            raise ArgumentError(
                "attach takes a run, or --all for every open one", hint="%agent runs --all lists those of other kernels"
            )
        if not arguments.all_runs:
            task = named_task(arguments.task, self._shell.user_ns) if arguments.task else None
            run = workspace.attach(workspace.kept.find(arguments.run_id).id, task)
            if arguments.run_name:
                self._shell.user_ns[arguments.run_name] = run
            return run
        attached, troubles = [], []
        for record in workspace.kept.open():
            try:
                attached.append(workspace.attach(record.snapshot.id))
            except FlyteAgentNBError as error:
                troubles.append(str(error))
        for line in troubles:
            workspace.notice(line)
        shown = RunList(attached)
        shown.empty = "no run is open that no kernel follows"
        return shown

    def settle(self, arguments: AgentArguments) -> View:
        """Write what became of a job whose create has no answer."""
        if bool(arguments.job) == arguments.gone:
            raise ArgumentError(
                "settle takes --job META where there is a job, or --gone where there is none",
                hint="the service that the agent talks to can tell",
            )
        job: bytes | None = None
        if arguments.job:
            try:
                text = arguments.job
                job = bytes.fromhex(text[4:]) if text.startswith("hex:") else text.encode()
            except ValueError:
                raise ArgumentError(f"--job {arguments.job}: what follows hex: is not hexadecimal") from None
        kept = self._workspace.kept
        run_id = kept.find(arguments.run_id).id
        kept.settle(run_id, job=job)
        return run_details(self._workspace, kept.find(run_id))

    def _follow(self, run: Run) -> None:
        """Print what comes until the run ends; the stop button ends the following, not the run."""
        shown = 0
        try:
            while True:
                done = run.done
                is_here = run.service in ("", wire.KERNEL_SERVICE)
                if is_here:
                    lines, shown = self._workspace.captured_since(run.id, shown)
                else:
                    log = run.logs()
                    lines, shown = log[shown:], max(shown, len(log))
                for line in lines:
                    sys.stdout.write(render.for_terminal(line) + "\n")
                if done:
                    return
                _wait(run, FOLLOW if is_here else ASK)
        except KeyboardInterrupt:
            raise TaskStopped(
                f"stopped following run {run.id} of {run.name}; it goes on",
                run_ids=[run.id],
                hint=f"%agent cancel {run.id} stops it",
            ) from None


def _wait(run: Run, seconds: float) -> None:
    """Wait for the end of a run, ``seconds`` at most."""
    try:
        run.exception(seconds)
    except WaitTimeoutError:
        return
