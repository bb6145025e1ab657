"""What a member says once it is known: well-formed messages that make no sense.

Members trust one another's words, not their sense: a message that cannot be true ends the
connection or, where a rule of Raft is at stake, stops the node with an error that says so.
"""

from __future__ import annotations

import random
import shutil

from dledger.config import LedgerConfig, Member, RaftConfig, StoreConfig
from dledger.core import LedgerCore
from dledger.errors import LedgerError
from dledger.peers.messages import from_command
from dledger.remoting.connection import Connection
from dledger.remoting.errors import RemoteProtocolError
from dledger.store.ledger_store import LedgerStore
from dledger.store.os_disk import OsDisk
from dledger.store.vote_file import VoteFile
from jepsen_like.fuzz.folder import scratch
from jepsen_like.fuzz.records import entries
from jepsen_like.fuzz.target import Target, must_say
from jepsen_like.fuzz.wire import frame_bytes, peer_commands

_STORE = StoreConfig(segment_size=4096, index_file_units=128)


class _Clock:
    def __init__(self) -> None:
        self.seconds = 100.0

    def now(self) -> float:
        """Return seconds that only `run_raft` moves."""
        return self.seconds

    def wall_ms(self) -> int:
        """Return the same in milliseconds."""
        return int(self.seconds * 1000)

    def local_hour(self) -> int:
        """Return the hour of the day, which is UTC's."""
        return self.wall_ms() // 3_600_000 % 24


def _raft_seeds() -> list[bytes]:
    frames = [frame_bytes(command) for command in peer_commands()]
    raw = entries(b"", b"a", b"b")
    append = peer_commands()[4]
    append.ext_fields = append.ext_fields | {"last_index": 3, "commit_index": 2}
    append.body = raw
    full = frame_bytes(append)
    return [b"\0" + frame for frame in frames] + [b"\1" + frame for frame in frames] + [
        b"\0" + full, b"\0" + full + b"".join(frames), b"\1" + b"".join(reversed(frames)),
    ]  # fmt: skip


def run_raft(data: bytes) -> None:
    """Let a follower, or a leader where the first byte is odd, hear frames of its two peers."""
    folder = scratch()
    try:
        _run(data, str(folder))
    finally:
        shutil.rmtree(folder)


def _run(data: bytes, folder: str) -> None:
    clock = _Clock()
    votes = VoteFile.open(OsDisk(), folder, joining=False)
    store = LedgerStore.open(OsDisk(), _STORE, folder)
    core = LedgerCore(
        config=LedgerConfig(
            group="g",
            node_id="n1",
            members=tuple(Member(node_id=f"n{n}", host="h", port=7000 + n) for n in (1, 2, 3)),
            data_folder=folder,
            store=_STORE,
            raft=RaftConfig(append_size_max=4096),
        ),
        store=store,
        votes=votes,
        commit_index=0,
        clock=clock,
        chance=random.Random(1),
        install=lambda base, _state: store.reset_to(base),
    )

    def step(seconds: float = 0.0) -> list[dict[str, object]]:
        clock.seconds += seconds
        core.step()
        votes.sync()
        core.engine.vote_synced()
        store.sync()
        core.engine.log_synced()
        core.step()
        return [message for _, message in core.take_outbox()]

    for peer_id in ("n2", "n3"):
        core.peer_connected(peer_id, joining=False, last_index=0)
    if data[:1] and data[0] % 2:
        asked = step(1.0)
        rounds = [message["round"] for message in asked if message["type"] == "pre_vote"]
        granted = {"term": core.engine.term, "granted": True, "round": rounds[0]}
        core.receive("n2", {"type": "pre_vote_answer", **granted})
        step()
        core.receive("n2", {"type": "response_vote", "term": core.engine.term})
        step()
    connection = Connection()
    connection.receive_data(data[1:])
    try:
        number = 0
        while (command := connection.next_command()) is not None and number < 20:
            number += 1
            core.receive("n2" if number % 2 else "n3", from_command(command))
            step(0.01)
        step(1.0)
    except (LedgerError, RemoteProtocolError) as error:
        must_say(error)
    finally:
        store.close()
        votes.close()


TARGETS = [Target("raft", "messages of members, in any order", _raft_seeds, run_raft)]
