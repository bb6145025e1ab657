"""Batches: the column of sizes, producer marks, and the body of RocketMQ's batch request."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.errors import CorruptRecordError
from broker.message import batch
from broker.message.batch import BatchMessage, ProducerMark

# Request 320 of RocketMQ's Java client, its second and third messages cut off.
FROM_JAVA = (
    b"\x00\x00\x00m\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02b0\x00UUNIQ_KEY"
    b"\x01FD000000000000000000000000000002077B4E0E2F2A6E9B98A80004\x02WAIT\x01true\x02TAGS\x01tagC"
)

uint64 = st.integers(0, (1 << 64) - 1)
messages = st.builds(
    BatchMessage, st.integers(0, 1 << 30), st.binary(max_size=50), st.binary(max_size=50)
)


def test_rocketmqs_batch_body_is_read():
    (message,) = batch.decode_batch_body(FROM_JAVA)

    assert message.body == b"b0"
    assert message.properties.endswith(b"\x02TAGS\x01tagC")
    assert batch.encode_batch_body([message]) == FROM_JAVA


@given(st.lists(messages, min_size=1, max_size=5))
def test_a_batch_body_comes_back(some):
    assert batch.decode_batch_body(batch.encode_batch_body(some)) == some


@given(st.lists(messages, min_size=1, max_size=3), st.data())
def test_a_garbled_batch_body_is_read_or_refused(some, data):
    raw = bytearray(batch.encode_batch_body(some))
    raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    del raw[data.draw(st.integers(0, len(raw))) :]

    again = []
    with contextlib.suppress(CorruptRecordError):
        again = batch.decode_batch_body(raw)

    assert len(again) <= len(some)


@pytest.mark.parametrize(
    ("raw", "field"),
    [
        (b"", "total_size"),
        (FROM_JAVA[:-1], "total_size"),
        (FROM_JAVA[:16] + b"\xff\xff\xff\xff" + FROM_JAVA[20:], "body_size"),
        (FROM_JAVA[:16] + b"\0\0\0\x60" + FROM_JAVA[20:], "body_size"),
        (FROM_JAVA[:22] + b"\0T" + FROM_JAVA[24:], "properties_size"),
    ],
)
def test_a_wrong_field_of_a_batch_body_is_named(raw, field):
    with pytest.raises(CorruptRecordError) as caught:
        batch.decode_batch_body(raw)

    assert caught.value.field == field


def test_a_producer_mark_is_40_bytes_as_laid_out():
    raw = batch.encode_mark(ProducerMark(1 << 63, 5, 2, 3))

    assert raw == (
        b"\0\0\0\x28DPM1" + b"\x80" + bytes(7) + bytes(7) + b"\5" + b"\0\0\0\2\0\0\0\3" + bytes(8)
    )


@given(st.builds(ProducerMark, uint64, uint64, st.integers(1, 1 << 30), st.integers(0, 1 << 30)))
def test_a_producer_mark_comes_back(mark):
    assert batch.decode_mark(b"abc" + batch.encode_mark(mark), 3) == mark


@pytest.mark.parametrize("at", [0, 4, 24])
def test_what_is_no_producer_mark_is_refused(at):
    raw = bytearray(batch.encode_mark(ProducerMark(1, 2, 3, 4)))
    raw[at : at + 4] = bytes(4)

    with pytest.raises(CorruptRecordError):
        batch.decode_mark(raw)
    with pytest.raises(CorruptRecordError):
        batch.decode_mark(raw[:39])


@given(st.lists(st.integers(0, (1 << 32) - 1), min_size=1))
def test_a_column_of_sizes_comes_back(sizes):
    assert list(batch.decode_sizes(batch.encode_sizes(sizes))) == sizes


@pytest.mark.parametrize("column", [b"", b"abc", b"abcde"])
def test_a_column_that_is_none_is_refused(column):
    with pytest.raises(CorruptRecordError, match="sizes"):
        batch.decode_sizes(column)
