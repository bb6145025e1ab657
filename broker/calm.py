"""Giving memory back when there is nothing to do.

The C library keeps what was freed for the next to come, and with good reason: the first use of a
page costs more than all else that is done with it.  But what a burst has left behind it never gives
back by itself while anything lives above it.  So it is asked to once a busy time is over.
"""

from __future__ import annotations

from time import process_time
from typing import TYPE_CHECKING

import trio

from dledger.machine import give_back_memory

if TYPE_CHECKING:
    from collections.abc import Callable

LOOK_SECONDS = 2.0
BUSY_SHARE = 0.2  # of one processor: more is a busy time


async def give_back_when_calm(
    *,
    give_back: Callable[[], bool] = give_back_memory,
    spent: Callable[[], float] = process_time,
) -> None:
    """Give memory back at the end of each busy time, until cancelled.

    Args:
        give_back: does it, blocking; whether there is a way to.
        spent: tells the seconds of processor time this process has had.
    """
    was_busy = True  # a start is a busy time
    before = spent()
    while True:
        await trio.sleep(LOOK_SECONDS)
        now = spent()
        is_busy = now - before > BUSY_SHARE * LOOK_SECONDS
        if was_busy and not is_busy:
            if not await trio.to_thread.run_sync(give_back):
                return
            now = spent()
        was_busy, before = is_busy, now
