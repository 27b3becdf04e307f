"""One attempt of a run: one sync call, or create, gets and outputs, with a delete where the job must stop."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import math
import time
from datetime import timedelta
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import grpc
from flyteidl.admin.agent_pb2 import (
    CreateRequestHeader,
    CreateTaskRequest,
    DeleteTaskRequest,
    ExecuteTaskSyncRequest,
    GetTaskRequest,
    TaskCategory,
)

from flyteagent_nb import wire
from flyteagent_nb.errors import (
    FlyteAgentNBError,
    OutputError,
    RunFailedError,
    RunTimedOutError,
)
from flyteagent_nb.running import propeller
from flyteagent_nb.running.clocks import age
from flyteagent_nb.running.interface import interface_mismatch
from flyteagent_nb.running.journal import KEPT_IN_JOURNAL, AttemptRecord
from flyteagent_nb.running.metadata import attempt_metadata
from flyteagent_nb.running.pace import ADAPTIVE, PROPELLER, failure_backoff, gives_up, poll_delay, poll_floor
from flyteagent_nb.running.propeller import Failure, OutputsSource, Phase, Step
from flyteagent_nb.running.rendering import TemplateError, TemplateVariables, attempt_variables, render_template
from flyteagent_nb.running.run import MAY_RUN, SECRET_IN_META
from flyteagent_nb.running.services import SyncReplyError, deadline_on, whose_deadline
from flyteagent_nb.running.storage import is_remote_prefix
from flyteagent_nb.running.wording import (
    plain,
    poll_failed,
    said_and_notes,
    secret_hint,
    sign_in_hint,
    status_words,
    words_and_frames,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from flyteidl.admin.agent_pb2 import Resource
    from flyteidl.core.literals_pb2 import LiteralMap

    from flyteagent_nb.running.budget import CallBudget
    from flyteagent_nb.running.driven import Driven
    from flyteagent_nb.running.routing import Resolved
    from flyteagent_nb.running.runner import Runner
    from flyteagent_nb.running.services import AgentService

T = TypeVar("T")

LAST_LOOK = 5.0
"""Seconds that a get may go on after the attempt's time is up."""

DELETE_TRIES = 5
"""How often a delete that fails is sent, with a growing pause between."""

_NO_ANSWER = frozenset({grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DATA_LOSS})
"""The statuses of a create that may have made a job; with the last there is an answer, and it cannot be read."""


class Cancelled(Exception):
    """The run was cancelled. The text tells what became of the job where that is not plain."""

    def __init__(self, text: str, hint: str = "") -> None:
        super().__init__(text)
        self.hint = hint


class Ended(Exception):
    """The run has failed for good."""

    def __init__(self, phase: str, error: RunFailedError | OutputError, code: str) -> None:
        super().__init__(code)
        self.phase = phase
        self.error = error
        self.code = code


