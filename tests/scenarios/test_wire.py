"""What comes from the network is checked before the engine sees it: raft-engine flaws m and o."""

from __future__ import annotations

import random

import pytest
import trio
import trio.testing

from dledger.errors import CorruptEntryError
from dledger.peers.link import PeerLink
from dledger.peers.messages import _FORMS, from_command, to_command
from dledger.protocol import PeerCode
from dledger.remoting.command import Command
from dledger.remoting.connection import Connection
from dledger.remoting.errors import ConnectionLostError, RemoteProtocolError
from dledger.remoting.frame import encode_frame
from tests.fakes.lone_core import Log, LoneCore, through_wire
from tests.fakes.mutants import against
from tests.fakes.network import MemoryNetwork

MESSAGES = [
    {"type": "request_vote", "term": 3, "last_log_index": 4, "last_log_term": 2},
    {"type": "response_vote", "term": 3},
    {"type": "pre_vote", "term": 3, "round": 1, "last_log_index": 4, "last_log_term": 2},
    {"type": "pre_vote_answer", "term": 3, "round": 1, "granted": True},
    Log(1, 2).append_message(3, after=1),
    {**Log(1, 2).append_message(3, after=2), "admit_index": -1},
    {"type": "append_answer", "term": 3, "id": 8, "next_index": 5, "success": True,
     "reset": False, "joining": False},
    {"type": "timeout_now", "term": 3},
    {"type": "install", "term": 3, "id": 9, "base": Log(1, 2).store.point_at(2), "offset": 0,
     "total": 3, "crc": 1, "data": b"abc"},
    {"type": "install_answer", "term": 3, "id": 9, "base_index": 2, "offset": 3, "done": False,
     "joining": True},
]  # fmt: skip


def frame_of(message):
    return b"".join(bytes(part) for part in encode_frame(to_command(message)))


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: message["type"])
def test_a_message_arrives_as_it_was_sent(message):
    arrived = through_wire(message)
    assert {k: bytes(v) if isinstance(v, memoryview) else v for k, v in arrived.items()} == message


def test_every_message_of_the_engine_is_tried_here():
    assert {message["type"] for message in MESSAGES} == set(_FORMS)


@against("fields_are_not_checked")
def test_malformed_frame():
    """A field that is missing, of another type, negative or too large ends the connection."""
    for message in MESSAGES:
        command = to_command(message)
        fields = dict(command.ext_fields or {})
        for name, value in fields.items():
            if name != "admit_index":
                with pytest.raises(RemoteProtocolError, match=f"field {name} is missing"):
                    from_command(
                        Command(
                            code=command.code,
                            ext_fields={k: v for k, v in fields.items() if k != name},
                            body=command.body,
                        )
                    )
            wrong = [None, "3", b"3", 1.0, [1], {}]
            wrong += [3, 0] if isinstance(value, bool) else [True, -2, 1 << 63]
            for bad in wrong:
                if isinstance(value, list) and isinstance(bad, int) and bad is not True:
                    bad = [bad, 1, 1, 1]
                with pytest.raises(RemoteProtocolError, match=name):
                    from_command(
                        Command(
                            code=command.code,
                            ext_fields={**fields, name: bad},
                            body=command.body,
                        )
                    )


def test_damaged_frames_are_refused_or_harmless():
    """Any byte of any message is changed: a typed error, or a message that may be handled.

    A node that hears it may answer or step down, but it neither dies of something unforeseen nor
    takes an entry that its leader does not have.
    """
    dice = random.Random(1)
    refused = handled = 0
    for _ in range(1500):
        message = dice.choice(MESSAGES)
        frame = bytearray(frame_of(message))
        for _ in range(dice.choice([1, 1, 2, 8])):
            frame[dice.randrange(4, len(frame))] = dice.randrange(256)
        connection = Connection()
        connection.receive_data(bytes(frame))
        try:
            arrived = [from_command(command) for command in connection.commands()]
        except RemoteProtocolError:
            refused += 1
            continue
        if dice.random() < 0.5:
            node = LoneCore(log=Log(1, 2), term=2)
            node.connect()
        else:
            node = LoneCore()
            node.lead()
            node.propose()
        for each in arrived:
            try:
                node.core.receive("n2", each)
                node.step()
                node.sync()
            except CorruptEntryError:
                refused += 1
            handled += 1
        node.store.verify(1, node.store.end_index)
    assert refused > 100
    assert handled > 100


