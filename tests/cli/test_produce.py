"""Lines become messages, handed over in their order."""

import io
import random

import pytest
import trio
from click import BadParameter

from broker.cli.produce_command import read_properties, send_in_order
from broker.cli.produce_input import (
    Outgoing,
    ProduceError,
    json_reader,
    line_reader,
    open_input,
    read_messages,
)

read_line = line_reader(Outgoing(number=0))
read_json = json_reader(Outgoing(number=0))


async def collect(stream, make=read_line):
    return [message async for batch in read_messages(stream, make) for message in batch]


class Dribble(io.RawIOBase):
    """A pipe that gives a few bytes at a time."""

    def __init__(self, data, size):
        self.data = data
        self.size = size

    def readable(self):
        return True

    def readinto(self, buffer):
        part, self.data = self.data[: self.size], self.data[self.size :]
        buffer[: len(part)] = part
        return len(part)


@pytest.mark.parametrize("size", [1, 2, 3, 7, 100])
async def test_lines_are_messages_however_they_arrive(size):
    stream = io.BufferedReader(Dribble(b"one\r\n\ntwo \n\xff\nlast", size), 100)

    messages = await collect(stream)

    assert [message.body for message in messages] == [b"one", b"two ", b"\xff", b"last"]
    assert [message.number for message in messages] == [1, 3, 4, 5]


async def test_json_lines_carry_key_tag_and_properties():
    lines = (
        b'{"body": "hi", "key": "k", "tag": "t", "properties": {"a": "5"}}\n'
        b'{"body_base64": "/w==", "key": ["k1", "k2"], "queue_offset": 17}\n'
    )

    one, two = await collect(io.BytesIO(lines), read_json)

    assert (one.body, one.keys, one.tag, one.properties) == (b"hi", ("k",), "t", {"a": "5"})
    assert (two.body, two.keys, two.tag) == (b"\xff", ("k1", "k2"), None)


@pytest.mark.parametrize(
    "line", [b"{", b"[]", b'{"key": "k"}', b'{"body": 5}', b'{"body_base64": "*"}']
)
async def test_a_bad_json_line_is_a_problem_of_its_own(line):
    """What stands before and behind it is sent all the same."""
    stream = io.BytesIO(b'{"body": "good"}\n' + line + b'\n{"body": "good too"}\n')

    good, bad, good_too = await collect(stream, read_json)

    assert (good.body, good_too.body) == (b"good", b"good too")
    assert bad.number == 2
    assert bad.problem
    assert not good.problem


async def test_what_a_line_leaves_out_comes_from_the_command():
    pattern = Outgoing(
        number=0, keys=("k",), tag="t", properties={"a": "1", "b": "2"}, ordering_key="user"
    )
    lines = (
        b'{"body": "x"}\n'
        b'{"body": "x", "key": "own", "tag": "own", "props": {"b": 3, "c": true}, "queue": 2}\n'
    )

    plain, own = await collect(io.BytesIO(lines), json_reader(pattern))

    assert (plain.keys, plain.tag, plain.ordering_key, plain.queue) == (("k",), "t", "user", None)
    assert plain.properties == {"a": "1", "b": "2"}
    assert (own.keys, own.tag, own.ordering_key, own.queue) == (("own",), "own", None, 2)
    assert own.properties == {"a": "1", "b": "3", "c": "true"}


def test_properties_are_read_from_name_and_value():
    assert read_properties(("a=5", "b=x=y", "c=")) == {"a": "5", "b": "x=y", "c": ""}
    assert read_properties(()) is None


@pytest.mark.parametrize("prop", ["a", "=5"])
def test_a_property_without_name_or_value_is_wrong_usage(prop):
    with pytest.raises(BadParameter, match="write NAME=VALUE"):
        read_properties((prop,))


def test_a_file_is_opened_at_its_beginning_and_measured(tmp_path):
    path = tmp_path / "lines"
    path.write_bytes(b"one\ntwo\n")

    with open_input(str(path)) as (stream, size):
        assert (stream.read(), size) == (b"one\ntwo\n", 8)
    with pytest.raises(ProduceError, match="No such file"), open_input(str(tmp_path / "no")):
        pass


async def messages_of(count, batch_count=37):
    """Yield *count* messages, now and then none, as a slow pipe gives them."""
    messages = [Outgoing(number=number, body=b"") for number in range(count)]
    yield []
    for start in range(0, count, batch_count):
        await trio.sleep(0.01)
        yield messages[start : start + batch_count]
        yield []


async def test_messages_are_handed_over_in_their_order(autojump_clock):
    chance = random.Random(1)
    begun = []

    async def send(message):
        begun.append(message.number)
        await trio.sleep(chance.random())

    await send_in_order(messages_of(500), send, in_flight_max=100)

    assert begun == list(range(500))


async def test_as_many_are_under_way_as_are_allowed(autojump_clock):
    under_way = 0
    most = 0

    async def send(_):
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        await trio.sleep(1)
        under_way -= 1

    await send_in_order(messages_of(41), send, in_flight_max=8)

    assert most == 8
    assert under_way == 0
    assert trio.current_time() == pytest.approx(6, abs=0.5)


async def test_a_message_that_cannot_be_sent_ends_the_rest(autojump_clock):
    async def send(message):
        await trio.sleep(1)
        if message.number == 3:
            raise ProduceError("line 3")

    with pytest.RaisesGroup(ProduceError):
        await send_in_order(messages_of(1000), send, in_flight_max=4)
    assert trio.current_time() < 5
