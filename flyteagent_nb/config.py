"""The settings. Their help text is their documentation: ``%config FlyteAgentNB`` prints it.

Each can be set in a notebook (``%config FlyteAgentNB.pace = "propeller"``) or by an environment variable
(``FLYTEAGENT_NB_PACE=propeller``). A run keeps the settings that it was submitted with.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import traitlets
from traitlets import Bool, Dict, Enum, Int, TraitError, Unicode
from traitlets.config import SingletonConfigurable

from flyteagent_nb.errors import closest

if TYPE_CHECKING:
    from collections.abc import Mapping

    from traitlets.config import Config

ENVIRONMENT_PREFIX = "FLYTEAGENT_NB_"

LONGEST = 97_200_000.0
"""The longest deadline in seconds, three years, that gRPC sends; of a much longer one it says that it has passed."""


@dataclass(frozen=True)
class Settings:
    """The settings of one run, frozen. The fields are the traits of :class:`FlyteAgentNB`."""

    pace: str = "adaptive"
    deadline: float = 10.0
    deadlines: Mapping[str, float] = field(default_factory=dict)
    poll_failure_limit: float = 60.0
    stop_grace: float = 5.0
    calls_in_flight: int = 32
    poll_rate: float = 200.0
    runs_kept: int = 10_000
    code: str = ""
    run_folder: str = ""
    data_folder: str = ""
    journal: bool = True
    days_kept: float = 90.0
    on_close: str = "leave"
    tcp: bool = False
    project: str = "flytesnacks"
    domain: str = "development"


class Float(traitlets.Float):  # type: ignore[type-arg]  # older releases of traitlets have no arguments
    """A finite number, with words for what is none."""

    def __init__(self, *args: Any, unlimited: bool = False, most: float = math.inf, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        most_words = f" of at most {most:,.0f}" if most < math.inf else ""
        self.info_text = f"a finite number{most_words}" + (" (0 means no limit)" if unlimited else "")
        self._most = most

    def validate(self, obj: Any, value: Any) -> Any:
        """The value, where it is finite and not too large."""
        value = super().validate(obj, value)
        if not math.isfinite(value) or value > self._most:
            self.error(obj, value)
        return value


class FlyteAgentNB(SingletonConfigurable):
    """Run Flyte agents in this kernel."""

    pace = Enum(
        ["adaptive", "propeller"],
        default_value=Settings.pace,
        help="How fast a job is polled. 'adaptive' begins with milliseconds and slows down with the job's age; 'propeller' keeps "
        "FlytePropeller's own interval, rate and failure limit. Deadlines, retries and timeouts are propeller's in both.",
    ).tag(config=True)
    deadline = Float(
        Settings.deadline,
        min=0.0,
        most=LONGEST,
        unlimited=True,
        help="Seconds a call of an agent service may take; 0 for no limit. FlytePropeller's default service has 10.",
    ).tag(config=True)
    deadlines = Dict(
        value_trait=Float(min=0.0, most=LONGEST, unlimited=True),
        key_trait=Enum(["CreateTask", "GetTask", "DeleteTask", "ExecuteTaskSync", "ListAgents"]),
        help="Seconds by operation, where they differ from `deadline`: {'ExecuteTaskSync': 60.0}.",
    ).tag(config=True)
    poll_failure_limit = Float(
        Settings.poll_failure_limit,
        min=0.0,
        most=LONGEST,
        help="Seconds that polls may fail in a row before the run fails with their last error, after five at the least.",
    ).tag(config=True)
    stop_grace = Float(
        Settings.stop_grace,
        min=0.0,
        most=LONGEST,
        help="Seconds that a stopped cell waits for its job to be deleted before it raises.",
    ).tag(config=True)
    calls_in_flight = Int(
        Settings.calls_in_flight,
        min=1,
        help="Calls of each agent service under way at once, over all runs; polls go before creates.",
    ).tag(config=True)
    poll_rate = Float(
        Settings.poll_rate,
        min=1.0,
        help="Polls a second, over up to 100 runs; with more it grows, slower than they do.",
    ).tag(config=True)
    runs_kept = Int(
        Settings.runs_kept,
        min=1,
        help="Finished runs that are kept, here and in the journal; the oldest go first, with their files.",
    ).tag(config=True)
    code = Enum(
        ["", "kernel", "pickle", "image"],
        default_value=Settings.code,
        help="How an agent gets at the code of a function task that is defined in the notebook. 'kernel': it runs in this "
        "kernel and imports __main__; 'pickle': the function is pickled into the run's folder, as flytekit's own interactive "
        "mode does; 'image': the task's container image has it. Empty: such a task is refused, as a job that could not find "
        "its code would fail later.",
    ).tag(config=True)
    run_folder = Unicode(
        Settings.run_folder,
        help="The folder for inputs and outputs of runs, as it is when the agent service starts. Empty: the folder runs beside the "
        "journal, or a private temporary folder that goes with the kernel where there is no journal.",
    ).tag(config=True)
    data_folder = Unicode(
        Settings.data_folder,
        help="The folder of the journal, which lets a later kernel find the runs of this one. Takes effect when the extension is loaded. "
        "Empty: flyteagent_nb in the platform's folder for a user's data.",
    ).tag(config=True)
    journal = Bool(
        Settings.journal,
        help="Keep runs in the journal on disk, so that they are found again after a restart. Takes effect when the extension is loaded.",
    ).tag(config=True)
    days_kept = Float(
        Settings.days_kept,
        min=0.0,
        unlimited=True,
        help="Days that a finished run is kept in the journal; 0 for no limit.",
    ).tag(config=True)
    on_close = Enum(
        ["leave", "delete"],
        default_value=Settings.on_close,
        help="What becomes of jobs under way when the extension is unloaded or the kernel is shut down: 'leave' them running, on record, "
        "or 'delete' them as far as two seconds allow.",
    ).tag(config=True)
    tcp = Bool(
        Settings.tcp,
        help="Let the kernel's own service listen on loopback TCP with a token, as it does where there are no Unix sockets. "
        "Takes effect when the extension is loaded.",
    ).tag(config=True)
    project = Unicode(Settings.project, help="The project that a run's execution id names.").tag(config=True)
    domain = Unicode(Settings.domain, help="The domain that a run's execution id names.").tag(config=True)

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        for name, trait in self.class_traits(config=True).items():
            text = os.environ.get(ENVIRONMENT_PREFIX + name.upper())
            if text is None or name in kwargs:
                continue
            try:
                setattr(self, name, trait.from_string(text))
            except (TraitError, ValueError) as error:
                raise TraitError(f"{ENVIRONMENT_PREFIX}{name.upper()}={text!r}: {error}") from error

    def update_config(self, config: Config) -> None:
        """Take what ``%config`` sets.

        Raises:
            TraitError: there is no such setting, of which traitlets tells the kernel's log alone.
        """
        super().update_config(config)
        known = self.trait_names(config=True)
        for name in config.get(type(self).__name__, {}):
            if name not in known:
                near = closest(name, known)
                told = f"did you mean {near}?" if near else f"the settings are: {', '.join(sorted(known))}"
                raise TraitError(f"there is no setting '{name}'; {told}")

    @property
    def data_path(self) -> Path | None:
        """The folder of the journal, as the setting or the platform has it; None where that needs a home folder, and there is none."""
        import platformdirs

        try:
            path = Path(self.data_folder or platformdirs.user_data_dir("flyteagent_nb", appauthor=False)).expanduser()
        except RuntimeError:  # a container's user that the system does not know, without HOME
            return None
        return path.absolute()

    def freeze(self) -> Settings:
        """The settings as they are now."""
        values = {f.name: getattr(self, f.name) for f in fields(Settings)}
        values["deadlines"] = dict(values["deadlines"])
        return Settings(**values)
