"""How long a message is to wait, as a user says it, and what a record says of it.

A message that is sent for later is written where it waits, in the topic `SCHEDULE_TOPIC`, and
brought to its own topic by the leader when its time has come.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from broker.client.routes import Route
from broker.errors import InvalidMessageError
from broker.message.delay import (
    DELAY_LEVELS_MS,
    DELAY_MS_MAX,
    SCHEDULE_TOPIC,
    Delay,
    delay_until,
    hide,
)
from broker.message.properties import DELAY, encode_properties
from broker.protocol.headers import PERM_WRITE

_MS = timedelta(milliseconds=1)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

Seconds = float | timedelta


def delay_as_ms(delay: Seconds | None) -> int | None:
    """Return *delay*, seconds or a timedelta, in whole milliseconds.

    >>> delay_as_ms(1.5), delay_as_ms(timedelta(minutes=1)), delay_as_ms(None)
    (1500, 60000, None)

    Raises:
        ValueError: it is negative.
        TypeError: it is neither.
    """
    if delay is None:
        return None
    if isinstance(delay, timedelta):
        found = -(-delay // _MS)
    elif isinstance(delay, int | float):
        found = round(delay * 1000)
    else:
        raise TypeError(f"delay is a {type(delay).__name__}; give seconds, or a timedelta")
    if found < 0:
        raise ValueError(f"delay = {delay}: must be at least 0")
    return found


def time_as_ms(when: datetime) -> int:
    """Return *when* in milliseconds since 1970; without a time zone it is local time.

    Raises:
        TypeError: it is no datetime.
    """
    if not isinstance(when, datetime):
        raise TypeError(f"a time is a datetime, and not a {type(when).__name__}")
    return -((_EPOCH - when.astimezone(UTC)) // _MS)


# Where messages wait, as a producer sees it: one queue for each level.
WAITING_ROUTE = Route(
    topic=SCHEDULE_TOPIC,
    read_queue_count=0,
    write_queue_count=len(DELAY_LEVELS_MS),
    perm=PERM_WRITE,
)


def delay_wanted(
    delay: Seconds | None, deliver_at: datetime | None, level: int | None, *, now_ms: int
) -> Delay | None:
    """Return for how long a sender wants a message to wait; None: not at all.

    >>> delay_wanted(None, None, 3, now_ms=0)
    Delay(level=3, out_ms=0)
    >>> delay_wanted(90, None, None, now_ms=1000)
    Delay(level=5, out_ms=91000)

    Args:
        delay: for so long.
        deliver_at: until then.
        level: RocketMQ's, 1 to 18; 0 for no delay.
        now_ms: this machine's time, milliseconds since 1970.

    Raises:
        ValueError: more than one is given, or it is out of range.
        InvalidMessageError: it is too far ahead.
        TypeError: it is something else.
    """
    if (delay is not None) + (deliver_at is not None) + (level is not None) != 1:
        raise ValueError("give one of delay, deliver_at and delay_level")
    if level is not None:
        if not 0 <= level <= len(DELAY_LEVELS_MS):
            raise ValueError(f"delay_level = {level}: 1 to {len(DELAY_LEVELS_MS)}, or 0 for none")
        return Delay(level) if level else None
    out_ms = now_ms + (delay_as_ms(delay) or 0) if deliver_at is None else time_as_ms(deliver_at)
    if out_ms - now_ms > DELAY_MS_MAX:
        raise InvalidMessageError(
            f"a message can wait {DELAY_MS_MAX // 86_400_000} days at most, and this one is to "
            f"wait {(out_ms - now_ms) / 86_400_000:.1f}"
        )
    return delay_until(out_ms, now_ms=now_ms)


def encode_delay(delay: Delay, *, topic: str, queue_id: int) -> bytes:
    """Return the properties that say what waits for what, separator first."""
    wish = {"TIMER_DELIVER_MS": str(delay.out_ms)} if delay.out_ms else {DELAY: str(delay.level)}
    return b"\x02" + encode_properties(hide(wish, delay, topic=topic, queue_id=queue_id))