class Attempt:
    """One attempt. ``run()`` returns its outputs in a tuple of one, or the failure that a retry may follow."""

    def __init__(self, runner: Runner, driven: Driven, number: int, inputs: LiteralMap) -> None:
        template = driven.call.template
        self._runner = runner
        self._driven = driven
        self._number = number
        self._attempts = driven.run.snapshot.attempts
        self._inputs = inputs
        self._limit: float | None = template.metadata.timeout.ToNanoseconds() / 1e9 or None  # the task's timeout
        self._began = 0.0
        self._prefix = ""
        self._category = TaskCategory(name=template.type, version=template.task_type_version)
        self._resource_meta: bytes | None = None
        self._resolved: Resolved | None = None

    async def run(self) -> tuple[LiteralMap] | Failure:
        """Make the attempt.

        Raises:
            Cancelled: the run was cancelled; the job was deleted, or the text says why not.
            Ended: the failure is permanent.
            FlyteAgentNBError: no service has the task type.
        """
        driven, runner = self._driven, self._runner
        resolved = self._listed()
        if resolved is None:
            resolved = await runner.interruptible(driven, self._resolve())
        changes = {"service": resolved.service.name, "agent": resolved.agent, "is_sync": resolved.is_sync}
        if resolved.service.name != wire.KERNEL_SERVICE:
            changes["stand_in"] = ""  # only this kernel's agents are led to it
        runner.publish(driven, **changes, **({"phase": "RUNNING"} if resolved.is_sync else {}))
        self._prefix = runner.storage.prefix(driven.run.id, self._number, resolved.service.outputs)
        template = driven.call.template
        if template.WhichOneof("target") in ("container", "k8s_pod"):
            try:
                template = render_template(template, self._variables())
            except TemplateError as error:  # the create fails, as propeller's does
                return propeller.create_failed(str(error))
            await self._write_inputs()
        if resolved.is_sync:
            runner.record(driven, self._inputs)
            return await self._sync(resolved, template)
        return await self._async(resolved, template)

    async def follow(self, record: AttemptRecord, resolved: Resolved) -> tuple[LiteralMap] | Failure:
        """Go on with an attempt of a run that was attached, whose job is known. The errors are those of :meth:`run`.

        A cancel may have come before: nothing here ends before the job was seen to.
        """
        self._prefix = record.output_prefix
        self._resource_meta = record.resource_meta
        known = age(record.intended, record.clock)
        self._began = self._driven.began = time.monotonic() - known.seconds
        if known.off:
            self._note(
                f"the wall clock was set, or is off, by {timedelta(seconds=round(abs(known.off)))} since the job was created: its time is "
                f"reckoned as {timedelta(seconds=round(known.seconds))}"
            )
        return await self._follow(resolved)

    def not_again(self, failure: Failure) -> Ended:
        """The end of an attempt that is only followed: to try again would be to create a job."""
        return self._ended(failure)

    def check_run_limit(self, failure: Failure) -> None:
        """End the run where its own limit, twice the task's timeout, is used up or the failure is final."""
        if not failure.retryable:
            raise self._ended(failure)
        if self._number < self._attempts:
            self._check_run_time()

    def _begin(self) -> None:
        """Start the clock: what a run waits for a slot of ours is not the job's time."""
        self._began = time.monotonic()
        if self._driven.began is None:
            self._driven.began = self._began

    def _time_left(self) -> float | None:
        """Seconds until the attempt's time is up, or the run's."""
        if self._limit is None:
            return None
        left = self._began + self._limit - time.monotonic()
        whole = self._run_time_left()
        return left if whole is None else min(left, whole)

    def _timed_out(self) -> Failure:
        self._check_run_time()
        return propeller.attempt_timed_out(self._limit or 0.0)

    def _run_time_left(self) -> float | None:
        limit = propeller.run_limit(self._limit)
        if limit is None or self._driven.began is None:
            return None
        return self._driven.began + limit - time.monotonic()

    def _check_run_time(self) -> None:
        left = self._run_time_left()
        if left is not None and left <= 0:
            raise self._ended(propeller.run_timed_out(propeller.run_limit(self._limit) or 0.0))

    def exhausted(self, failure: Failure) -> Ended:
        """The end after the last attempt."""
        return self._ended(failure, propeller.exhausted(failure, self._number, self._attempts))

    # --- sync ---

    async def _sync(self, resolved: Resolved, template: Any) -> tuple[LiteralMap] | Failure:
        driven, runner = self._driven, self._runner
        header = CreateRequestHeader(
            template=template, output_prefix=self._prefix, task_execution_metadata=self._execution_metadata()
        )
        deadline = self._deadline("ExecuteTaskSync", resolved)
        left: float | None = None

        async def call() -> Resource:
            nonlocal left
            async with self._slots(resolved).execute(driven.nested):
                self._begin()
                left = self._time_left()
                seconds = min((s for s in (left, deadline) if s is not None), default=None)
                return await resolved.service.execute(
                    ExecuteTaskSyncRequest(header=header),
                    ExecuteTaskSyncRequest(inputs=self._inputs),
                    driven.run.id,
                    seconds,
                )

        try:
            resource = await runner.interruptible(driven, call())
        except grpc.aio.AioRpcError as error:
            if (
                error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
                and left is not None
                and (deadline is None or left <= deadline)
            ):
                return self._timed_out()
            return propeller.create_failed(self._said(error, "ExecuteTaskSync", deadline, resolved))
        except SyncReplyError as error:
            return propeller.create_failed(str(error))
        except Cancelled:
            raise Cancelled("its call was ended; a `do` that runs in a thread may finish what it is doing") from None
        try:
            phase = propeller.resolve_phase(resource)
            step = propeller.sync_step(phase)
        except (propeller.UnknownPhaseError, propeller.SyncNotFinalError) as error:
            raise self._ended(Failure(propeller.TASK_FAILED, str(error), retryable=False)) from None
        self._show(resource, phase)
        return await self._act(step, phase, resource)

    # --- async ---

    async def _async(self, resolved: Resolved, template: Any) -> tuple[LiteralMap] | Failure:
        driven, runner = self._driven, self._runner
        if is_remote_prefix(self._prefix):
            pass  # a bucket has no folders
        elif runner.storage.is_quick:  # cheaper than a thread's attention
            runner.storage.make(self._prefix)
        else:
            await asyncio.to_thread(runner.storage.make, self._prefix)
        if self._inputs.ByteSize() > KEPT_IN_JOURNAL:
            await self._write_inputs()
        runner.record(driven, self._inputs)
        record = AttemptRecord(self._number, resolved.service.name, self._prefix)
        deadline = self._deadline("CreateTask", resolved)
        request = CreateTaskRequest(
            inputs=self._inputs,
            template=template,
            output_prefix=self._prefix,
            task_execution_metadata=self._execution_metadata(),
        )
        try:
            async with contextlib.AsyncExitStack() as slot:
                # A cancel may end the wait for a slot. From here on it may not: a create that was left alone may make a job.
                await runner.interruptible(
                    driven, slot.enter_async_context(self._slots(resolved).create(driven.nested))
                )
                await runner.journal.intend(driven.run.id, record)
                if driven.cancelled:
                    await runner.journal.ended(driven.run.id, "ABORTED")
                    raise Cancelled("")
                self._begin()
                driven.creating = True
                self._resource_meta = await resolved.service.create(request, driven.run.id, deadline)
        except grpc.aio.AioRpcError as error:
            driven.creating = False
            failure = propeller.create_failed(self._said(error, "CreateTask", deadline, resolved))
            unknown = error.code() in _NO_ANSWER
            await runner.journal.ended(
                driven.run.id, "unknown" if unknown else "FAILED", runner.masking.text(failure.message)
            )
            if unknown:
                self._note(
                    f"attempt {self._number}: outcome unknown: the create ended without an answer ({error.code().name}); "
                    "it may have made a job"
                )
            if driven.cancelled:
                raise Cancelled(f"its create failed: {failure.message}") from None
            return failure
        if runner.masking.finds(self._resource_meta):
            self._note(SECRET_IN_META)
        await runner.journal.created(driven.run.id, self._resource_meta)
        driven.creating = False
        return await self._follow(resolved)

    async def _follow(self, resolved: Resolved) -> tuple[LiteralMap] | Failure:
        """Get after get, until the job is over."""
        driven, runner = self._driven, self._runner
        pace = PROPELLER if driven.settings.pace == "propeller" else ADAPTIVE
        deadline = self._deadline("GetTask", resolved)
        created = time.monotonic()
        request = GetTaskRequest(
            task_type=self._category.name,
            task_category=self._category,
            resource_meta=self._resource_meta,
            output_prefix=self._prefix,
        )
        polls = failures = 0
        failing_since = 0.0
        while True:
            now = time.monotonic()
            if failures and pace is not PROPELLER:
                delay = failure_backoff(failures, runner.jitter())
            else:
                delay = poll_delay(pace, polls, now - created, runner.jitter())
                floor = poll_floor(pace, polls, runner.active, driven.settings.poll_rate)
                delay = max(delay, floor * (0.9 + 0.2 * runner.jitter()))
            left = self._time_left()
            if left is not None:
                delay = min(delay, max(0.0, left))
            await driven.pause(delay)
            if driven.cancelled:
                await self._abort(resolved)
            left = self._time_left()
            # As propeller does: a last look first, for a job that has ended in its time and was not asked since.
            is_late = left is not None and left <= 0
            within = deadline if left is None else min(max(left, LAST_LOOK), deadline or math.inf)
            polls += 1
            try:
                resource = await runner.interruptible(driven, self._get(resolved, request, within))
                phase = propeller.resolve_phase(resource)
            except Cancelled:
                await self._abort(resolved)
            except (grpc.aio.AioRpcError, propeller.UnknownPhaseError) as error:
                if is_late:
                    return await self._out_of_time(resolved)
                failures += 1
                failing_since = failing_since or time.monotonic()
                said = (
                    self._said(error, "GetTask", within, resolved)
                    if isinstance(error, grpc.aio.AioRpcError)
                    else str(error)
                )
                limit = driven.settings.poll_failure_limit
                runner.publish(driven, message=poll_failed(said, failures, pace, limit))
                if gives_up(pace, failures, time.monotonic() - failing_since, limit):
                    await runner.journal.ended(driven.run.id, "unknown", runner.masking.text(said))
                    self._note(
                        f"{MAY_RUN}: {failures} polls in a row failed, so it was given up, not deleted"
                        + (f"; %agent attach {driven.run.id} follows it again" if runner.on_record else "")
                    )
                    raise self._ended(propeller.polls_failed(said)) from None
                continue
            failures, failing_since = 0, 0.0
            self._show(resource, phase)
            step = propeller.next_step(phase)
            if step is not Step.WAIT:
                await runner.journal.ended(driven.run.id, phase.name, runner.masking.text(resource.message))
                return await self._act(step, phase, resource)
            if is_late:
                return await self._out_of_time(resolved)

    async def _out_of_time(self, resolved: Resolved) -> Failure:
        await self._delete(resolved)
        await self._runner.journal.ended(self._driven.run.id, "FAILED", "timeout")
        return self._timed_out()

    async def _get(self, resolved: Resolved, request: GetTaskRequest, deadline: float | None) -> Resource:
        async with self._slots(resolved).follow(self._driven.nested):
            return await self._service_now(resolved).get(request, self._driven.run.id, deadline)

    async def _abort(self, resolved: Resolved) -> NoReturn:
        problem, run_id = self._runner.masking.text(await self._delete(resolved)), self._driven.run.id
        await self._runner.journal.ended(run_id, "unknown" if problem else "ABORTED", problem)
        if problem:
            raise Cancelled(
                f"its job could not be deleted and may still run: {problem}",
                hint=(f"%agent attach {run_id} follows it again, " if self._runner.on_record else "")
                + f"%agent show {run_id} tells the job's resource meta",
            )
        raise Cancelled("")

    async def _delete(self, resolved: Resolved) -> str:
        """Send DeleteTask until it works; what is wrong where it does not.

        Raises:
            LostError: another kernel follows the run now, and the job is its.
        """
        await self._runner.journal.confirm(self._driven.run.id)
        request = DeleteTaskRequest(
            task_type=self._category.name, task_category=self._category, resource_meta=self._resource_meta
        )
        deadline = self._deadline("DeleteTask", resolved)
        problem = ""
        for failed in range(DELETE_TRIES):
            if failed:
                await asyncio.sleep(failure_backoff(failed, self._runner.jitter()))
            try:
                async with self._slots(resolved).follow(self._driven.nested):
                    await self._service_now(resolved).delete(request, self._driven.run.id, deadline)
            except grpc.aio.AioRpcError as error:
                problem = f"{error.code().name}: {(error.details() or '').splitlines()[0] if error.details() else ''}"
                if error.code() in (grpc.StatusCode.NOT_FOUND, grpc.StatusCode.INVALID_ARGUMENT):
                    break  # nobody is there who could delete it: asking again changes nothing
            else:
                return ""
        self._note(f"attempt {self._number}: the job could not be deleted: {problem}")
        return problem

    # --- both ---

    async def _act(self, step: Step, phase: Phase, resource: Resource) -> tuple[LiteralMap] | Failure:
        if step is Step.READ_OUTPUTS:
            return await self._read_outputs(resource)
        failure = propeller.failure_of(resource, phase)
        if resource.message:  # the agent's own words, without propeller's around them
            failure = dataclasses.replace(failure, message=resource.message)
        if step is Step.RETRY:
            return failure
        raise self._ended(failure, phase=phase.name)

    async def _read_outputs(self, resource: Resource) -> tuple[LiteralMap] | Failure:
        declared = self._driven.call.template.interface.outputs.variables
        source = propeller.outputs_source(bool(declared), resource)
        outputs = resource.outputs
        if source is OutputsSource.NONE:
            return (outputs,)
        if source is OutputsSource.STORAGE:
            storage = self._runner.storage
            try:
                document = await self._read(storage.read_error)
                if document is not None:
                    return propeller.failure_of_document(document)
                stored = await self._read(storage.read_outputs)
            except Cancelled:
                raise Cancelled("its job had ended; its outputs were not read to the end") from None
            except Exception as error:  # a bucket's library may raise anything
                raise self._ended(Failure(propeller.OUTPUTS_NOT_FOUND, _words_of(error), retryable=False)) from error
            if stored is None:
                failure = propeller.outputs_not_found()
                return dataclasses.replace(
                    failure, message=f"{failure.message}: neither in the reply nor as {self._prefix}/outputs.pb"
                )
            outputs = stored
        wrong = interface_mismatch(declared, outputs)
        if wrong is not None:
            name, what = wrong
            mismatch = OutputError(
                f"output '{name}' of task '{self._driven.call.name}' {what}",
                task=self._driven.call.name,
                name=name,
                hint="the agent's outputs and the task's interface disagree: change one of them (FlytePropeller would let it pass, "
                "and the next task would fail on it)",
            )
            raise Ended("FAILED", mismatch, "OutputMismatch")
        return (outputs,)

    async def _write_inputs(self) -> None:
        write = asyncio.to_thread(self._runner.storage.write_inputs, self._prefix, self._inputs)
        try:
            await self._runner.interruptible(self._driven, write)
        except (Cancelled, FlyteAgentNBError):  # the latter is a disk's, and says all of it
            raise
        except Exception as error:  # a bucket's library may raise anything
            told = f"its inputs cannot be written to {self._prefix}/inputs.pb: {_words_of(error)}"
            raise self._ended(Failure(propeller.TASK_FAILED, told, retryable=False)) from error

    async def _read(self, read: Callable[[str], T]) -> T:
        """Read from the attempt's folder; a bucket may take minutes to fail, and a cancel does not wait for it."""
        return await self._runner.interruptible(self._driven, asyncio.to_thread(read, self._prefix))

    def _show(self, resource: Resource, phase: Phase) -> None:
        said, notes = said_and_notes(resource.message)
        self._runner.publish(
            self._driven,
            phase=phase.name,
            message=said,
            notes=tuple(dict.fromkeys((*self._driven.run.snapshot.notes, *notes))),
            log_links=tuple((link.name, link.uri) for link in resource.log_links)
            or self._driven.run.snapshot.log_links,
            custom_info=plain(resource.custom_info)
            if resource.HasField("custom_info")
            else self._driven.run.snapshot.custom_info,
        )

    def _note(self, text: str) -> None:
        self._runner.publish(self._driven, notes=(*self._driven.run.snapshot.notes, text))

    def _listed(self) -> Resolved | None:
        return self._runner.router.listed(self._category.name, self._category.version, self._driven.service)

    async def _resolve(self) -> Resolved:
        return await self._runner.router.resolve(self._category.name, self._category.version, self._driven.service)

    def _service_now(self, resolved: Resolved) -> AgentService:
        """The client of the service that made the job: the newest one of its name, and after a disconnect the one that there was.

        Propeller looks for the task type again for each call. Here another service may come to list it in the middle of a run,
        and would know nothing of the job, or of another one by the same id.
        """
        return self._runner.router.connected(resolved.service.name) or resolved.service

    def _slots(self, resolved: Resolved) -> CallBudget:
        return self._runner.budgets.of(resolved.service.name)

    def _deadline(self, operation: str, resolved: Resolved) -> float | None:
        settings = self._driven.settings
        return deadline_on(resolved.service, operation, settings.deadlines, settings.deadline)

    def _said(self, error: grpc.aio.AioRpcError, operation: str, deadline: float | None, resolved: Resolved) -> str:
        return status_words(error, operation, deadline, whose_deadline(resolved.service, operation))

    def _execution_metadata(self) -> Any:
        settings = self._driven.settings
        return attempt_metadata(
            self._driven.run.id,
            self._number,
            task_name=self._driven.call.name,
            project=settings.project,
            domain=settings.domain,
            version="notebook",
            attempts=self._attempts,
        )

    def _variables(self) -> TemplateVariables:
        settings, run_id = self._driven.settings, self._driven.run.id
        namespace = f"{settings.project}-{settings.domain}"
        return attempt_variables(self._prefix, run_id, self._number, namespace=namespace, inputs=self._inputs)

    def _ended(self, failure: Failure, final: Failure | None = None, *, phase: str = "FAILED") -> Ended:
        """The error that the user sees."""
        final = final or failure
        s = self._driven.run.snapshot
        said, frames = words_and_frames(failure.message)
        how_often = f" after {self._number} attempts" if self._number > 1 else ""
        kind = RunTimedOutError if failure.code == propeller.TIMED_OUT else RunFailedError
        hints = []
        if s.service == wire.KERNEL_SERVICE:
            hint = secret_hint(failure.message) or sign_in_hint(failure.message, s.task_type)
            hints += [hint] if hint else []
        if self._runner.captured(self._driven.run):
            hints.append(f"%agent logs {s.id} shows what the agent printed")
        hints.append(f"%agent show {s.id} tells all of it")
        error = kind(
            f"task '{s.name}' ({s.task_type}) failed{how_often}: {said}",
            run_id=s.id,
            task=s.name,
            task_type=s.task_type,
            phase=phase,
            code=final.code,
            agent_message=failure.message,
            frames=frames,
            log_links=s.log_links,
            attempts=self._number,
            stand_in=s.stand_in,
            hint=", ".join(hints),
        )
        return Ended(phase, error, final.code)


def _words_of(error: Exception) -> str:
    return str(error) if isinstance(error, (ValueError, OSError)) else f"{type(error).__name__}: {error}"
