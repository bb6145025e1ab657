r"""The named strings of a message, and how a record holds them: ``key \x01 value \x02`` each.

Source: RocketMQ ``MessageDecoder.messageProperties2String`` and ``MessageConst``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from broker.errors import InvalidMessageError
from broker.message.limits import DEFAULT_LIMITS, MessageLimits, check_properties_size

if TYPE_CHECKING:
    from collections.abc import Mapping

NAME_VALUE_SEPARATOR = "\x01"
PROPERTY_SEPARATOR = "\x02"
KEY_SEPARATOR = " "

# Names with a meaning. Source: RocketMQ MessageConst.
KEYS = "KEYS"
TAGS = "TAGS"
WAIT = "WAIT"
DELAY = "DELAY"
RETRY_TOPIC = "RETRY_TOPIC"
REAL_TOPIC = "REAL_TOPIC"
REAL_QUEUE_ID = "REAL_QID"
TRANSACTION_PREPARED = "TRAN_MSG"
PRODUCER_GROUP = "PGROUP"
MIN_OFFSET = "MIN_OFFSET"
MAX_OFFSET = "MAX_OFFSET"
ORIGIN_MESSAGE_ID = "ORIGIN_MESSAGE_ID"
RECONSUME_TIME = "RECONSUME_TIME"
MAX_RECONSUME_TIMES = "MAX_RECONSUME_TIMES"
CONSUME_START_TIME = "CONSUME_START_TIME"
UNIQUE_KEY = "UNIQ_KEY"
MESSAGE_REGION = "MSG_REGION"
TRACE_SWITCH = "TRACE_ON"
INSTANCE_ID = "INSTANCE_ID"
CLUSTER = "CLUSTER"
SHARDING_KEY = "__SHARDINGKEY"
# Ours: how well the message has to be kept before its send is answered.
ACKS = "DLEDGER_ACKS"  # leader, majority, all
FLUSH = "DLEDGER_FLUSH"  # sync, async

RESERVED = frozenset(
    {
        KEYS, TAGS, WAIT, DELAY, RETRY_TOPIC, REAL_TOPIC, REAL_QUEUE_ID, TRANSACTION_PREPARED,
        PRODUCER_GROUP, MIN_OFFSET, MAX_OFFSET, ORIGIN_MESSAGE_ID, RECONSUME_TIME,
        MAX_RECONSUME_TIMES, CONSUME_START_TIME, UNIQUE_KEY, MESSAGE_REGION, TRACE_SWITCH,
        INSTANCE_ID, CLUSTER,
    }
)  # fmt: skip

_NAME_VALUE_BYTE = b"\x01"
_PROPERTY_BYTE = b"\x02"


def encode_properties(
    properties: Mapping[str, str], limits: MessageLimits = DEFAULT_LIMITS
) -> bytes:
    r"""Return *properties* as a record holds them, in their own order, without a last ``\x02``.

    Raises:
        InvalidMessageError: a name is empty, a name or value holds a separator or cannot be
            written as UTF-8, or the whole is too long.
    """
    if not properties:
        return b""
    for name, value in properties.items():
        if not name:
            raise InvalidMessageError(f"a property with the value {value[:40]!r} has an empty name")
        if "\x01" in name or "\x02" in name or "\x01" in value or "\x02" in value:
            raise InvalidMessageError(
                f"property {name!r}: its name and value may not hold the characters \\x01 and \\x02"
            )
    text = "\x02".join([f"{name}\x01{value}" for name, value in properties.items()])
    try:
        encoded = text.encode()
    except UnicodeEncodeError as error:
        raise InvalidMessageError(f"the properties cannot be written as UTF-8: {error}") from error
    check_properties_size(len(encoded), limits)
    return encoded


def decode_properties(encoded: bytes | bytearray | memoryview) -> dict[str, str]:
    r"""Return the properties of a record.

    Pieces that are no ``name \x01 value`` are left out, and of a name given twice the last value
    counts, as RocketMQ's ``string2messageProperties`` has it; bytes that are no UTF-8 are replaced.
    """
    result: dict[str, str] = {}
    for piece in str(encoded, "utf-8", "replace").split(PROPERTY_SEPARATOR):
        name, separator, value = piece.partition(NAME_VALUE_SEPARATOR)
        if separator and name:
            result[name] = value
    return result


def find_property(encoded: bytes, name: bytes) -> bytes | None:
    """Return the value of *name* in encoded properties without decoding the others.

    The last one counts when there are several, as in `decode_properties`.
    """
    wanted = name + _NAME_VALUE_BYTE
    end = len(encoded)
    while (begin := encoded.rfind(wanted, 0, end)) >= 0:
        if begin == 0 or encoded[begin - 1 : begin] == _PROPERTY_BYTE:
            begin += len(wanted)
            until = encoded.find(_PROPERTY_BYTE, begin)
            return encoded[begin : until if until >= 0 else len(encoded)]
        end = begin
    return None


def join_keys(keys: tuple[str, ...]) -> str:
    """Return *keys* as the property `KEYS` holds them.

    Raises:
        InvalidMessageError: a key is empty or holds a blank, which separates keys.
    """
    for key in keys:
        if not key or KEY_SEPARATOR in key:
            raise InvalidMessageError(
                f"key {key!r}: a key is neither empty nor holds a blank, which separates keys"
            )
    return KEY_SEPARATOR.join(keys)
