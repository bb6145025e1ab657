"""How one message and a list of messages look to people, without a group to ask."""

import json
from contextlib import asynccontextmanager
from types import SimpleNamespace

import pytest
from click.testing import CliRunner

from broker.cli import message_commands
from broker.cli.message_commands import body_lines, describe, message
from broker.client.lookup import decode_found
from broker.message.codec import encode_record
from broker.message.properties import encode_properties


def a_message(body=b"two chairs", offset=128, **properties):
    record = bytearray(
        encode_record(
            topic=b"orders",
            queue_id=3,
            body=body,
            properties=encode_properties(properties),
            born_timestamp_ms=1_795_000_000_000,
        )
    )
    record[20:36] = offset.to_bytes(8, "big") + (4824).to_bytes(8, "big")
    record[56:72] = (1_795_000_000_123).to_bytes(8, "big") + bytes([127, 0, 0, 1, 0, 0, 38, 148])
    (found,) = decode_found(bytes(record))
    return found


FULL = {"UNIQ_KEY": "U" * 32, "KEYS": "order-17 k2", "TAGS": "furniture", "colour": "green"}


@pytest.fixture
def group(monkeypatch):
    """A group that has the messages of a list, and notes what it is asked."""
    kept = [a_message(**FULL)]
    asked = []

    class Messages:
        async def at(self, *place):
            asked.append(("at", *place))
            return next((each for each in kept if place[2] == each.queue_offset), None)

        async def by_id(self, message_id):
            asked.append(("by_id", message_id))
            return next((each for each in kept if each.message_id == message_id), None)

        async def by_unique_key(self, topic, unique_id):
            asked.append(("by_unique_key", topic, unique_id))
            return next((each for each in kept if each.unique_id == unique_id), None)

        async def by_key(self, topic, key, *, begin, end, limit):
            asked.append(("by_key", topic, key, begin, end, limit))
            return [each for each in kept if key in each.keys][-limit:]

    async def list_topics():
        return [SimpleNamespace(topic="orders"), SimpleNamespace(topic="others")]

    @asynccontextmanager
    async def open_client(servers, *, auto_create_topic):
        assert not auto_create_topic, "looking must not create what is looked for"
        yield SimpleNamespace(messages=Messages(), admin=SimpleNamespace(list_topics=list_topics))

    monkeypatch.setattr(message_commands, "open_client", open_client)
    return SimpleNamespace(kept=kept, asked=asked)


def run(*arguments):
    return CliRunner().invoke(message, arguments)


def test_all_there_is_to_know_of_a_message():
    lines = "\n".join(describe(a_message(**FULL)))

    for words in (
        "topic         orders",
        "offset        128",
        "message id    7F00000100002694" + "00000000000012D8",
        "unique id     " + "U" * 32,
        "position      4,824",
        "keys          order-17 k2",
        "tag           furniture",
        "property      colour = green",
        "(123 ms later)",
        "body          10 B",
    ):
        assert words in lines
    assert lines.endswith("\n\ntwo chairs")


@pytest.mark.parametrize(
    ("body", "lines"),
    [
        (b"", ["(empty)"]),
        (b"a\tb\r\nc\n", ["a\tb", "c"]),
        ("käse".encode(), ["käse"]),
        (b"\x00AB\xff", ["00000000  00 41 42 ff" + " " * 38 + ".AB."]),
        (b"\x1b[2J", ["00000000  1b 5b 32 4a" + " " * 38 + ".[2J"]),
    ],
)
def test_a_body_is_text_or_bytes_and_never_moves_the_cursor(body, lines):
    assert body_lines(body) == lines


def test_properties_cannot_move_the_cursor():
    lines = describe(a_message(KEYS="k\x1b[2J", colour="a\nb"))

    assert "\x1b" not in "".join(lines)
    assert "property      colour = a\N{RETURN SYMBOL}b" in lines


def test_a_message_by_its_place(group):
    done = run("get", "orders:3:128")

    assert done.exit_code == 0
    assert "two chairs" in done.output
    assert group.asked == [("at", "orders", 3, 128)]


def test_an_id_is_a_message_id_before_it_is_a_unique_id(group):
    (kept,) = group.kept
    assert run("get", kept.message_id).exit_code == 0
    assert group.asked == [("by_id", kept.message_id)]
    group.asked.clear()

    assert run("get", "U" * 32).exit_code == 0
    assert group.asked == [("by_unique_key", "orders", "U" * 32)], "it is no hexadecimal"
    group.asked.clear()

    assert run("get", "AB" * 16).exit_code == 1
    assert [name for name, *_ in group.asked] == ["by_id", "by_unique_key", "by_unique_key"]
    group.asked.clear()

    assert run("get", "U" * 32, "--topic", "others").exit_code == 0
    assert group.asked == [("by_unique_key", "others", "U" * 32)]


def test_json_has_what_consume_prints_and_the_position(group):
    found = json.loads(run("get", "orders:3:128", "--json").output)

    assert found["body"] == "two chairs"
    assert found["key"] == ["order-17", "k2"]
    assert (found["queue_id"], found["queue_offset"], found["position"]) == (3, 128, 4824)


def test_the_body_alone_is_its_bytes(group):
    group.kept[0] = a_message(body=b"\x00\xff\n")

    assert run("get", "orders:3:128", "--body").stdout_bytes == b"\x00\xff\n"


def test_what_is_not_there_is_said_and_the_exit_code_is_1(group):
    for arguments in (("get", "orders:3:9"), ("by-key", "orders", "nobody's")):
        done = run(*arguments)
        assert done.exit_code == 1
        assert arguments[-1] in done.stderr
        assert done.stdout == ""


def test_a_place_and_a_topic_are_one_too_many(group):
    done = run("get", "orders:3:128", "-t", "orders")

    assert done.exit_code == 2
    assert group.asked == []


def test_messages_by_key_are_a_table_or_lines_of_json(group):
    group.kept.append(a_message(body=b"\x00\x01", offset=129, KEYS="order-17"))

    table = run("by-key", "orders", "order-17")
    lines = run("by-key", "orders", "order-17", "--json").stdout.splitlines()

    rows = [line.split() for line in table.stdout.splitlines()]
    assert rows[0] == ["stored", "queue", "offset", "tag", "bytes", "body"]
    assert rows[1][2:] == ["3", "128", "furniture", "10", "two", "chairs"]
    assert rows[2][2:5] == ["3", "129", "2"]
    assert [json.loads(line)["queue_offset"] for line in lines] == [128, 129]
    assert table.exit_code == 0


def test_times_and_a_limit_go_along(group):
    times = ("--from", "1795000000000", "--to", "1795000000001")
    done = run("by-key", "orders", "order-17", *times, "-n", "1")

    ((_, topic, key, begin, end, limit),) = group.asked
    assert (topic, key, limit) == ("orders", "order-17", 1)
    assert round((end - begin).total_seconds() * 1000) == 1
    assert round(begin.timestamp() * 1000) == 1_795_000_000_000
    assert "may be more" in done.stderr
    assert run("by-key", "o", "k", "--from", "now", "--to", "-1h").exit_code == 2
