"""The statements of a notebook's cells: which of them says what a name is, and which names it needs itself. Nothing is run."""

from __future__ import annotations

import ast
import builtins
import linecache
import symtable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_MAGIC = "get_ipython"
_IPYTHON = frozenset({_MAGIC, "display"})  # it puts them among Python's own
_DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
_IMPORTS = (ast.Import, ast.ImportFrom)
_LOOPS = (ast.For, ast.AsyncFor, ast.While)
_COMPOUND = (*_LOOPS, ast.If, ast.With, ast.AsyncWith, ast.Try, ast.Match)
_COMPREHENSIONS = frozenset({"listcomp", "setcomp", "dictcomp", "genexpr"})
_RUNNING = frozenset({"time", "capture", "prun", "agent_task"})
"""Cell magics that run what is below them among the notebook's own names."""

Point = tuple[int, int]
"""A line and a column."""


class Cell(NamedTuple):
    """A cell that ran.

    Attributes:
        source: it as Python, magics as IPython translates them.
        ran_body: of an ``%%agent_task``: whether its body is Python and was run, and not sent to an agent as SQL, a prompt or settings.
        raised: where it raised, and where the body below its magic did; empty where it ran to its end.
    """

    source: str
    ran_body: bool = False
    raised: tuple[Point, ...] = ()


@dataclass(frozen=True, eq=False)
class Statement:
    """One top-level statement of a cell.

    Attributes:
        node: its syntax.
        source: its text, as it was written, decorators with it.
        place: the number of its cell and its line, which put statements in order.
        binds: the names that it gives a value.
        eager: the names that it needs when it runs.
        lazy: the names that functions in it need when they are called.
    """

    node: ast.stmt
    source: str
    place: tuple[int, int]
    binds: frozenset[str]
    eager: frozenset[str] = field(repr=False)
    lazy: frozenset[str] = field(repr=False)

    @property
    def is_definition(self) -> bool:
        """Whether it is a function or a class."""
        return isinstance(self.node, _DEFINITIONS)

    @property
    def is_import(self) -> bool:
        """Whether it is an import."""
        return isinstance(self.node, _IMPORTS)

    @property
    def uses_magic(self) -> bool:
        """Whether a magic is in it."""
        return _MAGIC in self.eager | self.lazy


class Cells:
    """The cells of a notebook, in the order in which they ran."""

    def __init__(self, cells: Sequence[Cell]) -> None:
        """Read them; what is not Python is passed over."""
        self.statements: list[Statement] = []
        for number, cell in enumerate(cells):
            self.statements += statements_of(cell, number)
        self._future = {s.place[0] for s in self.statements if _is_future(s.node)}

    def binding(self, name: str, value: Any = None) -> Statement | None:
        """The statement that says what ``name`` is: of a function or class the very one that made ``value``, else the last."""
        if (made := _made_by(name, value)) is not None:
            same = [s for s in self.statements if s.is_definition and s.source == made.source]
            return same[-1] if same else made
        found = [s for s in self.statements if name in s.binds]
        return found[-1] if found else None

    def quotes_annotations(self, statement: Statement) -> bool:
        """Whether the statement's cell says ``from __future__ import annotations``."""
        return statement.place[0] in self._future

    def registrations(self) -> list[tuple[Statement, ast.Call]]:
        """The statements that register agents, each with its call."""
        return [
            (statement, call)
            for statement in self.statements
            if not statement.is_definition
            for call in ast.walk(statement.node)
            if isinstance(call, ast.Call)
            and isinstance(call.func, ast.Attribute)
            and call.func.attr == "register"
            and ast.unparse(call.func.value).endswith("Registry")
        ]


def body_of(source: str) -> str:
    """What is below the cell magic that a cell is; empty where it is none."""
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError):
        return ""
    magic = _cell_magic(tree.body[0]) if tree.body else None
    return magic[1] if magic is not None else ""


def statements_of(cell: Cell, number: int) -> Iterator[Statement]:
    """The top-level statements of a cell that ran; of a cell magic that runs what is below it, those in its body."""
    try:
        tree = ast.parse(cell.source)
    except (SyntaxError, ValueError):  # not Python: SQL, YAML, or a cell that did not run
        return
    for node in tree.body:
        raised = bool(cell.raised) and cell.raised[0] < (node.end_lineno or 0, node.end_col_offset or 0)
        if (magic := _cell_magic(node)) is not None:
            name, body = magic
            below = cell._replace(source=body, raised=cell.raised[1:])
            ran = cell.ran_body if name == "agent_task" else name in _RUNNING and (bool(below.raised) or not raised)
            if ran:
                yield from statements_of(below, number)
            if raised:
                return
            continue
        if raised and not isinstance(node, _COMPOUND):
            return
        try:
            text = _text_of(node, cell.source)
            bound = frozenset(_bound(node, cell.raised[0][0] if raised else None))
            statement = Statement(node, text, (number, node.lineno), bound, *needs_of(text))
        except SyntaxError:  # it parses and does not compile: what stands before it ran, and nothing behind it
            return
        except RecursionError:  # a thousand things in one expression
            continue
        yield statement
        if raised:
            return


