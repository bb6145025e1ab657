"""Frames made from what is the same in all, beside those that are encoded as a whole."""

from __future__ import annotations

import random

import pytest

from broker.client.batch import Batch
from broker.client.send_frames import SendFrames
from broker.message.batch import encode_sizes
from broker.protocol.request_code import RequestCode
from dledger.remoting.command import FLAG_GROUPED, INT32_MAX, Command
from dledger.remoting.connection import Connection
from dledger.remoting.errors import LocalProtocolError
from dledger.remoting.frame import FRAME_SIZE_MAX, encode_frame


def batch_of(sizes, *, producer_id=7, sequence=0, acks="", flush=""):
    batch = Batch(acks, flush)
    batch.records = [bytes([size % 256]) * size for size in sizes]
    batch.size = sum(sizes)
    batch.producer_id = producer_id
    batch.first_sequence = sequence
    return batch


def whole(batch, opaque, *, group="shop", topic="orders", queue_id=2):
    fields = {
        "producerGroup": group,
        "topic": topic,
        "queueId": queue_id,
        "recordFormat": 1,
        "sizes": encode_sizes([len(record) for record in batch.records]),
        "producerId": batch.producer_id,
        "sequence": batch.first_sequence if batch.producer_id else 0,
    }
    if batch.acks or batch.flush:
        fields |= {"acks": batch.acks, "flush": batch.flush}
    command = Command(
        RequestCode.SEND_BATCH_MESSAGE.value,
        FLAG_GROUPED,
        opaque,
        ext_fields=fields,
        body=b"".join(batch.records),
    )
    return b"".join(encode_frame(command))


def test_a_frame_has_the_bytes_of_one_that_is_encoded_as_a_whole():
    chance = random.Random(5)
    frames = SendFrames("shop", "orders", 2)
    for _ in range(500):
        batch = batch_of(
            [chance.choice((1, 90, 300, 9000)) for _ in range(chance.choice((1, 1, 2, 100)))],
            producer_id=chance.choice((0, 1, chance.getrandbits(63))),
            sequence=chance.getrandbits(chance.choice((1, 7, 8, 16, 40, 63))),
            acks=chance.choice(("", "", "", "all")),
            flush=chance.choice(("", "", "", "sync")),
        )
        opaque = chance.choice((1, 127, 128, 65_536, INT32_MAX))
        assert b"".join(frames.frame(batch, opaque)) == whole(batch, opaque)


@pytest.mark.parametrize(
    "names", [{"group": "g" * 40, "topic": "t" * 200, "queue_id": 700}, {"topic": "Träume"}]
)
def test_so_it_has_with_other_names(names):
    frames = SendFrames(
        names.get("group", "shop"), names.get("topic", "orders"), names.get("queue_id", 2)
    )
    frame = b"".join(frames.frame(batch_of([100]), 9))
    assert frame == whole(batch_of([100]), 9, **names)
    connection = Connection()
    connection.receive_data(frame)
    (command,) = connection.commands()
    assert command.ext_fields["topic"] == names["topic"]


def test_a_large_record_by_itself_is_not_copied():
    batch = batch_of([100_000])
    assert SendFrames("shop", "orders", 2).frame(batch, 1)[1] is batch.records[0]


def test_a_frame_that_no_node_would_take_is_refused():
    with pytest.raises(LocalProtocolError, match="over the limit"):
        SendFrames("shop", "orders", 2).frame(batch_of([FRAME_SIZE_MAX]), 1)
