"""A node whose disk fails, or that sees a rule of Raft broken, stops and says nothing more."""

from __future__ import annotations

import random

import pytest
import trio

from dledger.config import LedgerConfig, Member, RaftConfig
from dledger.errors import (
    CorruptEntryError,
    PoisonEntryError,
    SafetyViolationError,
    StorageFailedError,
)
from dledger.server import LedgerServer
from dledger.store.ledger_store import LedgerStore
from dledger.store.vote_file import VoteFile
from tests.fakes.cluster import TestProposal, VirtualClock
from tests.fakes.disk import FakeDisk
from tests.fakes.lone_core import SMALL, Log
from tests.fakes.network import MemoryNetwork
from tests.fakes.worker import FakeWorker


class TrioClock(VirtualClock):
    def now(self):
        return trio.current_time()


class DeafLink:
    """A connection to a member that the test speaks for."""

    def __init__(self, peer_id):
        self.peer_id = peer_id
        self.promises_synced = True
        self.sent = []

    def send(self, message):
        self.sent.append(message)

    def flush(self):
        pass

    def close(self):
        pass


class NothingKept:
    def has_state(self, index):
        return False

    def applied_index(self):
        return 0

    def newest_ms(self, after_index, upto_index):
        return None


class Member1:
    """One `LedgerServer` over a fake disk; its peers, if any, are `DeafLink`s."""

    def __init__(self, nursery, *, node_count, disk=None, log=None, clock=None, sync_worker=None):
        self.disk = disk or FakeDisk()
        self.disk.make_folder("/data")
        self.votes = VoteFile.open(self.disk, "/data", joining=False)
        self.store = LedgerStore.open(self.disk, SMALL, "/data")
        if log is not None:
            raw, _ = log.store.raw_range(1, size_max=1 << 20)
            self.store.append_raw(memoryview(bytes(raw)))
            self.store.sync()
        members = tuple(
            Member(node_id=f"n{n + 1}", host="127.0.0.1", port=9000 + n) for n in range(node_count)
        )
        self.server = LedgerServer(
            config=LedgerConfig(
                group="test",
                node_id="n1",
                members=members,
                data_folder="/data",
                store=SMALL,
                raft=RaftConfig(append_size_max=16 * 1024),
            ),
            store=self.store,
            votes=self.votes,
            network=MemoryNetwork(),
            clock=clock or TrioClock(),
            chance=random.Random(1),
            sync_worker=sync_worker or FakeWorker(nursery),
            vote_worker=FakeWorker(nursery),
            file_worker=FakeWorker(nursery),
            state_keeper=NothingKept(),
        )

    def connect(self, peer_id):
        link = DeafLink(peer_id)
        self.server.on_peer_connected(link, joining=False, last_index=1)
        return link


async def last_word_of(run):
    """Run a server to its end and return what ended it."""
    try:
        await run()
    except BaseException as error:  # noqa: BLE001 - it is looked at
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        return error
    raise AssertionError("it ended without a word")


async def leading_alone(nursery):
    member = Member1(nursery, node_count=1)
    words = []

    async def run():
        words.append(await last_word_of(member.server.run))

    nursery.start_soon(run)
    await trio.sleep(0.5)
    assert member.server.is_leader
    return member, words


@pytest.mark.parametrize("verb", ["write", "sync"])
async def test_a_write_that_fails_under_a_proposal_stops_the_node(autojump_clock, verb):
    """The bytes may be half there; nothing may be appended behind them, let alone acknowledged."""
    async with trio.open_nursery() as nursery:
        member, words = await leading_alone(nursery)
        member.disk.failing["commitlog"] = verb
        first, second = TestProposal(b"first"), TestProposal(b"second")
        if verb == "write":
            with pytest.raises(StorageFailedError):
                member.server.propose(first)
        else:
            member.server.propose(first)
        await trio.sleep(0.5)

        assert isinstance(words[0], StorageFailedError)
        member.disk.failing.clear()
        written = member.disk.files()
        member.server.stop()
        assert member.disk.files() == written, "a stop after a failure writes nothing"
        assert first.outcome == second.outcome == "pending"
        nursery.cancel_scope.cancel()


async def test_a_vote_that_cannot_be_synced_stops_the_node(autojump_clock):
    async with trio.open_nursery() as nursery:
        member = Member1(nursery, node_count=1)
        member.disk.failing["vote"] = "sync"
        word = await last_word_of(member.server.run)
        assert isinstance(word, StorageFailedError)
        assert "/data/vote" in str(word)
        nursery.cancel_scope.cancel()


async def test_an_entry_that_cannot_be_dispatched_stops_the_node(autojump_clock):
    """A watcher that raises is the dispatcher meeting a poison entry: fail-stop, no retry."""
    async with trio.open_nursery() as nursery:
        member, words = await leading_alone(nursery)
        calls = []

        def dispatch(committed):
            calls.append(committed)
            raise PoisonEntryError(f"entry {committed} is no command this version knows")

        member.server.watch_commits(dispatch)
        member.server.propose(TestProposal(b"poison"))
        await trio.sleep(0.5)

        assert isinstance(words[0], PoisonEntryError)
        assert calls == [2]
        nursery.cancel_scope.cancel()


async def test_a_broken_rule_stops_the_node_before_it_says_anything_else(autojump_clock):
    """Closing its links, it must not take another step that answers or commits."""
    async with trio.open_nursery() as nursery:
        log = Log(1, 1, 1)
        member = Member1(nursery, node_count=3, log=log)
        words = []

        async def run():
            words.append(await last_word_of(member.server.run))

        nursery.start_soon(run)
        await trio.sleep(0.1)
        two, three = member.connect("n2"), member.connect("n3")
        member.server.on_messages("n2", [log.append_message(2, after=3, commit=3)])
        await trio.sleep(0.05)
        assert member.server.committed_index == 3
        two.sent.clear()
        three.sent.clear()

        with pytest.raises(SafetyViolationError):
            member.server.on_messages(
                "n3",
                [
                    Log(1, 1).append_message(3, after=1),
                    Log(1, 4, 4).append_message(4, after=1),
                    Log(1, 1, 1).append_message(4, after=3),
                ],
            )
        member.server.on_peer_lost(three)
        member.server.on_peer_lost(two)
        member.server.pump()
        await trio.sleep(0.2)

        assert isinstance(words[0], SafetyViolationError)
        assert two.sent == three.sent == []
        nursery.cancel_scope.cancel()


async def test_a_damaged_message_ends_a_connection_and_not_the_node(autojump_clock):
    async with trio.open_nursery() as nursery:
        log = Log(1, 1, 1)
        member = Member1(nursery, node_count=3, log=log)
        nursery.start_soon(member.server.run)
        await trio.sleep(0.1)
        member.connect("n2")
        bad = Log(1, 1, 1, 1).append_message(2, after=3)
        with pytest.raises(CorruptEntryError):
            member.server.on_messages("n2", [{**bad, "entries": bad["entries"][:-3]}])

        link = member.connect("n2")
        member.server.on_messages("n2", [bad])
        await trio.sleep(0.05)
        assert link.sent[-1]["next_index"] == 5
        nursery.cancel_scope.cancel()
