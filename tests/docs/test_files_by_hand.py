"""A data folder read by nothing but docs/file-formats.md: what the page says is what is there."""

import itertools
import json
import struct
import subprocess
import sys
from datetime import UTC, datetime
from zlib import crc32

import msgpack
import pytest

from broker.cli.local_group import find_base_port

pytestmark = [pytest.mark.process, pytest.mark.slow]

SEGMENT_SIZE = 64 * 1024
BODIES = [f"message {number} ".encode() * 20 for number in range(1000)]


def dledger(*arguments, stdin=b""):
    done = subprocess.run(
        [sys.executable, "-m", "broker.cli.main", *map(str, arguments)],
        input=stdin,
        capture_output=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """The data folder of a group of one that has lived and was stopped."""
    folder = tmp_path_factory.mktemp("group")
    here = ("--data", folder)
    dledger(
        "up", *here, "--nodes", "1", "--base-port", find_base_port(1), "--detach",
        "--segment-size", SEGMENT_SIZE,
    )  # fmt: skip
    dledger("topic", "create", "by%hand", "-q", "2", *here)
    for tenth in range(10):
        lines = b"\n".join(BODIES[tenth * 100 : tenth * 100 + 100])
        dledger("produce", "by%hand", "-k", "k", "--tag", "T", *here, stdin=lines)
    dledger("consume", "by%hand", "-g", "readers", "-n", len(BODIES), *here)
    dledger("down", *here)
    return folder / "n1" / "data"


def slots_of(path, magic):
    """Payloads of both slots, the newer one first."""
    content = path.read_bytes()
    assert len(content) == 8192
    found = []
    for offset in (0, 4096):
        head, version, size, sequence = struct.unpack_from(">4sHHQ", content, offset)
        assert (head, version) == (magic, 1)
        end = offset + 16 + size
        assert struct.unpack_from(">I", content, end) == (crc32(content[offset:end]),)
        found.append((sequence, content[offset + 16 : end]))
    return [payload for _, payload in sorted(found, reverse=True)]


def entries_of(data):
    """Yield (index, term, position, channel, chain crc, body) of the whole log."""
    log = b"".join(path.read_bytes() for path in sorted((data / "commitlog").glob("[0-9]*")))
    position = index = chain = 0
    while position < len(log):
        magic, size = struct.unpack_from(">ii", log, position)
        room = SEGMENT_SIZE - position % SEGMENT_SIZE
        if (magic, size) == (-1, room):
            position += room
            continue
        if magic not in (1, 2) or struct.unpack_from(">q", log, position + 8) != (index + 1,):
            return
        header = log[position : position + 48]
        _, _, index, term, place, channel, found, body_crc, body_size = struct.unpack(
            ">iiqqqiIIi", header
        )
        body = log[position + 48 : position + size]
        chain = crc32(header[40:48], crc32(header[:36], chain))
        assert (place, found, body_crc, body_size) == (position, chain, crc32(body), size - 48)
        yield index, term, position, channel, chain, body
        position += size


def records_of(entry):
    """Yield (mark, position, record) of an entry of channel 0."""
    _, _, position, _, _, body = entry
    at, mark, left = 0, None, 0
    while at < len(body):
        size, magic = struct.unpack_from(">iI", body, at)
        if magic == 0x44504D31:
            assert left == 0
            mark = struct.unpack_from(">QQii", body, at + 8)
            assert body[at + 32 : at + 40] == bytes(8)
            left = mark[2]
        else:
            assert magic == 0xDAA320A7
            left -= 1
            yield mark, position + 48 + at, body[at : at + size]
        at += size


def test_the_log_holds_what_was_sent_and_says_where(data):
    entries = list(entries_of(data))
    segments = sorted(path.name for path in (data / "commitlog").glob("[0-9]*"))
    bodies, offsets = [], {0: 0, 1: 0}
    for entry in entries:
        if entry[3] != 0:
            continue
        for mark, position, record in records_of(entry):
            (queue_id,) = struct.unpack_from(">i", record, 12)
            queue_offset, place = struct.unpack_from(">qq", record, 20)
            (body_size,) = struct.unpack_from(">i", record, 84)
            body = record[88 : 88 + body_size]
            assert (queue_id, queue_offset, place) == (mark[3], offsets[queue_id], position)
            assert struct.unpack_from(">I", record, 8) == (crc32(body) & 0x7FFFFFFF,)
            rest = record[88 + body_size :]
            assert rest[: 1 + rest[0]] == b"\x07by%hand"
            assert b"KEYS\x01k\x02TAGS\x01T" in rest
            offsets[queue_id] += 1
            bodies.append(body)

    assert segments[:2] == [f"{0:020d}", f"{SEGMENT_SIZE:020d}"]
    assert len(segments) > 2
    assert [index for index, *_ in entries] == list(range(1, len(entries) + 1))
    assert sorted(bodies) == sorted(BODIES)


def test_commands_are_those_of_the_page(data):
    bodies = [entry[5] for entry in entries_of(data) if entry[3] == 1]
    commands = [command for body in bodies for command in msgpack.unpackb(body)]

    kind, args = commands[0]
    assert kind == "topic.put"
    assert args == args | {"topic": "by%hand", "read": 2, "write": 2, "perm": 6}
    assert {kind for kind, _ in commands[1:]} == {
        "group.create", "consumer.join", "topic.create", "offset.commit", "consumer.leave"
    }  # fmt: skip
    assert all(args.get("group", "readers") == "readers" for _, args in commands[1:])


def test_the_index_leads_to_every_entry(data):
    units = (data / "index" / f"{0:020d}").read_bytes()

    for index, term, position, _, _, body in entries_of(data):
        unit = struct.unpack_from(">iqiqq", units, 32 * index)
        assert unit[1:] == (position, 48 + len(body), index, term)


def test_vote_checkpoint_and_watermark_tell_of_the_end(data):
    *_, last = entries_of(data)
    index, term, position, _, chain, body = last

    vote_term, joining, voted_for = struct.unpack(">q?64s", slots_of(data / "vote", b"DLVT")[0])
    checkpoint = struct.unpack(">QQQQIQQQI", slots_of(data / "checkpoint", b"DLCK")[0])
    watermark, _ = struct.unpack(">Q64s", slots_of(data / "watermark", b"DLWM")[0])

    assert (vote_term, joining, voted_for.rstrip(b"\0")) == (term, False, b"n1")
    assert checkpoint[1:5] == (0, 0, 0, 0)
    assert checkpoint[5:] == (index, term, position + 48 + len(body), chain)
    assert watermark == index


def test_the_identity_says_whose_it_is(data):
    assert json.loads((data / "identity.json").read_text()) == {
        "format_version": 1,
        "group": "local",
        "node_id": "n1",
        "segment_size": SEGMENT_SIZE,
        "index_file_units": 512 * 1024,
    }
    assert (data / "lock").read_bytes() == b""


def test_consume_queues_lead_to_every_record(data):
    expected = {0: b"", 1: b""}
    for entry in entries_of(data):
        if entry[3] == 0:
            for mark, position, record in records_of(entry):
                expected[mark[3]] += struct.pack(">qiq", position, len(record), ord("T"))

    for queue_id, units in expected.items():
        path = data / "derived" / "consumequeue" / "by%25hand" / str(queue_id) / f"{0:020d}"
        assert path.read_bytes() == units


def java_hash(text):
    found = 0
    for unit in text:
        found = (31 * found + ord(unit)) % 2**32
    return abs(found - 2**32 if found >= 2**31 else found)


def test_the_key_index_leads_to_every_record_by_its_keys(data):
    slot_count = SEGMENT_SIZE // 512
    found, names = [], []
    for path in sorted((data / "derived" / "keyindex").iterdir()):
        content = path.read_bytes()
        begin, end, first, last, used, count = struct.unpack_from(">qqqqii", content)
        slots = struct.unpack_from(f">{slot_count}i", content, 40)
        entries = [*struct.iter_unpack(">iqii", content[40 + 4 * slot_count :])]
        assert entries[0] == (0, 0, 0, 0)
        assert (count, sum(map(bool, slots))) == (len(entries), used)
        assert (entries[1][1], entries[-1][1]) == (first, last)
        assert first // SEGMENT_SIZE == last // SEGMENT_SIZE
        latest = {}
        for number, (hashed, position, seconds, previous) in enumerate(entries[1:], start=1):
            assert previous == latest.get(hashed % slot_count, 0)
            assert 0 <= seconds <= (end - begin) // 1000
            latest[hashed % slot_count] = number
            found.append((position, hashed))
        assert slots == tuple(latest.get(slot, 0) for slot in range(slot_count))
        made = datetime.fromtimestamp(begin / 1000, UTC)
        names.append(f"{made:%Y%m%d%H%M%S}")
        assert path.name.startswith(names[-1])

    expected = []
    for entry in entries_of(data):
        if entry[3] == 0:
            for _, position, record in records_of(entry):
                unique = record.partition(b"UNIQ_KEY\x01")[2][:32].decode()
                expected += [
                    (position, java_hash(f"by%hand#{unique}")),
                    (position, java_hash("by%hand#k")),
                ]
    assert len(names) > 2
    assert found == expected


def test_the_last_state_is_that_of_the_last_entry(data):
    entries = list(entries_of(data))
    index, term, position, _, chain, body = entries[-1]
    paths = sorted((data / "derived").glob("state-*"))
    content = paths[-1].read_bytes()
    point, queues, producers, metadata, floors, key_index = msgpack.unpackb(
        content[8:], strict_map_key=False
    )

    assert paths[-1].name == f"state-{index:020d}"
    assert struct.unpack(">4sI", content[:8]) == (b"DLS1", crc32(content[8:]))
    assert point == [index, term, position + 48 + len(body), chain]
    assert [row[:2] for row in queues] == [["by%hand", 0], ["by%hand", 1]]
    assert sum(row[2] for row in queues) == len(BODIES)
    assert sum(run[1] for row in producers[1] for run in row[6]) == len(BODIES)
    assert floors == []
    files = sorted((data / "derived" / "keyindex").iterdir())
    size = files[-1].stat().st_size
    assert key_index[0] == len(files)
    assert 40 + 4 * key_index[5] + 20 * (key_index[2] + 1) == size
    assert struct.pack(">qq", *key_index[3:5]) == files[-1].read_bytes()[:16]
    assert set(metadata) == {
        "consumer_offsets", "consumers", "once", "queue_locks", "subscription_groups", "topics"
    }  # fmt: skip
    boundaries = {
        before[0] for before, after in itertools.pairwise(entries) if after[2] % SEGMENT_SIZE == 0
    }
    assert boundaries < {int(path.name.removeprefix("state-")) for path in paths}
