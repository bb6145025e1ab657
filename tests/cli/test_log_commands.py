"""Logs are proved, compared and shown from their files, and left as they are."""

import json
import random
import struct

import msgpack
import pytest

from broker.cli.log_check import StoredLog, compare, find_log_folder
from broker.cli.log_commands import describe_result, format_entry, verify_logs
from broker.cli.main import main
from broker.message.batch import ProducerMark, encode_mark
from broker.message.codec import encode_record
from dledger.config import StoreConfig
from dledger.entry import HEADER_SIZE
from dledger.errors import ConfigError, CorruptStoreError
from dledger.store.ledger_store import LedgerStore
from dledger.store.os_disk import OsDisk

SEGMENT_SIZE = 16 * 1024


class Writer:
    """A node that writes what it is told, and syncs it."""

    def __init__(self, folder):
        self.folder = folder
        config = StoreConfig(segment_size=SEGMENT_SIZE, index_file_units=1024)
        self.store = LedgerStore.open(OsDisk(), config, str(folder))
        self.offsets = {}
        self.term = 1

    def add(self, kind, channel, body):
        self.store.append(
            kind=kind, channel=channel, term=self.term, body=[body], body_size=len(body)
        )

    def add_noop(self):
        self.add(2, 0, b"")

    def add_command(self, *commands):
        self.add(1, 1, msgpack.packb(list(commands)))

    def add_messages(self, *bodies, queue_id=0, producer_id=7, sequence=None, offset=None):
        """Append one entry of *bodies*, placed and numbered as a broker would."""
        queue_offset = self.offsets.get(queue_id, 0) if offset is None else offset
        sequence = queue_offset if sequence is None else sequence
        mark = encode_mark(ProducerMark(producer_id, sequence, len(bodies), queue_id))

        def build(position):
            parts = [mark]
            position += HEADER_SIZE + len(mark)
            for number, body in enumerate(bodies):
                record = encode_record(
                    topic=b"orders",
                    queue_id=queue_id,
                    body=body,
                    properties=b"KEYS\x01k\x02",
                    queue_offset=queue_offset + number,
                    position=position,
                )
                parts.append(record)
                position += len(record)
            return b"".join(parts)

        self.add(1, 0, build(self.store.position_for(len(build(0)))))
        self.offsets[queue_id] = queue_offset + len(bodies)

    def sync(self):
        ticket = self.store.begin_sync()
        ticket.run()
        self.store.finish_sync(ticket)

    def flip(self, position):
        """Damage the byte at *position* of the log."""
        path = self.folder / "commitlog" / f"{position - position % SEGMENT_SIZE:020d}"
        with path.open("r+b") as file:
            file.seek(position % SEGMENT_SIZE)
            (byte,) = file.read(1)
            file.seek(position % SEGMENT_SIZE)
            file.write(bytes([byte ^ 1]))


@pytest.fixture
def make(tmp_path):
    """Return a function that makes a node's log: the same *count* entries whenever *seed* is."""

    def build(name, count=60, seed=1):
        writer = Writer(tmp_path / name / "data")
        chance = random.Random(seed)
        writer.add_noop()
        writer.add_command(["create_topic", {"topic": "orders", "queues": 2}])
        for number in range(count - 2):
            if number == count // 2:
                writer.term = 3
            bodies = [chance.randbytes(chance.randrange(1, 400)) for _ in range(number % 4 + 1)]
            writer.add_messages(*bodies, queue_id=number % 2)
        writer.sync()
        return writer

    return build


def run(capsys, *arguments):
    """Run the command; return exit code, stdout, stderr."""
    with pytest.raises(SystemExit) as ended:
        main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return ended.value.code, captured.out, captured.err


def content_of(folder):
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_a_whole_log_is_proved_and_left_as_it_is(make, tmp_path, capsys):
    writer = make("n1")
    before = content_of(tmp_path)

    code, out, _ = run(capsys, "log", "verify", tmp_path / "n1")

    assert code == 0
    assert "60 entries (1 to 60)" in out
    assert "terms 1 and 3" in out
    assert "143 messages in 2 queues, 1 metadata command, 1 no-op" in out
    assert content_of(tmp_path) == before
    assert writer.store.stats.segment_count > 1


def test_equal_logs_are_identical_up_to_the_end_of_the_shorter(make, tmp_path, capsys):
    make("n1", count=60)
    make("n2", count=60)
    longer = make("n3", count=60)
    longer.add_messages(b"more")
    longer.sync()

    code, out, _ = run(
        capsys, "log", "verify", tmp_path / "n1",
        "--against", tmp_path / "n2", "--against", tmp_path / "n3",
    )  # fmt: skip

    assert code == 0
    assert f"identical to {tmp_path}/n2 up to entry 60, the last of both" in out
    assert f"identical to {tmp_path}/n3 up to entry 60, the last here; there 1 more entry" in out
    _, out, _ = run(capsys, "log", "verify", tmp_path / "n3", "--against", tmp_path / "n1")
    assert "up to entry 60, the last there; here 1 more entry" in out


