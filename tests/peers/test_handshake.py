"""Who may talk to whom: every difference is refused, and both sides say why."""

import logging
import re
import struct

import pytest
import trio

from dledger.config import Member, StoreConfig
from dledger.errors import HandshakeRefusedError
from dledger.peers.link import check_hello
from dledger.protocol import PEER_PROTOCOL_VERSION, PeerCode
from dledger.remoting.command import FLAG_ONEWAY, Command
from dledger.remoting.connection import Connection
from dledger.remoting.frame import encode_frame
from tests.peers.conftest import MEMBERS, config

GREETING = {
    "version": PEER_PROTOCOL_VERSION,
    "group": "g",
    "node_id": "n1",
    "members": "n1=host-1.my-group:7001,n2=host-2.my-group:7002,n3=host-3.my-group:7003",
    "segment_size": 1 << 30,
    "joining": False,
    "last_index": 3,
}


async def greet_by_hand(meeting, fields, code=PeerCode.HELLO):
    """Send a greeting to n2; return its answer, None when the connection is closed first."""
    stream = await meeting.wires.network.connect("host-2.my-group", 7002)
    stream.send_now(encode_frame(Command(int(code), FLAG_ONEWAY, ext_fields=fields)))
    connection = Connection()
    with trio.fail_after(10):
        while (command := connection.next_command()) is None:
            data = await stream.receive_some()
            if not data:
                return None
            connection.receive_data(data)
    return command


async def test_members_of_one_group_connect_and_tell_how_far_they_are(autojump_clock, meeting):
    one, two, three = await meeting.start_all("n1", "n2", "n3")

    assert sorted(one.connected) == [("n2", False, 7), ("n3", False, 7)]
    assert sorted(two.connected) == [("n1", False, 7), ("n3", False, 7)]
    assert sorted(three.connected) == [("n1", False, 7), ("n2", False, 7)]
    assert not one.lost + two.lost + three.lost


async def test_there_is_one_connection_for_each_pair_made_by_the_smaller_id(
    autojump_clock, meeting
):
    await meeting.start_all("n3", "n2", "n1")

    for one, other in (("n1", "n2"), ("n1", "n3"), ("n2", "n3")):
        assert len(meeting.wires.streams(one, other)) == 2  # the two ends of one
    assert {(name, port) for _, name, port in meeting.wires.connects} == {
        ("n1", 7002), ("n1", 7003), ("n2", 7003),
    }  # fmt: skip


async def test_a_group_of_one_neither_listens_nor_dials(autojump_clock, meeting):
    alone = await meeting.start(config("n1", members=MEMBERS[:1]))

    await trio.sleep(10)

    assert not alone.connected
    assert not meeting.wires.connects
    assert not meeting.wires.owner_of_port


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"version": 99}, "peer protocol version 99, this node 'n2' has 1"),
        ({"group": "other"}, "group 'other', this node 'n2' has 'g'"),
        ({"members": "n1=a:1"}, "member list 'n1=a:1', this node 'n2' has 'n1=host-1.my-group"),
        ({"segment_size": 4096}, "segment_size 4096, this node 'n2' has 1073741824"),
        ({"node_id": "n2"}, "two nodes run with one node_id"),
        ({"node_id": "n9"}, "'n9' is not a member of group 'g'"),
        ({"node_id": None}, "None is not a member of group 'g'"),
        ({"node_id": ["n1"]}, "a list is not a member of group 'g'"),
        ({"node_id": {"n1": []}}, "a dict is not a member of group 'g'"),
        ({"group": [[]]}, "group a list, this node 'n2' has 'g'"),
        ({"joining": 1}, "without joining or last_index"),
        ({"last_index": "7"}, "without joining or last_index"),
    ],
)
async def test_each_difference_is_refused_with_a_line_on_both_sides(
    autojump_clock, meeting, caplog, changes, reason
):
    (two,) = await meeting.start_all("n2")

    answer = await greet_by_hand(meeting, {**GREETING, **changes})
    await trio.sleep(1)

    assert reason in answer.remark
    assert not two.connected
    assert [record.message for record in caplog.records if reason in record.message]


async def test_the_greeting_that_fits_is_accepted(autojump_clock, meeting):
    """The fields of the test above, unchanged: none of its refusals has another reason."""
    (two,) = await meeting.start_all("n2")

    answer = await greet_by_hand(meeting, GREETING)

    assert answer.remark is None
    assert answer.ext_fields["node_id"] == "n2"
    assert two.connected == [("n1", False, 3)]


@pytest.mark.parametrize("name", sorted(GREETING))
async def test_a_greeting_without_one_of_its_fields_is_refused(autojump_clock, meeting, name):
    (two,) = await meeting.start_all("n2")

    answer = await greet_by_hand(meeting, {key: GREETING[key] for key in GREETING if key != name})

    assert answer.remark
    assert not two.connected


async def test_the_dialler_says_why_it_was_refused(autojump_clock, meeting, caplog):
    await meeting.start(config("n2", group="other"))
    (one,) = await meeting.start_all("n1")

    assert not one.connected
    (said,) = [
        record
        for record in caplog.records
        if re.search(r"connection to n2 .*refused by n2: .*group 'g'", record.message)
    ]
    assert said.levelno == logging.ERROR


async def test_a_reason_is_told_once_and_not_at_every_try(autojump_clock, meeting, caplog):
    await meeting.start(config("n2", group="other"))
    await meeting.start(config("n1"))

    await trio.sleep(60)

    assert len(meeting.wires.connects) > 100
    assert len([r for r in caplog.records if "connection to n2" in r.message]) == 1
    assert len([r for r in caplog.records if "connection from" in r.message]) == 1


