"""Connections between members: how they end, how they come back, and what they never do."""

import itertools

import pytest
import trio

from dledger.config import MIB, RaftConfig
from dledger.peers.messages import to_command
from dledger.remoting.frame import encode_frame
from tests.fakes.nodes import until
from tests.peers.conftest import config

SILENCE_SECONDS = 2 * RaftConfig().election_timeout_max_ms / 1000


def vote(term):
    return {"type": "response_vote", "term": term}


async def test_messages_arrive_in_order_and_those_that_came_together_in_one_call(
    autojump_clock, meeting
):
    one, two = await meeting.start_all("n1", "n2")

    for term in range(100):
        one.links["n2"].send(vote(term))
    one.links["n2"].flush()
    await trio.sleep(0.1)

    assert two.heard == [("n1", vote(term)) for term in range(100)]
    assert two.batches == [100]


async def test_nothing_is_sent_before_the_flush(autojump_clock, meeting):
    one, two = await meeting.start_all("n1", "n2")

    one.links["n2"].send(vote(1))
    await trio.sleep(0.01)

    assert not two.heard


async def test_a_broken_connection_is_reported_once_on_both_sides_and_made_anew(
    autojump_clock, meeting
):
    one, two = await meeting.start_all("n1", "n2")

    meeting.wires.cut("n1", "n2")
    await trio.sleep(1)
    assert (one.lost, two.lost) == (["n2"], ["n1"])
    assert (one.links, two.links) == ({}, {})

    meeting.wires.heal("n1", "n2")
    await trio.sleep(1)
    assert (len(one.connected), len(two.connected)) == (2, 2)
    assert (one.lost, two.lost) == (["n2"], ["n1"])


async def test_what_was_on_its_way_when_a_connection_broke_is_lost(autojump_clock, meeting):
    one, two = await meeting.start_all("n1", "n2")

    one.links["n2"].send(vote(1))
    one.links["n2"].flush()
    meeting.wires.cut("n1", "n2")
    meeting.wires.heal("n1", "n2")
    await trio.sleep(1)

    assert len(two.connected) == 2
    assert not two.heard


async def test_dialling_backs_off_and_never_stops(autojump_clock, meeting):
    await meeting.start(config("n2"))  # dials n3, where nobody listens

    await trio.sleep(30)
    times = [at for at, _, port in meeting.wires.connects if port == 7003]
    gaps = [later - earlier for earlier, later in itertools.pairwise(times)]

    longest = RaftConfig().reconnect_delay_max_ms / 1000
    assert gaps[0] < 0.03
    assert max(gaps) <= longest + 0.01
    assert min(gaps[10:]) >= longest / 2
    assert times[-1] > 29


async def test_a_member_that_comes_late_is_found_within_the_longest_delay(autojump_clock, meeting):
    one = await meeting.start(config("n1"))
    await trio.sleep(20)

    two = await meeting.start(config("n2"))
    began = trio.current_time()
    await until("they meet", lambda: one.connected and two.connected)

    assert trio.current_time() - began < RaftConfig().reconnect_delay_max_ms / 1000 + 0.1


async def test_after_a_success_dialling_begins_fast_again(autojump_clock, meeting):
    await meeting.start(config("n1"))
    await trio.sleep(20)
    await meeting.start(config("n2"))
    await trio.sleep(1)

    meeting.wires.cut("n1", "n2")
    began = trio.current_time()
    await trio.sleep(0.1)

    again = [at for at, _, port in meeting.wires.connects if port == 7002 and at >= began]
    assert len(again) >= 3


async def test_a_route_that_is_lost_without_a_word_is_noticed_and_left(autojump_clock, meeting):
    """TCP alone would say nothing for minutes."""
    one, two = await meeting.start_all("n1", "n2")

    meeting.wires.silence("n1", "n2")
    await trio.sleep(1.5 * SILENCE_SECONDS)

    assert (one.lost, two.lost) == (["n2"], ["n1"])
    await trio.sleep(1)
    assert (len(one.connected), len(two.connected)) == (2, 2)


