"""A topic's attributes as RocketMQ 5 writes them: ``+retention.ms=259200000,-acks``.

``+name=value`` sets one, ``-name`` gives it back to its default; what is not named stays as it is.

Source: RocketMQ ``AttributeParser``, ``TopicAttributes``; the names are ours but for the form.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from broker.errors import InvalidTopicError

if TYPE_CHECKING:
    from collections.abc import Mapping

RETENTION_MS = "retention.ms"
RETENTION_BYTES = "retention.bytes"
ACKS = "acks"
FLUSH = "flush"

ATTRIBUTE_NAMES = (RETENTION_MS, RETENTION_BYTES, ACKS, FLUSH)


def parse_attributes(text: str) -> dict[str, str | None]:
    """Return what *text* sets; None for what goes back to its default.

    Raises:
        InvalidTopicError: *text* is not in that form, or names an attribute that there is not.
    """
    result: dict[str, str | None] = {}
    for item in filter(None, (part.strip() for part in text.split(","))):
        name, _, value = item[1:].partition("=")
        is_form = (item[0] == "+" and value) or (item[0] == "-" and "=" not in item)
        if not is_form or name in result:
            raise InvalidTopicError(
                f"attributes {text[:200]!r}: {item[:80]!r} is none, or named twice; write "
                "+name=value to set one and -name to take it back, with commas between them"
            )
        if name not in ATTRIBUTE_NAMES:
            raise InvalidTopicError(
                f"attribute {name[:80]!r} is unknown; known are {', '.join(ATTRIBUTE_NAMES)}"
            )
        result[name] = value if item[0] == "+" else None
    return result


def format_attributes(changes: Mapping[str, str | None]) -> str:
    """Return the text that `parse_attributes` reads as *changes*."""
    return ",".join(
        f"-{name}" if value is None else f"+{name}={value}" for name, value in changes.items()
    )