def test_logs_that_part_fail_and_say_where(make, tmp_path, capsys):
    one, other = make("n1"), make("n2")
    one.add_messages(b"one")
    other.add_messages(b"two")
    one.sync()
    other.sync()

    code, out, _ = run(capsys, "log", "verify", tmp_path / "n1", "--against", tmp_path / "n2")

    assert code == 1
    assert f"differs from {tmp_path}/n2: entry 61: byte" in out
    assert "up to entry 60" in out


def test_damage_below_what_was_synced_is_told_in_one_line(make, tmp_path, capsys):
    writer = make("n1")
    entry = writer.store.view(30)
    writer.flip(entry.end - 1)

    code, out, err = run(capsys, "log", "verify", tmp_path / "n1")

    assert (code, out) == (1, "")
    assert err.count("\n") == 1
    assert "entry 30" in err
    assert "body CRC" in err
    assert "move its data folder aside" in err


def test_damage_in_the_other_log_is_told_too(make, tmp_path):
    make("n1")
    other = make("n2")
    other.flip(other.store.view(50).position + 5)

    with pytest.raises(CorruptStoreError, match=r"n2/data/commitlog/.*entry 50"):
        verify_logs(tmp_path / "n1", (tmp_path / "n2",))


def test_an_entry_that_is_being_written_is_the_end_and_no_damage(make, tmp_path):
    """A running node's last entry may be half there: nobody was told of it yet."""
    writer = make("n1")
    writer.add_messages(b"half")
    writer.flip(writer.store.end_position - 1)

    result = verify_logs(tmp_path / "n1")

    assert result["ok"]
    assert result["end_index"] == 60
    assert "body CRC" in result["end_reason"]


def test_old_bytes_behind_the_end_are_no_damage(make, tmp_path):
    writer = make("n1")
    writer.add_messages(b"cut off")
    writer.add_messages(b"cut off, too")
    writer.store.truncate_from(61)

    assert verify_logs(tmp_path / "n1")["end_index"] == 60


def test_a_log_without_its_beginning_is_read_from_its_base(make, tmp_path):
    first, second = make("n1"), make("n2")
    first.store.begin_drop(3 * SEGMENT_SIZE).run()

    result = verify_logs(tmp_path / "n1", (tmp_path / "n2",))

    assert result["ok"]
    assert result["begin_index"] == first.store.begin_index > 1
    assert result["against"][0]["identical_index"] == second.store.end_index
    assert verify_logs(tmp_path / "n2", (tmp_path / "n1",))["ok"]


def test_logs_without_a_common_entry_do_not_pass(make, tmp_path):
    make("n1").store.begin_drop(4 * SEGMENT_SIZE).run()
    make("n2", count=5)

    result = verify_logs(tmp_path / "n1", (tmp_path / "n2",))

    assert not result["ok"]
    assert "no entry in common" in result["against"][0]["difference"]


def test_a_message_written_twice_is_a_problem(make, tmp_path, capsys):
    writer = make("n1")
    writer.add_messages(b"again", queue_id=1, sequence=0)
    writer.sync()

    code, out, _ = run(capsys, "log", "verify", tmp_path / "n1")

    assert code == 1
    assert "entry 61: orders, queue 1: messages 0 to 0 of producer 7 are written twice" in out


def test_a_hole_in_a_queue_is_a_problem(make, tmp_path):
    writer = make("n1")
    expected = writer.offsets[0]
    writer.add_messages(b"x", queue_id=0, offset=expected + 2)

    result = verify_logs(tmp_path / "n1")

    assert result["problems"] == [
        f"entry 61: orders, queue 0 goes on with offset {expected + 2}, expected {expected}"
    ]
    assert any("wrong: entry 61" in line for line in describe_result(result))


def test_a_record_in_the_wrong_place_is_a_problem(make, tmp_path):
    writer = make("n1")
    writer.add(1, 0, encode_record(topic=b"t", queue_id=0, body=b"x", position=17))

    assert "claims 17" in verify_logs(tmp_path / "n1")["problems"][0]


def test_what_is_no_record_is_a_problem(make, tmp_path):
    writer = make("n1")
    writer.add(1, 0, b"neither mark nor record")
    writer.add(1, 1, b"\xc1")

    problems = verify_logs(tmp_path / "n1")["problems"]

    assert [problem.split(":")[0] for problem in problems] == ["entry 61", "entry 62"]


def test_a_dump_shows_messages_marks_and_commands(make, tmp_path, capsys):
    writer = make("n1", count=3)
    writer.add_messages(b"hello", b"\xff\x00")

    code, out, _ = run(capsys, "log", "dump", tmp_path / "n1")

    lines = out.splitlines()
    assert code == 0
    assert lines[0].split() == ["1", "term", "1", "position", "0", "48", "B", "NOOP"]
    assert "create_topic {'topic': 'orders', 'queues': 2}" in lines[2]
    assert "producer 7: 2 from sequence 1, queue 0" in out
    assert "orders/0/1  KEYS=k  hello" in out
    assert "orders/0/2  KEYS=k  0xff00" in out


