"""The table of held pulls by itself."""

from __future__ import annotations

from itertools import pairwise

import pytest
import trio

from broker.delivery.hold import ANSWERS_AT_ONCE, HeldPull, PullHold
from broker.protocol.headers import PullMessageRequest
from dledger.remoting.command import Command
from tests.fakes.nodes import TrioClock

QUEUE = ("t", 0)


class FakeSession:
    closed = False


class Held:
    """A table, and what it has answered."""

    def __init__(self, nursery: trio.Nursery, count_max: int = 10) -> None:
        self.answered: list[tuple[int, bool]] = []  # offset, whether its time was up
        self.sessions: list[FakeSession] = []
        self.again: float | None = None  # seconds: hold what arrival woke again for so long
        self.table = PullHold(TrioClock(), count_max=count_max, answer=self._answer)
        nursery.start_soon(self.table.run)

    def _answer(self, pull: HeldPull, is_late: bool) -> None:
        self.answered.append((pull.queue_offset, is_late))
        if self.again is not None and not is_late:
            self.add(pull.queue_offset, seconds=self.again, session=pull.session)

    def add(self, offset=0, *, seconds=1.0, key=QUEUE, session=None) -> FakeSession:
        session = session or FakeSession()
        self.table.add(
            HeldPull(
                session=session,
                command=Command(11),
                header=PullMessageRequest(
                    consumer_group="",
                    topic="",
                    queue_id=0,
                    queue_offset=offset,
                    max_msg_nums=1,
                    sys_flag=0,
                ),
                key=key,
                queue_offset=offset,
                deadline=trio.current_time() + seconds,
            )
        )
        return session


@pytest.fixture
async def held(autojump_clock, nursery):
    return Held(nursery)


async def test_an_arrival_answers_exactly_those_who_waited_for_it(autojump_clock, held):
    for offset in (3, 4, 5, 6):
        held.add(offset)

    held.table.notify_arrival(QUEUE, 5)  # offsets up to 4 are there

    assert held.answered == [(3, False), (4, False)]
    assert held.table.count == 2


async def test_a_crowd_is_answered_in_turns_with_everybody_else(autojump_clock, held):
    """30,000 pulls answered at once took 0.8 s, and the leader that did it was one no longer."""
    for _ in range(1000):
        held.add(0, seconds=30)

    held.table.notify_arrival(QUEUE, 1)
    answered = [len(held.answered)]
    held.table.notify_arrival(QUEUE, 2)  # those that are due are not due a second time
    while len(held.answered) < 1000:
        await trio.lowlevel.checkpoint()
        answered.append(len(held.answered))

    assert held.answered == [(0, False)] * 1000
    assert max(after - before for before, after in pairwise(answered)) <= 2 * ANSWERS_AT_ONCE
    assert held.table.count == 0
    await trio.sleep(60)
    assert len(held.answered) == 1000


async def test_a_crowd_whose_time_is_up_is_answered_in_turns(autojump_clock, held):
    """On a clock that stands still while anybody runs, a turn is seen only from within."""
    turns = []
    looked = held.table._answer_expired

    def look():
        before = len(held.answered)
        are_more = looked()
        turns.append(len(held.answered) - before)
        return are_more

    held.table._answer_expired = look
    for _ in range(1000):
        held.add(0, seconds=1)
    await trio.sleep(2)

    assert held.answered == [(0, True)] * 1000
    assert max(turns) == ANSWERS_AT_ONCE


async def test_of_a_crowd_that_is_due_those_who_leave_are_forgotten(autojump_clock, held):
    gone = FakeSession()
    for number in range(1000):
        held.add(0, seconds=30, session=gone if number % 2 else None)

    held.table.notify_arrival(QUEUE, 1)
    gone.closed = True
    held.table.drop_session(gone)
    await trio.sleep(1)

    assert 500 <= len(held.answered) <= 500 + ANSWERS_AT_ONCE
    assert held.table.count == 0


async def test_an_arrival_for_nobody_does_nothing(autojump_clock, held):
    held.add(0, key=("t", 1))

    held.table.notify_arrival(QUEUE, 1)
    held.table.notify_arrival(("u", 1), 1)

    assert not held.answered