def needs_of(source: str) -> tuple[frozenset[str], frozenset[str]]:
    """The global names that a statement needs when it runs, and those that functions in it need when they are called.

    Raises:
        SyntaxError: names in it have no scope that Python would compile: one argument twice, a parameter that is global.
    """
    table = symtable.symtable(source, "<cell>", "exec")
    eager: set[str] = set()
    lazy: set[str] = set()

    def walk(table: symtable.SymbolTable, names: set[str]) -> None:
        top = table.get_type() == "module"
        names |= {s.get_name() for s in table.get_symbols() if s.is_referenced() and (top or s.is_global())}
        for child in table.get_children():
            later = child.get_type() == "function" and child.get_name() not in _COMPREHENSIONS
            walk(child, lazy if later else names)

    walk(table, eager)
    eager |= _quoted(ast.parse(source))
    return frozenset(n for n in eager if not _builtin(n)), frozenset(n for n in lazy - eager if not _builtin(n))


def _quoted(tree: ast.AST) -> set[str]:
    """The names in annotations that are written as texts."""
    found: set[str] = set()
    for node in ast.walk(tree):
        annotation = getattr(node, "annotation", None) or getattr(node, "returns", None)
        for part in ast.walk(annotation) if annotation is not None else ():
            if isinstance(part, ast.Constant) and isinstance(part.value, str):
                try:
                    inner = ast.parse(part.value, mode="eval")
                except (SyntaxError, ValueError):  # a word of Annotated or Literal
                    continue
                found |= {n.id for n in ast.walk(inner) if isinstance(n, ast.Name)}
    return found


def _is_future(node: ast.stmt) -> bool:
    return isinstance(node, ast.ImportFrom) and node.module == "__future__"


def _builtin(name: str) -> bool:
    known = hasattr(builtins, name) and name not in _IPYTHON
    return known or name in ("__name__", "__file__", "__annotations__", "__class__")


def _bound(node: ast.stmt, raised: int | None = None) -> Iterator[str]:
    """The names that a statement binds at the top level; of one that raised, those on the lines before: a loop may have come to all."""
    if raised is not None and isinstance(node, _LOOPS) and node.lineno < raised:
        raised = None
    if isinstance(node, _DEFINITIONS):
        yield node.name
        return
    for part in _shallow(node):
        if raised is not None and getattr(part, "lineno", 0) >= raised:
            continue
        if isinstance(part, ast.Name) and isinstance(part.ctx, ast.Store):
            yield part.id
        elif isinstance(part, _DEFINITIONS):
            yield part.name
        elif isinstance(part, _IMPORTS):
            yield from ((alias.asname or alias.name.partition(".")[0]) for alias in part.names)


def _shallow(node: ast.AST) -> Iterator[ast.AST]:
    """The parts of a statement, without what is inside functions, classes and comprehensions, and annotations of names alone."""
    yield node
    if isinstance(node, ast.AnnAssign) and node.value is None:
        return
    if isinstance(node, (*_DEFINITIONS, ast.Lambda, ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)):
        return
    for child in ast.iter_child_nodes(node):
        yield from _shallow(child)


def _cell_magic(node: ast.stmt) -> tuple[str, str] | None:
    """The name of a cell magic and what is below it; None for any other statement."""
    call = node.value if isinstance(node, ast.Expr) else None
    if not (isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute) and len(call.args) == 3):
        return None
    owner = call.func.value
    is_magic = isinstance(owner, ast.Call) and isinstance(owner.func, ast.Name) and owner.func.id == _MAGIC
    if not is_magic or call.func.attr != "run_cell_magic":
        return None
    name, _, body = (str(each.value) if isinstance(each, ast.Constant) else "" for each in call.args)
    return name, body


def _text_of(node: ast.stmt, source: str) -> str:
    """The statement's lines, decorators with them."""
    first = min([node.lineno, *(d.lineno for d in getattr(node, "decorator_list", ()))])
    lines = source.splitlines()
    if node.col_offset == 0 and (node.end_lineno or first) <= len(lines):
        text = "\n".join(lines[first - 1 : node.end_lineno])
        try:
            if len(ast.parse(text).body) == 1:
                return text
        except SyntaxError:
            pass
    return ast.unparse(node)  # two statements on a line


def _made_by(name: str, value: Any) -> Statement | None:
    """The statement that made a function or class of a cell, found by the code that Python keeps of it."""
    if getattr(value, "__module__", None) != "__main__":
        return None
    owners = [value, *vars(value).values()] if isinstance(value, type) else [value]
    for owner in owners:
        owner = getattr(owner, "__wrapped__", getattr(owner, "fget", None) or getattr(owner, "__func__", owner))
        code = getattr(owner, "__code__", None)
        if code is None:
            continue
        lines = linecache.getlines(code.co_filename)
        for statement in statements_of(Cell("".join(lines)), 0) if lines else ():
            node = statement.node
            first = min([node.lineno, *(d.lineno for d in getattr(node, "decorator_list", ()))])
            if name in statement.binds and first <= code.co_firstlineno <= (node.end_lineno or first):
                return statement
    return None
