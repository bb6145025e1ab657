"""What the compiled loop reads of sends is what their commands say, and only what is sound."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings

from broker.message.batch import encode_sizes
from broker.message.codec import encode_record
from broker.message.limits import MessageLimits
from broker.protocol.send_headers import SendRecordsRequest
from broker.store import compiled
from broker.store.chunk import check_chunk
from broker.store.send_columns import TARGETS_MAX, SendColumns, Target, Targets
from dledger.remoting.command import FLAG_GROUPED, Command
from dledger.remoting.connection import Connection
from dledger.remoting.frame import encode_frame
from tests.fuzz.strategies import near

pytestmark = pytest.mark.skipif(
    compiled.loops is None, reason=f"the loops run {compiled.told}: nothing reads sends together"
)
LIMITS = MessageLimits()
FRAME_SIZE_MAX = 1 << 20
NUMBERS = (0, 1, 127, 128, 255, 256, 65_535, 65_536, (1 << 31) - 1)


FIELDS = ("code", "flag", "opaque", "version", "remark")


def frame(
    name: str = "t",
    /,
    *,
    queue_id: int = 0,
    body: bytes = b"body",
    count: int = 1,
    **changes: object,
) -> bytes:
    records = [encode_record(topic=name.encode(), queue_id=queue_id, body=body)] * count
    ext = {
        "producerGroup": "g",
        "topic": name,
        "queueId": queue_id,
        "recordFormat": 1,
        "sizes": encode_sizes([len(record) for record in records]),
        "producerId": 7,
        "sequence": 3,
    }
    command = Command(320, FLAG_GROUPED, 5, ext_fields=ext, body=b"".join(records))
    for name, value in changes.items():
        if name in FIELDS:
            setattr(command, name, value)
        elif value is None:
            del ext[name]
        else:
            ext[name] = value
    return b"".join(encode_frame(command))


def read(data: bytes, at: int = 0, *, frame_size_max: int = FRAME_SIZE_MAX) -> tuple[int, int]:
    """Read sends; check them against commands; return how many there are and where they end."""
    targets = Targets()
    assert compiled.loops is not None
    columns, end = compiled.loops.read_sends(
        data,
        at,
        frame_size_max,
        LIMITS.body_size_max,
        LIMITS.properties_size_max,
        targets.by_bytes,
        targets.make,
    )
    sends = SendColumns(*columns)
    connection = Connection(frame_size_max=frame_size_max)
    connection.receive_data(data[at:end])
    commands = connection.commands()
    assert {len(column) for column in sends} == {len(commands)}
    for command, row in zip(commands, zip(*sends, strict=True), strict=True):
        opaque, target, sequence, begin, behind, sizes = row
        header = SendRecordsRequest.decode(command.ext_fields)
        assert (command.code, command.flag, command.opaque) == (320, FLAG_GROUPED, opaque)
        assert target.key == (header.producer_id, header.topic, header.queue_id)
        assert target.topic == header.topic
        assert header.sequence == sequence
        assert (header.acks, header.flush) == ("", "")
        assert data[begin:behind] == command.body
        chunk = check_chunk(
            data[begin:behind],
            header.sizes,
            topic=header.topic,
            queue_id=header.queue_id,
            limits=LIMITS,
        )
        assert tuple(chunk.sizes) == sizes
    return len(commands), end


@pytest.mark.parametrize("number", NUMBERS)
def test_numbers_of_any_length_are_read(number):
    whole = b"".join(
        (
            frame(opaque=number),
            frame(queue_id=number),
            frame(producerId=number),
            frame(sequence=number),
            frame(version=number),
            frame(count=1 + number % 256 % 70),
            frame(sequence=(1 << 64) - 1, producerId=(1 << 64) - 257),
        )
    )

    assert read(b"xyz" + whole + b"\0", 3) == (7, 3 + len(whole))


@pytest.mark.parametrize("topic", ["t", "t" * 31, "t" * 32, "t" * 127])
def test_topics_of_any_length_are_read(topic):
    assert read(frame(topic))[0] == 1


@pytest.mark.parametrize(
    "changes",
    [
        {"code": 310},
        {"flag": 0},
        {"flag": 6},
        {"remark": ""},
        {"topic": "u"},
        {"topic": "ü"},
        {"topic": ""},
        {"topic": 7},
        {"queueId": 1},
        {"queueId": -1},
        {"queueId": 1 << 31},
        {"queueId": "0"},
        {"recordFormat": 2},
        {"producerId": (1 << 64) - 256},
        {"producerId": True},
        {"sequence": -1},
        {"sequence": 3.0},
        {"sequence": None},
        {"sizes": b""},
        {"sizes": b"\0\0\0"},
        {"sizes": bytes(4)},
        {"sizes": "abcd"},
        {"acks": "all"},
        {"producerGroup": "ü"},
        {"count": 0},
        {"count": 100},  # more than 8 KiB
        {"body": bytes(9000)},
    ],
)
def test_what_is_not_as_usual_is_left_with_all_behind_it(changes):
    one = frame()

    assert read(one * 3 + frame(**changes) + one) == (3, 3 * len(one))


@pytest.mark.parametrize("name", ["t" * 128, "ü"])
def test_topics_beyond_the_usual_are_left(name):
    assert read(frame(name)) == (0, 0)


def test_a_frame_that_is_not_whole_or_too_large_is_left():
    one = frame()

    for cut in range(1, len(one)):
        assert read(one + one[:-cut]) == (1, len(one))
    assert read(one, frame_size_max=len(one)) == (1, len(one))
    assert read(one, frame_size_max=len(one) - 1) == (0, 0)
    with pytest.raises(ValueError, match="before"):
        read(one, -1)


def test_whatever_comes_is_read_as_commands_are():
    chance = random.Random(1)
    seeds = [
        b"".join(
            frame(
                "t" * chance.randrange(1, 40),
                queue_id=chance.choice(NUMBERS),
                count=chance.choice((1, 1, 2)),
                body=chance.randbytes(chance.randrange(9)),
                opaque=chance.choice(NUMBERS),
                sequence=chance.choice((*NUMBERS, (1 << 64) - 1)),
            )
            for _ in range(count)
        )
        for count in (1, 2, 5)
    ]
    counts = []

    @settings(derandomize=True, max_examples=600, database=None)
    @given(near(seeds))
    def run(data):
        counts.append(read(data)[0])

    run()
    assert {0, 1, 2, 4} <= set(counts)


def test_what_is_known_of_targets_has_a_bound():
    targets = Targets()
    for number in range(TARGETS_MAX + 1):
        targets.make(b"%d" % number, 1, "t", number)

    assert list(targets.by_bytes) == [b"%d" % TARGETS_MAX]
    assert isinstance(targets.by_bytes[b"%d" % TARGETS_MAX], Target)
