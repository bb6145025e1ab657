"""The leader's half of replication: what to send to whom, and what an answer proves.

Replaces PySyncObj's ``__sendAppendEntries`` and its handling of ``next_node_idx``
(raft-engine.md, flaws a, b, h, i and the livelock): bounded slices, a window for each follower,
one message at a time while the place where the logs part is being looked for, and answers that
count only in the term and for the message they were given to.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

from dledger.errors import CorruptEntryError
from dledger.raft.progress import Progress
from dledger.raft.reserve import HOLD_SECONDS
from dledger.raft.snapshot import chunk_message

if TYPE_CHECKING:
    from collections.abc import Callable

    from dledger.raft.engine import RaftEngine

Message = dict[str, Any]

# When a commit is not carried by the next message anyway, it is announced after this time.
COMMIT_NOTICE_SECONDS = 0.005


class Leading:
    """Progress of every follower while this node leads."""

    def __init__(self, engine: RaftEngine) -> None:
        self._engine = engine
        self.progress: dict[str, Progress] = {peer_id: Progress() for peer_id in engine.peer_ids}
        self.committed_at = 0.0  # when the commit index rose last
        self._barriers_wanted: list[Callable[[bool], None]] = []
        self._barriers: deque[tuple[dict[str, int], list[Callable[[bool], None]]]] = deque()

    # -- the life of a leadership ---------------------------------------------------------------

    def start(self) -> None:
        """Assume nothing about anyone: called as this node becomes the leader of a new term."""
        end_index = self._engine.store.end_index
        self._engine.reserve.start()
        for progress in self.progress.values():
            progress.match_index = progress.written_index = progress.synced_index = 0
            progress.acked_id = 0
            progress.installing_base = 0
            progress.sent_commit_index = 0
            progress.reset_to(end_index + 1)

    def stop(self) -> None:
        """Give up what waited for a proof of leadership: it can no longer be had."""
        waiting = self._barriers_wanted
        self._barriers_wanted = []
        while self._barriers:
            waiting.extend(self._barriers.popleft()[1])
        for callback in waiting:
            callback(False)

    def connected(
        self, peer_id: str, *, joining: bool, last_index: int, promises_synced: bool
    ) -> None:
        """Take up a peer from what it has proven; its connection is new and therefore empty.

        What was not synced yet may be lost, and with it that the peer had cut its log: then
        *last_index* counts entries of an older leader as well.  So of what it had proven only that
        counts which it had on its disk.
        """
        progress = self.progress[peer_id]
        progress.connected = True
        progress.last_sent_at = float("-inf")  # nothing over this connection: it is due
        progress.joining = joining
        progress.sent_before = {
            other_id: other.append_id for other_id, other in self.progress.items()
        }
        progress.installing_base = 0
        # A joining peer lost its disk: what it had proven before is gone with it.
        kept = 0 if joining else last_index
        proven = progress.match_index if progress.promises_synced else progress.synced_index
        progress.match_index = progress.written_index = min(proven, kept)
        progress.synced_index = min(progress.synced_index, kept)
        progress.promises_synced = promises_synced
        self._engine.levels.peer_connected()
        progress.reset_to((progress.match_index or self._engine.store.end_index) + 1)

    def disconnected(self, peer_id: str) -> None:
        """Stop sending to a peer; nothing on its way to it will be answered."""
        progress = self.progress[peer_id]
        progress.connected = False
        progress.reset_to(progress.next_index)

    # -- sending --------------------------------------------------------------------------------

    @property
    def has_uncommitted_answers(self) -> bool:
        """Whether some follower has what is not committed yet."""
        commit_index = self._engine.commit_index
        return any(progress.match_index > commit_index for progress in self.progress.values())

    def send_new_entries(self) -> None:
        """Send what each follower's window has room for, unless it may wait for that."""
        end_index, reserve = self._engine.store.end_index, self._engine.reserve
        for peer_id, progress in self.progress.items():
            if progress.next_index <= end_index and not (
                reserve.is_kept and reserve.holds(peer_id, progress)
            ):
                self._send_entries(peer_id)

    def send_heartbeats(self) -> float:
        """Send to every follower that should hear something; return when to look again.

        Any message is a heartbeat, and tells of commits.  An empty one goes to whoever was sent
        nothing for a heartbeat interval, or has not heard of a commit for some milliseconds.
        """
        engine = self._engine
        now = engine.now()
        next_due = now + engine.heartbeat_seconds
        for peer_id, progress in self.progress.items():
            if not progress.connected or self._send_entries(peer_id):
                continue
            due = progress.last_sent_at + engine.heartbeat_seconds
            if (rested_at := progress.pace.resting_until) > now:
                next_due = min(next_due, rested_at)
            if progress.held_since is not None:  # its window was full
                held_until = progress.held_since + HOLD_SECONDS
                if held_until > now:
                    next_due = min(next_due, held_until)
            # Of what was sent to it; the rest brings its own news.
            if progress.sent_commit_index < min(engine.commit_index, progress.next_index - 1):
                last_news_at = max(progress.last_sent_at, self.committed_at)
                due = min(due, last_news_at + COMMIT_NOTICE_SECONDS)
            if due <= now:
                self._send_empty(peer_id)
            else:
                next_due = min(next_due, due)
        return next_due

    def _send_entries(self, peer_id: str) -> bool:
        engine, progress = self._engine, self.progress[peer_id]
        if not progress.connected:
            return False
        store = engine.store
        if progress.next_index <= store.base.index:
            return self._send_install(peer_id)
        sent = False
        end_index, pace = store.end_index, progress.pace
        window = 1 if progress.probing else engine.append_window
        while (
            progress.next_index <= end_index
            and len(progress.inflight) < window
            and not (progress.probing and progress.probe_pending)
        ):
            if pace.is_kept and self._rests(progress):
                break
            raw, last_index = store.raw_range(progress.next_index, size_max=engine.append_size_max)
            if last_index > engine.commit_index or last_index == end_index:
                pace.forget()  # with that it is in step
            elif raw.nbytes * 2 > engine.append_size_max:
                pace.sent(last_index, size=raw.nbytes, end=store.end_position, now=engine.now())
            self._send_append(peer_id, progress, raw, last_index)
            progress.inflight.append(last_index)
            progress.next_index = last_index + 1
            progress.probe_pending = progress.probing
            sent = True
        return sent

    def _rests(self, progress: Progress) -> bool:
        """Return whether a member that is sent the old is to wait for the next piece of it.

        Not where nothing has been committed for a while: nobody sends, or what is sent waits for
        this very member.  Nor where somebody waits for every copy.
        """
        engine, now = self._engine, self._engine.now()
        end = engine.store.end_position
        return (
            now < self.committed_at + engine.heartbeat_seconds
            and not progress.pace.is_due(end, is_idle=not progress.inflight, now=now)
            and engine.levels.all_wanted < progress.next_index
            and self._can_commit_without(progress)
        )

    def _can_commit_without(self, progress: Progress) -> bool:
        engine = self._engine
        having = sum(
            other.connected and not other.joining and other.match_index >= engine.commit_index
            for other in self.progress.values()
            if other is not progress
        )
        return 1 + having >= engine.majority  # this node is one of them

    def _send_empty(self, peer_id: str) -> None:
        progress = self.progress[peer_id]
        if progress.next_index <= self._engine.store.base.index:
            progress.installing_base = 0  # say again where the snapshot stands
            self._send_install(peer_id)
        else:
            self._send_append(peer_id, progress, b"", progress.next_index - 1)

    def _send_append(
        self, peer_id: str, progress: Progress, raw: bytes | memoryview, last_index: int
    ) -> None:
        engine = self._engine
        previous = progress.next_index - 1
        progress.append_id += 1
        if last_index > previous:
            progress.held_since = None
        progress.last_sent_at = engine.ticked_at
        progress.sent_commit_index = engine.commit_index
        message: Message = {
            "type": "append_entries",
            "term": engine.term,
            "id": progress.append_id,
            "prev_index": previous,
            "prev_term": engine.store.term_at(previous),
            "last_index": last_index,
            "commit_index": engine.commit_index,
            "entries": raw,
        }
        if progress.joining:
            message["admit_index"] = self._admit_index(progress)
        levels = engine.levels
        if levels.sync_wanted > progress.synced_index and not progress.promises_synced:
            message["sync_index"] = levels.sync_wanted
        if levels.written_wanted > progress.written_index and progress.promises_synced:
            message["tell_written"] = True
        engine.send(peer_id, message)

    def _admit_index(self, progress: Progress) -> int:
        """Return from which durable index on a joining peer may vote; -1: not to be said yet.

        It may once it has all that could have been committed with its help before its disk was
        lost.  That is known to a leader which a majority has confirmed since the peer came, and
        the peer itself, having forgotten what it promised, cannot be part of that majority.  Only
        answers to messages sent since then count: after a pause of this process, older ones are
        still to be read.
        """
        engine = self._engine
        if not engine.leader_ready:
            return -1
        confirmed = 1 + sum(
            other.acked_id > progress.sent_before[other_id] and not other.joining
            for other_id, other in self.progress.items()
        )
        return engine.commit_index if confirmed >= engine.majority else -1

    def _send_install(self, peer_id: str) -> bool:
        engine, progress = self._engine, self.progress[peer_id]
        base = engine.store.base
        snapshot = engine.snapshot_at_base()
        if snapshot is None:
            return False  # being read; the server comes back when it is there
        if progress.installing_base == base.index:
            return False  # the last piece is not answered yet
        progress.installing_base = base.index
        progress.append_id += 1
        progress.last_sent_at = engine.now()
        engine.send(
            peer_id,
            chunk_message(
                term=engine.term,
                message_id=progress.append_id,
                base=base,
                snapshot=snapshot,
                offset=min(progress.install_offset, len(snapshot)),
                chunk_size=engine.append_size_max,
            ),
        )
        return True

    # -- answers --------------------------------------------------------------------------------

    def on_answer(self, peer_id: str, message: Message) -> None:
        """Take an answer to an append message; its term is the current one."""
        engine, progress = self._engine, self.progress[peer_id]
        end_index = engine.store.end_index
        if message["success"] and message["next_index"] > end_index + 1:
            raise CorruptEntryError(
                f"{peer_id} answers for entry {message['next_index'] - 1}, but this leader's log "
                f"ends with {end_index}"
            )
        self._heard_from(peer_id, message)
        if message["success"]:
            if message["id"] >= progress.reset_floor:
                progress.probing = progress.probe_pending = False
            progress.acknowledge(message["next_index"] - 1)
            if progress.pace.is_out:
                progress.pace.acknowledged(
                    progress.match_index,
                    end=engine.store.end_position,
                    now=engine.now(),
                    rest_seconds_max=engine.election_seconds_max,
                )
                engine.send_again_at(progress.pace.resting_until)
            if "synced_index" in message:
                progress.synced_index = max(
                    progress.synced_index, min(message["synced_index"], end_index)
                )
                progress.written_index = max(
                    progress.written_index, min(message.get("written_index", 0), end_index)
                )
            if progress.match_index > engine.commit_index:
                engine.commit_wanted = True
                engine.reserve.answered(peer_id, progress)
        elif message["reset"] and message["id"] >= progress.reset_floor:
            progress.reset_to(
                max(progress.match_index + 1, min(message["next_index"], end_index + 1))
            )
        if progress.next_index <= end_index and (
            progress.held_since is None or not engine.reserve.holds(peer_id, progress)
        ):
            self._send_entries(peer_id)

    def on_install_answer(self, peer_id: str, message: Message) -> None:
        """Take an answer to a piece of a snapshot; its term is the current one."""
        progress = self.progress[peer_id]
        self._heard_from(peer_id, message)
        if message["base_index"] != self._engine.store.base.index:
            progress.installing_base = progress.install_offset = 0  # retention went on meanwhile
        elif message["done"]:
            self._engine.tick_wanted = True
            progress.installing_base = progress.install_offset = 0
            if progress.acknowledge(message["base_index"]):
                progress.reset_to(message["base_index"] + 1)
        else:
            progress.installing_base = 0
            progress.install_offset = message["offset"]
        self._send_entries(peer_id)

    def _heard_from(self, peer_id: str, message: Message) -> None:
        progress = self.progress[peer_id]
        if progress.joining != message["joining"]:
            progress.joining = message["joining"]
            self._engine.tick_wanted = True
        if progress.acked_id < message["id"]:
            progress.acked_id = message["id"]
        if not progress.joining:
            self._engine.note_answer(peer_id)
            if self._barriers:
                self._check_barriers()

    # -- proof of leadership (ReadIndex, Raft dissertation 6.4) ---------------------------------

    def request_barrier(self, callback: Callable[[bool], None]) -> None:
        """Call *callback* with true once a majority has confirmed this leadership from now on."""
        self._barriers_wanted.append(callback)
        self._engine.tick_wanted = True

    def start_barriers(self) -> None:
        """Send one round of heartbeats for all barriers asked for since the last round."""
        if not self._barriers_wanted:
            return
        # Whoever is not connected, or gets nothing while its snapshot is being read, confirms with
        # the next message it is sent: not with an older one, and not never.
        floors = {peer_id: progress.append_id + 1 for peer_id, progress in self.progress.items()}
        for peer_id, progress in self.progress.items():
            if progress.connected:
                self._send_empty(peer_id)
        self._barriers.append((floors, self._barriers_wanted))
        self._barriers_wanted = []
        self._check_barriers()

    def _check_barriers(self) -> None:
        while self._barriers:
            floors, callbacks = self._barriers[0]
            confirmed = 1 + sum(
                self.progress[peer_id].acked_id >= floor and not self.progress[peer_id].joining
                for peer_id, floor in floors.items()
            )
            if confirmed < self._engine.majority:
                return
            self._barriers.popleft()
            for callback in callbacks:
                callback(True)