async def test_a_reason_that_comes_back_is_told_again(autojump_clock, meeting, caplog):
    """After a success it is news."""
    async with trio.open_nursery() as nursery:
        inner = type(meeting)(nursery)
        await inner.start_all("n1")
        wires, told = inner.wires, []
        for group in ("other", "g", "other"):
            async with trio.open_nursery() as life:
                again = type(meeting)(life)
                again.wires = wires
                await again.start(config("n2", group=group))
                await trio.sleep(2)
                life.cancel_scope.cancel()
            told.append(sum("'other'" in record.message for record in caplog.records))
        nursery.cancel_scope.cancel()

    assert told == [2, 2, 4]  # by both sides


@pytest.mark.parametrize("reason", ["refused", "silent"])
async def test_a_connection_that_comes_to_nothing_is_closed(autojump_clock, meeting, reason):
    if reason == "refused":
        await meeting.start(config("n2", group="other"))
    else:
        await meeting.wires.of("n2").listen("", 7002)
    await meeting.start(config("n1"))
    await trio.sleep(20)

    ends = meeting.wires.network.streams
    callers = ends[::2]
    assert len(callers) > 10
    assert sum(not stream.closed for stream in callers) <= 1


async def test_another_member_at_the_address_is_refused(autojump_clock, meeting, caplog):
    """Two addresses mixed up in a tunnel: the greeting fits, the name does not."""
    swapped = (
        MEMBERS[0],
        Member(node_id="n2", host="host-2.my-group", port=7003),
        Member(node_id="n3", host="host-3.my-group", port=7002),
    )
    await meeting.start(config("n2", members=swapped, listen_port=7002))
    one = await meeting.start(config("n1", members=swapped))
    await trio.sleep(1)

    assert not one.connected
    assert "the address of member n3 is answered by n2; check the member list" in caplog.text


async def test_a_client_that_took_the_wrong_port_is_told_in_the_log(
    autojump_clock, meeting, caplog
):
    await meeting.start_all("n2")

    assert await greet_by_hand(meeting, {}, code=10) is None
    assert "this is the port for members of the group, clients use the broker's own" in caplog.text


async def test_who_says_nothing_is_not_waited_for(autojump_clock, meeting, caplog):
    (two,) = await meeting.start_all("n2")
    stream = await meeting.wires.network.connect("host-2.my-group", 7002)

    with trio.fail_after(two.config.raft.connect_timeout_ms / 1000 + 0.1):
        assert await stream.receive_some() == b""

    assert "no handshake in time (connect_timeout_ms)" in caplog.text


async def test_nobody_unknown_is_given_room_for_more_than_a_greeting(
    autojump_clock, meeting, caplog
):
    """Else a thousand callers would be worth a thousand frames of 16 MiB."""
    (two,) = await meeting.start_all("n2")
    stream = await meeting.wires.network.connect("host-2.my-group", 7002)
    stream.send_now([struct.pack(">II", 1 << 20, 77 << 24 | 100)])

    with trio.fail_after(0.1):
        assert await stream.receive_some() == b""

    assert "frame of 1048580 bytes is over the limit of 65536" in caplog.text
    assert not two.connected


async def test_a_member_may_send_larger_frames_once_it_is_known(autojump_clock, meeting):
    one, two = await meeting.start_all("n1", "n2")
    message = {
        "type": "append_entries", "term": 1, "id": 1, "prev_index": 0, "prev_term": 0,
        "last_index": 0, "commit_index": 0, "entries": bytes(1 << 20),
    }  # fmt: skip

    one.links["n2"].send(message)
    one.links["n2"].flush()
    await trio.sleep(5)

    assert [len(heard["entries"]) for _, heard in two.heard] == [1 << 20]


async def test_a_crowd_that_says_nothing_does_not_keep_a_member_out(autojump_clock, meeting):
    (two,) = await meeting.start_all("n2")
    crowd = [await meeting.wires.network.connect("host-2.my-group", 7002) for _ in range(300)]

    answer = await greet_by_hand(meeting, GREETING)
    assert answer.remark is None
    assert two.connected == [("n1", False, 3)]
    assert len(two.peers._unknown) <= 64
    with trio.fail_after(0.1):
        assert await crowd[0].receive_some() == b""


async def test_nobody_can_fill_the_log_with_reasons(autojump_clock, meeting, caplog):
    await meeting.start_all("n2")
    for number in range(100):
        await greet_by_hand(meeting, {"version": f"{number} " + "x" * 40_000})

    said = [record.message for record in caplog.records if "connection from" in record.message]
    assert 1 <= len(said) <= 20
    assert max(map(len, said)) <= 2000


async def test_a_listener_that_says_nothing_is_dialled_again(autojump_clock, meeting):
    listener = await meeting.wires.of("n2").listen("", 7002)
    one = await meeting.start(config("n1"))
    for _ in range(3):
        with trio.fail_after(3):
            await listener.accept()

    assert not one.connected


@pytest.mark.parametrize("size", [StoreConfig().segment_size, 1 << 20])
def test_what_is_checked_is_what_is_sent(size):
    settings = config("n2", store=StoreConfig(segment_size=size))
    greeting = {**GREETING, "segment_size": size}

    assert check_hello(settings, greeting) == "n1"
    with pytest.raises(HandshakeRefusedError, match="segment_size"):
        check_hello(settings, {**greeting, "segment_size": size + 4096})
