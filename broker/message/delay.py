r"""Messages that are to be delivered later: where they wait, for how long, and what they are.

They wait in a topic that nobody reads, in one queue for each of RocketMQ's 18 levels: all in a
queue wait equally long, so the first is the next to go.  A message for a time of its own waits at
the longest level that is not too long, then at another, and so on, and goes less than a second
late.

    DELAY              level 1 to 18, as the sender asked
    __STARTDELIVERTIME, TIMER_DELIVER_MS, TIMER_DELAY_MS, TIMER_DELAY_SEC
                       a time in milliseconds since 1970, or from now on, as the sender asked
    REAL_TOPIC, REAL_QID    where it is to go
    TIMER_OUT_MS       ours: when, for a time of its own

Source: RocketMQ ``ScheduleMessageService``, ``MessageStoreConfig.messageDelayLevel``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from broker.errors import InvalidMessageError
from broker.message.limits import check_not_reserved, check_topic
from broker.message.properties import DELAY, REAL_QUEUE_ID, REAL_TOPIC

if TYPE_CHECKING:
    from collections.abc import Mapping

SCHEDULE_TOPIC = "SCHEDULE_TOPIC_XXXX"
_SECONDS = (1, 5, 10, 30, 60, 120, 180, 240, 300, 360, 420, 480, 540, 600, 1200, 1800, 3600, 7200)
DELAY_LEVELS_MS = tuple(1000 * seconds for seconds in _SECONDS)
DELAY_MS_MAX = 40 * 24 * 3600 * 1000  # longest time ahead. Source: Alibaba's limit of 40 days
RETRY_LEVEL_FIRST = 3  # a message that failed for the first time waits 10 s

_TIMES = ("__STARTDELIVERTIME", "TIMER_DELIVER_MS")  # milliseconds since 1970
_DELAYS = {"TIMER_DELAY_MS": 1, "TIMER_DELAY_SEC": 1000}  # from now on, and their milliseconds
_OUT_MS = "TIMER_OUT_MS"
_SHORTEST_MS = DELAY_LEVELS_MS[0]

assert len(DELAY_LEVELS_MS) == 18


class Delay(NamedTuple):
    """For how long a message waits."""

    level: int  # 1 to 18: its queue is one less
    out_ms: int = 0  # milliseconds since 1970; 0: whenever the level says

    @property
    def queue_id(self) -> int:
        """Return the queue of `SCHEDULE_TOPIC` it waits in."""
        return self.level - 1


class Hidden(NamedTuple):
    """What a waiting message is when its time has come."""

    topic: str
    queue_id: int
    properties: dict[str, str]
    out_ms: int  # 0: its level has said when


def delay_by_level(level: int) -> Delay:
    """Return the delay of a level, which counts from 1; one too high is the highest."""
    assert level >= 1
    return Delay(min(level, len(DELAY_LEVELS_MS)))


def delay_until(out_ms: int, *, now_ms: int) -> Delay | None:
    """Return the first delay on the way to a time; None when it has come."""
    left = out_ms - now_ms
    if left <= 0:
        return None
    level = sum(delay_ms <= max(left, _SHORTEST_MS) for delay_ms in DELAY_LEVELS_MS)
    return Delay(level, out_ms)


def delay_asked_for(properties: Mapping[str, str], *, now_ms: int) -> Delay | None:
    """Return for how long a sender wants a message to wait; None: not at all.

    Raises:
        InvalidMessageError: a property is no number, or too far ahead.
    """
    if (text := properties.get(DELAY)) is not None:
        level = _number(DELAY, text)
        return delay_by_level(level) if level > 0 else None
    for name in _TIMES:
        if (text := properties.get(name)) is not None:
            return _until(name, _number(name, text), now_ms)
    for name, factor in _DELAYS.items():
        if (text := properties.get(name)) is not None:
            return _until(name, now_ms + factor * _number(name, text), now_ms)
    return None


def hide(
    properties: Mapping[str, str], delay: Delay, *, topic: str, queue_id: int
) -> dict[str, str]:
    """Return the properties of a message that waits before it goes to *topic*."""
    hidden = {**properties, REAL_TOPIC: topic, REAL_QUEUE_ID: str(queue_id)}
    if delay.out_ms:
        hidden[_OUT_MS] = str(delay.out_ms)
    return hidden


def reveal(properties: Mapping[str, str]) -> Hidden:
    """Return what `hide` hid; the wish to wait, which is fulfilled, is taken out.

    Raises:
        ValueError, KeyError: nothing is hidden.
    """
    left = dict(properties)
    topic, queue_id = left.pop(REAL_TOPIC), int(left.pop(REAL_QUEUE_ID))
    out_ms = int(left.pop(_OUT_MS, "0"))
    left.pop(DELAY, None)
    return Hidden(topic, queue_id, left, out_ms)


def check_waiting(properties: Mapping[str, str], *, queue_id: int, now_ms: int) -> None:
    """Raise `InvalidMessageError` unless a message that a sender hid itself can be delivered.

    Whether its topic is there is not looked at: that is asked once more when its time has come.
    """
    try:
        hidden = reveal(properties)
    except (KeyError, ValueError) as error:
        raise InvalidMessageError(
            f"a message in {SCHEDULE_TOPIC} has to say where it is to go, by the properties "
            f"{REAL_TOPIC} and {REAL_QUEUE_ID}"
        ) from error
    check_topic(hidden.topic)
    check_not_reserved(hidden.topic)
    if hidden.queue_id < 0:
        raise InvalidMessageError(f"property {REAL_QUEUE_ID}: {hidden.queue_id} is no queue")
    if hidden.out_ms:
        _until(_OUT_MS, hidden.out_ms, now_ms)
        if hidden.out_ms < 0:
            raise InvalidMessageError(f"property {_OUT_MS}: {hidden.out_ms} is no time")
    elif properties.get(DELAY) != str(queue_id + 1):
        raise InvalidMessageError(f"property {DELAY}: queue {queue_id} is level {queue_id + 1}")


def _until(name: str, out_ms: int, now_ms: int) -> Delay | None:
    if out_ms - now_ms > DELAY_MS_MAX:
        raise InvalidMessageError(
            f"property {name}: a message can wait {DELAY_MS_MAX // 86_400_000} days at most"
        )
    return delay_until(out_ms, now_ms=now_ms)


def _number(name: str, text: str) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > 18:
        raise InvalidMessageError(f"property {name}: {text[:40]!r} is no whole number")
    return int(text)
