"""Rule 23 and the two paces."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest

from flyteagent_nb.running.pace import ADAPTIVE, PROPELLER, Pace, failure_backoff, gives_up, poll_delay, poll_floor


def _polls(job: float, seed: int, call: float = 0.001) -> tuple[int, float]:
    """The gets made for a job of ``job`` seconds, and how late its end was seen."""
    jitter = random.Random(seed)
    polls, now = 0, 0.0
    while now < job:
        now += poll_delay(ADAPTIVE, polls, now, jitter.random()) + call
        polls += 1
    return polls, now - job


@pytest.mark.parametrize("seed", range(20))
def test_ours_polls_a_job_of_two_seconds_about_twenty_times(seed: int) -> None:
    polls, late = _polls(2.0, seed)
    assert 15 <= polls <= 25
    assert late <= 0.115


@pytest.mark.parametrize(
    ("job", "most_polls", "latest"),
    [(0.0005, 2, 0.02), (0.03, 5, 0.05), (0.3, 10, 0.12), (10.0, 70, 0.6), (60.0, 110, 3.5), (600.0, 240, 5.1)],
)
def test_ours_grows_with_the_age_of_the_job(job: float, most_polls: int, latest: float) -> None:
    for seed in range(5):
        polls, late = _polls(job, seed)
        assert polls <= most_polls
        assert late <= latest


def test_ours_first_get_comes_right_after_the_create() -> None:
    assert [poll_delay(ADAPTIVE, 0, 0.0, jitter) for jitter in (0.0, 0.5, 0.999)] == [0, 0, 0]


@pytest.mark.parametrize(
    ("polls_done", "active", "seconds"),
    [
        (0, 1, 0.0),
        (0, 16, 0.0),
        (0, 17, 0.085),
        (1, 1, 0.005),
        (1, 100, 0.5),
        (1, 1_000, 1.256),
        (1, 10_000, 3.155),
    ],
)
def test_many_runs_share_a_budget_of_polls(polls_done: int, active: int, seconds: float) -> None:
    assert poll_floor(ADAPTIVE, polls_done, active, 200.0) == pytest.approx(seconds, rel=1e-3)


def test_propellers_budget_is_its_own_rate() -> None:
    assert poll_floor(PROPELLER, 1, 100, 200.0) == 10.0


@pytest.mark.parametrize("jitter", [0.0, 0.5, 0.999999])
@pytest.mark.parametrize(("polls", "age"), [(1, 0.0), (3, 0.05), (10, 2.0), (50, 30.0), (5000, 86_400.0)])
def test_ours_stays_between_five_milliseconds_and_five_seconds(polls: int, age: float, jitter: float) -> None:
    assert 0.005 <= poll_delay(ADAPTIVE, polls, age, jitter) <= 5.0


def test_ours_spreads_by_ten_percent() -> None:
    low, middle, high = (poll_delay(ADAPTIVE, 40, 40.0, jitter) for jitter in (0.0, 0.5, 1.0))
    assert (low, middle, high) == pytest.approx((1.8, 2.0, 2.2))
    assert poll_delay(ADAPTIVE, 500, 3600.0, 0.0) == pytest.approx(
        4.5
    )  # At the longest, too: jobs of one age drift apart.


@pytest.mark.parametrize(("polls", "age"), [(1, 0.1), (2, 30.0), (1000, 1e5)])
@pytest.mark.parametrize("jitter", [0.0, 0.9])
def test_propellers_interval_is_thirty_seconds(polls: int, age: float, jitter: float) -> None:
    assert poll_delay(PROPELLER, polls, age, jitter) == 30.0


def test_propellers_first_get_comes_right_after_the_create() -> None:
    assert poll_delay(PROPELLER, 0, 0.0, 0.9) < 0.005
    assert PROPELLER.rate == 10.0


def test_rule23_backoff_doubles_up_to_five_seconds() -> None:
    delays = [failure_backoff(failures, 0.5) for failures in range(1, 9)]
    assert delays == pytest.approx([0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0])
    assert all(earlier <= later for earlier, later in pairwise(delays))
    assert failure_backoff(10_000, 0.999) == 5.0
    assert (failure_backoff(1, 0.0), failure_backoff(1, 1.0)) == pytest.approx((0.09, 0.11))


@pytest.mark.parametrize(
    ("pace", "failures", "seconds", "limit", "expected"),
    [
        pytest.param(ADAPTIVE, 5, 60.0, 60.0, True, id="rule23-ours"),
        pytest.param(ADAPTIVE, 4, 600.0, 60.0, False, id="rule23-ours-too-few"),
        pytest.param(ADAPTIVE, 500, 59.0, 60.0, False, id="rule23-ours-too-soon"),
        pytest.param(ADAPTIVE, 500, 59.0, 30.0, True, id="rule23-ours-a-setting"),
        pytest.param(PROPELLER, 5, 600.0, 60.0, False, id="rule23-propeller-allows-five"),
        pytest.param(PROPELLER, 6, 0.0, 60.0, True, id="rule23-propeller-at-once"),
    ],
)
def test_gives_up(pace: Pace, failures: int, seconds: float, limit: float, expected: bool) -> None:
    assert gives_up(pace, failures, seconds, limit) is expected
