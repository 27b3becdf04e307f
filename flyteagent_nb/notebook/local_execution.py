"""Make ``my_task(x=1)``, workflows and map tasks in a notebook run through the agent service.

flytekit's local engine calls ``sandbox_execute`` of a task with literals, and nothing else does; for a task that an agent runs, that
call is answered by the runner. Caching, conditionals, dynamic and nested workflows stay flytekit's own.
"""

from __future__ import annotations

import contextlib
import inspect
import math
from typing import TYPE_CHECKING, Any

from flyteagent_nb.errors import FlyteAgentNBError, InputError
from flyteagent_nb.notebook.waiting import holding, keep_interrupts, stop_guard

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from flytekit.core.base_task import PythonTask
    from flytekit.core.context_manager import FlyteContext
    from flytekit.models.literals import LiteralMap

    from flyteagent_nb.notebook.showing import Showing
    from flyteagent_nb.running.run import Run
    from flyteagent_nb.workspace import Workspace


class LocalExecution:
    """flytekit's local execution, led to the runner while it is installed."""

    def __init__(self, workspace: Workspace, showing: Showing) -> None:
        self._workspace = workspace
        self._showing = showing
        self._put_back: list[Callable[[], object]] = []

    def install(self) -> None:
        """Take over; call it once flytekit has been imported. Idempotent."""
        if self._put_back:
            return
        from flytekit import FlyteContextManager
        from flytekit.core.array_node_map_task import ArrayNodeMapTask
        from flytekit.core.base_task import Task
        from flytekit.core.python_function_task import AsyncPythonFunctionTask, EagerAsyncPythonFunctionTask
        from flytekit.core.workflow import WorkflowBase
        from flytekit.extend.backend.base_connector import AsyncConnectorExecutorMixin, SyncConnectorExecutorMixin

        from flyteagent_nb.running.call_outputs import output_error
        from flyteagent_nb.running.contexts import in_own_contexts
        from flyteagent_nb.running.task_inputs import call_error, check_call
        from flyteagent_nb.scalars import for_type

        through_agent = self._through_agent
        config = self._workspace.config
        run_literals, run_values, run_many = self._run_literals, self._run_values, self._run_many
        showing, task_call, workflow_call = self._showing, Task.__call__, WorkflowBase.__call__
        sandbox_execute = Task.sandbox_execute
        raw_execute = ArrayNodeMapTask._raw_execute

        def run_or_pass(task: PythonTask[Any], ctx: FlyteContext, input_literal_map: LiteralMap) -> Any:
            if through_agent(task):
                return run_literals(task, ctx, input_literal_map)
            return sandbox_execute(task, ctx, input_literal_map)

        def map_over(mapped: ArrayNodeMapTask, /, **kwargs: Any) -> Any:
            if through_agent(mapped.python_function_task):
                return run_many(mapped, kwargs)
            return raw_execute(mapped, **kwargs)

        def execute(task: PythonTask[Any], /, **kwargs: Any) -> Any:
            return run_values(task, kwargs)

        def call_task(task: PythonTask[Any], /, *args: Any, **kwargs: Any) -> Any:
            each = task.python_function_task if isinstance(task, ArrayNodeMapTask) else task
            if not through_agent(each):
                return in_own_contexts(task_call, task, *args, **kwargs)
            within = _compiled_workflow()
            given = check_call(task, args, kwargs, within)
            if not within:  # a workflow with numpy's values in its definition would be refused when it is registered
                types, args = task.python_interface.inputs, ()
                kwargs = {name: for_type(value, types[name]) for name, value in given.items()}
            try:
                return in_own_contexts(task_call, task, *args, **kwargs)
            except FlyteAgentNBError:
                raise
            except Exception as error:  # a type's transformer may raise anything; what is about no value passes
                told = output_error(task, error) or call_error(task, given, error, within)
                if told is None:
                    raise
                raise told from error

        def call_workflow(workflow: WorkflowBase, /, *args: Any, **kwargs: Any) -> Any:
            within = _compiled_workflow()
            given = check_call(workflow, args, kwargs, within)
            compiled = getattr(workflow, "compiled", True)
            with contextlib.nullcontext() if within else showing.group(workflow.name):
                try:
                    return in_own_contexts(workflow_call, workflow, *args, **kwargs)
                except InputError:
                    # Else flytekit takes it for whole, and the next call would run the part before the mistake.
                    if not compiled:
                        workflow.compiled = False
                    raise
                except Exception as error:  # as above
                    told = output_error(workflow, error) or call_error(workflow, given, error, within)
                    if told is None:
                        raise
                    raise told from error

        def stoppable(run: Callable[..., Any]) -> Callable[..., Any]:
            def execute(task: PythonTask[Any], /, **kwargs: Any) -> Any:
                with showing.group(task.name), holding(config.stop_grace):
                    return run(task, **kwargs)

            return execute

        for each in (AsyncPythonFunctionTask, EagerAsyncPythonFunctionTask):
            self._patch(each, "execute", stoppable(each.execute))
        self._patch(FlyteContextManager, "initialize", staticmethod(keep_interrupts(FlyteContextManager.initialize)))
        self._patch(Task, "sandbox_execute", run_or_pass)
        self._patch(Task, "__call__", call_task)
        self._patch(WorkflowBase, "__call__", call_workflow)
        self._patch(ArrayNodeMapTask, "_raw_execute", map_over)
        # Reached only by code that calls `task.execute(...)` itself.
        self._patch(AsyncConnectorExecutorMixin, "execute", execute)
        self._patch(SyncConnectorExecutorMixin, "execute", execute)

    def remove(self) -> None:
        """Put flytekit's own back. Idempotent."""
        while self._put_back:
            self._put_back.pop()()

    def _patch(self, owner: type, name: str, replacement: Callable[..., Any]) -> None:
        original = owner.__dict__[name]
        replacement.__name__ = name
        replacement.__qualname__ = f"{owner.__qualname__}.{name}"
        replacement.__doc__ = original.__doc__

        def put_back() -> None:
            if owner.__dict__.get(name) is replacement:  # somebody else's patch on top of ours is left alone
                setattr(owner, name, original)

        setattr(owner, name, replacement)
        self._put_back.append(put_back)

    def _through_agent(self, task: Any) -> bool:
        from flyteagent_nb.running.tasks import runs_on_agent

        execute = vars(task).get("execute")
        if execute is not None and not inspect.ismethod(execute):
            return False  # a mock of flytekit.testing, which is to run instead; what that leaves behind is a method
        return runs_on_agent(task) or self._workspace.serves(task.task_type, task.task_type_version)

    def _run_literals(self, task: PythonTask[Any], context: FlyteContext, inputs: LiteralMap) -> LiteralMap:
        from flytekit.models.literals import LiteralMap

        from flyteagent_nb.running.tasks import convert_outputs

        self._workspace.wait()
        with self._showing.wait() as wait:
            with stop_guard(self._workspace.config.stop_grace, wait) as guard:
                run = self._workspace.submit_literals(task, inputs, context)
                wait.started(run)
                guard.wait([run])
            literals: LiteralMap = run.result()
        run.read_by(lambda: convert_outputs(task, context, literals.to_flyte_idl()))
        # Where nothing is declared it is a success whatever came back; flytekit's engine counts.
        return literals if task.python_interface.outputs else LiteralMap({})

    def _run_values(self, task: PythonTask[Any], inputs: dict[str, Any]) -> Any:
        self._workspace.wait()
        with self._showing.wait() as wait:
            with stop_guard(self._workspace.config.stop_grace, wait) as guard:
                run = self._workspace.submit(task, inputs)
                wait.started(run)
                guard.wait([run])
            return run.result()

    def _run_many(self, mapped: Any, inputs: dict[str, Any]) -> list[Any]:
        """A map task: one run for each element, as many at a time as its concurrency says.

        As in propeller, the others are stopped, and no more are started, once too many have failed for it to succeed.
        """
        from flyteagent_nb.running.task_inputs import complete_inputs, mapped_over

        task = mapped.python_function_task
        complete_inputs(mapped, inputs)
        names = list(mapped.interface.inputs)
        over, count = mapped_over(mapped, inputs)
        ratio = getattr(mapped, "_min_success_ratio", None)
        needed = getattr(mapped, "_min_successes", None) or (math.ceil(count * ratio) if ratio is not None else count)
        spare = max(count - needed, 0)  # as many may fail
        run_all = getattr(mapped, "run_all_sub_nodes", False)
        runs: list[Run] = []
        failed: list[Run] = []
        self._workspace.wait()
        with self._showing.group(f"map_task({task.name.removeprefix('__main__.')})"), self._showing.wait() as wait:

            def start_next() -> Run:
                i = len(runs)
                run = self._workspace.submit(
                    task, {name: inputs[name][i] if name in over else inputs[name] for name in names}
                )
                runs.append(run)
                wait.started(run)
                return run

            def ended(run: Run) -> Sequence[Run]:
                if run.error is not None:
                    failed.append(run)
                    if len(failed) == spare + 1 and not run_all:
                        for other in runs:
                            other.cancel()
                return [start_next()] if len(runs) < count and (len(failed) <= spare or run_all) else ()

            try:
                with stop_guard(self._workspace.config.stop_grace, wait) as guard:
                    guard.wait([start_next() for _ in range(min(mapped.concurrency or count, count))], ended)
            except Exception:  # an element that cannot be sent: nobody waits for the others any more
                for run in runs:
                    run.cancel()
                raise
            if len(failed) > spare:
                failed[0].result()
        if not mapped.interface.outputs:
            return []
        return [None if run.error is not None else run.result() for run in runs]


def _compiled_workflow() -> str:
    """The name of the workflow that flytekit is putting together, while it runs nothing; else an empty string."""
    from flytekit import FlyteContextManager

    state = FlyteContextManager.current_context().compilation_state
    return "" if state is None else getattr(state.task_resolver, "name", "") or "a workflow"
