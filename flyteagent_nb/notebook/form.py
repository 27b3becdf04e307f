"""The form of a task as a block: it runs the task with what was typed, again and again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from flyteagent_nb.errors import FlyteAgentNBError, InputError, closest
from flyteagent_nb.notebook.blocks import RunBlock
from flyteagent_nb.notebook.field_types import JSON, FieldKind
from flyteagent_nb.notebook.fields import all_fields, fields_of, fitting, values_of
from flyteagent_nb.notebook.form_views import form_html, form_text
from flyteagent_nb.notebook.page import Block
from flyteagent_nb.notebook.render import in_field

if TYPE_CHECKING:
    from flytekit.core.base_task import PythonTask

    from flyteagent_nb.notebook.fields import Field
    from flyteagent_nb.notebook.page import Page
    from flyteagent_nb.running.run import Run
    from flyteagent_nb.workspace import Workspace


_FREE = JSON | {FieldKind.TEXT, FieldKind.DATA, FieldKind.LITERAL}
"""The kinds of fields that take any text, so stars too."""


class FormBlock(Block):
    """The form of a task: it runs the task again and again, with what was typed.

    Args:
        task: the task.
        workspace: what runs it.
        page: the page it is shown on.
        namespace: the user's variables.
        values: Python values to fill in, by input.
        command: what the magic called the task; empty where its cell defined it.
        options: for ``workspace.submit``: service, retries, timeout, code.

    Attributes:
        run: the last run, or None.

    Raises:
        InputError: a value for an input that the task does not have.
    """

    def __init__(
        self,
        task: PythonTask[Any],
        workspace: Workspace,
        page: Page,
        namespace: Mapping[str, Any],
        *,
        values: Mapping[str, Any] | None = None,
        command: str = "",
        **options: Any,
    ) -> None:
        super().__init__()
        self._task = task
        self._workspace = workspace
        self._page = page
        self._namespace = namespace
        self._options = options
        self._called = command
        self._fields = fields_of(task.python_interface, values, namespace)
        names = [field.name for field in self._fields]
        for name in values or {}:
            if name not in names:
                near = closest(name, names)
                hint = f"did you mean {near}?" if near else f"its inputs are: {', '.join(names) or 'none'}"
                raise InputError(f"task '{task.name}' has no input '{name}'", task=task.name, name=name, hint=hint)
        self._texts: dict[str, str | bool] = {}
        self._errors: dict[str, str] = {}
        self._resets = 0
        self._closed = False
        self._below: RunBlock | None = None
        self._judge: Run | None = None  # the run whose error may still be about what the form shows
        self._shown: tuple[object, ...] = ()
        self.run: Run | None = None

    @property
    def live(self) -> bool:
        """Whether it can still run something."""
        return not self._closed

    def changed(self) -> bool:
        """Whether something was clicked, or the run under it goes on."""
        below = self._below
        return self._state() != self._shown or (below is not None and below.live and below.changed())

    def _state(self) -> tuple[object, ...]:
        over = self.run is None or self.run.done
        return self._closed, self._resets, self._texts, self._errors, self.run, over

    def close(self) -> None:
        """Nothing runs from here any more; the inputs and the last run stay."""
        self._closed = True
        self._page.touch(self)

    def act(self, message: dict[str, Any]) -> None:
        """Run or Reset was clicked, on the page's thread."""
        if self._closed:
            return
        if message.get("do") == "reset":
            self._texts, self._errors, self._judge = {}, {}, None
            self._resets += 1
        elif message.get("do") == "run" and (self.run is None or self.run.done):
            self._judge = None
            self._texts = self._sent(message.get("fields"))
            values, self._errors = values_of(self._fields, self._texts, self._namespace)
            if not self._errors:
                self._submit(values)

    def _sent(self, fields: Any) -> dict[str, str | bool]:
        """What the page sent, as far as it is of this form. A text that a page alters by itself is as it was."""
        sent = fields if isinstance(fields, Mapping) else {}
        found: dict[str, str | bool] = {}
        for field in all_fields(self._fields):
            text, before = sent.get(field.name), self._texts.get(field.name, field.text)
            if isinstance(text, (str, bool)):
                found[field.name] = (
                    before if isinstance(before, str) and text == self._shown_text(field, before) else text
                )
        return found

    def _shown_text(self, field: Field, text: str) -> str:
        """What a page gives back for a field's text that nobody altered."""
        return in_field(self._workspace.masking.text(text) if field.kind in _FREE else text)

    def _told(self) -> dict[str, str | bool]:
        """What was typed, and what was filled in where that has a value known as secret: a notebook would keep it."""
        told = dict(self._texts)
        for field in all_fields(self._fields):
            text = told.get(field.name, field.text)
            if field.kind in _FREE and isinstance(text, str):
                masked = self._workspace.masking.text(text)
                if masked != text:
                    told[field.name] = masked
        return told

    def _submit(self, values: dict[str, Any]) -> None:
        try:
            run = self._workspace.submit(self._task, values, **self._options)
        except FlyteAgentNBError as error:
            self._blame(error)
        except Exception as error:  # whatever the task's own class raises: a person must see it, and the page goes on
            self._errors = {"": f"{type(error).__name__}: {error}"}
        else:
            self._below = RunBlock(run, self._workspace, self._page)
            self.run = self._judge = run
            run.watch(lambda _: self._page.touch(self))

    def _blame(self, error: FlyteAgentNBError) -> None:
        """Show an error at the input that it names, else at the foot."""
        name = error.name if isinstance(error, InputError) else ""
        told = f"{error.message}; {error.hint}" if error.hint else error.message
        self._errors = {name if any(field.name == name for field in self._fields) else "": told}

    def says(self) -> str:
        """What is wrong, else how the run under it goes."""
        wrong = [f"{name}: {told}" if name else told for name, told in self._errors.items()]
        return "; ".join(wrong) or (self._below.says() if self._below is not None else "")

    def text(self) -> str:
        """The inputs, and how the task is run without a browser."""
        return form_text(
            self._task.name,
            self._task.task_type,
            self._fields,
            self._told(),
            self._command(),
            self._below.text() if self._below is not None else "",
        )

    def _command(self) -> str:
        """What a magic calls the task: the variable that holds it; empty where none does."""
        names = (name for name, value in list(self._namespace.items()) if value is self._task and name[:1] != "_")
        return next(names, self._called)

    def html(self, kernel: str) -> str:
        """The form, and the last run under it."""
        self._shown = self._state()
        errors = dict(self._errors)
        failed = self._judge.error if self._judge is not None else None
        if isinstance(failed, InputError) and failed.name:  # what a worker could not convert
            errors[failed.name] = failed.message
        errors = self._workspace.masking.value(errors)
        return form_html(
            self._task.name,
            self._task.task_type,
            self._fields,
            self._told(),
            errors,
            kernel=kernel,
            block=self.id,
            command=self._command(),
            below=self._below.html(kernel) if self._below is not None else "",
            variables={f.name: fitting(f, self._namespace) for f in all_fields(self._fields)} if kernel else {},
            busy=self.run is not None and not self.run.done,
            reset=self._resets,
        )
