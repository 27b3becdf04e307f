"""A cell -> a flytekit task and its inputs: by the task class of a plug-in, as a bare configuration, or Python that defines one.

The text goes in as it stands: no templating, no ``eval`` of values. What varies is an input, as it will be in production.
Which language a cell is in follows from what the task class takes (:mod:`~flyteagent_nb.notebook.task_classes`).
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from flyteagent_nb.errors import ArgumentError, CellError, FlyteAgentNBError, closest
from flyteagent_nb.notebook import bodies
from flyteagent_nb.notebook.annotations import check_type, dataframe_type, listed, type_of_text, typed_value
from flyteagent_nb.notebook.building import build, sql_outputs
from flyteagent_nb.notebook.function_classes import without_code
from flyteagent_nb.notebook.python_cells import python_task
from flyteagent_nb.notebook.task_classes import import_plugin_of, prompt_input, task_classes, task_types
from flyteagent_nb.notebook.values import config_value, variable
from flyteagent_nb.tables import declared, portable

if TYPE_CHECKING:
    import ast
    from collections.abc import Callable, Iterable

    from flytekit.core.base_task import PythonTask

    from flyteagent_nb.notebook.arguments import AgentTaskArguments
    from flyteagent_nb.notebook.task_classes import TaskClass


class CellTask(NamedTuple):
    """What a cell describes.

    Attributes:
        task: the task.
        inputs: the values of its inputs by name, with what the body of the cell is for one of them.
    """

    task: PythonTask[Any]
    inputs: dict[str, Any]


def task_of_cell(
    arguments: AgentTaskArguments,
    body: str,
    *,
    namespace: dict[str, Any],
    inputs: Mapping[str, Any],
    compile_python: Callable[[str], tuple[ast.Module, Callable[[], Any]]],
    versions: Callable[[str], Iterable[int]],
    default_name: str,
) -> CellTask:
    """The task that a cell describes, and its inputs.

    Args:
        arguments: the magic's line.
        body: the cell's text.
        namespace: the user's.
        inputs: the values of the inputs, from which all but Python cells have their types.
        compile_python: compiles Python: its tree, and what runs it in the user's namespace and returns the value of its last
            expression, or None. Raises SyntaxError.
        versions: the served versions of a task type, empty where nobody serves it.
        default_name: the task's name where the line gives none.

    Raises:
        CellError: the body is empty and may not be, does not parse, or has no task in it.
        ArgumentError: options that do not go with it.
    """
    __tracebackhide__ = _rich_traceback_omit = True  # an error in the user's own Python is not ours to explain
    task_type, language = arguments.task_type, arguments.language
    empty = not body.strip()
    if not task_type and language not in ("auto", "python") and not empty:
        raise ArgumentError(
            f"a cell in {language} needs its task type", hint="%%agent_task TASK_TYPE ...; %agent types lists them"
        )
    classes = task_classes(task_type) if task_type else []
    if task_type and not classes and import_plugin_of(task_type):
        classes = task_classes(task_type)
    if empty:
        language = "none" if task_type and language != "python" else language
    elif language == "auto":
        language = _language(task_type, body, classes, raw=arguments.returns is not None)
    given = {name: portable(value) for name, value in inputs.items()}
    cell = _Cell(
        arguments,
        body,
        namespace,
        classes,
        {name: listed(value) for name, value in given.items()} if language == "sql" else given,
        sorted(versions(task_type)),
        arguments.name or default_name,
    )
    if language in ("auto", "python") and empty:
        raise CellError("the cell is empty", hint="%%agent_task --help shows what to write in it")
    if language not in ("auto", "python") and (read := cell.read(language)) is not None:
        return read
    made = cell.of_function if cell.functions else None
    return CellTask(python_task(arguments, body, namespace, compile_python, made), dict(inputs))


def _language(task_type: str, body: str, classes: list[TaskClass], *, raw: bool) -> str:
    """What a cell is written in; ``open`` where the task's own interface tells."""
    told = {kind.language for kind in classes}
    for language in ("sql", "shell", "prompt"):
        if language in told:
            return language
    if task_type and classes and not raw and told != {"python"}:
        return "open"
    return "python" if not task_type or bodies.looks_like_python(body) else bodies.mapping_language(body)


