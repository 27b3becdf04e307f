"""The known faults of flytekit's Airflow connector; ``tests/connectors/test_airflow.py`` drives real operators into them."""

from __future__ import annotations

from flyteagent_nb.serving.known_fault import KnownFault

_ALSO = "the same."


def _fault(name: str, what: str, here: str, remedy: str, production: str = _ALSO, sign: str = "") -> KnownFault:
    return KnownFault(
        f"airflow-{name}", "airflow", "flytekitplugins-airflow", ("1.16.31",), what, here, production, remedy, sign
    )


# fmt: off
AIRFLOW_FAULTS = (
    _fault("fork-crash", "an operator that starts a process forks inside the service, which gRPC's fork support may end with a crash.",
        "exit code -11 now and then, where flytekit was imported before %load_ext.", "Load flyteagent_nb before flytekit.",
        "exit code -11 in about one of five commands, until GRPC_ENABLE_FORK_SUPPORT=0 is set for the connector service.",
        r"exit code -11\b"),
    _fault("lambda-dropped", "a lambda or a nested function among an operator's arguments is dropped without a word.",
        "a sensor with such a response_check succeeds at once; a PythonOperator misses its python_callable.",
        "Write a named function in a module.", sign=r"missing keyword argument 'python_callable'"),
    _fault("notebook-function", "a function of the notebook is sent by its name only.", "it works, in this kernel.",
        "Write it into a module that the connector's image has.", "the connector has no such __main__, and drops it."),
    _fault("create-blocks", "an operator that is not deferrable runs wholly inside create, on the event loop.",
        "other calls wait meanwhile; after 10 s the create has passed its deadline, and a retry runs the command again.",
        "Keep such commands short, run them in a container task, or raise the deadline of CreateTask."),
    _fault("trigger-restarted", "each poll of a deferrable operator starts its trigger anew and drops it after two seconds.",
        "a slow HttpOperator sends its request again with each poll.", "Give the task a timeout, and do not send slow or unrepeatable "
        "requests so."),
    _fault("sensor-arguments-ignored", "a sensor's own timeout and poke_interval, and an operator's retries, count for nothing.",
        "Flyte's own timeout and retries hold.", "Use the task's timeout and retries."),
    _fault("templates-not-rendered", "Jinja templates in an operator's arguments are not rendered.", "{{ ds }} goes out as it stands.",
        "Pass the values."),
    _fault("delete-does-nothing", "delete stops nothing outside: on_kill is never called.",
        "a cancelled run's command or request goes on.", "Stop it where it runs."),
    _fault("dag-broken", "operators are patched for the whole process: one inside `with DAG(...)` runs at once.",
        "DuplicateTaskIdFound.", "Keep DAGs out of this process.", sign="DuplicateTaskIdFound"),
    _fault("no-outputs", "tasks have no outputs, and what goes to XCom is lost.", "no outputs.",
        "Write a file, and read it in the next task."),
    _fault("sensor-raises", "a sensor that raises counts as a poll that failed, not as a failure.",
        "an unknown connection or an answer of 5xx takes a minute to fail the run.",
        "Define the connection: AIRFLOW_CONN_<ID>=http://...", "it is polled until propeller gives up.",
        r"The conn_id `.*` isn't defined|AirflowException: 5\d\d"),
)
# fmt: on
