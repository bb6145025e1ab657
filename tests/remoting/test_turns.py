"""How a server shares itself: what has begun to arrive, turns of many requests, passes."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from dledger.remoting.command import FLAG_ONEWAY, SerializeType
from dledger.remoting.server import Flow, RemotingServer
from dledger.remoting.turns import PASS_COUNT_FIRST, PASS_COUNT_MAX
from tests.remoting.conftest import frame, is_ended, receive_commands

pytestmark = pytest.mark.usefixtures("only_warnings")


@pytest.fixture
async def small_server(network, handler, nursery):
    """A server that keeps at most 100,000 bytes of requests which have begun to arrive."""
    server = RemotingServer(
        network, host="127.0.0.1", port=10912, handler=handler, partial_size_max=100_000
    )
    await nursery.start(server.serve)
    return server


async def test_of_too_much_that_has_begun_to_arrive_the_oldest_goes(
    small_server, network, handler, autojump_clock, caplog
):
    """Ten thousand connections may each begin a frame of 16 MiB, and never end it."""
    whole = frame(10, body=bytes(50_000))
    streams = []
    for _ in range(3):
        streams.append(await network.connect("127.0.0.1", 10912))
        streams[-1].send_now([whole[:40_000]])
        await trio.testing.wait_all_tasks_blocked()

    assert await is_ended(streams[0])
    assert "longest time" in caplog.text
    assert small_server._partials.total == 80_000
    for stream in streams[1:]:
        stream.send_now([whole[40_000:]])
        assert len(await receive_commands(stream, 1)) == 1
    assert small_server._partials.total == 0


async def test_who_sends_one_frame_after_another_does_not_grow_old(
    small_server, network, handler, autojump_clock
):
    whole = frame(10, body=bytes(30_000))
    busy = await network.connect("127.0.0.1", 10912)
    busy.send_now([whole[:20_000]])
    await trio.testing.wait_all_tasks_blocked()
    idle = await network.connect("127.0.0.1", 10912)
    idle.send_now([whole[:20_000]])
    await trio.testing.wait_all_tasks_blocked()
    busy.send_now([whole[20_000:] + whole[:20_000]])
    assert len(await receive_commands(busy, 1)) == 1
    other = await network.connect("127.0.0.1", 10912)
    other.send_now([frame(10, body=bytes(90_000))[:70_000]])
    await trio.testing.wait_all_tasks_blocked()

    assert await is_ended(idle)
    busy.send_now([whole[20_000:]])
    assert len(await receive_commands(busy, 1)) == 1


async def test_what_a_connection_kept_goes_with_it(small_server, network, handler, autojump_clock):
    for _ in range(10):
        stream = await network.connect("127.0.0.1", 10912)
        stream.send_now([frame(10, body=bytes(50_000))[:40_000]])
        await trio.testing.wait_all_tasks_blocked()
        stream.close()
        await trio.testing.wait_all_tasks_blocked()

    assert small_server._partials.total == 0


async def test_a_flood_of_requests_leaves_others_their_turns(
    server, network, handler, autojump_clock
):
    """One receive may bring thousands; who sent one meanwhile is served between them."""
    network.receive_size_max = 1 << 20
    flood = await network.connect("127.0.0.1", 10911)
    other = await network.connect("127.0.0.1", 10911)
    await trio.testing.wait_all_tasks_blocked()
    flood.send_now([b"".join(frame(10, flag=FLAG_ONEWAY, opaque=n) for n in range(2000))])
    other.send_now([frame(11, flag=FLAG_ONEWAY)])
    await trio.sleep(1)

    assert [command.opaque for command in handler.commands if command.code == 10] == [*range(2000)]
    assert max(map(len, handler.passes)) == PASS_COUNT_MAX
    where = [one[0].code for one in handler.passes].index(11)
    assert where < len(handler.passes) - 1


async def test_between_two_turns_answers_are_waited_for(server, network, handler, autojump_clock):
    """Whose answers pile up is not served on meanwhile, however many of its requests are read."""
    network.receive_size_max = 1 << 20
    slow = await network.connect("127.0.0.1", 10911)
    await trio.testing.wait_all_tasks_blocked()
    slow.send_now([b"".join(frame(10, opaque=n, body=bytes(300)) for n in range(150))])
    await trio.testing.wait_all_tasks_blocked()
    rest = slow.send_now([b"".join(frame(10, opaque=n, body=bytes(20)) for n in range(3000))])
    for _ in range(50):
        await trio.testing.wait_all_tasks_blocked()
        rest = slow.send_now(rest) if rest else rest
    (session,) = handler.opened

    assert session.pending_size < 100_000 + PASS_COUNT_MAX * 100
    assert not session.closed


class PassHandler:
    """Notes how many requests came at a time, and whether the pass ended with them."""

    def __init__(self, *, closes: bool = False, leaves: bool = False) -> None:
        self.told: list[tuple[str, int, bool]] = []
        self.closes = closes
        self.leaves = leaves

    def on_opened(self, session):
        pass

    def on_closed(self, session):
        pass

    def on_commands(self, session, commands, *, ends_pass=True):
        self.told.append(("commands", len(commands), ends_pass))
        if self.closes:
            session.close("enough")

    def on_run(self, session, run, *, ends_pass):
        self.told.append(("run", run.count, ends_pass))
        return run.commands()[1:] if self.leaves else []


@pytest.mark.parametrize("closes", [False, True])
async def test_a_frame_that_had_begun_before_and_a_run_behind_it_are_one_pass(
    network, nursery, autojump_clock, closes
):
    """Else the first alone becomes an entry, with a sync on every node, in front of 400 others."""
    handler = PassHandler(closes=closes)
    server = RemotingServer(
        network, host="127.0.0.1", port=10912, handler=handler, on_run=handler.on_run
    )
    await nursery.start(server.serve)
    stream = await network.connect("127.0.0.1", 10912)
    frames = [frame(10, opaque=1000 + n, ext_fields={"n": n}, body=b"b") for n in range(400)]
    stream.send_now([frames[0][:10]])
    await trio.testing.wait_all_tasks_blocked()

    stream.send_now([frames[0][10:], *frames[1:]])
    await trio.testing.wait_all_tasks_blocked()

    kinds = [kind for kind, _, _ in handler.told]
    assert handler.told[0] == ("commands", 1, False)
    assert [ends for *_, ends in handler.told] == [False] * (len(kinds) - 1) + [True]
    if closes:
        assert handler.told[1:] == [("commands", 0, True)]  # what was taken is seen to all the same
    else:
        assert "run" in kinds
        assert sum(count for _, count, _ in handler.told) == 400


class ChargingPassHandler(PassHandler):
    """Charges for every run, and answers it as soon as its pass has ended, or never."""

    def __init__(self, *, answers: bool) -> None:
        super().__init__()
        self.answers = answers
        self.charged = 0

    def on_commands(self, session, commands, *, ends_pass=True):
        super().on_commands(session, commands, ends_pass=ends_pass)
        if ends_pass and self.answers:
            session.release(self.charged)
            self.charged = 0

    def on_run(self, session, run, *, ends_pass):
        session.charge(run.count)
        self.charged += run.count
        return super().on_run(session, run, ends_pass=ends_pass)


async def connected_to(handler, network, nursery, *, flow):
    """Return a connection to a server that takes runs, and much by one receive."""
    network.receive_size_max = 1 << 20
    server = RemotingServer(
        network, host="127.0.0.1", port=10912, handler=handler, on_run=handler.on_run, flow=flow
    )
    await nursery.start(server.serve)
    return await network.connect("127.0.0.1", 10912)


@pytest.mark.parametrize("answers", [True, False])
async def test_a_run_in_front_of_too_many_requests_is_a_pass_that_ends(
    network, nursery, autojump_clock, answers
):
    """Else they wait for the room that the run takes, which waits for the end of its pass.

    And if the connection ends meanwhile, nobody sees to what was taken.
    """
    handler = ChargingPassHandler(answers=answers)
    stream = await connected_to(handler, network, nursery, flow=Flow(size_max=1))
    many = PASS_COUNT_FIRST + 1
    run = [frame(10, opaque=1000 + n, ext_fields={"n": n}, body=b"b") for n in range(100)]
    others = [frame(10, opaque=n, serialization=SerializeType.JSON) for n in range(many)]
    stream.send_now([b"".join(run + others)])
    await trio.testing.wait_all_tasks_blocked()

    assert handler.told[:2] == [("run", 100, False), ("commands", 0, True)]
    assert sum(count for kind, count, _ in handler.told[1:]) == (many if answers else 0)


@pytest.mark.parametrize("answers", [True, False])
async def test_what_came_with_a_run_waits_for_the_room_that_the_run_takes(
    network, nursery, autojump_clock, answers
):
    """A receive is many pieces, and a connection over its limit is not served one more of them."""
    handler = ChargingPassHandler(answers=answers)
    stream = await connected_to(handler, network, nursery, flow=Flow(connection_size_max=99))
    run = [frame(10, opaque=1000 + n, ext_fields={"n": n}, body=b"b") for n in range(100)]
    other = frame(10, opaque=1, serialization=SerializeType.JSON)

    stream.send_now([b"".join([*run, other, *run, other])])
    await trio.testing.wait_all_tasks_blocked()

    first = [("run", 100, False), ("commands", 0, True)]
    rest = [("commands", 1, False), *first, ("commands", 1, True)]
    assert handler.told == (first + rest if answers else first)


@pytest.mark.parametrize("leaves", [True, False])
async def test_many_pieces_of_one_receive_leave_others_their_turns(
    network, nursery, autojump_clock, leaves
):
    """Each is small enough to be handled at once, but for those before it."""
    handler = PassHandler(leaves=leaves)
    network.capacity = 1 << 20
    stream = await connected_to(handler, network, nursery, flow=Flow())
    run = [frame(10, opaque=1000 + n, ext_fields={"n": n}, body=b"b") for n in range(100)]
    single = [frame(10, opaque=n, serialization=SerializeType.JSON) for n in range(60)]

    assert not stream.send_now([b"".join(12 * (run + single))])
    await trio.testing.wait_all_tasks_blocked()

    in_passes = [0]  # handled by themselves; others have a turn behind each pass
    for kind, count, ends_pass in handler.told:
        in_passes[-1] += count if kind == "commands" else 0
        in_passes += [0] * ends_pass
    assert max(in_passes) <= PASS_COUNT_MAX
    assert sum(in_passes) == 12 * (60 + 99 * leaves)
