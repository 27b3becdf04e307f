"""Rules 1 to 3: which service serves a task type."""

from __future__ import annotations

import pytest

from flyteagent_nb.running.registry import Listing, Route, build_registry, look_up

DEFAULT = Listing("default", (("d", False, (("a", 0), ("b", 0))), ("s", True, (("s", 0),))))
ONE = Listing("one", (("o", True, (("b", 0),)),))
TWO = Listing("two", (("t", False, (("b", 0), ("b", 1))),))


@pytest.mark.parametrize(
    ("default", "named", "forced", "supported", "expected"),
    [
        pytest.param(None, [], {}, {}, {}, id="rule1-nothing"),
        pytest.param(
            DEFAULT,
            [],
            {},
            {},
            {
                ("a", 0): Route("default", False, "listed"),
                ("b", 0): Route("default", False, "listed"),
                ("s", 0): Route("default", True, "listed"),
            },
            id="rule1-default-service",
        ),
        pytest.param(
            Listing("default", DEFAULT.agents[:1]),
            [ONE],
            {},
            {},
            {("a", 0): Route("default", False, "listed"), ("b", 0): Route("one", True, "listed")},
            id="rule1-named-over-default",
        ),
        pytest.param(
            None,
            [ONE, TWO],
            {},
            {},
            {("b", 0): Route("two", False, "listed"), ("b", 1): Route("two", False, "listed")},
            id="rule1-later-over-earlier-all-versions-kept",
        ),
        pytest.param(
            None,
            [Listing("one", (("x", False, (("b", 0),)), ("y", True, (("b", 0),))))],
            {},
            {},
            {("b", 0): Route("one", True, "listed")},
            id="rule1-later-agent-over-earlier",
        ),
        pytest.param(
            None,
            [ONE, TWO],
            {("b", 0): "one", ("z", 0): "gone"},
            {},
            {
                ("b", 0): Route("one", True, "explicit"),
                ("b", 1): Route("two", False, "listed"),
                ("z", 0): Route("gone", False, "explicit"),
            },
            id="rule3-forced-over-listed-keeps-the-agents-kind",
        ),
        pytest.param(
            None,
            [ONE],
            {("b", 0): "silent"},
            {},
            {("b", 0): Route("silent", False, "explicit")},
            id="rule3-another-services-kind-does-not-count",
        ),
        pytest.param(
            None,
            [Listing("two", (("t", False, (("b", 1),)),))],
            {("f", 0): "two"},
            {"default": ["b", "c", "f"], "late": ["c"]},
            {
                ("b", 1): Route("two", False, "listed"),
                ("f", 0): Route("two", False, "explicit"),
                ("c", 0): Route("default", False, "supported"),
            },
            id="rule1-supported-fills-gaps-only",
        ),
    ],
)
def test_build_registry(
    default: Listing | None,
    named: list[Listing],
    forced: dict[tuple[str, int], str],
    supported: dict[str, list[str]],
    expected: dict[tuple[str, int], Route],
) -> None:
    assert build_registry(default, named, forced, supported) == expected


@pytest.mark.parametrize(
    ("task_type", "version", "default_service", "expected"),
    [
        pytest.param("s", 0, "default", Route("default", True, "listed"), id="rule2-exact"),
        pytest.param("s", 1, "default", Route("default", False, "default"), id="rule2-no-fall-back-to-version-0"),
        pytest.param("s", 1, None, None, id="rule2-no-default-service"),
        pytest.param("S", 0, "other", Route("other", False, "default"), id="rule2-case-matters"),
        pytest.param("new", 0, "other", Route("other", False, "default"), id="rule1-default-as-async"),
    ],
)
def test_look_up(task_type: str, version: int, default_service: str | None, expected: Route | None) -> None:
    assert look_up(build_registry(DEFAULT, [], {}, {}), task_type, version, default_service) == expected
