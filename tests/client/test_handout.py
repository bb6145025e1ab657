"""What a consumer has at hand: made a part at a time, and lost or doubled nowhere."""

from __future__ import annotations

import contextlib
import gc
import itertools

import pytest

from broker.client import records
from broker.client.handout import Handout
from broker.client.message import Message
from broker.client.records import MessageRun, decode_run
from tests.client.test_records import record

COUNT = 1000


class Progress:
    """A queue's, that only notes what is handed out."""

    follows = True

    def __init__(self):
        self.handed_out = self.done = 0

    def hand_out(self, message):
        message.progress = self
        self.handed_out = message.queue_offset + 1

    def settle(self):
        self.done = self.handed_out

    def skip_to(self, queue_offset):
        self.handed_out = queue_offset


def a_run(count=COUNT):
    data = b"".join(record(offset, b"body %d" % offset) for offset in range(count))
    return decode_run(data, topic="orders", queue_id=1, first_offset=0)


@pytest.fixture
def progress():
    return Progress()


@pytest.fixture
def handout(progress):
    handout = Handout()
    handout.take_up(progress, a_run(), COUNT)
    return handout


def messages_alive():
    return sum(type(found) is Message for found in gc.get_objects())


def test_what_waits_is_nothing_that_the_collector_visits(progress):
    """Thousands of messages that waited were visited three times each: a quarter of the cost."""
    gc.collect()
    of_others = messages_alive()
    run = a_run()
    assert messages_alive() == of_others
    handout = Handout()
    handout.take_up(progress, run, COUNT)
    for number in range(COUNT):
        handout.next()
        if number % 100 == 1:
            assert messages_alive() - of_others < 500
    assert handout.next() is None


def test_each_message_is_handed_out_once_and_in_order(handout, progress):
    seen = []
    while (message := handout.next()) is not None:
        assert progress.done == message.queue_offset
        seen.append((message.queue_offset, message.body))
    assert seen == [(offset, b"body %d" % offset) for offset in range(COUNT)]
    assert (progress.handed_out, progress.done) == (COUNT, COUNT)


@pytest.mark.parametrize("number", [0, 1, 200, 256, 700])
def test_an_error_out_of_nowhere_loses_nothing(handout, monkeypatch, number):
    """A handler of SIGALRM that raises, in the middle of making messages."""
    made, broken = itertools.count(), []

    def new():
        if next(made) == number and not broken:
            broken.append(number)
            raise TimeoutError
        return Message()

    monkeypatch.setattr(records, "Message", new)
    seen = []
    while len(seen) < COUNT:
        with contextlib.suppress(TimeoutError):
            seen.append(handout.next().queue_offset)
    assert seen == list(range(COUNT))
    assert broken


@pytest.mark.parametrize("count", [0, 1, 255, 256, 257, COUNT - 1, COUNT])
def test_what_is_put_back_is_all_that_is_left(handout, progress, count):
    for _ in range(count):
        handout.next()
    handout.settle_taken()

    assert handout.has(progress, settled=True) is (count < COUNT)
    back = handout.put_back(progress)
    assert [message.queue_offset for message in back] == list(range(count, COUNT))
    assert not handout.has(progress, settled=True)
    assert handout.next() is None


@pytest.mark.parametrize("size", [1, 100, 256, 300, COUNT, 2 * COUNT])
def test_batches_of_any_size_hold_them_all(handout, progress, size):
    batches = []
    while handout.gather(size) or handout.gathered_count:
        batches.append(handout.take_gathered(size))
    assert all(len(batch) == size for batch in batches[:-1])
    assert [m.queue_offset for batch in batches for m in batch] == list(range(COUNT))


def test_messages_made_before_keep_their_place_in_a_run():
    messages = a_run(10).take_all()
    run = MessageRun.of(messages[2:])
    assert (len(run), run.first_offset, run.last_offset) == (8, 2, 9)
    assert run.take(3) == messages[2:5]
    assert (len(run), run.first_offset) == (5, 5)
    assert run.take(9) == messages[5:]
    assert not run
