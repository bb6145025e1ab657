"""Who wakes an event loop from another thread."""

from __future__ import annotations

import threading

import pytest
import trio

from dledger.remoting import waker as module
from dledger.remoting.waker import Waker


@pytest.fixture(params=["out of the poll", "as trio does", "no descriptor left"])
def way(request, monkeypatch):
    if request.param == "as trio does":
        monkeypatch.setattr(module, "hot_sockets", lambda: None)
    elif request.param == "no descriptor left":

        def refuse(*_args):
            raise OSError(24, "Too many open files")

        monkeypatch.setattr(module.os, "eventfd", refuse, raising=False)
    return request.param


async def test_all_that_threads_have_put_is_seen_by_the_loop(way):
    put, seen = [], []
    done = trio.Event()
    here = threading.get_ident()

    def take():
        assert threading.get_ident() == here
        seen.extend(put[len(seen) :])
        if len(seen) == 400:
            done.set()

    waker = Waker(take)

    def work():
        for number in range(100):
            put.append(number)
            waker.wake()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    await done.wait()
    for thread in threads:
        thread.join()
    waker.close()
    assert sorted(seen) == sorted([*range(100)] * 4)


async def test_nothing_is_called_after_it_is_closed(monkeypatch):
    calls = []
    waker = Waker(lambda: calls.append(1))
    waker.wake()
    await trio.sleep(0.01)
    assert calls == [1]
    waker.close()
    waker.close()
    if waker._hot is None and waker._fd >= 0:
        waker.wake()
        await trio.sleep(0.01)
        assert calls == [1]


def test_who_wakes_a_loop_that_has_ended_does_no_harm(way):
    async def main():
        waker = Waker(lambda: None)
        waker.close()
        return waker

    waker = trio.run(main)
    if waker._fd >= 0:
        waker.wake()
    else:
        with pytest.raises(trio.RunFinishedError):
            waker.wake()


def assert_it_ends_with_a_division_by_zero(main):
    with pytest.raises((trio.TrioInternalError, ExceptionGroup)) as found:
        trio.run(main)
    error = found.value
    while not isinstance(error, ZeroDivisionError):
        assert error is not None
        error = error.__cause__ or error.exceptions[0]


def test_what_the_function_raises_ends_the_loop(way):
    def take():
        raise ZeroDivisionError

    async def main():
        waker = Waker(take)
        waker.wake()
        await trio.sleep(10)

    assert_it_ends_with_a_division_by_zero(main)


def test_what_the_function_raises_when_it_has_closed_the_waker_comes_out(way):
    async def main():
        def take():
            waker.close()
            raise ZeroDivisionError

        waker = Waker(take)
        waker.wake()
        await trio.sleep(10)

    assert_it_ends_with_a_division_by_zero(main)
