"""The hash of a tag, by which a consume queue filters without reading the message.

Source: Java ``String.hashCode``, used by RocketMQ's ``MessageExtBrokerInner.tagsString2tagsCode``.
"""

from __future__ import annotations

from broker.errors import InvalidFilterError

NO_TAG_CODE = 0
TAGS_MAX = 1000  # of one filter: each costs a comparison for every message looked at


def java_string_hash(text: str) -> int:
    """Return Java's ``String.hashCode`` of *text*: signed, 32 bits, over its UTF-16 units."""
    result = 0
    if text.isascii():
        for unit in text.encode("ascii"):
            result = (31 * result + unit) & 0xFFFFFFFF
    else:
        units = text.encode("utf-16-be", "surrogatepass")
        for high, low in zip(units[::2], units[1::2], strict=True):
            result = (31 * result + (high << 8 | low)) & 0xFFFFFFFF
    return result - (1 << 32) if result & 0x80000000 else result


def tags_code(tag: str | None) -> int:
    """Return what a consume-queue unit holds for *tag*; 0 when there is none."""
    return java_string_hash(tag) if tag else NO_TAG_CODE


def parse_tag_expression(text: str | None) -> frozenset[str] | None:
    """Return the tags that *text*, such as ``"A || B"``, asks for; None for all messages.

    >>> sorted(parse_tag_expression("red || green"))
    ['green', 'red']
    >>> parse_tag_expression("*") is None
    True

    Source: RocketMQ ``FilterAPI.buildSubscriptionData``.

    Raises:
        InvalidFilterError: there is no tag in it.
    """
    if text is None or not text or text == "*":
        return None
    tags = frozenset(filter(None, (tag.strip() for tag in text.split("||"))))
    if not tags:
        raise InvalidFilterError(
            f'filter {text[:80]!r} names no tag; write "A || B", or "*" for all messages'
        )
    if len(tags) > TAGS_MAX:
        raise InvalidFilterError(f"the filter names {len(tags)} tags; at most {TAGS_MAX} may be")
    return tags


def tags_codes(tags: frozenset[str]) -> frozenset[int]:
    """Return the hashes a consume queue has for *tags*."""
    return frozenset(map(tags_code, tags))
