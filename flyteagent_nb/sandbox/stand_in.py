"""What a stand-in is: a server process on loopback, what makes a connector of this kernel find it, and how a table gets into it."""

from __future__ import annotations

import abc
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path


@dataclass(frozen=True)
class Place:
    """Where a stand-in runs.

    Attributes:
        ports: free loopback ports, as many as :attr:`StandIn.ports` says, in that order.
        folder: a private folder of its own, which goes when it stops.
    """

    ports: tuple[int, ...]
    folder: Path


class StandIn(abc.ABC):
    """One service's stand-in. An instance is started once.

    Attributes:
        name: the word in ``%agent sandbox NAME``.
        service: what it stands in for, as people call it: ``BigQuery``.
        product: the distribution that does it: ``bqemulator``.
        task_types: the task types whose runs then go to it.
        requirements: what must be installed where it runs, with pins, when it gets an environment of its own.
        pythons: the versions that it runs on: at least the first, below the second.
        extra: the extra of this package that brings the connector, which must be in the kernel's own environment.
        connector: the distribution of that connector.
        ports: how many ports it listens on.
        covers: what works on it, in one line.
        misses: what it does not do, or does in another way than the service, in one line.
    """

    name: str
    service: str
    product: str
    task_types: tuple[str, ...]
    requirements: tuple[str, ...]
    pythons: tuple[tuple[int, int], tuple[int, int]] = ((3, 10), (3, 15))
    extra: str
    connector: str
    ports: int = 1
    covers: str
    misses: str

    @abc.abstractmethod
    def command(self, python: str, place: Place) -> Sequence[str]:
        """What starts the server with the interpreter ``python``, which has :attr:`requirements`. It stays in the foreground."""

    @abc.abstractmethod
    def answers(self, place: Place) -> bool:
        """Whether the server serves. Asked some times a second while it starts; raises nothing, waits a second at the most."""

    @abc.abstractmethod
    def environment(self, place: Place) -> Mapping[str, str]:
        """The environment variables by which the connector finds it. Set for this kernel while it runs, then put back."""

    def attach(self, place: Place) -> Callable[[], object]:
        """Change in this process what variables cannot; what is returned puts it back. Called after :meth:`environment` is set."""
        return lambda: None

    def check_table(self, table: str) -> None:
        """Look whether a table may be called so, before anything is started.

        Raises:
            ArgumentError: it may not.
        """
        from flyteagent_nb.errors import ArgumentError

        raise ArgumentError(
            f"the {self.name} sandbox has no tables", hint=f"leave --table out; it covers: {self.covers}"
        )

    def load(self, table: str, data: Any, place: Place) -> str:
        """Make a table of a DataFrame (pandas, Polars), an Arrow table, or the path of a CSV, Parquet or JSON file.

        An existing table of that name is replaced; the dataset or schema is made where there is none.

        Returns:
            The table's name as a query must write it, and its size: ``shop.orders, 3 rows``.

        Raises:
            ArgumentError: the name or the data do not do.
        """
        self.check_table(table)
        raise NotImplementedError
