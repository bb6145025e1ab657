"""One member of a group, running: drives the core, syncs beside the loop, wakes who waits.

Everything that happens ends in `LedgerServer.pump`, a plain function: it lets the core take a
step, hands out what is to be sent, starts the syncs that are due and tells proposers and watchers
what is committed.  There is no task for a message or an append; the tasks here only wait for
sockets and for time.
"""

from __future__ import annotations

import logging
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import trio

from dledger.core import LedgerCore, Role
from dledger.errors import (
    CorruptEntryError,
    CorruptStoreError,
    LedgerError,
    LedgerFullError,
    StorageFailedError,
)
from dledger.measures import COUNT_BOUNDS, SECONDS_BOUNDS, Histogram
from dledger.peers.links import PeerLinks
from dledger.remoting.alarm import Alarm
from dledger.remoting.readiness import after_reads
from dledger.store.housekeeping import Housekeeping, StateKeeper
from dledger.store.retention import refusal_of

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Iterator

    from dledger.clock import Clock
    from dledger.config import LedgerConfig
    from dledger.core import AppendProposal
    from dledger.entry import LogPoint
    from dledger.peers.link import PeerLink
    from dledger.remoting.network import Network
    from dledger.store.disk_usage import DiskUsage
    from dledger.store.ledger_store import LedgerStore
    from dledger.store.tickets import SyncTicket
    from dledger.store.vote_file import VoteFile, VoteTicket
    from dledger.worker import Worker

Message = dict[str, Any]

logger = logging.getLogger(__name__)

# It is looked whether segments, checkpoints or retention are due when the log has grown by so many
# entries or a part of a segment, when something waits for room, and at this interval.
_LOOK_COUNT = 16
_LOOKS_PER_SEGMENT = 64
_LOOK_SECONDS = 0.05
# A step is cheap; waking a hair late keeps "deadline reached" true on any clock.
_WAKE_SLACK_SECONDS = 0.001
# A follower may tell so much later of what is committed, where nobody waits for that.
_PUBLISH_SECONDS = 0.005


