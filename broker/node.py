"""One node: the log below, messages above, clients around.

    bytes in -> command -> record -> entry -> committed -> dispatched -> bytes out

`broker.wiring` puts the rooms together, `Node` says what happens between them.  `broker.running`
runs one with the machine's own clock, disk, network and threads; the simulator builds the same
`Node` from its own.
"""

from __future__ import annotations

import logging
from functools import partial
from typing import TYPE_CHECKING, Any

import trio

from broker.wiring import Wiring
from dledger.errors import LedgerError
from dledger.remoting.readiness import after_reads

if TYPE_CHECKING:
    from collections.abc import Sequence

    from broker.store.consume_queue import ConsumeQueue
    from dledger.core import Role
    from dledger.remoting.server import Session

logger = logging.getLogger(__name__)

# Longest time a graceful stop spends before it closes its files, which takes a sync or two: two
# seconds in all.
STOP_SECONDS = 1.5
FOLLOW_SECONDS = 0.1  # of it: for clients to go over to the new leader
SETTLE_SECONDS = 0.5  # of it: for answers that are due, once the lead is handed over
READ_SECONDS = 0.25  # of it: for clients to read their answers
_SETTLE_POLL_SECONDS = 0.005


class Node(Wiring):
    """A running member of a broker group."""

    # -- what happens, and who has to know ------------------------------------------------------

    def _is_serving(self) -> bool:
        return self.queue.is_open

    def _role_changed(self, role: Role, term: int, leader_id: str | None) -> None:
        if not self.ledger.is_leader:
            self.queue.refresh()
            self.sends.lost_lead()
        self.forwarder.leader_changed()
        self.clients.leader_changed()
        self.group.until_leader.leader_changed()
        self.queue.refresh()
        self.dispatch.end_pause()
        self.names.look()

    def _committed(self, index: int) -> None:
        self.send_answers.committed_to(index)
        self.send_answers.send()

    def _is_taking_over(self) -> bool:
        return self.ledger.is_leader and not self.queue.is_open

    def _catch_up(self) -> None:
        try:
            self.ledger.publish_commits()
        except LedgerError:
            # As in `_end_of_reads`: it is no fault of the request, nor of its connection.
            if not self.ledger.has_failed:
                raise
        self.dispatch.catch_up()

    def _dispatched(self) -> None:
        self.queue.refresh()
        self.commands.dispatched()
        self.offsets.dispatched()
        self.clients.dispatched()
        self.caught_up.dispatched()
        self.names.look()
        for session, command in [*self.sends.topics_changed(), *self.earlier_tries.take_ready()]:
            self.registry.dispatch(session, command)
            session.flush_soon()  # refused at once: no pass over its requests ends here
        self._end_of_pass()

    def _arrived(self, queues: Sequence[ConsumeQueue]) -> None:
        if self.pulls.hold.held:
            self.pulls.hold.notify_arrivals({queue.key: queue.max_offset for queue in queues})
        self.schedule.arrived(queues)

    def _applied(self, index: int, results: list[Any]) -> None:
        self.commands.applied(index, results)
        for reset in self._files.offsets.take_reset():
            self.pulls.look_again(reset.topic)
            self.reset_news.tell(reset)

    def _topic_deleted(self, topic: str) -> None:
        self._files.topic_rates.topic_deleted(topic)
        self.pulls.look_again(topic)

    def _began_to_serve(self) -> None:
        logger.info("serving as the leader of term %d", self.ledger.term)
        self.clients.began_to_serve()
        self.schedule.began_to_serve()
        self.locks.began_to_serve()
        self.names.look()
        self.forwarder.serve_held()

    def _requests_taken(self) -> None:
        # What all sockets bring that are readable now can share an entry.
        after_reads(self._end_of_reads)

    def _end_of_reads(self) -> None:
        try:
            self._end_of_pass()
        except LedgerError:
            # No task waits here that could be told; `LedgerServer.run` raises what stops a node.
            if not self.ledger.has_failed:
                raise

    def _end_of_pass(self) -> None:
        self.queue.seal()
        self.send_answers.send()

    def _group_finished(self) -> None:
        self.send_answers.send()
        if not self.queue.is_open:
            self.queue.refresh()  # an append failed and nothing is on its way any more: begin anew
            self.dispatch.end_pause()

    def _session_gone(self, session: Session) -> None:
        self.pulls.hold.drop_session(session)
        self.forwarder.drop_session(session)
        self.group.until_leader.drop_session(session)
        self.clients.drop_session(session)
        self.names.drop_session(session)
        self.calls.drop_session(session)
        self.reset_news.drop_session(session)

    # -- running --------------------------------------------------------------------------------

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Run until cancelled; started once clients can connect.

        Raises:
            LedgerError: something happened that this node must not go on after.
            RemotingError: a port cannot be had.
        """
        async with trio.open_nursery() as nursery:
            await nursery.start(self.dispatch.run)
            await nursery.start(self.ledger.run)
            nursery.start_soon(self.pulls.hold.run)
            nursery.start_soon(self.topic_retention.run)
            nursery.start_soon(self.clients.run)
            nursery.start_soon(self.calls.run)
            nursery.start_soon(self.schedule.run)
            nursery.start_soon(self.forwarder.run)
            nursery.start_soon(self.group.until_leader.run)
            nursery.start_soon(self.names.run)
            for server in self._servers:
                await nursery.start(server.serve)
            task_status.started()

    async def step_back(self) -> None:
        """Leave the group in good order, within `STOP_SECONDS`: no client is to see a failure.

        The lead is handed over, and clients have a moment to follow it: answers say who leads.
        Then no more requests are taken, those taken are answered (by the new leader, where it is
        for the leader to answer), and the answers are sent.  What is not answered was not done.
        """
        self.health.is_stopping = True
        self.clients.is_stopping = True
        with trio.move_on_after(STOP_SECONDS):
            if self.ledger.is_leader and self._has_heirs:
                await self._hand_over()
            await self.names.step_back()
            for server in self._servers:
                server.stop_reading()
            with trio.move_on_after(SETTLE_SECONDS):
                while not self._is_settled:  # noqa: ASYNC110 - rare and short
                    await trio.sleep(_SETTLE_POLL_SECONDS)
            async with trio.open_nursery() as nursery:
                for server in self._servers:
                    nursery.start_soon(partial(server.close, grace_seconds=READ_SECONDS))

    async def _hand_over(self) -> None:
        """Hand the lead over, as long as there is anybody to have it, and let clients follow."""
        with trio.move_on_after(STOP_SECONDS - SETTLE_SECONDS - READ_SECONDS):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._until_without_heirs, nursery.cancel_scope)
                try:
                    leader = await self.ledger.transfer()
                    logger.info("handed the leadership to %s", leader)
                except LedgerError as error:
                    logger.warning("could not hand the leadership over: %s", error)
                else:
                    await trio.sleep(FOLLOW_SECONDS)
                nursery.cancel_scope.cancel()
            return
        logger.warning("could not hand the leadership over in time")

    async def _until_without_heirs(self, handing: trio.CancelScope) -> None:
        """End *handing* when the others are no majority: they stop, too, or are gone."""
        while self._has_heirs:  # noqa: ASYNC110 - for as long as a stop takes
            await trio.sleep(_SETTLE_POLL_SECONDS)
        logger.info("no majority is left to have the leadership")
        handing.cancel()

    @property
    def _has_heirs(self) -> bool:
        """Whether the members that this one is in touch with, and it, are a majority."""
        reachable = 1 + len(self.ledger.core.connected_peers)
        return reachable > 1 and 2 * reachable > len(self.ledger.config.members)

    @property
    def _is_settled(self) -> bool:
        """Whether nobody waits for an answer but those whose pulls are held."""
        return not (
            self.server.is_busy
            or self.ledger.core.unfinished_count
            or self.queue.waiting_count
            or self.sends.awaiting_count
            or self.forwarder.unanswered_count
        )

    def close(self, *, write_down: bool) -> None:
        """Close the files; with *write_down* sync and checkpoint first.  Blocking.

        Raises:
            StorageFailedError: the disk fails.
        """
        try:
            if write_down:
                for name in ("sync", "vote", "file"):
                    self._workers[name].drain()
                self.ledger.stop()
                self.dispatch.write_down()
        finally:
            for worker in self._workers.values():
                worker.close()
            self._files.derived.close()
            self._files.store.close()
            self._files.folder.close()
