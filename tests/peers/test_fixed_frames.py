"""Frames of the two fixed shapes: what everybody else reads and writes, only with less work."""

from __future__ import annotations

import random

import pytest
import trio

from dledger.peers.fixed_frames import frame_of, read_front
from dledger.peers.link import PeerLink
from dledger.peers.messages import from_command, to_command
from dledger.remoting.connection import Connection
from dledger.remoting.errors import LocalProtocolError, RemoteProtocolError
from dledger.remoting.frame import FRAME_SIZE_MAX, encode_frame
from tests.peers.test_messages import MESSAGES

# All lengths that msgpack has for a number, and those that signed ones would end at.
NUMBERS = [0, 1, 127, 128, 255, 256, 65535, 65536, (1 << 31) - 1, 1 << 31, 1 << 32, (1 << 63) - 1]


def append(entries=b"", numbers=(3, 4, 9, 2, 11, 9), **more):
    names = ("term", "id", "prev_index", "prev_term", "last_index", "commit_index")
    fields = dict(zip(names, numbers, strict=True))
    return {"type": "append_entries", **fields, "entries": entries, **more}


def answer(numbers=(3, 4, 12), *, success=True, reset=False, joining=False, **more):
    fields = dict(zip(("term", "id", "next_index"), numbers, strict=True))
    flags = {"success": success, "reset": reset, "joining": joining}
    return {"type": "append_answer", **fields, **flags, **more}


FIXED = [
    append(),
    append(b"\x00\xffbytes"),
    append(b"x" * 1023),
    append(b"x" * 1024),
    append(b"x" * 70_000),
    *(append(b"e", [number] * 6) for number in NUMBERS),
    append(b"e", (1 << 40, 2, 300, 4, 5 << 50, 6)),
    answer(),
    *(answer([number] * 3) for number in NUMBERS),
    answer((5 << 50, 6, 7)),
]
OTHERS = [
    append(admit_index=-1),
    append(b"entry", sync_index=7),
    append(b"entry", tell_written=True),
    answer(success=False, reset=True),
    answer(success=False),
    answer(joining=True),
    answer(written_index=13, synced_index=11),
    *(message for message in MESSAGES if not message["type"].startswith("append")),
]


def joined(buffers):
    return b"".join(bytes(buffer) for buffer in buffers)


def general(message):
    return joined(encode_frame(to_command(dict(message))))


def plain(messages):
    """Views of bodies as bytes, to compare."""
    return [
        {name: bytes(v) if isinstance(v, memoryview) else v for name, v in message.items()}
        for message in messages
    ]


def read_generally(pieces):
    """What came out, and what was said of what was refused."""
    connection = Connection()
    found = []
    for piece in pieces:
        connection.receive_data(piece)
        try:
            found += [from_command(command) for command in connection.commands()]
        except RemoteProtocolError as error:
            return plain(found), str(error)
    return plain(found), None


class Listener:
    """A link, and what it hands on."""

    def __init__(self, frame_size_max=FRAME_SIZE_MAX):
        self.heard = []
        self.link = PeerLink(
            peer_id="n2",
            stream=None,
            connection=Connection(frame_size_max=frame_size_max),
            hooks=self,
            buffer_size_max=1,
            silence_seconds=1.0,
        )

    def on_messages(self, _peer_id, messages):
        self.heard += plain(messages)

    def read(self, pieces):
        for piece in pieces:
            try:
                self.link._take(piece)
            except RemoteProtocolError as error:
                return self.heard, str(error)
        return self.heard, None


def of_kind(message):
    return f"{message['type']}-{len(message)}"


@pytest.mark.parametrize("message", FIXED, ids=of_kind)
def test_a_frame_of_a_fixed_shape_is_read_by_the_general_reader_too(message):
    """A member from before there was this way understands whoever goes it."""
    frame = joined(frame_of(message))

    assert read_generally([frame]) == ([message], None)
    found = []
    assert read_front(frame, found, frame_size_max=FRAME_SIZE_MAX) == len(frame)
    assert plain(found) == [message]


@pytest.mark.parametrize("message", FIXED, ids=of_kind)
def test_what_the_general_writer_writes_is_left_to_the_general_reader(message):
    """But where all numbers are so large that it comes to the very same bytes."""
    frame = general(message)
    found = []

    if frame != joined(frame_of(message)):
        assert read_front(frame, found, frame_size_max=FRAME_SIZE_MAX) == 0
        assert not found
    assert Listener().read([frame]) == ([message], None)


@pytest.mark.parametrize("message", OTHERS, ids=of_kind)
def test_other_messages_are_written_and_read_the_general_way(message):
    frame = joined(frame_of(message))
    found = []

    assert frame == general(message)
    assert read_front(frame, found, frame_size_max=FRAME_SIZE_MAX) == 0
    assert not found
    assert Listener().read([frame]) == ([message], None)


