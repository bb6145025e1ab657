"""Durations, times, sizes and places as users type them."""

import datetime

import click
import pytest

from broker.cli.values import (
    DURATION,
    INTERVAL,
    PLACE,
    SIZE,
    Place,
    format_duration,
    format_time,
    parse_byte_size,
    parse_duration,
    parse_place,
    parse_time,
)
from dledger.errors import ConfigError

NOW = 1_764_081_000_123


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("250ms", 0.25), ("90s", 90), ("1h30m", 5400), ("1.5h", 5400), ("3d", 259_200),
        ("1w", 604_800), ("2", 2), ("0.5", 0.5), (" 5M ", 300), ("1m1s1ms", 61.001),
    ],
)  # fmt: skip
def test_a_duration_is_a_sum_of_units(text, seconds):
    assert parse_duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "m", "5x", "-5m", "5m-", "1 h", "1h 30m", "1e3", "٣s"])
def test_what_is_no_duration_is_refused_with_examples(text):
    with pytest.raises(ConfigError, match="write 250ms"):
        parse_duration(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("now", NOW), ("-5m", NOW - 300_000), ("+10s", NOW + 10_000),
        ("1764081000000", 1_764_081_000_000),
        ("2025-11-25T14:30:00Z", 1_764_081_000_000),
        ("2025-11-25 15:30:00.25+01:00", 1_764_081_000_250),
    ],
)  # fmt: skip
def test_a_time_is_relative_iso_or_milliseconds(text, expected):
    assert parse_time(text, now_ms=NOW) == expected


def test_a_time_without_zone_is_local():
    moment = datetime.datetime(2025, 6, 1, 12, 0).astimezone()

    assert parse_time("2025-06-01T12:00", now_ms=NOW) == round(moment.timestamp() * 1000)
    assert format_time(parse_time("2025-06-01T12:00", now_ms=NOW)) == "2025-06-01 12:00:00.000"


@pytest.mark.parametrize("text", ["", "5m", "yesterday", "-x", "2025-13-01", "1764081000"])
def test_what_is_no_time_is_refused(text):
    """Ten digits are seconds: taken for milliseconds they would mean January 1970."""
    with pytest.raises(ConfigError):
        parse_time(text, now_ms=NOW)


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("earliest", Place(kind="earliest")),
        ("first", Place(kind="earliest")),
        ("latest", Place(kind="latest")),
        ("committed", Place(kind="committed")),
        ("offset:3:100", Place(kind="offset", queue_id=3, queue_offset=100)),
        ("offset:100", Place(kind="offset", queue_offset=100)),
        ("-5m", Place(kind="time", time_ms=NOW - 300_000)),
    ],
)
def test_a_place_to_begin(text, place):
    assert parse_place(text, now_ms=NOW) == place


@pytest.mark.parametrize("text", ["offset:", "offset:a", "offset:1:2:3", "offset:-1", "somewhere"])
def test_what_is_no_place_is_refused(text):
    with pytest.raises(ConfigError):
        parse_place(text, now_ms=NOW)


@pytest.mark.parametrize(
    ("text", "size"), [("1024", 1024), ("1k", 1024), ("4M", 4 << 20), ("64KiB", 65_536)]
)
def test_sizes_are_powers_of_1024(text, size):
    assert parse_byte_size(text) == size


@pytest.mark.parametrize("kind", [DURATION, PLACE, SIZE])
def test_a_wrong_value_is_wrong_usage(kind):
    with pytest.raises(click.BadParameter):
        kind.convert("nonsense", None, None)


@pytest.mark.parametrize("text", ["0", "50ms"])
def test_a_group_is_not_asked_without_a_pause(text):
    with pytest.raises(click.BadParameter, match="too short"):
        INTERVAL.convert(text, None, None)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0.0 ms"), (0.0123, "12 ms"), (59.94, "59.9 s"), (60, "1m 0s"), (3600, "1h 0m"),
        (86_400, "1d 0h"), (-5, "-5.0 s"),
    ],
)  # fmt: skip
def test_durations_for_people(seconds, text):
    assert format_duration(seconds) == text
