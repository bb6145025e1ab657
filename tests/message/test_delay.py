"""For how long messages wait, and the way they take."""

import pytest

from broker.errors import InvalidMessageError
from broker.message.delay import (
    DELAY_LEVELS_MS,
    Delay,
    delay_asked_for,
    delay_by_level,
    delay_until,
    hide,
    reveal,
)

NOW = 1_700_000_000_000


def test_the_levels_are_rocketmq_s():
    text = "1s 5s 10s 30s 1m 2m 3m 4m 5m 6m 7m 8m 9m 10m 20m 30m 1h 2h"
    units = {"s": 1000, "m": 60_000, "h": 3_600_000}

    assert tuple(int(word[:-1]) * units[word[-1]] for word in text.split()) == DELAY_LEVELS_MS


@pytest.mark.parametrize(
    ("properties", "delay"),
    [
        ({}, None),
        ({"DELAY": "0"}, None),
        ({"DELAY": "3"}, Delay(3)),
        ({"DELAY": "99"}, Delay(18)),
        ({"__STARTDELIVERTIME": str(NOW - 1)}, None),
        ({"__STARTDELIVERTIME": str(NOW + 90_000)}, Delay(5, NOW + 90_000)),
        ({"TIMER_DELIVER_MS": str(NOW + 10)}, Delay(1, NOW + 10)),
        ({"TIMER_DELAY_MS": "5000"}, Delay(2, NOW + 5000)),
        ({"TIMER_DELAY_SEC": "7200"}, Delay(18, NOW + 7_200_000)),
    ],
)
def test_what_senders_ask_for(properties, delay):
    assert delay_asked_for(properties, now_ms=NOW) == delay


@pytest.mark.parametrize(
    "properties",
    [
        {"DELAY": "-1"},
        {"DELAY": "soon"},
        {"__STARTDELIVERTIME": "1e9"},
        {"TIMER_DELAY_SEC": "9" * 30},
        {"TIMER_DELAY_SEC": str(41 * 24 * 3600)},
    ],
)
def test_what_cannot_be_asked_for(properties):
    with pytest.raises(InvalidMessageError):
        delay_asked_for(properties, now_ms=NOW)


@pytest.mark.parametrize("left", [1, 999, 1000, 61_234, 7_199_999, 7_200_000, 3 * 86_400_000])
def test_a_time_is_reached_by_levels_less_than_a_second_late(left):
    out, now, hops = NOW + left, NOW, 0
    while (delay := delay_until(out, now_ms=now)) is not None:
        now += DELAY_LEVELS_MS[delay.level - 1]
        hops += 1

    assert 0 <= now - out < 1000
    assert hops <= left / 7_200_000 + 20


def test_what_is_hidden_comes_out_without_the_wish_to_wait():
    properties = {"TAGS": "a", "DELAY": "3", "UNIQ_KEY": "u"}
    hidden = reveal(hide(properties, delay_by_level(3), topic="t", queue_id=2))

    assert hidden == ("t", 2, {"TAGS": "a", "UNIQ_KEY": "u"}, 0)


def test_a_time_of_its_own_is_kept_on_the_way():
    hidden = reveal(hide({}, Delay(1, NOW), topic="t", queue_id=2))

    assert hidden == ("t", 2, {}, NOW)


@pytest.mark.parametrize(
    "properties", [{}, {"REAL_TOPIC": "t"}, {"REAL_TOPIC": "t", "REAL_QID": "x"}]
)
def test_a_message_that_says_not_where_to_go(properties):
    with pytest.raises((KeyError, ValueError)):
        reveal(properties)