async def test_each_is_answered_once_and_at_its_own_time(autojump_clock, held):
    times = {}
    began = trio.current_time()
    for offset, seconds in ((1, 3.0), (2, 1.0), (3, 2.0)):
        held.add(offset, seconds=seconds)
    for _ in range(40):
        await trio.sleep(0.1)
        for offset, is_late in held.answered:
            assert is_late
            times.setdefault(offset, trio.current_time() - began)

    assert [offset for offset, _ in held.answered] == [2, 3, 1]
    assert times == {
        2: pytest.approx(1.0, abs=0.15),
        3: pytest.approx(2.0, abs=0.15),
        1: pytest.approx(3.0, abs=0.15),
    }
    assert held.table.count == 0


async def test_an_earlier_deadline_than_all_before_is_kept(autojump_clock, held):
    held.add(1, seconds=100)
    await trio.sleep(1)
    held.add(2, seconds=0.5)
    await trio.sleep(0.6)

    assert held.answered == [(2, True)]


async def test_what_arrival_has_answered_is_not_late_afterwards(autojump_clock, held):
    held.add(0, seconds=1)
    held.table.notify_arrival(QUEUE, 1)

    await trio.sleep(5)

    assert held.answered == [(0, False)]


async def test_a_pull_may_be_held_again_from_inside_its_answer(autojump_clock, held):
    """It found nothing after all: the message was for another filter."""
    held.again = 1.0
    held.add(0, seconds=1.0)

    held.table.notify_arrival(QUEUE, 1)
    assert held.table.count == 1
    held.table.notify_arrival(QUEUE, 2)
    assert held.table.count == 1
    held.again = None
    await trio.sleep(2)

    assert held.answered == [(0, False), (0, False), (0, True)]
    assert held.table.count == 0


async def test_pulls_of_a_closed_session_are_forgotten(autojump_clock, held):
    gone, stays = FakeSession(), FakeSession()
    for _ in range(3):
        held.add(0, session=gone)
        held.add(0, session=stays)
    gone.closed = True
    held.table.drop_session(gone)

    assert held.table.count == 3
    held.table.notify_arrival(QUEUE, 1)
    await trio.sleep(5)
    assert held.answered == [(0, False)] * 3


@pytest.mark.parametrize("noticed_by", ["arrival", "deadline"])
async def test_a_session_that_closed_without_a_word_is_not_answered(
    autojump_clock, held, noticed_by
):
    held.add(0).closed = True

    if noticed_by == "arrival":
        held.table.notify_arrival(QUEUE, 1)
    await trio.sleep(5)

    assert not held.answered
    assert held.table.count == 0


async def test_the_limit_counts_what_is_held_now(autojump_clock, nursery):
    held = Held(nursery, count_max=2)
    held.add(0)
    assert not held.table.is_full
    held.add(0)
    assert held.table.is_full

    held.table.notify_arrival(QUEUE, 1)
    assert not held.table.is_full


async def test_ten_thousand_come_and_go_without_a_trace(autojump_clock, held):
    for number in range(10_000):
        held.add(number, seconds=1 + number / 10_000)
    held.table.notify_arrival(QUEUE, 5_000)
    await trio.sleep(3)

    assert len(held.answered) == 10_000
    assert_is_empty(held.table)


async def test_clients_that_vanish_leave_no_trace_in_a_queue_where_nothing_arrives(
    autojump_clock, held
):
    for _ in range(100):
        session = held.add(0)
        session.closed = True
        held.table.drop_session(session)
    await trio.sleep(5)

    assert_is_empty(held.table)


async def test_ten_thousand_clients_that_vanish_at_once_cost_what_they_held(autojump_clock, held):
    """Each looked through everybody's pulls: a minute in which the leader did nothing else."""
    sessions = [FakeSession() for _ in range(10_000)]
    for session in sessions:
        for queue_id in range(2):
            held.add(0, key=("t", queue_id), session=session)
    looked_at = 0
    deadlines = held.table._deadlines

    class Counting(list):
        def __iter__(self):
            nonlocal looked_at
            looked_at += len(self)
            return super().__iter__()

    held.table._deadlines = Counting(deadlines)
    for session in sessions:
        held.table.drop_session(session)

    assert looked_at == 0
    assert held.table.count == 0


async def test_pulls_of_a_queue_are_answered_in_the_order_they_came(autojump_clock, held):
    for offset in (5, 3, 4, 1):
        held.add(offset)

    held.table.notify_arrival(QUEUE, 10)

    assert [offset for offset, _ in held.answered] == [5, 3, 4, 1]


def assert_is_empty(table):
    assert table.count == 0
    assert not table._by_queue
    assert not table._by_session
    assert not table._deadlines
