"""The hash of a tag, by which a consume queue filters without reading the message.

Source: Java ``String.hashCode``, used by RocketMQ's ``MessageExtBrokerInner.tagsString2tagsCode``.
"""

from __future__ import annotations

NO_TAG_CODE = 0


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
