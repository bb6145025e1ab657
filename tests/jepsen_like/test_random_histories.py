"""The checkers agree with the definitions, on histories nobody wrote by hand."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from jepsen_like.checkers import check
from jepsen_like.checkers.form import faults_of_form
from jepsen_like.history import History
from tests.jepsen_like.big_history import big_history
from tests.jepsen_like.naive import leaders, naive
from tests.jepsen_like.random_history import edited, random_history

SEEDS = st.integers(0, 2**32)
NOT_PLAIN = {"crash", "no-recovery", "unreadable", "no-progress", "stale-poll"}
some = settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def found_in(events, *, has_retention: bool) -> set[tuple[str, int | None, int]]:
    anomalies = check(History(lambda: 0.0, events), has_retention=has_retention)
    return {
        (anomaly.kind, anomaly.queue, anomaly.lines[-1])
        for anomaly in anomalies
        if anomaly.kind not in NOT_PLAIN
    }


@some
@given(seed=SEEDS, steps=st.integers(0, 800), has_retention=st.booleans())
def test_a_log_that_does_everything_right_is_never_blamed(seed, steps, has_retention) -> None:
    events = random_history(seed, steps=steps, has_retention=has_retention)

    assert list(faults_of_form(events)) == []
    assert check(History(lambda: 0.0, events), has_retention=has_retention) == []


@some
@given(
    seed=SEEDS, steps=st.integers(20, 150), edits=st.integers(1, 12), has_retention=st.booleans()
)
@example(seed=1076, steps=133, edits=11, has_retention=False)  # a commit that counts after all
def test_the_checkers_find_what_the_definitions_say(seed, steps, edits, has_retention) -> None:
    events = edited(
        random_history(seed, steps=steps, has_retention=has_retention), seed, edits=edits
    )

    expected = naive(events, has_retention=has_retention) | leaders(events)
    assert found_in(events, has_retention=has_retention) == expected


def test_the_edits_reach_every_kind() -> None:
    """Otherwise the comparison above compares nothing."""
    met: Counter[str] = Counter()
    for seed in range(200):
        events = edited(random_history(seed, steps=120), seed, edits=12)
        met.update(kind for kind, _, _ in naive(events, has_retention=False) | leaders(events))

    assert {kind for kind, times in met.items() if times >= 2} >= {
        "lost-write", "unseen", "lost-on-node", "inconsistent-offsets", "duplicate", "g1a",
        "phantom", "nonmonotonic-send", "realtime-order", "int-poll-skip",
        "int-nonmonotonic-poll", "poll-skip", "nonmonotonic-poll", "stale-read", "future-read",
        "commit-regress", "commit-ahead-of-delivery", "group-loss", "two-leaders",
    }  # fmt: skip


@pytest.mark.slow
def test_a_long_history_takes_one_pass_or_one_sort() -> None:
    """With a step for each pair of operations this would run into the time limit."""
    history = big_history(30_000)

    for has_retention in (False, True):
        assert check(history, has_retention=has_retention) == []
