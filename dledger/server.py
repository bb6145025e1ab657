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
    StorageFailedError,
)
from dledger.file_work import FileWork
from dledger.log_syncs import LogSyncs
from dledger.notices import Notices
from dledger.peers.links import PeerLinks
from dledger.remoting.alarm import Alarm
from dledger.remoting.readiness import after_reads

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Iterator

    from dledger.clock import Clock
    from dledger.config import LedgerConfig
    from dledger.core import AppendProposal
    from dledger.entry import LogPoint
    from dledger.errors import LedgerFullError
    from dledger.peers.link import PeerLink
    from dledger.remoting.network import Network
    from dledger.store.housekeeping import StateKeeper
    from dledger.store.ledger_store import LedgerStore
    from dledger.store.vote_file import VoteFile
    from dledger.worker import Worker

Message = dict[str, Any]

logger = logging.getLogger(__name__)

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
        self.core = LedgerCore(
            config=config,
            store=store,
            votes=votes,
            commit_index=store.checkpoint_commit_index,
            clock=clock,
            chance=chance,
            install=lambda base, state: self.files.install(base, state),
        )
        self.syncs = LogSyncs(
            config=config,
            store=store,
            votes=votes,
            engine=self.core.engine,
            clock=clock,
            log_worker=sync_worker,
            vote_worker=vote_worker,
            hooks=self,
        )
        self.notices = Notices(self.core)
        self._peers = PeerLinks(config=config, network=network, chance=chance, hooks=self)
        self._links: dict[str, PeerLink] = {}
        self._pumping = False
        self._pump_again = False
        self._failure: BaseException | None = None
        self._failed = trio.Event()
        self._alarm = Alarm(self._on_time)
        self._alarm_due = 0.0  # second of the clock for which it is set
        self.files = FileWork(
            config=config.store,
            core=self.core,
            clock=clock,
            worker=file_worker,
            state_keeper=state_keeper,
            hooks=self,
        )

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
        return self.notices.leader_id

    @property
    def term(self) -> int:
        """Return the current term."""
        return self.core.engine.term

    @property
    def write_refusal(self) -> LedgerFullError | None:
        """Return why a leader here should take no messages; None: there is room."""
        return self.files.write_refusal

    def watch_commits(self, watcher: Callable[[int], None]) -> None:
        """Call *watcher* with the committed index whenever it has risen; it must not wait."""
        self.notices.watch_commits(watcher)

    def let_commits_wait(self, may_wait: Callable[[int], bool]) -> None:
        """Have a follower ask *may_wait* with each new committed index, and believe it.

        Where that is so, watchers hear of it some milliseconds later, or with `publish_commits`.
        """
        self.notices.let_commits_wait(may_wait)

    def watch_role(self, watcher: Callable[[Role, int, str | None], None]) -> None:
        """Call *watcher* with (role, term, leader id) when one changes or the leader is ready."""
        self.notices.watch_role(watcher)

    def propose(self, proposal: AppendProposal) -> None:
        """Queue one entry; `pump` sends it on. Raises as `LedgerCore.propose`."""
        try:
            self.core.propose(proposal)
        except (StorageFailedError, CorruptStoreError) as error:
            self.fail(error)
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
        self.files.look_soon()  # it may be what the alarm was for
        self._alarm_due = float("inf")
        self.pump()

    def _next_deadline(self) -> float:
        """Return when `pump` has something to do at the latest, as the clock's second."""
        deadline = self.core.next_deadline()
        if (house_at := self.files.next_deadline()) < deadline:
            deadline = house_at
        syncs = self.syncs
        if syncs.due_at < deadline and not syncs.is_each and syncs.ticket is None:
            return syncs.due_at
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
        if self.notices.is_behind:
            self.pump_soon()

    def _put_off(self) -> bool:
        """Put off what is left to do on a follower, if nobody waits for it; whether that is so."""
        if not self.notices.may_be_put_off():
            return False
        engine = self.core.engine
        if engine.commit_index != engine.applied_index and not self.notices.is_behind:
            self.notices.is_behind = True
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
        self.notices.is_behind = False
        core = self.core
        try:
            while True:
                self._pump_again = False
                core.step()
                if core.engine.transport.outbox:
                    self._send_outbox()
                self.store.write_out()
                self.syncs.start_due(core.engine.ticked_at)
                self.notices.publish()
                if not self._pump_again:
                    break
        except BaseException as error:
            self.fail(error)
            raise
        finally:
            self._pumping = False
        self.files.look(core.engine.ticked_at)
        self._wake_by(self._next_deadline())

    def fail(self, error: BaseException) -> None:
        """Have `run` raise *error*; nothing is done any more from here on. See `SyncHooks`."""
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
            if self.syncs.is_each and not engine.is_leader:
                self.syncs.start_due(self._clock.now())
        except BaseException as error:
            self.fail(error)
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

    # -- syncs ----------------------------------------------------------------------------------

    @contextmanager
    def on_loop(self) -> Iterator[None]:
        """Guard what runs when a worker's job is done: trio has nobody to raise an error to.

        Then comes a pump. Whatever goes wrong inside, `run` raises. See `SyncHooks`.
        """
        try:
            yield
            self.pump()
        except BaseException as error:  # noqa: BLE001 - `run` raises it
            self.fail(error)

    def on_log_synced(self) -> None:
        """See `SyncHooks`."""
        if self._failure is not None:
            return  # what is appended may not be there: nothing may be synced, and called so
        self._hurry()
        if self.core.leads_quietly or self._put_off():
            # What came meanwhile is next; for the leader, its followers have not answered yet.
            syncs = self.syncs
            syncs.start_due(self._clock.now())
            if syncs.ticket is None and not syncs.is_each:
                # Not yet; and while a sync runs, no alarm is set for the one behind it.
                self._wake_by(syncs.due_at)
        else:
            after_reads(self._pump_on_loop)  # it judges time-outs: the leader may have spoken

    def on_lead_left(self) -> None:
        """See `SyncHooks`."""
        self._pump_again = True

    def log_replaced(self, base: LogPoint) -> None:
        """See `FileHooks`."""
        self.notices.log_replaced(base.index)

    def _pump_on_loop(self) -> None:
        with self.on_loop():
            pass  # but pump

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
            self.fail(error)
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
        self.syncs.finish_last()
        self.store.sync()
        checkpoint = self.store.begin_checkpoint(self.core.committed_index)
        if checkpoint is not None:
            checkpoint.run()
