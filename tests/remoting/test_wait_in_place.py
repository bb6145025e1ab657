"""A task that waits for a socket inside its turn of the event loop, over real sockets."""

from __future__ import annotations

import sys

import pytest
import trio
import trio.testing

from dledger.remoting import readiness
from dledger.remoting.tcp import TcpNetwork
from dledger.remoting.tcp_stream import receive_each

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="epoll is Linux's")


class Wire:
    """A connection whose bytes first wake the test's task, and then settle what it waits for."""

    def __init__(self, caller):
        self.caller = caller
        self.is_settled = False
        self.task = None  # the test's: that of a fixture is another one
        self.on_go = self.on_something = lambda: None

    def take(self, data):
        if data == b"go":
            self.on_go()
            trio.lowlevel.reschedule(self.task)
        elif data == b"answer":
            self.is_settled = True
        else:
            self.on_something()
        return not data

    async def begin_turn(self):
        """Return in a turn that no other task shares."""
        self.task = trio.lowlevel.current_task()
        assert not self.caller.send_now([b"go"])
        await trio.lowlevel.wait_task_rescheduled(lambda _: trio.lowlevel.Abort.SUCCEEDED)

    def wait(self):
        """Wait in place; return whether it is settled."""
        sockets = readiness.hot_sockets()
        assert sockets is not None
        sockets.wait_in_place(self.task, self, trio.current_time())
        return self.is_settled

    def answer(self, data=b"answer"):
        assert not self.caller.send_now([data])


@pytest.fixture
async def wire(nursery):
    listener = await TcpNetwork().listen("127.0.0.1", 0)
    caller = await TcpNetwork().connect("127.0.0.1", listener.port)
    callee = await listener.accept()
    wire = Wire(caller)
    nursery.start_soon(receive_each, callee, wire.take)
    await trio.testing.wait_all_tasks_blocked()
    yield wire
    nursery.cancel_scope.cancel()
    for each in (caller, callee, listener):
        each.close()


async def test_an_answer_is_taken_in_the_turn_of_its_task(wire):
    await wire.begin_turn()
    wire.answer(b"something else")
    wire.on_something = wire.answer  # a pass later

    assert wire.wait()


async def test_a_turn_that_others_share_is_not_waited_in(wire, nursery):
    """They would have to wait for as long."""
    others = []

    async def other():
        others.append(trio.lowlevel.current_task())
        await trio.lowlevel.wait_task_rescheduled(lambda _: trio.lowlevel.Abort.SUCCEEDED)

    nursery.start_soon(other)
    await trio.testing.wait_all_tasks_blocked()
    wire.on_go = lambda: trio.lowlevel.reschedule(others[0])
    await wire.begin_turn()
    wire.answer()

    assert not wire.wait()


async def test_who_has_something_to_do_is_not_kept_waiting(wire, nursery):
    ran = []

    async def other():
        ran.append(wire.is_settled)

    await wire.begin_turn()
    nursery.start_soon(other)
    wire.answer()

    assert not wire.wait()
    await trio.testing.wait_all_tasks_blocked()
    assert ran


async def test_another_thread_is_heard(wire):
    """Its call wakes trio's own poll, which is one descriptor of ours."""
    token = trio.lowlevel.current_trio_token()
    done = trio.Event()
    await wire.begin_turn()
    token.run_sync_soon(done.set)

    assert not wire.wait()
    await done.wait()


async def test_a_time_out_ends_it(wire):
    await wire.begin_turn()
    with trio.move_on_after(0.001) as scope:
        assert not wire.wait()
        await trio.sleep_forever()

    assert scope.cancelled_caught


async def test_a_time_out_that_was_due_as_the_turn_began_may_have_woken_others(wire):
    """Whom it has woken runs in the same turn, and nobody could tell."""
    sockets = readiness.hot_sockets()
    with trio.move_on_after(3600) as scope:
        await wire.begin_turn()
        assert sockets.alone_until <= scope.deadline
    wire.answer()
    sockets.wait_in_place(wire.task, wire, sockets.alone_until)
    assert not wire.is_settled

    assert wire.wait()


async def test_who_is_cancelled_does_not_wait(wire):
    await wire.begin_turn()
    with trio.CancelScope() as scope:
        scope.cancel()
        wire.answer()
        assert not wire.wait()
        await trio.lowlevel.checkpoint()

    assert scope.cancelled_caught


async def test_what_cancels_it_on_the_way_ends_it(wire):
    """Nobody reschedules a task that runs: it has to look itself."""
    await wire.begin_turn()
    with trio.CancelScope() as scope:
        wire.on_something = scope.cancel
        wire.answer(b"something else")
        assert not wire.wait()
        await trio.lowlevel.checkpoint()

    assert scope.cancelled_caught


async def test_an_instrument_sees_no_turn_that_waits(wire):
    """It would take that for a task that blocks."""

    class Steps(trio.abc.Instrument):
        def before_task_step(self, task):
            pass

    trio.lowlevel.add_instrument(Steps())
    await wire.begin_turn()
    wire.answer()

    assert not wire.wait()


async def test_virtual_time_goes_by_what_tasks_wait_for(autojump_clock):
    await trio.lowlevel.checkpoint()
    sockets = readiness.hot_sockets()

    assert not sockets.has_real_time
    assert sockets.alone_until < 0
