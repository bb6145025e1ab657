"""Times and sizes as people write them: ``3d``, ``1h30m``, ``500ms``, ``1GiB``."""

from __future__ import annotations

import re

import click

from broker.config import parse_size
from dledger.errors import ConfigError

_PARTS = re.compile(r"(?:(\d+(?:\.\d+)?)(ms|s|m|h|d|w))+\Z")
_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d|w)")
_UNITS_MS = {"ms": 1, "s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000, "w": 604_800_000}
_LENGTH_MAX = 40


def parse_duration(text: str) -> int:
    """Return the milliseconds that *text* names: ``"3d"``, ``"1h30m"``, ``"500ms"``; ``"0"`` is 0.

    Raises:
        ConfigError: it names none.
    """
    text = text.strip()
    if text == "0":
        return 0
    if len(text) > _LENGTH_MAX or not _PARTS.match(text):
        raise ConfigError(f"{text[:80]!r} is no time; write it as in 3d, 12h, 1h30m, 45s or 500ms")
    return round(sum(float(number) * _UNITS_MS[unit] for number, unit in _PART.findall(text)))


def format_duration(milliseconds: int) -> str:
    """Return the text `parse_duration` reads as *milliseconds*: ``"3d"``, ``"1h30m"``."""
    parts = []
    for unit in ("d", "h", "m", "s", "ms"):
        count, milliseconds = divmod(milliseconds, _UNITS_MS[unit])
        if count:
            parts.append(f"{count}{unit}")
    return "".join(parts) or "0"


class _Duration(click.ParamType[int]):
    name = "time"

    def convert(
        self, value: str | int, param: click.Parameter | None, ctx: click.Context | None
    ) -> int:
        if isinstance(value, int):
            return value
        try:
            return parse_duration(value)
        except ConfigError as error:
            self.fail(str(error), param, ctx)


class _Size(click.ParamType[int]):
    name = "size"

    def convert(
        self, value: str | int, param: click.Parameter | None, ctx: click.Context | None
    ) -> int:
        if isinstance(value, int):
            return value
        try:
            return parse_size(value)
        except ConfigError as error:
            self.fail(str(error), param, ctx)


DURATION = _Duration()  # an option in milliseconds
SIZE = _Size()  # an option in bytes