def test_a_dump_as_json_is_a_line_for_each_entry(make, tmp_path, capsys):
    make("n1", count=10)

    _, out, _ = run(capsys, "log", "dump", tmp_path / "n1", "--json", "--from", 2, "--limit", 2)

    entries = [json.loads(line) for line in out.splitlines()]
    assert [entry["index"] for entry in entries] == [2, 3]
    assert entries[0]["commands"][0]["kind"] == "create_topic"
    assert entries[1]["records"][1]["queue_offset"] == 0


def test_verify_as_json_is_one_object(make, tmp_path, capsys):
    make("n1")

    _, out, _ = run(capsys, "log", "verify", tmp_path / "n1", "--json")

    assert json.loads(out)["entries"] == 60


def test_a_damaged_entry_is_shown_with_what_is_wrong():
    lines = list(
        format_entry(
            {"index": 1, "term": 2, "position": 3, "size": 4, "kind": "NORMAL", "problem": "bad"}
        )
    )

    assert lines[-1].strip() == "wrong: bad"


@pytest.mark.parametrize("name", ["n1", "n1/data", "n1/data/commitlog"])
def test_a_log_is_found_from_the_folders_around_it(make, tmp_path, name):
    make("n1", count=3)

    assert find_log_folder(tmp_path / name) == tmp_path / "n1" / "data"


def test_a_folder_with_several_logs_or_none_is_refused(make, tmp_path):
    make("n1", count=3)
    assert find_log_folder(tmp_path) == tmp_path / "n1" / "data"
    make("n2", count=3)
    (tmp_path / "empty").mkdir()

    with pytest.raises(ConfigError, match=r"more than one log; name one of .*n1/data, .*n2/data"):
        find_log_folder(tmp_path)
    with pytest.raises(ConfigError, match="no log below it"):
        find_log_folder(tmp_path / "empty")
    with pytest.raises(ConfigError, match="no such folder"):
        find_log_folder(tmp_path / "nowhere")


def test_a_missing_segment_is_damage(make, tmp_path):
    make("n1")
    (tmp_path / "n1" / "data" / "commitlog" / f"{SEGMENT_SIZE:020d}").unlink()

    with pytest.raises(CorruptStoreError, match=f"{SEGMENT_SIZE:020d}|{0:020d}"):
        verify_logs(tmp_path / "n1")


def test_a_filler_that_leaves_room_for_the_next_entry_is_damage(make, tmp_path):
    """Two nodes must lay out the same entries alike, so a blank may not begin too early."""
    writer = make("n1", count=3)
    end = writer.store.end_position
    path = tmp_path / "n1" / "data" / "commitlog"
    room = SEGMENT_SIZE - end % SEGMENT_SIZE
    with (path / f"{0:020d}").open("r+b") as file:
        file.seek(end)
        file.write(struct.pack(">ii", -1, room))
    other = make("n2", count=40)
    assert other.store.end_position > SEGMENT_SIZE
    second = (tmp_path / "n2" / "data" / "commitlog" / f"{SEGMENT_SIZE:020d}").read_bytes()
    (path / f"{SEGMENT_SIZE:020d}").write_bytes(second)

    stored = StoredLog.open(tmp_path / "n1")

    assert [entry.header.index for entry in stored.walk()] == [1, 2, 3]
    assert compare(stored, [("n2", StoredLog.open(tmp_path / "n2"))])[0].identical_index == 3


def test_a_log_is_measured(tmp_path, capsys):
    writer = Writer(tmp_path)
    writer.add_noop()
    writer.add_command(["topic.put", {}])
    writer.add_messages(b"one", b"two", b"three")
    writer.add_messages(b"four", queue_id=1)
    writer.sync()

    code, out, _ = run(capsys, "log", "stat", tmp_path, "--json")
    found = json.loads(out)

    assert code == 0
    assert found["entries_by_kind"] == {"no_ops": 1, "commands": 1, "messages": 2}
    assert found["segment_bytes"] == found["segments"] * SEGMENT_SIZE
    assert found["commands"] == {"topic.put": 1}
    (topic,) = found["topics"]
    assert (topic["topic"], topic["queues"], topic["messages"]) == ("orders", 2, 4)
    assert topic["body_bytes"] == len(b"onetwothreefour")
    assert 0 < topic["record_bytes"] < found["log_bytes"]


def test_a_measured_log_is_told_in_lines(tmp_path, capsys):
    writer = Writer(tmp_path)
    writer.add_messages(b"one")
    writer.sync()

    _, out, _ = run(capsys, "log", "stat", tmp_path)

    lines = out.splitlines()
    assert "of 16.0 KiB" in lines[0]
    assert "entries 1 to 1 (1 with messages)" in lines[1]
    assert lines[-1].split()[:3] == ["orders", "1", "1"]


def test_an_empty_log_is_measured(tmp_path, capsys):
    Writer(tmp_path)

    _, out, _ = run(capsys, "log", "stat", tmp_path)

    assert "no entry; the next one is 1" in out