def test_entries_that_do_not_follow_one_another_are_refused_whole():
    follower = LoneCore(log=Log(1), term=1)
    follower.connect()
    good = Log(1, 1, 1).append_message(1, after=1)
    for message in (
        {**good, "entries": good["entries"][:-1]},
        {**good, "entries": good["entries"] + b"\0" * 20},
        {**good, "last_index": 9},
        {**good, "entries": good["entries"][98:]},
        {**good, "entries": good["entries"][:60] + b"!" + good["entries"][61:]},
    ):
        with pytest.raises(CorruptEntryError):
            follower.hear("n2", message)
        assert follower.engine.commit_index == 0
        follower.store.truncate_from(2)
    follower.hear("n2", good)
    assert follower.store.end_index == 3


def test_an_answer_for_more_than_there_is_ends_the_connection():
    """It would count for entries that do not exist yet, and send what is not there."""
    leader = LoneCore()
    leader.lead()
    proposal = leader.propose()
    leader.sync()

    with pytest.raises(CorruptEntryError, match="n2 answers for entry 700"):
        leader.answer("n2", 700)

    assert proposal.outcome == "pending"
    assert leader.engine.leading.progress["n2"].match_index == 1


@pytest.mark.parametrize("kind", ["apply_command", "apply_command_response", "next_node_idx"])
def test_command_type_whitelist(kind):
    """PySyncObj's own messages, forwarded commands among them, do not exist on the wire.

    Stock unpickles what it is sent, before anybody has said who he is.
    """
    assert kind not in _FORMS
    with pytest.raises(KeyError):
        to_command({"type": kind, "term": 1})
    node = LoneCore()
    with pytest.raises(AssertionError):
        node.core.receive("n2", {"type": kind, "term": 0, "command": b"\0"})


@pytest.mark.parametrize("code", [0, -1, 1, 10, 310, 50_000, 1 << 30])
def test_other_codes_are_no_messages_between_peers(code):
    assert code not in set(PeerCode)
    with pytest.raises(RemoteProtocolError, match=f"code {code} is no message between peers"):
        from_command(Command(code=code, ext_fields={"term": 1}))


def test_nothing_is_ever_unpickled(monkeypatch):
    """Every way into the engine is walked with pickle taken away."""

    def refuse(*_args, **_kwargs):
        raise AssertionError("something was pickled or unpickled")

    for name in ("loads", "dumps", "load", "dump"):
        monkeypatch.setattr(f"pickle.{name}", refuse)
        monkeypatch.setattr(f"pysyncobj.pickle.{name}", refuse, raising=False)
    leader = LoneCore()
    leader.lead()
    proposal = leader.propose()
    leader.sync()
    leader.answer("n2", proposal.index)
    assert proposal.outcome == "acked"
    follower = LoneCore()
    follower.follow("n2", 2, Log(1, 2), commit=2)
    for message in MESSAGES:
        follower.hear("n2", {**message, "term": 2})


@against("peer_buffers_have_no_limit")
def test_backpressure_closes():
    """A peer that does not read is cut off: bytes are never dropped from the middle of a stream."""

    async def scenario():
        network = MemoryNetwork(capacity=4096)
        listener = await network.listen("127.0.0.1", 9000)
        stream = await network.connect("127.0.0.1", 9000)
        far = await listener.accept()
        link = PeerLink(
            peer_id="n2",
            stream=stream,
            connection=Connection(),
            hooks=None,
            buffer_size_max=64 * 1024,
            silence_seconds=10.0,
        )
        message = Log(1, 1, 1, size=9000).append_message(1, after=0)
        sent = 0
        while not link.closed and sent < 50:
            link.send(message)
            link.flush()
            sent += 1
        assert link.closed, "it went on filling the memory"
        assert sent * 27_000 < 64 * 1024 + 2 * 27_000 + 4096
        with pytest.raises(ConnectionLostError):  # noqa: PT012
            while True:
                await far.receive_some()

    trio.run(scenario, clock=trio.testing.MockClock(autojump_threshold=0))
