"""The numbers of a chain of batches, after each kind of failure. Nobody waits; time is a number."""

from __future__ import annotations

import itertools

import pytest

from broker.client.batch import Batch
from broker.client.queue_sender import DELAY_MAX, DELAY_MIN, Failure, QueueSender


@pytest.fixture
def sender():
    ids = itertools.count(2)
    return QueueSender(
        "orders",
        0,
        producer_id=1,
        new_producer_id=lambda: next(ids),
        chance=lambda: 1.0,
        on_settled=lambda batch: None,
    )


def put(sender, count, deadline=100.0):
    """Seal and send a batch of *count* messages."""
    batch = Batch()
    batch.records = [b"x" * 10] * count
    batch.waiters = [None] * count
    batch.deadlines = [deadline] * count
    batch.size = 10 * count
    sender.pending.append(batch)
    assert sender.is_ready(0.0)
    assert sender.seal() is batch
    sender.mark_sent(batch, "n1")
    return batch


def numbers(sender):
    return [(batch.producer_id, batch.first_sequence, batch.count) for batch in sender.sealed]


def fail(sender, batch, failure, now=0.0):
    assert sender.fail(batch, batch.attempt, failure, "why", now=now)


def resend(sender, now=1.0):
    """Send everything again; return what was sent."""
    assert sender.is_ready(now)
    sent = []
    while (batch := sender.next_unsent()) is not None:
        sender.mark_sent(batch, "n2")
        sent.append(batch)
    return sent


def test_a_chain_is_numbered_without_gaps(sender):
    put(sender, 3)
    put(sender, 2)
    put(sender, 4)
    assert numbers(sender) == [(1, 0, 3), (1, 3, 2), (1, 5, 4)]


def test_a_lost_connection_resends_all_with_the_same_numbers(sender):
    batches = [put(sender, 3), put(sender, 2)]
    for batch in batches:
        fail(sender, batch, Failure.UNCERTAIN)
    assert resend(sender) == batches
    assert numbers(sender) == [(1, 0, 3), (1, 3, 2)]


def test_without_numbers_what_may_be_written_is_given_up(sender):
    sender.producer_id = 0
    batch = put(sender, 3)
    fail(sender, batch, Failure.UNCERTAIN)
    assert sender.is_ready(1.0)
    assert not sender.sealed
    behind = put(sender, 2)
    fail(sender, behind, Failure.NOT_WRITTEN)
    assert resend(sender) == [behind]
    assert behind.producer_id == 0


def test_nothing_is_resent_before_all_that_is_in_flight_is_answered(sender):
    first, second = put(sender, 1), put(sender, 1)
    fail(sender, first, Failure.NOT_WRITTEN)
    assert not sender.is_ready(10.0)
    fail(sender, second, Failure.OUT_OF_ORDER)
    assert resend(sender, 10.0) == [first, second]
    assert numbers(sender) == [(1, 0, 1), (1, 1, 1)]


def test_a_refused_batch_leaves_its_numbers_to_those_behind_it(sender):
    put(sender, 1)
    refused, behind = put(sender, 3), put(sender, 2)
    fail(sender, refused, Failure.REFUSED)
    fail(sender, behind, Failure.OUT_OF_ORDER)
    sender.acknowledge(sender.sealed[0], node="n1", queue_offset=0, position=0)
    assert resend(sender) == [behind]
    assert numbers(sender) == [(1, 1, 2)]
    put(sender, 1)
    assert numbers(sender) == [(1, 1, 2), (1, 3, 1)]


def test_behind_a_refused_batch_what_may_be_under_way_gets_a_new_id(sender):
    """A copy of it lost on the way could fit those numbers later."""
    refused, behind = put(sender, 3), put(sender, 2)
    fail(sender, refused, Failure.REFUSED)
    fail(sender, behind, Failure.UNCERTAIN)
    assert resend(sender) == [behind]
    assert numbers(sender) == [(2, 0, 2)]
    assert not behind.is_uncertain, "its old numbers never come to be written"
    put(sender, 1)
    assert numbers(sender) == [(2, 0, 2), (2, 2, 1)]


def test_a_batch_in_front_of_a_refused_one_keeps_its_numbers(sender):
    front, refused, behind = put(sender, 2), put(sender, 1), put(sender, 2)
    fail(sender, front, Failure.UNCERTAIN)
    fail(sender, refused, Failure.REFUSED)
    fail(sender, behind, Failure.UNCERTAIN)
    resend(sender)
    assert numbers(sender) == [(1, 0, 2), (2, 0, 2)]


