"""Giving memory back when it is not needed.

The C library keeps what was freed for the next to come, and with good reason: the first use of a
page costs more than all else that is done with it.  But what a burst has left behind it never gives
back by itself while anything lives above it.  So it is asked to once a busy time is over, and in
the middle of one when the process has grown by much and stays so: not again and again where a load
takes at once what has been given back, as the event loop stands still for it.
"""

from __future__ import annotations

from time import process_time
from typing import TYPE_CHECKING

import trio

from dledger.machine import FREE_MAX, give_back_memory, resident_size

if TYPE_CHECKING:
    from collections.abc import Callable

LOOK_SECONDS = 1.0
BUSY_SHARE = 0.2  # of one processor: more is a busy time
# Bytes that a process may grow by under load before it is asked: more than the heap keeps free by
# itself, which comes back with the next burst.
GROWTH_MAX = FREE_MAX + 4 * 1024 * 1024
# Looks before it is asked under load once more, for what is no more than it was asked for the last
# time; twice as many each time that it has all come back by then.
PAUSE_MIN, PAUSE_MAX = 4, 256


async def give_back_when_calm(
    *,
    give_back: Callable[[], bool] = give_back_memory,
    spent: Callable[[], float] = process_time,
    resident: Callable[[], int] = resident_size,
) -> None:
    """Give memory back at the end of each busy time, and when much has come; until cancelled.

    Args:
        give_back: does it, blocking; whether there is a way to.
        spent: tells the seconds of processor time this process has had.
        resident: tells how many bytes of memory it has.
    """
    was_busy = True  # a start is a busy time
    has_grown = False
    before, least = spent(), resident()
    largest = 0  # size at which it was given back in this busy time; 0: not yet
    pause, look_count = PAUSE_MIN, 0  # since then
    while True:
        await trio.sleep(LOOK_SECONDS)
        now, size = spent(), resident()
        look_count += 1
        is_busy = now - before > BUSY_SHARE * LOOK_SECONDS
        had_grown, has_grown = has_grown, size > least + GROWTH_MAX
        is_over = was_busy and not is_busy
        is_large = had_grown and has_grown
        if is_over or (is_large and (look_count >= pause or size > largest + GROWTH_MAX)):
            if not await trio.to_thread.run_sync(give_back):
                return
            if is_over:
                largest, pause = 0, PAUSE_MIN
            else:
                came_back = largest and look_count < 2 * pause
                pause = min(2 * pause, PAUSE_MAX) if came_back else PAUSE_MIN
                largest, look_count = size, 0
            # What is left is in use: it is not asked for again.
            now, least, has_grown = spent(), resident(), False
        elif not has_grown:
            least = min(least, size)
        was_busy, before = is_busy, now