class _Cell:
    """A cell with all that is known of it."""

    def __init__(
        self,
        arguments: AgentTaskArguments,
        body: str,
        namespace: dict[str, Any],
        classes: list[TaskClass],
        inputs: dict[str, Any],
        served: list[int],
        name: str,
    ) -> None:
        self.arguments = arguments
        self.body = body
        self.namespace = namespace
        self.classes = [kind for kind in classes if kind.language != "python"]
        self.functions = [kind for kind in classes if kind.language == "python"]
        # Where nothing is known of its configuration, settings alone are the task's own, sent as they stand.
        self.configured = [kind for kind in self.functions if kind.settings]
        self.given = inputs
        self.served = served
        self.name = name
        self.task_type = arguments.task_type
        self.outputs = None
        if arguments.returns is not None:
            self.outputs = {
                name: declared(type_of_text(text, namespace)) for name, text in arguments.returns if text != "None"
            }
            for output, text in arguments.returns:
                check_type(self.outputs.get(output), f"--returns {output}:{text}")

    @functools.cached_property
    def _typed(self) -> dict[str, tuple[Any, Any]]:
        return {name: typed_value(value, name) for name, value in self.given.items()}

    @property
    def inputs(self) -> dict[str, Any]:
        """The values of the inputs, each of the type that is chosen for it."""
        return {name: value for name, (value, _) in self._typed.items()}

    @property
    def input_types(self) -> dict[str, Any]:
        """Those types; a function has its own."""
        return {name: python_type for name, (_, python_type) in self._typed.items()}

    def read(self, language: str) -> CellTask | None:
        """The task, by the language of the cell; None where it turns out to be Python."""
        if language == "none":
            return self._without_body()
        if language == "open":
            return self._prompt_or_mapping()
        if language == "prompt":
            return self._prompt()
        if language in ("sql", "shell"):
            return CellTask(self._text_task(language), self.inputs)
        return self._mapping_task(language)

    def of_function(self, function: Callable[..., Any]) -> PythonTask[Any]:
        """A task of a function of the cell, with the settings of the line."""
        return self._made(self.functions, self._settings(), function=function)

    # --- each language ---

    def _text_task(self, language: str) -> PythonTask[Any]:
        classes = [kind for kind in self.classes if kind.language == language]
        if not classes and language == "sql" and self.served:
            return self._bare(self._line(), sql=self.body)  # an agent with no task class, that reads the template's SQL
        if not classes:
            word = {"sql": "an SQL task", "shell": "a task with a shell script", "prompt": "a task with a prompt"}[
                language
            ]
            known = task_types(language)
            near = closest(self.task_type, known)
            raise CellError(
                f"no installed plug-in has {word} for '{self.task_type}'",
                hint=(f"did you mean {near}? " if near else "")
                + f"the task types that have are: {', '.join(known) or 'none'}",
            )
        return self._made(classes, self._settings(), body=self.body)

    def _prompt(self) -> CellTask:
        """The body is the prompt, because the line or the task class says so."""
        if any(kind.language == "prompt" for kind in self.classes) or not self.classes:
            return CellTask(self._text_task("prompt"), self.inputs)
        task = self._made(self.classes, self._settings())
        prompt = prompt_input(task.python_interface.inputs, (), any_text=True)
        if prompt is None:
            raise CellError(
                f"no input of '{self.task_type}' takes a prompt", hint=f"give its inputs with -i: {_signature(task)}"
            )
        return self._with_prompt(task, prompt)

    def _prompt_or_mapping(self) -> CellTask | None:
        """The body is the one text that the task asks for, or its settings, or Python after all."""
        failed: FlyteAgentNBError | None = None
        told = ""
        try:
            task = self._made(self.classes, self._settings())
        except FlyteAgentNBError as error:
            if self.arguments.config_variable:
                raise
            failed = error  # settings are missing on the line: they may stand in the cell
        else:
            prompt = prompt_input(task.python_interface.inputs, ())
            if prompt is not None and prompt not in self.inputs:
                return self._with_prompt(task, prompt)
            told = prompt or ""
        if bodies.looks_like_python(self.body):
            return None
        try:
            return self._mapping_task(bodies.mapping_language(self.body))
        except CellError as error:
            if failed is not None and error.__cause__ is None:
                raise failed from None
            if told:
                raise CellError(
                    f"-i {told} gives the text already, so the cell is the configuration, and {error.message}",
                    line=error.line,
                    hint=f"leave -i {told} out where the cell is the text, or write `key: value` lines, or nothing",
                ) from None
            raise

    def _with_prompt(self, task: PythonTask[Any], prompt: str) -> CellTask:
        if prompt in self.inputs:
            raise ArgumentError(
                f"'{prompt}' is given twice: by -i and by the cell", hint=f"leave -i {prompt} out, or the cell empty"
            )
        # The notebook ends each cell with a line break that nobody wrote.
        return CellTask(task, {**self.inputs, prompt: self.body.removesuffix("\n")})

    def _mapping_task(self, language: str) -> CellTask:
        if self.arguments.config_variable:
            raise ArgumentError(
                "--config goes with SQL, a script or a prompt: the cell is the configuration",
                hint="write it into the cell, or use -c KEY=VALUE",
            )
        written = bodies.mapping(self.body, language)
        takes = [kind for kind in self.classes if kind.all_settings]
        if self.outputs is None and self.classes and (takes or not written):
            return CellTask(self._made(takes or self.classes, [*written.items(), *self._line().items()]), self.inputs)
        if self.outputs is None and self.configured:
            return CellTask(self._without_code([*written.items(), *self._line().items()]), self.inputs)
        return CellTask(self._bare({**written, **self._line()}), self.inputs)

    def _without_body(self) -> CellTask:
        """All is on the line, and the task needs no text."""
        given = self._settings()
        keys = {key.partition(".")[0] for key, _ in given} if isinstance(given, list) else set()
        ready = [kind for kind in self.classes if not kind.needs_body or kind.body in keys]
        if ready and self.outputs is None and self.arguments.language in ("auto", "yaml", "json", "prompt"):
            task = self._alone(ready, given)
            prompt = prompt_input(task.python_interface.inputs, ())
            if prompt is not None and prompt not in self.inputs:
                raise CellError(
                    "the cell is empty", hint=f"write the {prompt} into the cell, or give it with -i {prompt}=..."
                )
            return CellTask(task, self.inputs)
        if self.configured and given and self.outputs is None:
            return CellTask(self._without_code(given), self.inputs)
        if not self.classes and keys and isinstance(given, list):
            return CellTask(self._bare(dict(given)), self.inputs)
        needs = next((f"write the {kind.body} of the task into it" for kind in self.classes if kind.body), "")
        bare = "" if self.classes else "write the settings of the task into it, or {} where it has none"
        raise CellError("the cell is empty", hint=needs or bare or "%%agent_task --help shows what to write in it")

    def _alone(self, classes: list[TaskClass], given: Any) -> PythonTask[Any]:
        """A task of the classes that need no body; where they need more settings, a body may be the better way."""
        try:
            return self._made(classes, given)
        except (ArgumentError, CellError) as error:
            body = next((kind.body for kind in self.classes if kind.needs_body and kind.body), "")
            if body:
                error.hint = "; ".join(part for part in (error.hint, f"or write the {body} into the cell") if part)
            raise

    def _without_code(self, given: Any) -> PythonTask[Any]:
        """A task of a class that wants a function, where the cell has none: its configuration is all there is to it."""
        return self._made(self.configured, given, function=without_code(self.name, self.input_types))

    # --- the settings and the task ---

    def _line(self) -> dict[str, Any]:
        return {key: config_value(text, self.namespace) for key, text in self.arguments.config}

    def _settings(self) -> list[tuple[str, Any]] | Any:
        """What the line sets, a later one over an earlier: pairs of key and value, or the finished object of ``--config``."""
        pairs = [(key, config_value(text, self.namespace)) for key, text in self.arguments.config]
        if not self.arguments.config_variable:
            return pairs
        given = variable(self.arguments.config_variable, self.namespace)
        if isinstance(given, Mapping):
            return [*given.items(), *pairs]
        if pairs:
            raise ArgumentError("-c does not go with a finished --config", hint="make --config a dict, or leave -c out")
        return given

    def _made(
        self,
        classes: list[TaskClass],
        given: Any,
        *,
        body: str | None = None,
        function: Callable[..., Any] | None = None,
    ) -> PythonTask[Any]:
        """A task of the class that knows what is given."""
        kind = classes[0]
        if isinstance(given, list):
            keys = {key.partition(".")[0] for key, _ in given}
            knowing = (k for k in classes if keys <= (k.settings if body is not None else k.all_settings).keys())
            kind = next(knowing, next((k for k in classes if k.open_mapping), kind))
        outputs = self.outputs
        if kind.language == "sql" and body is not None and outputs is None and not kind.fixes_outputs:
            outputs = sql_outputs(body, named=bool(self.arguments.outputs), frame=dataframe_type())
        task = build(
            kind, given, name=self.name, body=body, input_types={} if function else self.input_types, outputs=outputs,
            said=self.arguments.returns is not None, function=function,
        )  # fmt: skip
        if function is not None and task.task_type != self.task_type:  # what the class makes of its settings
            told = f"{kind.cls.__name__} makes a {task.task_type} of these settings, not a {self.task_type}"
            raise CellError(told, hint="change the settings, or the task type")
        return task

    def _bare(self, custom: dict[str, Any], *, sql: str | None = None) -> PythonTask[Any]:
        """A task that is its type, its configuration and its interface."""
        from flytekit.core.base_task import PythonTask
        from flytekit.core.interface import Interface
        from flytekit.extend.backend.base_connector import AsyncConnectorExecutorMixin
        from flytekit.models.task import Sql

        bodies.check_numbers(custom)
        outputs = self.outputs
        if sql is not None and outputs is None:
            outputs = sql_outputs(sql, named=bool(self.arguments.outputs), frame=dataframe_type())

        class CustomTask(AsyncConnectorExecutorMixin, PythonTask[None]):  # type: ignore[misc]
            """A task without a class of its own."""

            def get_custom(self, settings: Any) -> dict[str, Any]:
                """The cell's mapping."""
                return custom

            def get_sql(self, settings: Any) -> Any:
                """The cell's SQL."""
                return None if sql is None else Sql(statement=sql, dialect=Sql.Dialect.ANSI)

        served = self.served
        return CustomTask(
            task_type=self.task_type,
            name=self.name,
            interface=Interface(inputs=self.input_types, outputs=outputs or {}),
            task_type_version=0 if 0 in served or not served else served[-1],
        )


def _signature(task: PythonTask[Any]) -> str:
    return (
        ", ".join(f"{name}: {getattr(t, '__name__', t)}" for name, t in task.python_interface.inputs.items()) or "none"
    )