class LedgerServer:
    """A running member; made by `open_member`, run in a nursery."""

    def __init__(
        self,
        *,
        config: LedgerConfig,
        store: LedgerStore,
        votes: VoteFile,
        network: Network,
        clock: Clock,
        chance: random.Random,
        sync_worker: Worker,
        vote_worker: Worker,
        file_worker: Worker,
        state_keeper: StateKeeper,
    ) -> None:
        """Put a member together over its opened files.

        Args:
            config: its settings.
            store: the recovered log.
            votes: the vote file.
            network: where peers are reached.
            clock: the time.
            chance: election timeouts and reconnect delays.
            sync_worker: syncs the log.
            vote_worker: syncs the vote file, not to wait behind the log's sync.
            file_worker: allocates segments, writes checkpoints, reads states.
            state_keeper: the room above.
        """
        self.config = config
        self.store = store
        self._clock = clock
        self._votes = votes
        self._state_keeper = state_keeper
        self._sync_worker = sync_worker
        self._vote_worker = vote_worker
        self.core = LedgerCore(
            config=config,
            store=store,
            votes=votes,
            commit_index=store.checkpoint_commit_index,
            clock=clock,
            chance=chance,
            install=self._install,
        )
        self._peers = PeerLinks(config=config, network=network, chance=chance, hooks=self)
        self._links: dict[str, PeerLink] = {}
        self._pumping = False
        self._pump_again = False
        self._failure: BaseException | None = None
        self._failed = trio.Event()
        self._alarm = Alarm(self._on_time)
        self._alarm_due = 0.0  # second of the clock for which it is set
        self._sync_ticket: SyncTicket | None = None  # of the sync that is running
        self._sync_started_at = 0.0
        self._vote_syncing = False
        self._housekeeping = Housekeeping(
            store,
            config.store,
            clock=clock,
            worker=file_worker,
            state_keeper=state_keeper,
            hooks=self,
        )
        self._flush_at = 0.0
        self._sync_each = config.store.flush_disk_type.value == "SYNC_FLUSH"
        self._commit_watchers: list[Callable[[int], None]] = []
        self._may_wait: Callable[[int], bool] = lambda _: False
        self._is_behind = False  # what this follower knows to be committed is still to be published
        self._role_watchers: list[Callable[[Role, int, str | None], None]] = []
        self._published_index = self.core.committed_index
        self._published_role: tuple[Role, int, str | None, bool] | None = None
        self._published_situation: tuple[object, ...] = ()
        self._leader_is_lost = False
        self._looked_at = 0.0  # when it was last looked what files are to be worked at
        self._looked_at_end = store.end  # and where the log ended then
        self._look_size = config.store.segment_size // _LOOKS_PER_SEGMENT
        self.disk_usage: DiskUsage | None = None  # as of the last look
        self.write_refusal: LedgerFullError | None = None  # why a leader should take no messages
        self.sync_seconds_last = 0.0
        self.sync_seconds = Histogram(SECONDS_BOUNDS)
        self.sync_entries = Histogram(COUNT_BOUNDS)  # that shared a sync
        self.leader_change_count = 0

    # -- what others ask ------------------------------------------------------------------------

    @property
    def committed_index(self) -> int:
        """Return up to where entries are committed: what may be read."""
        return self.core.committed_index

    @property
    def is_leader(self) -> bool:
        """Return whether this node leads and knows what its predecessors committed."""
        return self.core.engine.leader_ready

    @property
    def has_failed(self) -> bool:
        """Return whether something happened that this node must not go on after."""
        return self._failure is not None

    @property
    def leader_id(self) -> str | None:
        """Return who leads, as far as this node knows.

        None also when the leader's connection broke, or nothing has been heard of it for a least
        election timeout: without a majority nobody else is elected, and a dead one is no answer.
        """
        engine = self.core.engine
        return None if self._leader_is_lost and not engine.has_live_leader else engine.leader_id

    @property
    def term(self) -> int:
        """Return the current term."""
        return self.core.engine.term

    def watch_commits(self, watcher: Callable[[int], None]) -> None:
        """Call *watcher* with the committed index whenever it has risen; it must not wait."""
        self._commit_watchers.append(watcher)

    def let_commits_wait(self, may_wait: Callable[[int], bool]) -> None:
        """Have a follower ask *may_wait* with each new committed index, and believe it.

        Where that is so, watchers hear of it some milliseconds later, or with `publish_commits`.
        """
        self._may_wait = may_wait

    def watch_role(self, watcher: Callable[[Role, int, str | None], None]) -> None:
        """Call *watcher* with (role, term, leader id) when one changes or the leader is ready."""
        self._role_watchers.append(watcher)

    def propose(self, proposal: AppendProposal) -> None:
        """Queue one entry; `pump` sends it on. Raises as `LedgerCore.propose`."""
        try:
            self.core.propose(proposal)
        except (StorageFailedError, CorruptStoreError) as error:
            self._fail(error)
            raise
        if not self._pumping:
            self.pump()
        else:
            self._pump_again = True

    def request_barrier(self, callback: Callable[[bool], None]) -> None:
        """See `LedgerCore.request_barrier`."""
        self.core.request_barrier(callback)
        self.pump_soon()

    async def transfer(self, target: str | None = None) -> str:
        """Hand the leadership over; return who leads now.

        Raises:
            LedgerError: it did not come to that; this node, or whoever was elected, leads on.
        """
        outcome: list[LedgerError | None] = []
        done = trio.Event()

        def finish(error: LedgerError | None) -> None:
            outcome.append(error)
            done.set()

        self.begin_transfer(target, finish)
        await done.wait()
        if outcome[0] is not None:
            raise outcome[0]
        leader = self.leader_id
        assert leader is not None
        return leader

    def begin_transfer(
        self, target: str | None, done: Callable[[LedgerError | None], None]
    ) -> None:
        """Hand the leadership over; *done* hears how it ended. See `LedgerCore.transfer`."""
        self.core.transfer(target, done)
        self.pump_soon()

    # -- running --------------------------------------------------------------------------------

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Run until cancelled; started once the peer port is bound.

        Raises:
            StorageFailedError: a write or sync failed; the process has to stop.
            LedgerError: a rule of Raft or the store was broken; the process has to stop.
        """
        async with trio.open_nursery() as nursery:
            await nursery.start(self._peers.run)
            nursery.start_soon(self._alarm.run)
            self._on_time()
            task_status.started()
            await self._failed.wait()
            assert self._failure is not None
            raise self._failure

    def _on_time(self) -> None:
        self._looked_at = float("-inf")  # it may be what the alarm was for
        self._alarm_due = float("inf")
        self.pump()

    def _next_deadline(self) -> float:
        """Return when `pump` has something to do at the latest, as the clock's second."""
        deadline = self.core.next_deadline()
        if (house_at := self._housekeeping.next_deadline()) < deadline:
            deadline = house_at
        if self._flush_at < deadline and not self._sync_each and self._sync_ticket is None:
            return self._flush_at
        return deadline

    def _on_loop_clock(self, deadline: float) -> float:
        """Return when to wake up for what is due at *deadline*."""
        seconds = max(deadline - self._clock.now(), 0.0)
        return trio.current_time() + seconds + _WAKE_SLACK_SECONDS

    def _wake_by(self, deadline: float) -> None:
        """Have `pump` run at *deadline*, unless it does so before."""
        if deadline < self._alarm_due:
            self._alarm_due = deadline
            self._alarm.set(self._on_loop_clock(deadline))

    def publish_commits(self) -> None:
        """Tell the watchers of all that this node knows to be committed, if that was put off."""
        if self._is_behind:
            self.pump_soon()

    def _put_off(self) -> bool:
        """Put off what is left to do on a follower, if nobody waits for it; whether that is so.

        Its answer is on the way.  To publish what is committed takes a follower half as long again,
        and who shares its processor may be the leader; a few entries later it takes no longer.
        """
        engine = self.core.engine
        if not self.core.follows_quietly:
            return False
        if engine.commit_index == engine.applied_index:
            return True
        if not self._may_wait(engine.commit_index):
            return False
        if not self._is_behind:
            self._is_behind = True
            self._wake_by(engine.leader_heard_at + _PUBLISH_SECONDS)
        return True

    def pump_soon(self) -> None:
        """Have `pump` run: now, or again where it is running."""
        if self._pumping:
            self._pump_again = True
        else:
            self.pump()

    def pump(self) -> None:
        """Let everything take effect that has happened; returns when nothing is left to do.

        Raises:
            LedgerError: the node has to stop; `run` raises it, too.
        """
        if self._pumping or self._failure is not None:
            self._pump_again = True
            return
        self._pumping = True
        self._is_behind = False
        core = self.core
        try:
            while True:
                self._pump_again = False
                core.step()
                if core.engine.transport.outbox:
                    self._send_outbox()
                self._start_syncs(core.engine.ticked_at)
                self._publish()
                if not self._pump_again:
                    break
        except BaseException as error:
            self._fail(error)
            raise
        finally:
            self._pumping = False
        engine, end = core.engine, self.store.end
        if (
            engine.ticked_at >= self._looked_at + _LOOK_SECONDS
            or end.index >= self._looked_at_end.index + _LOOK_COUNT
            or end.position >= self._looked_at_end.position + self._look_size
            or core.waits_for_room
            or engine.snapshot_wanted
        ):
            self._start_file_work()
        self._wake_by(self._next_deadline())

    def _fail(self, error: BaseException) -> None:
        if self._failure is None:
            self._failure = error
            self._failed.set()

    def _hurry(self) -> None:
        """Do first what the leader waits for: an answer, or the sync behind the next one."""
        if self._failure is not None:
            return
        engine = self.core.engine
        try:
            if engine.transport.outbox:
                self._send_outbox()
            if self._sync_each and not engine.is_leader:
                self._start_syncs(self._clock.now())
        except BaseException as error:
            self._fail(error)
            raise

    def _send_outbox(self) -> None:
        # What goes to one peer shares a system call, and is on its way before the next is encoded.
        writing: PeerLink | None = None
        for peer_id, message in self.core.take_outbox():
            link = self._links.get(peer_id)
            if link is not writing:
                if writing is not None:
                    writing.flush()
                writing = link
            if link is not None:
                link.send(message)
        if writing is not None:
            writing.flush()

    def _publish(self) -> None:
        engine = self.core.engine
        committed = engine.applied_index
        if committed > self._published_index:
            self._published_index = committed
            for watcher in self._commit_watchers:
                watcher(committed)
        situation = engine.situation()
        if situation == self._published_situation:
            return
        self._published_situation = situation
        # Lost only here, where the watchers hear of it, and not by the mere passing of time.
        self._leader_is_lost = not engine.has_live_leader
        role = (self.core.role, engine.term, self.leader_id, engine.leader_ready)
        if role != self._published_role:
            if self._published_role is None or role[2] not in (None, self._published_role[2]):
                self.leader_change_count += 1
            self._published_role = role
            logger.info("%s in term %d, leader %s", role[0].value, role[1], role[2] or "unknown")
            for role_watcher in self._role_watchers:
                role_watcher(*role[:3])

    # -- syncs ----------------------------------------------------------------------------------

    def _start_syncs(self, now: float) -> None:
        if not self._vote_syncing and self._votes.synced_version != self._votes.version:
            vote_ticket = self._votes.begin_sync()
            if vote_ticket is not None:
                self._vote_syncing = True
                self._vote_worker.submit(
                    vote_ticket.run, lambda failure: self._vote_synced(vote_ticket, failure)
                )
        if self._sync_ticket is not None:
            self._judge_slow_sync(now)
        elif (
            self._sync_each
            or now >= self._flush_at
            or self.core.engine.sync_wanted > self.store.synced_index
        ):
            self._flush_at = now + self.config.store.flush_interval_ms / 1000
            ticket = self.store.begin_sync()
            if ticket is not None:
                self._sync_ticket = ticket
                self._sync_started_at = now
                self._sync_worker.submit(ticket, lambda failure: self._log_synced(ticket, failure))

    def _judge_slow_sync(self, now: float) -> None:
        """Leave the lead to a node whose disk works, when this one's has stalled too long."""
        limit = self.config.raft.election_timeout_max_ms / 1000
        engine, ticket = self.core.engine, self._sync_ticket
        if engine.storage_stalled or not self._sync_each or now - self._sync_started_at <= limit:
            return
        # It is this node that may have stood still: the sync has ended, and nobody has been told.
        self._sync_worker.take_up()
        if ticket is None or ticket.is_done or ticket.failure is not None:
            return
        logger.warning("a sync of the log has been running for more than %.1f s", limit)
        engine.storage_stalled = True
        if engine.is_leader and engine.peer_ids:
            engine.abdicate()
            self._pump_again = True

    @contextmanager
    def _on_loop(self) -> Iterator[None]:
        """Guard what runs when a worker's job is done: trio has nobody to raise an error to.

        Then comes a pump. Whatever goes wrong inside, `run` raises.
        """
        try:
            yield
            self.pump()
        except BaseException as error:  # noqa: BLE001 - `run` raises it
            self._fail(error)

    def _log_synced(self, ticket: SyncTicket, failure: BaseException | None) -> None:
        if self._sync_ticket is not ticket:
            return  # `stop` was quicker
        self._sync_ticket = None
        try:
            _raise_if_any(failure)
            synced_before = self.store.synced_index
            seconds = self._clock.now() - self._sync_started_at
            self.store.finish_sync(ticket, watermark=False)
            self.core.engine.storage_stalled = False
            self.core.engine.log_synced()
            self._hurry()
            if self.core.leads_quietly or self._put_off():
                # What came meanwhile is next; for the leader, its followers have not answered yet.
                self._start_syncs(self._clock.now())
                if self._sync_ticket is None and not self._sync_each:
                    # Not yet; and while a sync runs, no alarm is set for the one behind it.
                    self._wake_by(self._flush_at)
            else:
                after_reads(self._pump_on_loop)  # it judges time-outs: the leader may have spoken
            # For none of this an answer waits; the watermark is a hint.
            self.sync_seconds_last = seconds
            self.sync_seconds.observe(seconds)
            self.sync_entries.observe(max(self.store.synced_index - synced_before, 0))
            self.store.write_watermark()
        except BaseException as error:  # noqa: BLE001 - as `_on_loop`
            self._fail(error)

    def _pump_on_loop(self) -> None:
        with self._on_loop():
            pass  # but pump

    def _vote_synced(self, ticket: VoteTicket, failure: BaseException | None) -> None:
        self._vote_syncing = False
        with self._on_loop():
            _raise_if_any(failure)
            self._votes.finish_sync(ticket)
            self.core.engine.vote_synced()

    # -- segments, checkpoints, states ----------------------------------------------------------

    def _start_file_work(self) -> None:
        self._looked_at, self._looked_at_end = self._clock.now(), self.store.end
        wanted = self.core.engine.snapshot_wanted
        if wanted and not self._housekeeping.is_busy:
            self.core.engine.snapshot_wanted = 0
            self._housekeeping.load_state(wanted)
        self._housekeeping.start_due()

    def on_segment_prepared(self, failure: BaseException | None) -> None:
        """See `HousekeepingHooks`."""
        with self._on_loop():
            if not isinstance(failure, LedgerFullError):
                _raise_if_any(failure)
                self.core.room_made()
                return
            if self.core.disk_full is None:
                logger.error("no new segment: %s", failure)
            self.core.fail_waiting(failure)

    def on_disk_measured(self, usage: DiskUsage) -> None:
        """See `HousekeepingHooks`."""
        self.disk_usage = usage
        refusal = refusal_of(self.config.store, usage)
        if refusal and self.write_refusal is None:
            logger.error("a leader here takes no messages: %s", refusal)
        elif not refusal and self.write_refusal is not None:
            logger.info("there is room again: %.1f %% of the disk are used", usage.percent)
        self.write_refusal = LedgerFullError(refusal) if refusal else None

    def on_house_kept(self, failure: BaseException | None) -> None:
        """See `HousekeepingHooks`."""
        with self._on_loop():
            _raise_if_any(failure)

    def on_state_loaded(
        self, base_index: int, state: bytes | None, failure: BaseException | None
    ) -> None:
        """See `HousekeepingHooks`."""
        with self._on_loop():
            _raise_if_any(failure)
            if state is not None:
                self.core.engine.provide_snapshot(base_index, state)

    def _install(self, base: LogPoint, state: bytes) -> None:
        # Blocks the loop for a few syncs: a node that needs a snapshot has nothing else to do,
        # and nobody may read or vote while its log is being replaced.
        self._state_keeper.install_state(base, state)
        self.store.reset_to(base)
        self._published_index = base.index
        try:
            self._state_keeper.log_replaced(base)
        except LedgerFullError as error:
            # The log is another one already.  The next start derives from it, given the room.
            self._fail(error)
            raise

    # -- LinkHooks ------------------------------------------------------------------------------

    def hello_state(self) -> tuple[bool, int]:
        """See `LinkHooks`."""
        return self.core.engine.joining, self.store.end_index

    def on_peer_connected(self, link: PeerLink, *, joining: bool, last_index: int) -> None:
        """See `LinkHooks`."""
        older = self._links.get(link.peer_id)
        # First of all: the end of the old one, whenever it is reported, is no loss of the peer.
        self._links[link.peer_id] = link
        if older is not None:
            older.close()
        self.core.peer_connected(
            link.peer_id,
            joining=joining,
            last_index=last_index,
            promises_synced=link.promises_synced,
        )
        self.pump()

    def on_peer_lost(self, link: PeerLink) -> None:
        """See `LinkHooks`."""
        if self._links.get(link.peer_id) is not link:
            return
        del self._links[link.peer_id]
        self.core.peer_lost(link.peer_id)
        if self._failure is None:
            self.pump()

    def on_messages(self, peer_id: str, messages: list[Message]) -> None:
        """See `LinkHooks`."""
        receive = self.core.engine.receive
        try:
            for message in messages:
                receive(peer_id, message)
        except CorruptEntryError:
            raise  # nothing of it was kept; the link ends, and the peer sends it again
        except BaseException as error:
            # From here on nothing may leave this node, also not while its links are closed.
            self._fail(error)
            raise
        self._hurry()
        engine = self.core.engine
        if engine.is_leader:
            is_through = self.core.leads_quietly
        else:
            # Without a commit it is a heartbeat, which may have brought the next election nearer.
            is_through = engine.commit_index > engine.applied_index and self._put_off()
        if not is_through:
            self.pump()

    def stop(self) -> None:
        """Sync what is appended and write a checkpoint; blocking.

        Called after `run` has ended and the workers have been drained.

        Raises:
            StorageFailedError: the disk fails.
        """
        if self._failure is not None:
            return  # what it was may concern the very files that would be written
        ticket, self._sync_ticket = self._sync_ticket, None
        if ticket is not None:
            self.store.finish_sync(ticket)  # it has run, and nobody was told any more
        self.store.sync()
        checkpoint = self.store.begin_checkpoint(self.core.committed_index)
        if checkpoint is not None:
            checkpoint.run()


def _raise_if_any(failure: BaseException | None) -> None:
    """Raise what a worker's job raised."""
    if failure is not None:
        raise failure