@pytest.mark.parametrize("message", [append(b"abc"), answer()], ids=of_kind)
def test_every_byte_of_the_header_counts(message):
    """No byte of it can be another one and the frame be read this way, but for the numbers'."""
    frame = joined(frame_of(message))
    of_numbers = set()
    for at in range(len(frame) - len(message.get("entries", b""))):
        changed = bytearray(frame)
        changed[at] ^= 0x01
        found = []
        end = read_front(bytes(changed), found, frame_size_max=FRAME_SIZE_MAX)
        if end:
            assert plain(found) == read_generally([changed])[0]
            of_numbers.add(at)
    assert len(of_numbers) == 8 * (6 if "entries" in message else 3)


@pytest.mark.parametrize("message", [append(b"abc"), answer()], ids=of_kind)
def test_a_number_that_no_file_holds_is_refused_by_name(message):
    for name, value in message.items():
        if type(value) is int:
            frame = joined(frame_of({**message, name: 1 << 63}))
            heard, said = Listener().read([frame])
            assert not heard
            assert f"field {name} = {1 << 63} is out of range" in said
            assert joined(frame_of({**message, name: -1})) == general({**message, name: -1})


def test_frames_are_taken_up_to_the_first_that_is_not_whole():
    """Also when that is cut anywhere: the rest of it comes with the next receive."""
    messages = [append(b"one"), answer(), append(), append(b"two", sync_index=3), append(b"three")]
    stream = b"".join(joined(frame_of(message)) for message in messages)

    for at in range(len(stream) + 1):
        assert Listener().read([stream[:at], stream[at:]]) == (messages, None)
    assert Listener().read([stream[at : at + 1] for at in range(len(stream))]) == (messages, None)


def test_frames_over_the_limit_are_refused_either_way():
    frame = joined(frame_of(append(b"x" * 1000)))
    assert Listener(len(frame)).read([frame]) == ([append(b"x" * 1000)], None)
    _, said = Listener(len(frame) - 1).read([frame])
    assert f"over the limit of {len(frame) - 1}" in said

    largest = append(bytes(FRAME_SIZE_MAX - len(joined(frame_of(append())))))
    assert len(joined(frame_of(largest))) == FRAME_SIZE_MAX
    with pytest.raises(LocalProtocolError, match="over the limit"):
        frame_of(append(bytes(FRAME_SIZE_MAX)))


def test_large_entries_are_not_copied_on_their_way():
    entries = memoryview(bytes(5000))
    head, body = frame_of(append(entries))
    assert body is entries

    found = []
    frame = bytes(head) + bytes(body)
    read_front(frame, found, frame_size_max=FRAME_SIZE_MAX)
    assert found[0]["entries"].obj is frame


def test_damaged_streams_come_to_the_same_either_way():
    """Frames of all kinds, cut, changed, left out in part and put together: made up from a seed."""
    dice = random.Random(7)
    frames = [joined(frame_of(message)) for message in FIXED + OTHERS if len(str(message)) < 3000]
    frames += [general(message) for message in FIXED[:3]]
    refused = read = 0
    for _ in range(4000):
        stream = bytearray(b"".join(dice.choices(frames, k=dice.randrange(1, 5))))
        for _ in range(dice.choice([0, 0, 1, 1, 2, 5])):
            at = dice.randrange(len(stream))
            what = dice.randrange(4)
            if what == 0:
                stream[at] = dice.randrange(256)
            elif what == 1:
                stream[at] ^= 1 << dice.randrange(8)
            elif what == 2:
                del stream[at : at + dice.choice([1, 8, 9, 100])]
            else:
                stream[at:at] = dice.randbytes(dice.choice([1, 8, 9]))
            if not stream:
                break
        whole = bytes(stream)
        pieces = [whole]
        if dice.random() < 0.5:
            at = dice.randrange(len(whole) + 1)
            pieces = [whole[:at], whole[at:]]
        pieces.append(joined(frame_of(answer())))  # so that whatever broke is noticed
        expected, said = read_generally(pieces)
        heard, said_here = Listener().read(pieces)
        assert said_here == said
        if said is None:
            assert heard == expected
            read += 1
        else:
            # What came in one receive with the broken frame is not handed on for certain.
            shorter = min(len(heard), len(expected))
            assert heard[:shorter] == expected[:shorter]
            refused += 1
    assert refused > 500
    assert read > 500


async def test_members_talk_in_both_ways(autojump_clock, meeting):
    """One that writes every header the general way and one that does not, over one connection."""
    one, two = await meeting.start_all("n1", "n2")
    # What the wire in memory holds at a time.
    messages = [message for message in FIXED + OTHERS if len(message.get("entries", b"")) < 2000]

    for message in messages:
        one.links["n2"].send(message)
    one.links["n2"].flush()
    _, acceptor = meeting.wires.streams("n1", "n2")
    for message in messages:
        assert not acceptor.send_now([general(message)])
    await trio.sleep(0.5)

    assert plain(message for _, message in two.heard) == messages
    assert plain(message for _, message in one.heard) == messages
    assert (one.lost, two.lost) == ([], [])
