"""Times and sizes as people write them."""

import pytest

from broker.cli.quantities import format_duration, parse_duration
from dledger.errors import ConfigError


@pytest.mark.parametrize(
    ("text", "milliseconds"),
    [
        ("0", 0),
        ("500ms", 500),
        ("45s", 45_000),
        ("1.5h", 5_400_000),
        ("1h30m", 5_400_000),
        ("3d", 259_200_000),
        ("2w", 1_209_600_000),
    ],
)
def test_a_time_is_read_as_people_write_it(text, milliseconds):
    assert parse_duration(text) == milliseconds
    assert parse_duration(format_duration(milliseconds)) == milliseconds


@pytest.mark.parametrize("text", ["", "3", "d", "3x", "-3d", "3d4", "1" * 50 + "d"])
def test_what_is_no_time_is_refused(text):
    with pytest.raises(ConfigError, match="is no time"):
        parse_duration(text)


def test_a_time_is_written_with_its_largest_units():
    assert format_duration(5_400_500) == "1h30m500ms"
    assert format_duration(14 * 86_400_000) == "14d"
