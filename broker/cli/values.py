"""What users type and read: durations, times, sizes, and where to begin in a topic.

    duration   ``250ms``, ``90s``, ``1h30m``, ``3d``; a bare number is seconds
    time       ``-5m`` (ago), ``+1h``, ``now``, ISO 8601 (local unless it says otherwise), or
               milliseconds since 1970
    size       ``1024``, ``64KiB``, ``4MiB``; ``k``, ``m`` and ``g`` stand for KiB, MiB and GiB
    place      ``earliest``, ``latest``, ``committed``, ``offset:3:100``, ``offset:100``, or a time

Each has a function that reads it, and a click type that tells what is wrong as wrong usage.
"""

from __future__ import annotations

import datetime
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import click

from dledger.clock import SystemClock
from dledger.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable

_UNITS_MS = {
    "ms": 1, "s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000, "w": 604_800_000,
}  # fmt: skip
_DURATION = re.compile(r"(?:[0-9]+(?:\.[0-9]+)?(?:ms|s|m|h|d|w))+\Z")
_DURATION_PART = re.compile(r"([0-9]+(?:\.[0-9]+)?)(ms|s|m|h|d|w)")
_NUMBER = re.compile(r"[0-9]+(?:\.[0-9]+)?\Z")
_MILLISECONDS_MIN = 100_000_000_000  # 1973; a smaller number is seconds or a slip
_SHORT_UNITS = {"k": "KiB", "m": "MiB", "g": "GiB"}

INTERVAL_SECONDS_MIN = 0.1  # between two questions to a group, which costs all its nodes a look

