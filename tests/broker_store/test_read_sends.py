"""What the compiled loop reads of sends is what their commands say, and only what is sound."""

from __future__ import annotations

import random
import struct

import pytest
from hypothesis import given, settings

from broker.message.batch import encode_sizes
from broker.message.codec import encode_record
from broker.message.limits import MessageLimits
from broker.protocol.bodies import decode_acks
from broker.protocol.send_headers import SendRecordsRequest
from broker.store import compiled
from broker.store.chunk import check_chunk
from broker.store.commit_log import Receipt
from broker.store.send_columns import TARGETS_MAX, ReadSends, SendRun, Target, Targets
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


def read_sends(
    data: bytes, at: int = 0, *, frame_size_max: int = FRAME_SIZE_MAX
) -> tuple[ReadSends, int]:
    targets = Targets()
    assert compiled.loops is not None
    (runs, rows), end = compiled.loops.read_sends(
        data,
        at,
        frame_size_max,
        LIMITS.body_size_max,
        LIMITS.properties_size_max,
        SendRun,
        targets.by_bytes,
        targets.make,
    )
    return ReadSends(data, runs, rows), end


def read(data: bytes, at: int = 0, *, frame_size_max: int = FRAME_SIZE_MAX) -> tuple[int, int]:
    """Read sends; check them against commands; return how many there are and where they end."""
    sends, end = read_sends(data, at, frame_size_max=frame_size_max)
    connection = Connection(frame_size_max=frame_size_max)
    connection.receive_data(data[at:end])
    commands = connection.commands()
    assert sends.count == len(commands)
    numbers: list[int] = []
    for run in sends.runs:
        next_sequence = run.first_sequence
        rows = list(sends.rows_of(run))
        assert run.record_count == sum(row.record_count for row in rows)
        assert run.size == sum(row.size for row in rows)
        assert run.at == rows[0].begin
        records = sends.records(run).tobytes()
        assert records == b"".join(data[row.begin : row.begin + row.size] for row in rows)
        receipt = Receipt(5, 1 << 33, 1 << 34)
        acks = decode_acks(compiled.loops.acks_of(sends.rows, [run], [receipt]))
        for row, ack in zip(rows, acks, strict=True):
            command = commands[row.number]
            header = SendRecordsRequest.decode(command.ext_fields)
            assert (command.code, command.flag, command.opaque) == (320, FLAG_GROUPED, row.opaque)
            assert run.target.key == (header.producer_id, header.topic, header.queue_id)
            assert run.target.topic == header.topic
            assert header.sequence == next_sequence or not header.producer_id
            assert (header.acks, header.flush) == ("", "")
            assert data[row.begin : row.begin + row.size] == command.body
            chunk = check_chunk(
                command.body,
                header.sizes,
                topic=header.topic,
                queue_id=header.queue_id,
                limits=LIMITS,
            )
            assert (chunk.record_count, len(chunk.body)) == (row.record_count, row.size)
            assert ack[:5] == (row.opaque, 0, *receipt)
            next_sequence += row.record_count
            receipt = Receipt(
                5, receipt.queue_offset + row.record_count, receipt.position + row.size
            )
        numbers += [row.number for row in rows]
    receipts = [Receipt(run.target.key[2], run.begin, run.at) for run in sends.runs]
    acks = decode_acks(compiled.loops.acks_of(sends.rows, sends.runs, receipts))
    assert [ack.opaque for ack in acks] == [commands[nth].opaque for nth in numbers]
    # All of them, those of one target in the order they came.
    assert sorted(numbers) == list(range(len(commands)))
    latest: dict[Target, int] = {}
    for run in sends.runs:
        for row in sends.rows_of(run):
            assert latest.get(run.target, -1) < row.number
            latest[run.target] = row.number
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


def shares(data: bytes) -> list[tuple[int, int, int]]:
    """Return queue, first number and sends of each run."""
    read(data)
    runs = read_sends(data)[0].runs
    return [(run.target.key[2], run.first_sequence, run.end - run.begin) for run in runs]


