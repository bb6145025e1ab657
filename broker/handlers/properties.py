"""Settings as Java's properties, lines of ``name=value``; and the one that can change."""

from __future__ import annotations

from typing import TYPE_CHECKING

from broker.config import LOG_LEVELS
from broker.errors import InvalidMessageError

if TYPE_CHECKING:
    from collections.abc import Mapping

LOG_LEVEL = "logLevel"
BODY_SIZE_MAX = 64 * 1024  # bytes of one request's properties


def read_properties(body: bytes) -> dict[str, str]:
    """Return what *body*, lines of ``name=value`` as Java writes them, says.

    Raises:
        InvalidMessageError: it is too long, no UTF-8, or a line is none.
    """
    if len(body) > BODY_SIZE_MAX:
        raise InvalidMessageError(f"properties of {len(body)} bytes; the limit is {BODY_SIZE_MAX}")
    try:
        text = body.decode()
    except UnicodeDecodeError as error:
        raise InvalidMessageError(f"properties are UTF-8: {error.reason}") from error
    found = {}
    for line in text.splitlines():
        line = line.strip()
        if not line or line.startswith(("#", "!")):
            continue
        name, equals, value = line.partition("=")
        if not equals or not name.strip():
            raise InvalidMessageError(f"{line[:80]!r} is no line of properties; write name=value")
        found[name.strip()] = value.strip()
    return found


def write_properties(settings: Mapping[str, str]) -> bytes:
    """Return *settings* as `read_properties` reads them."""
    return "".join(f"{name}={value}\n" for name, value in settings.items()).encode()


def wanted_log_level(
    wanted: Mapping[str, str], *, what: str = "node", file_name: str = "node.toml"
) -> str | None:
    """Return the log level that *wanted* asks for; None: it asks for nothing.

    Raises:
        InvalidMessageError: it asks for something else, or for a level that there is not.
    """
    for name, value in wanted.items():
        if name != LOG_LEVEL:
            raise InvalidMessageError(
                f"{name[:80]!r} cannot change while a {what} runs; only {LOG_LEVEL} can: edit "
                f"{file_name} and restart the {what}"
            )
        if value not in LOG_LEVELS:
            raise InvalidMessageError(f"{LOG_LEVEL} = {value[:80]!r}: use {', '.join(LOG_LEVELS)}")
    return wanted.get(LOG_LEVEL)
