"""What waits to be appended on the leader, and when it is sealed into an entry.

Group commit without a timer: a group is sealed at once when nothing is on its way; while entries
are, it grows, and is sealed when fewer than four are on their way and it has 64 KiB and two thirds
of what these have together, or when it cannot grow any more, as it is full or one of another kind
is behind it: messages and commands in turns would else be one entry each, one after another.  So a
lone message never waits for company, and a crowd shares entries and syncs: batches of a quarter of
a megabyte, too, which would else be an entry each.

The queue is open only on a leader that has taken in its predecessors' log.  It then holds an
`AppendState`, which says what offset and sequence come next; should an append fail for whatever
reason, that state is wrong, so it is thrown away and made anew from the log.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Protocol

import msgpack

from broker.errors import InvalidMessageError
from broker.store.append_state import AppendState
from broker.store.commit_log import RecordGroup
from broker.store.producers import SequenceState, SequenceVerdict
from broker.store.proposals import CommandProposal, ManyPut, Put, RecordProposal
from dledger.entry import HEADER_SIZE, body_size_limit
from dledger.errors import LedgerBusyError, LedgerError, NotLeaderError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from broker.store.append_state import Dispatched
    from broker.store.chunk import Chunk
    from broker.store.send_columns import ReadSends
    from dledger.clock import Clock
    from dledger.durability import Durability
    from dledger.server import LedgerServer

__all__ = ["AppendQueue", "MetadataCommand", "Put"]

GROUPS_ON_THEIR_WAY_MAX = 4
GROUP_SIZE_WORTH_SEALING = 64 * 1024
GROUP_SIZE_MAX = 1024 * 1024  # more would keep the first message of a group waiting for the last


class MetadataCommand(Protocol):
    """One change of the replicated state; `broker.metadata.state_machine` has it."""

    @property
    def kind(self) -> str:
        """What to change."""
        ...

    @property
    def args(self) -> Mapping[str, object]:
        """To what."""
        ...


class AppendQueue:
    """The one way into the log: records and metadata commands, in the order they came."""

    def __init__(
        self,
        *,
        ledger: LedgerServer,
        dispatched: Dispatched,
        clock: Clock,
        store_host: bytes,
        ack_timeout_seconds: float,
        opened: Callable[[], None],
        finished: Callable[[], None],
    ) -> None:
        """Make a closed queue.

        Args:
            ledger: where entries go.
            dispatched: what is known up to the entry that dispatch has reached.
            clock: stamps records.
            store_host: this broker's address as records hold it, 8 bytes.
            ack_timeout_seconds: longest time a send waits for a better level of durability than
                that of the commit, or for the leader's own disk.
            opened: called when the queue has opened.
            finished: called after each group whose end was told; the place to send answers.
        """
        self._ledger = ledger
        self._dispatched = dispatched
        self._clock = clock
        self._store_host = store_host
        self._ack_timeout_seconds = ack_timeout_seconds
        self._opened = opened
        self._finished = finished
        self._state: AppendState | None = None
        self._groups: deque[RecordProposal | CommandProposal] = deque()
        self._sealing = False
        room = body_size_limit(ledger.config.store.segment_size) - HEADER_SIZE
        self._body_size_max = min(GROUP_SIZE_MAX, room)
        self._room = room
        self._pending_size_max = ledger.config.raft.pending_size_max

    @property
    def is_open(self) -> bool:
        """Return whether this node takes appends: it leads and knows all that was before."""
        # The long way round to `LedgerServer.is_leader`, as it is asked for again and again.
        return self._state is not None and self._ledger.core.engine.leader_ready

    @property
    def waiting_count(self) -> int:
        """Return how many groups wait to be proposed."""
        return len(self._groups)

    def last_sequence_of(self, producer_id: int) -> int:
        """Return the highest number of a producer in the log; -1: none, or the queue is closed."""
        return -1 if self._state is None else self._state.last_sequence_of(producer_id)

    # -- opening and closing --------------------------------------------------------------------

    def refresh(self) -> None:
        """Open or close as role and dispatch allow; call after a change of either."""
        ledger = self._ledger
        if not ledger.is_leader:
            if self._state is not None or self._groups:
                self._close()
            return
        if (
            self._state is None
            and not self._groups
            and not ledger.core.unfinished_count
            and self._dispatched.dispatched_index >= ledger.core.engine.first_index_of_own_term
        ):
            self._state = AppendState(self._dispatched, ledger.store)
            self._opened()

    def _close(self) -> None:
        self._state = None
        groups, self._groups = self._groups, deque()
        leader = self._ledger.leader_id
        error = NotLeaderError(
            f"node {self._ledger.config.node_id} does not lead any more", leader_id=leader
        )
        for group in groups:
            group.on_failed(error)

    # -- levels of durability -------------------------------------------------------------------

    @property
    def commit_durability(self) -> Durability:
        """Return what is true of everything that is committed."""
        return self._ledger.core.engine.levels.of_commit

    def await_level(
        self, index: int, level: Durability, done: Callable[[Durability | None], None]
    ) -> None:
        """Call *done* when entry *index* has reached *level*, or its time is up.

        For an entry that is just being appended; see `LedgerCore.await_level`.
        """
        self._ledger.core.await_level(
            index, level, deadline=self._clock.now() + self._ack_timeout_seconds, done=done
        )

    def await_level_of_older(
        self, index: int, level: Durability, done: Callable[[Durability | None], None]
    ) -> None:
        """As `await_level`, for an entry that was appended before."""
        self.await_level(index, level, done)
        self._ledger.pump_soon()

    def told_some(self) -> None:
        """Have the answers sent that were given before a group is finished, or after."""
        self._finished()

    # -- the end of groups ----------------------------------------------------------------------

    def group_failed(self) -> None:
        """Give up offsets and sequences that were counted on an append which did not come."""
        if self._state is not None:
            self._close()
        self._finished()

    def group_finished(self) -> None:
        """Seal what has gathered meanwhile."""
        self._finished()
        self.seal()

    # -- taking ---------------------------------------------------------------------------------

    def put_chunk(
        self,
        chunk: Chunk,
        put: Put,
        *,
        producer_id: int,
        first_sequence: int,
        level: Durability | None = None,
    ) -> SequenceVerdict:
        """Take checked records; unless the verdict is NEW nothing was taken.

        *put* hears when they have reached *level*; None stands for that of the commit.

        Raises:
            NotLeaderError: the queue is not open.
            LedgerBusyError: too much is waiting.
            LedgerFullError: the disk has no room, or more of it is used than should be.
            InvalidMessageError: the records cannot fit an entry, however empty.
        """
        size = len(chunk.body)
        self._check_room(size)
        if self._ledger.write_refusal is not None:
            raise self._ledger.write_refusal  # commands go on: offsets, and what makes room
        group = self._groups[-1] if self._groups else None
        if not isinstance(group, RecordProposal) or not group.group.has_room(size):
            group = self._begin_record_group(size)
        verdict = group.group.add_chunk(
            chunk, producer_id=producer_id, first_sequence=first_sequence
        )
        if verdict.state is SequenceState.NEW:
            group.add(put, level)
            if not self._groups or self._groups[-1] is not group:
                self._groups.append(group)
        return verdict

    def put_sends(
        self,
        sends: ReadSends,
        begin: int,
        end: int,
        put: ManyPut,
        *,
        size: int,
        level: Durability | None = None,
    ) -> int:
        """As `put_chunk`, of runs *begin* to *end* that were read together.

        Args:
            sends: all of them.
            begin: the first run.
            end: behind the last.
            put: hears of those that are taken.
            size: bytes of all their records, for which there must be room.
            level: of durability; None stands for that of the commit.

        Returns:
            The first that was not taken, as it is not NEW or this group is full: `put_chunk` says
            the one, another call takes it into the next group.

        Raises:
            NotLeaderError, LedgerBusyError, LedgerFullError, InvalidMessageError: as `put_chunk`.
        """
        self._check_room(size, is_many=True)
        if self._ledger.write_refusal is not None:
            raise self._ledger.write_refusal
        first_size = sends.runs[begin].size
        group = self._groups[-1] if self._groups else None
        if not isinstance(group, RecordProposal) or not group.group.has_room(first_size):
            group = self._begin_record_group(first_size)
        taken = group.group.add_sends(sends, begin, end)
        if taken > begin:
            group.add(put, level)
            if not self._groups or self._groups[-1] is not group:
                self._groups.append(group)
        return taken

    def put_command(
        self, command: MetadataCommand, done: Callable[[int, LedgerError | None], None]
    ) -> int:
        """Take one metadata command; *done* hears the entry's index, or the error.

        Returns:
            The command's number in its entry, from 0: which of the results is its.

        Raises:
            NotLeaderError, LedgerBusyError, LedgerError, InvalidMessageError: as `put_chunk`.
        """
        packed: bytes = msgpack.packb([command.kind, command.args])
        if len(packed) + 64 > self._room:
            raise InvalidMessageError(
                f"a command of {len(packed)} bytes does not fit an entry of {self._room}; use "
                "shorter names"
            )
        self._check_room(len(packed))
        group = self._groups[-1] if self._groups else None
        if (
            not isinstance(group, CommandProposal)
            or group.body_size + len(packed) + 8 > self._body_size_max
        ):
            group = CommandProposal(self)
            self._groups.append(group)
        return group.add(packed, done)

    def _check_room(self, size: int, *, is_many: bool = False) -> None:
        """Refuse *size* bytes where no more may wait."""
        ledger = self._ledger
        if not self.is_open:
            raise NotLeaderError(
                f"node {ledger.config.node_id} does not take writes", leader_id=ledger.leader_id
            )
        if ledger.core.disk_full is not None:
            raise ledger.core.disk_full
        waiting = ledger.core.pending_size
        for group in self._groups:
            waiting += group.body_size
        # One that is alone may be as large as an entry; many can be taken in part.
        if (waiting or is_many) and waiting + size + 64 > self._pending_size_max:
            raise LedgerBusyError(
                f"{waiting} bytes wait to be committed on node {ledger.config.node_id}, the limit "
                f"is pending_size_max = {self._pending_size_max}; send again later"
            )

    def _begin_record_group(self, size: int) -> RecordProposal:
        assert self._state is not None
        if size + 64 > self._room:
            # Illegal, so that clients send the batch again in parts.
            raise InvalidMessageError(
                f"{size} bytes of records do not fit an entry of {self._room}; send fewer at a "
                f"time (segment_size is {self._ledger.config.store.segment_size}, and no frame has "
                "more than 16 MiB)"
            )
        return RecordProposal(
            self,
            RecordGroup(
                self._state,
                clock=self._clock,
                store_host=self._store_host,
                body_size_max=max(self._body_size_max, size + 64),
            ),
        )

    # -- sealing --------------------------------------------------------------------------------

    def seal(self) -> None:
        """Propose what is due; called at the end of every pass over a socket's requests."""
        if self._sealing:
            return
        self._sealing = True
        try:
            while self._groups:
                on_their_way = self._ledger.core.unfinished_count
                may_grow = len(self._groups) == 1 and self._groups[0].body_size < max(
                    GROUP_SIZE_WORTH_SEALING, self._ledger.core.pending_size * 2 // 3
                )
                if on_their_way and (on_their_way >= GROUPS_ON_THEIR_WAY_MAX or may_grow):
                    return
                group = self._groups.popleft()
                try:
                    self._ledger.propose(group)
                except LedgerError as error:
                    # Nothing of it is in the log; a broken log raises from the pump instead.
                    if self._ledger.has_failed:
                        raise
                    group.on_failed(error)
        finally:
            self._sealing = False