async def test_an_idle_connection_lives_for_ever(autojump_clock, meeting):
    one, two = await meeting.start_all("n1", "n2")

    await trio.sleep(600)

    assert not one.lost + two.lost
    assert not two.heard, "keeping it warm is nobody's message"


async def test_a_peer_that_does_not_read_is_cut_off(autojump_clock, meeting, caplog):
    """And not a byte is dropped from the middle of its stream."""
    raft = RaftConfig(peer_buffer_max=MIB)
    one, two = await meeting.start_all("n1", "n2", raft=raft)
    meeting.wires.network.capacity = 1000
    heard_before = len(two.heard)
    link = one.links["n2"]
    push = {
        "type": "append_entries", "term": 1, "id": 1, "prev_index": 0, "prev_term": 0,
        "last_index": 0, "commit_index": 0, "entries": bytes(300_000),
    }  # fmt: skip

    for number in range(5):
        link.send({**push, "id": number})
        link.flush()
    await trio.sleep(0.2)

    assert one.lost == ["n2"]
    assert "more than peer_buffer_max bytes wait" in caplog.text
    ids = [message["id"] for _, message in two.heard[heard_before:]]
    assert ids == list(range(len(ids)))


async def test_sending_on_a_closed_link_does_nothing(autojump_clock, meeting):
    one, _ = await meeting.start_all("n1", "n2")
    link = one.links["n2"]

    link.close()
    link.send(vote(1))
    link.flush()
    link.close()
    await trio.sleep(1)

    assert one.lost == ["n2"]
    assert len(one.connected) == 2


@pytest.mark.parametrize(
    "garbage",
    [
        b"\x00\x00\x00\x05garbage that is no frame at all",
        b"\x7f\xff\xff\xff\x00\x00\x00\x00",  # longer than any frame may be
        b"GET / HTTP/1.1\r\n\r\n",
    ],
)
async def test_a_malformed_frame_closes_only_its_own_connection(autojump_clock, meeting, garbage):
    one, two, three = await meeting.start_all("n1", "n2", "n3")

    dialler, _ = meeting.wires.streams("n1", "n2")
    dialler.send_now([garbage])
    await trio.sleep(0.05)

    assert (one.lost, two.lost, three.lost) == (["n2"], ["n1"], [])
    await trio.sleep(1)
    assert sorted(one.links) == ["n2", "n3"]
    one.links["n3"].send(vote(5))
    one.links["n3"].flush()
    await trio.sleep(0.1)
    assert three.heard == [("n1", vote(5))]


async def test_a_message_with_a_wrong_field_is_never_handed_on(autojump_clock, meeting, caplog):
    _, two = await meeting.start_all("n1", "n2")
    command = to_command(vote(3))
    command.ext_fields["term"] = -1

    dialler, _ = meeting.wires.streams("n1", "n2")
    dialler.send_now(encode_frame(command))
    await trio.sleep(0.05)

    assert two.lost == ["n1"]
    assert not two.heard
    assert "field term = -1 is out of range" in caplog.text


async def test_cancelling_closes_every_connection(autojump_clock, meeting):
    async with trio.open_nursery() as nursery:
        inner = type(meeting)(nursery)
        one, two = await inner.start_all("n1", "n2")
        nursery.cancel_scope.cancel()

    assert (one.lost, two.lost) == (["n2"], ["n1"])
    assert not inner.wires.streams("n1", "n2")


async def test_cancelling_frees_the_port(autojump_clock, meeting):
    async with trio.open_nursery() as nursery:
        await type(meeting)(nursery).start_all("n2")
        inner = type(meeting)(nursery)
        await inner.start(config("n3"))
        nursery.cancel_scope.cancel()

    listener = await inner.wires.of("somebody else").listen("", 7003)
    listener.close()
