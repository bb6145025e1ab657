"""Memory is given back once at the end of each busy time."""

from __future__ import annotations

import ctypes
import subprocess
import sys
from itertools import pairwise

import trio
import trio.testing

from broker.calm import GROWTH_MAX, LOOK_SECONDS, give_back_when_calm
from dledger.machine import FREE_MAX, give_back_memory, resident_size

MIB = 1024 * 1024


async def test_memory_is_given_back_when_a_busy_time_is_over(autojump_clock, nursery):
    spent, given = [0.0], []

    def give_back():
        given.append(1)
        return True

    async def live(looks, share):
        for _ in range(looks):
            spent[0] += share * LOOK_SECONDS
            await trio.sleep(LOOK_SECONDS)

    nursery.start_soon(lambda: give_back_when_calm(give_back=give_back, spent=lambda: spent[0]))
    await trio.testing.wait_all_tasks_blocked()
    await trio.sleep(LOOK_SECONDS / 2)
    await live(3, 0.01)
    assert len(given) == 1, "the start was busy"
    await live(3, 0.9)
    assert len(given) == 1
    await live(5, 0.01)
    assert len(given) == 2


async def test_what_comes_under_load_and_stays_is_given_back(autojump_clock, nursery):
    spent, size, given = [0.0], [40 * MIB], []

    def give_back():
        given.append(size[0])
        size[0] = left
        return True

    async def live(looks):
        for _ in range(looks):
            spent[0] += LOOK_SECONDS
            await trio.sleep(LOOK_SECONDS)

    nursery.start_soon(
        lambda: give_back_when_calm(
            give_back=give_back, spent=lambda: spent[0], resident=lambda: size[0]
        )
    )
    await trio.testing.wait_all_tasks_blocked()
    await trio.sleep(LOOK_SECONDS / 2)
    size[0] += GROWTH_MAX
    await live(4)
    assert given == [], "as much as it may grow"
    size[0] += 1
    await live(1)
    size[0] -= 1
    await live(2)
    assert given == [], "gone by itself"
    size[0], left = 70 * MIB, 60 * MIB
    await live(9)
    assert given == [70 * MIB], "once: what is left is in use"
    size[0], left = 90 * MIB, 45 * MIB
    await live(3)
    assert given == [70 * MIB, 90 * MIB]


async def test_what_a_load_takes_again_at_once_is_given_back_ever_more_seldom(
    autojump_clock, nursery
):
    spent, size, given = [0.0], [40 * MIB], []

    def give_back():
        given.append(round(trio.current_time() - began))
        size[0] = 40 * MIB
        return True

    async def live(seconds, busy_size):
        for _ in range(seconds):
            spent[0] += LOOK_SECONDS
            size[0] = busy_size
            await trio.sleep(LOOK_SECONDS)

    nursery.start_soon(
        lambda: give_back_when_calm(
            give_back=give_back, spent=lambda: spent[0], resident=lambda: size[0]
        )
    )
    await trio.testing.wait_all_tasks_blocked()
    began = trio.current_time()
    await trio.sleep(LOOK_SECONDS / 2)
    await live(600, 40 * MIB + FREE_MAX)
    assert given == [], "as much as the heap keeps free"
    await live(3600, 60 * MIB + 1)
    pauses = [later - earlier for earlier, later in pairwise(given)]
    assert pauses[:7] == [4, 8, 16, 32, 64, 128, 256]
    assert set(pauses[7:]) == {256}
    given.clear()
    await live(10, 60 * MIB + 1 + GROWTH_MAX)
    assert given == [], "still no more than that"
    await live(2, 60 * MIB + 2 + GROWTH_MAX)
    assert len(given) == 1, "more than ever is asked for at once"
    await trio.sleep(LOOK_SECONDS)
    assert len(given) == 2, "and all of it once it is over"
    await live(2, 60 * MIB + 1)
    assert len(given) == 3, "the next one begins anew"


async def test_where_there_is_no_way_nobody_tries_again(autojump_clock):
    tries = []

    await give_back_when_calm(give_back=lambda: bool(tries.append(1)), spent=lambda: 0.0)

    assert tries == [1]


def test_the_end_of_the_heap_is_bounded_where_the_system_has_a_way():
    """In a process of its own: it cannot be taken back."""
    script = """
from dledger.machine import bound_free_memory, resident_size
has_way = bound_free_memory()
resident_size()
large = bytearray(31 << 20)
del large  # without bounds: from now on blocks of that size stay in the heap
pieces = [bytes(bytearray(100_000)) for _ in range(550)]
full = resident_size()
del pieces
left = resident_size()
assert not has_way or left < full - (28 << 20), (full, left)
print(has_way)
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60
    )

    assert done.stdout.strip() == str(hasattr(ctypes.CDLL(None), "mallopt"))


def test_what_is_free_below_something_alive_is_given_back_where_the_system_has_a_way():
    pieces = [bytes(100_000) for _ in range(600)]  # too small for a mapping of their own
    alive = pieces[-1]
    full = resident_size()
    del pieces

    has_way = give_back_memory()

    assert has_way is hasattr(ctypes.CDLL(None), "malloc_trim")
    assert not has_way or resident_size() < full - 30 * MIB
    assert len(alive) == 100_000