EARLIEST_WORDS = ("earliest", "first", "beginning")
LATEST_WORDS = ("latest", "last", "end")


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where to begin in a topic."""

    kind: Literal["earliest", "latest", "committed", "offset", "time"]
    time_ms: int = -1  # of kind "time": milliseconds since 1970
    queue_id: int | None = None  # of kind "offset": the only queue meant; None: every queue
    queue_offset: int = -1  # of kind "offset"


def parse_duration(text: str) -> float:
    """Return the seconds that *text* says.

    >>> parse_duration("1h30m"), parse_duration("250ms"), parse_duration("2")
    (5400.0, 0.25, 2.0)

    Raises:
        ConfigError: it is no duration.
    """
    text = text.strip().lower()
    if _NUMBER.match(text):
        return float(text)
    if not _DURATION.match(text):
        raise ConfigError(f"{text!r} is no duration; write 250ms, 90s, 5m, 1h30m or 3d")
    parts = _DURATION_PART.findall(text)
    return sum(float(number) * _UNITS_MS[unit] for number, unit in parts) / 1000


def parse_time(text: str, *, now_ms: int) -> int:
    """Return the milliseconds since 1970 that *text* says, seen from *now_ms*.

    Raises:
        ConfigError: it is no time.
    """
    text = text.strip()
    if text == "now":
        return now_ms
    if text[:1] in ("-", "+"):
        try:
            distance = round(parse_duration(text[1:]) * 1000)
        except ConfigError:
            raise ConfigError(f"{text!r} is no time; write -5m, -1h30m or +10s") from None
        return now_ms - distance if text[0] == "-" else now_ms + distance
    if text.isascii() and text.isdigit():
        if int(text) < _MILLISECONDS_MIN:
            raise ConfigError(
                f"{text} is no time: a bare number is milliseconds since 1970, such as {now_ms}"
            )
        return int(text)
    try:
        moment = datetime.datetime.fromisoformat(text)
    except ValueError:
        raise ConfigError(
            f"{text!r} is no time; write -5m, 2026-11-25T14:30, 2026-11-25T14:30:00Z or "
            "milliseconds since 1970"
        ) from None
    # A time without zone is the reader's own, as clocks on the wall are.
    return round((moment if moment.tzinfo else moment.astimezone()).timestamp() * 1000)


def parse_place(text: str, *, now_ms: int) -> Place:
    """Return where in a topic *text* says to begin.

    Raises:
        ConfigError: it says nowhere.
    """
    word = text.strip().lower()
    if word in EARLIEST_WORDS:
        return Place(kind="earliest")
    if word in LATEST_WORDS:
        return Place(kind="latest")
    if word == "committed":
        return Place(kind="committed")
    if word.startswith("offset:"):
        numbers = word.split(":")[1:]
        if len(numbers) > 2 or not all(part.isascii() and part.isdigit() for part in numbers):
            raise ConfigError(
                f"{text!r}: write offset:QUEUE:OFFSET (offset:3:100), or offset:OFFSET for every "
                "queue"
            )
        queue_id = int(numbers[0]) if len(numbers) == 2 else None
        return Place(kind="offset", queue_id=queue_id, queue_offset=int(numbers[-1]))
    try:
        return Place(kind="time", time_ms=parse_time(text, now_ms=now_ms))
    except ConfigError as error:
        raise ConfigError(f"{error}; or earliest, latest, offset:QUEUE:OFFSET") from None


def parse_byte_size(text: str) -> int:
    """Return the bytes that *text* says.

    Raises:
        ConfigError: it is no size.
    """
    from broker.config_file import parse_size  # msgspec and tomllib, which few commands need

    text = text.strip()
    short = _SHORT_UNITS.get(text[-1:].lower())
    return parse_size(text[:-1] + short if short else text)


def format_duration(seconds: float) -> str:
    """Return *seconds* for people.

    >>> [format_duration(n) for n in (0.0004, 0.25, 12.34, 192, 7500, 273600)]
    ['0.4 ms', '250 ms', '12.3 s', '3m 12s', '2h 5m', '3d 4h']
    """
    if seconds < 0:
        return f"-{format_duration(-seconds)}"
    if seconds < 0.01:
        return f"{seconds * 1000:.1f} ms"
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 60:
        return f"{seconds:.1f} s"
    whole = int(seconds)
    for unit, size, below, divisor in (("m", 60, "s", 1), ("h", 3600, "m", 60)):
        if whole < size * (60 if unit == "m" else 24):
            return f"{whole // size}{unit} {whole % size // divisor}{below}"
    return f"{whole // 86400}d {whole % 86400 // 3600}h"


def format_time(milliseconds: int) -> str:
    """Return a moment in the reader's time zone: ``2026-11-25 14:30:00.123``; "" for none."""
    if milliseconds < 0:
        return ""
    moment = datetime.datetime.fromtimestamp(milliseconds / 1000, tz=datetime.UTC).astimezone()
    return f"{moment:%Y-%m-%d %H:%M:%S}.{milliseconds % 1000:03}"


class _ReadType(click.ParamType):  # type: ignore[type-arg]  # generic in newer clicks
    """A click type made of a function that raises `ConfigError`."""

    def __init__(self, name: str, read: Callable[[str], object]) -> None:
        self.name = name
        self._read = read

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> object:
        """Return what *value* says; what was read already (a default) as it is."""
        if not isinstance(value, str):
            return value
        try:
            return self._read(value)
        except ConfigError as error:
            self.fail(str(error), param, ctx)


def _now_ms() -> int:
    return SystemClock().wall_ms()


def _interval(text: str) -> float:
    seconds = parse_duration(text)
    if seconds < INTERVAL_SECONDS_MIN:
        raise ConfigError(f"{text!r} is too short; at least {INTERVAL_SECONDS_MIN:g}")
    return seconds


DURATION = _ReadType("duration", parse_duration)  # gives seconds, a float
INTERVAL = _ReadType("duration", _interval)  # the same, between two questions to a group
TIME = _ReadType("time", lambda text: parse_time(text, now_ms=_now_ms()))  # gives ms since 1970
SIZE = _ReadType("size", parse_byte_size)  # gives bytes, an int
PLACE = _ReadType("place", lambda text: parse_place(text, now_ms=_now_ms()))  # gives a `Place`