def test_sends_to_a_queue_are_one_run_as_long_as_their_numbers_follow():
    def sends(*places: tuple[int, int], **named: int) -> bytes:
        return b"".join(frame(queue_id=queue, sequence=number, **named) for queue, number in places)

    last = (1 << 64) - 1
    assert shares(sends((0, 3), (1, 8), (0, 4), (1, 9), (0, 5))) == [(0, 3, 3), (1, 8, 2)]
    assert shares(sends((0, 3), (1, 8), (0, 5), (0, 6))) == [(0, 3, 1), (1, 8, 1), (0, 5, 2)]
    assert shares(sends((0, 3), (0, 3), (0, 2))) == [(0, 3, 1), (0, 3, 1), (0, 2, 1)]
    assert shares(sends((0, 3), (0, 5), count=2)) == [(0, 3, 2)]
    assert shares(sends((0, 3), (0, 4), count=2)) == [(0, 3, 1), (0, 4, 1)]
    assert shares(sends((0, 3), (0, 3), (0, 1), producerId=0)) == [(0, 3, 3)]
    # Behind the last number of 64 bits comes none.
    assert shares(sends((0, last - 1), (0, last), (0, 0))) == [(0, last - 1, 2), (0, 0, 1)]
    assert shares(sends((0, last), (0, 1), count=2)) == [(0, last, 1), (0, 1, 1)]


def test_sends_of_other_producers_or_topics_are_other_runs():
    data = b"".join(
        frame(topic, producerId=producer_id, sequence=sequence)
        for sequence in (3, 4)
        for topic in ("t", "ut", "tt")
        for producer_id in (7, 7 + 256)
    )

    assert sorted(shares(data)) == [(0, 3, 2)] * 6


def test_runs_that_fall_to_one_place_are_begun_anew_and_stay_in_order():
    """There are fewer places than queues here."""
    data = b"".join(
        frame(queue_id=queue_id, sequence=sequence)
        for sequence in range(3)
        for queue_id in range(300)
    )

    found = shares(data)
    assert 300 < len(found) < 900
    assert sum(count for _, _, count in found) == 900


def test_sends_to_a_short_topic_that_is_written_in_several_ways_stay_in_order():
    """Only numbers keep those of a producer in order, and one without any was overtaken."""

    def written_as(topic: bytes, queue_id: int) -> bytes:
        usual = frame(queue_id=queue_id, producerId=0, sequence=0)
        length, mark = struct.unpack_from(">II", usual)
        more = len(topic) - len(b"\xa5topic\xa1t")
        return struct.pack(">II", length + more, mark + more) + usual[8:].replace(
            b"\xa5topic\xa1t", topic, 1
        )

    ways = (b"\xa5topic\xa1t", b"\xd9\x05topic\xa1t", b"\xa5topic\xd9\x01t")
    for queue_id in range(20):
        data = frame(queue_id=99) + b"".join(written_as(way, queue_id) for way in (*ways, *ways))
        assert shares(data) == [(99, 3, 1), (queue_id, 0, 6)]


def test_no_more_are_read_at_a_time_than_there_is_room_for():
    one = frame()

    assert read(one * 3000) == (1024, 1024 * len(one))
    assert read(b"".join(frame(queue_id=n) for n in range(1025)))[0] == 1024


def test_rows_that_are_none_are_refused():
    data = frame() * 3
    sends, _ = read_sends(data)
    assert compiled.loops is not None

    for begin, end in ((0, 4), (-1, 2), (2, 1)):
        with pytest.raises(ValueError, match="rows"):
            compiled.loops.records_of(data, sends.rows, begin, end)
        run = sends.runs[0]._replace(begin=begin, end=end)
        with pytest.raises(ValueError, match="rows"):
            compiled.loops.acks_of(sends.rows, [run], [Receipt(0, 0, 0)])
    with pytest.raises(ValueError, match="runs"):
        compiled.loops.acks_of(sends.rows, sends.runs * 2, [Receipt(0, 0, 0)] * 6)
    with pytest.raises(ValueError, match="zip"):
        compiled.loops.acks_of(sends.rows, sends.runs, [])
    with pytest.raises(ValueError, match="outside"):
        compiled.loops.records_of(data[:-1], sends.rows, 0, 3)
    assert compiled.loops.records_of(data, sends.rows, 1, 1) == b""


def test_targets_share_the_name_of_their_topic():
    targets = Targets()
    first, second = (
        targets.make(b"%d" % number, 1, b"orders of today".decode(), number) for number in range(2)
    )

    assert first.topic is second.topic
    assert first.key[1] is second.key[1] is first.topic


def test_what_is_known_of_targets_has_a_bound():
    targets = Targets()
    for number in range(TARGETS_MAX + 1):
        targets.make(b"%d" % number, 1, "t", number)

    assert list(targets.by_bytes) == [b"%d" % TARGETS_MAX]
    assert isinstance(targets.by_bytes[b"%d" % TARGETS_MAX], Target)
