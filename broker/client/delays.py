"""How long a message is to wait, as a user says it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

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