def test_an_illegal_message_is_found_by_halves(sender):
    batch = put(sender, 8)
    fail(sender, batch, Failure.ILLEGAL)
    assert [b.count for b in resend(sender)] == [4, 4]
    assert numbers(sender) == [(1, 0, 4), (1, 4, 4)]


def test_an_unknown_producer_begins_anew_with_another_id(sender):
    first, second = put(sender, 2), put(sender, 3)
    fail(sender, first, Failure.UNKNOWN_PRODUCER)
    fail(sender, second, Failure.UNKNOWN_PRODUCER)
    resend(sender)
    assert numbers(sender) == [(2, 0, 2), (2, 2, 3)]


def test_a_broker_that_refuses_every_number_is_not_asked_in_circles(sender):
    batch = put(sender, 1)
    for pause in (0.0, 0.0, 0.005, 0.010, 0.020):
        fail(sender, batch, Failure.OUT_OF_ORDER, now=1.0)
        assert sender.resend_at - 1.0 == pytest.approx(pause)
        resend(sender, now=2.0)
    assert numbers(sender) == [(6, 0, 1)]


def test_a_late_ack_of_an_earlier_attempt_counts(sender):
    batch = put(sender, 2)
    fail(sender, batch, Failure.UNCERTAIN)
    resend(sender)
    assert sender.acknowledge(batch, node="n1", queue_offset=5, position=9)
    assert sender.is_idle
    assert sender.in_flight_count == 0
    assert not sender.acknowledge(batch, node="n2", queue_offset=5, position=9)
    assert not sender.fail(batch, 2, Failure.NOT_WRITTEN, "late", now=2.0)


def test_an_answer_to_an_earlier_attempt_that_failed_is_old_news(sender):
    batch = put(sender, 2)
    fail(sender, batch, Failure.UNCERTAIN)
    resend(sender)
    assert not sender.fail(batch, 1, Failure.REFUSED, "late", now=2.0)
    assert list(sender.sealed) == [batch]


def test_pauses_double_up_to_a_limit_and_start_over_after_an_ack(sender):
    batch = put(sender, 1)
    pauses = []
    now = 0.0
    for _ in range(8):
        fail(sender, batch, Failure.NOT_WRITTEN, now)
        pauses.append(sender.resend_at - now)
        now = sender.resend_at
        resend(sender, now)
    assert pauses == pytest.approx([0.005, 0.01, 0.02, 0.04, 0.08, 0.16, 0.2, 0.2])
    assert (DELAY_MIN, DELAY_MAX) == (0.005, 0.2)
    sender.acknowledge(batch, node="n1", queue_offset=0, position=0)
    batch = put(sender, 1)
    fail(sender, batch, Failure.NOT_WRITTEN, now)
    assert sender.resend_at - now == pytest.approx(0.005)


def test_an_expired_chain_that_may_be_written_leaves_its_id_behind(sender):
    put(sender, 2, deadline=5.0)
    sender.expire(6.0, "no leader")
    assert sender.is_idle
    put(sender, 1)
    assert numbers(sender) == [(2, 0, 1)]


def test_an_expired_chain_that_is_not_written_leaves_its_numbers(sender):
    batch = put(sender, 2, deadline=5.0)
    fail(sender, batch, Failure.NOT_WRITTEN)
    sender.expire(6.0, "no leader")
    put_after_pause(sender)
    assert numbers(sender) == [(1, 0, 1)]


def put_after_pause(sender):
    sender.hurry()
    put(sender, 1)


def test_an_expired_batch_that_may_be_written_stays_while_others_behind_it_have_time(sender):
    """Those behind it may be written too; only the numbers can tell."""
    first, second = put(sender, 2, deadline=5.0), put(sender, 2, deadline=9.0)
    fail(sender, first, Failure.UNCERTAIN)
    fail(sender, second, Failure.UNCERTAIN)
    sender.expire(6.0, "no leader")
    assert resend(sender) == [first, second]
    assert numbers(sender) == [(1, 0, 2), (1, 2, 2)]


def test_when_to_look_again_is_the_chains_end_once_nobody_waits(sender):
    put(sender, 2, deadline=5.0)
    put(sender, 2, deadline=9.0)
    assert sender.expires_at == 9.0
