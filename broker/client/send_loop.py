"""The one task of a producer, for each broker group, that seals, sends and settles batches.

It is awake once in a tick in which somebody sends, when an answer has come, and when a time has
come. Everything it does is synchronous, so batches never change under its hands.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import trio

from broker.client.errors import ClientError, MessageRefusedError
from broker.client.latency import LatencyHistogram
from broker.client.queue_sender import Failure, QueueSender
from broker.client.requests import failure_text, leader_hint
from broker.errors import BrokerError, NoPermissionError, TopicNotFoundError
from broker.protocol.bodies import Ack
from broker.protocol.response_code import ResponseCode
from broker.protocol.send_headers import SendRecordsResponse
from dledger.remoting.command import Command
from dledger.remoting.errors import ConnectFailedError, NotConnectedError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from broker.client.batch import Batch, Here
    from broker.client.leader_finder import LeaderFinder
    from broker.client.links import Answer, Link, Links
    from broker.client.topic_queues import TopicQueues

EAGER_SIZE = 64 * 1024  # bytes; a batch of that size leaves though others are on their way
# Messages that may go anywhere share so many small batches under way; more were only smaller ones.
ANYWHERE_BATCHES_MAX = 2

_SUCCESS: Final = ResponseCode.SUCCESS.value

_FAILURES: Final[Mapping[int, Failure]] = {
    ResponseCode.NOT_LEADER: Failure.NOT_WRITTEN,
    ResponseCode.NOT_READY: Failure.NOT_WRITTEN,
    ResponseCode.SYSTEM_BUSY: Failure.NOT_WRITTEN,
    ResponseCode.FLOW_CONTROL: Failure.NOT_WRITTEN,
    ResponseCode.SERVICE_NOT_AVAILABLE: Failure.NOT_WRITTEN,
    ResponseCode.OUT_OF_ORDER_SEQUENCE: Failure.OUT_OF_ORDER,
    ResponseCode.UNKNOWN_PRODUCER: Failure.UNKNOWN_PRODUCER,
    ResponseCode.PRODUCER_FENCED: Failure.UNKNOWN_PRODUCER,
    ResponseCode.MESSAGE_ILLEGAL: Failure.ILLEGAL,
    ResponseCode.CORRUPT_RECORD: Failure.ILLEGAL,
    ResponseCode.NO_PERMISSION: Failure.REFUSED,
    ResponseCode.TOPIC_NOT_EXIST: Failure.REFUSED,
    ResponseCode.REQUEST_CODE_NOT_SUPPORTED: Failure.REFUSED,
    ResponseCode.VERSION_NOT_SUPPORTED: Failure.REFUSED,
}  # any other code says nothing about what was written: Failure.UNCERTAIN

# The message is stored; all but the first: and not kept as well as was asked for.
STORED_CODES: Final = frozenset(
    {
        ResponseCode.SUCCESS,
        ResponseCode.FLUSH_DISK_TIMEOUT,
        ResponseCode.FLUSH_SLAVE_TIMEOUT,
        ResponseCode.SLAVE_NOT_AVAILABLE,
    }
)

_ERRORS: Final[Mapping[int, Callable[[str], Exception]]] = {
    ResponseCode.TOPIC_NOT_EXIST: TopicNotFoundError,
    ResponseCode.NO_PERMISSION: NoPermissionError,
}


@dataclass(slots=True)
class ProducerStats:
    """What a producer has done so far."""

    sent: int = 0  # messages, each counted when it was first sent
    acked: int = 0  # messages acknowledged
    failed: int = 0  # messages given up, whatever the reason
    batches: int = 0  # requests sent, retries included
    bytes: int = 0  # bytes of records in those requests
    retried: int = 0  # requests that repeated an earlier one
    duplicates_answered: int = 0  # batches the broker had already, and no longer knew where
    # From the moment a message was taken in to its acknowledgement; those given up do not count.
    latency: LatencyHistogram = field(default_factory=LatencyHistogram)


class SendLoop:
    """Moves the batches of one producer to one broker group."""

    def __init__(
        self,
        *,
        links: Links,
        leader: LeaderFinder,
        in_flight_max: int,
        recreate_topic: Callable[[str], Any] | None,
        linger: float,
        send_timeout: float,
        batch_count_max: int,
        stats: ProducerStats,
    ) -> None:
        """Start with nothing to send.

        Args:
            links: the connections.
            leader: who leads.
            in_flight_max: most requests of one queue under way.
            recreate_topic: called when a topic has vanished; None: that is an error.
            linger: seconds a batch waits for more messages.
            send_timeout: seconds from a message's arrival to its deadline.
            batch_count_max: messages that make a batch full.
            stats: what the producer has done, by way of this group and others.
        """
        self.stats = stats
        self.topics: dict[str, TopicQueues] = {}
        self.is_new_tick = True  # whether time has gone on since it was last read
        self._links = links
        self._leader = leader
        self._in_flight_max = in_flight_max
        self._recreate_topic = recreate_topic
        self._recreated: set[str] = set()
        self._linger = linger
        self._send_timeout = send_timeout
        self._batch_count_max = batch_count_max
        self._flush_count = 0  # how many wait for everything to be sent
        self._nursery: trio.Nursery | None = None
        # Queues to look at; a dict, so that their order is that of arrival.
        self._ready: dict[QueueSender, TopicQueues] = {}
        self._task: trio.lowlevel.Task | None = None  # the task of `run`, while it is parked
        self._timer = trio.CancelScope()
        self.timer_at = float("inf")  # when it next looks for expired messages, in trio seconds

    # --- what the producer calls --------------------------------------------------------------

    def add(self, sender: QueueSender, queues: TopicQueues) -> None:
        """Look at the queue of *sender* in the next tick."""
        self._ready[sender] = queues

    def send_now(self, sender: QueueSender, queues: TopicQueues) -> None:
        """Send a batch that is large enough at once, while others still gather theirs."""
        address = self._leader.leader
        if address is not None:
            link = self._links[address]
            self._send_queue(sender, queues, link, trio.current_time())
            link.flush()

    def send_alone(
        self, sender: QueueSender, queues: TopicQueues, batch: Batch, now: float
    ) -> None:
        """Send the one message there is, in *batch*, without waiting for the tick's end.

        Nothing else of the producer is under way, so that there is nothing to weigh up.
        """
        address = self._leader.leader
        if address is None or self._linger or self._ready or not sender.send_first(batch, address):
            sender.pending.append(batch)
            self._ready[sender] = queues
            self._pass()
            return
        if sender is queues.sticky:
            queues.rotate()
        stats = self.stats
        stats.batches += 1
        stats.bytes += batch.size
        stats.sent += 1
        link = self._links[address]
        link.submit_made(
            partial(queues.frames[sender.queue_id].frame, batch),
            partial(self._on_answer, sender, queues, batch, 1, link),
            now=now,
        )
        link.flush()

    def wait_in_place(self, batch: Batch, here: Here, now: float) -> bool:
        """Wait for the answer to *batch*, sent alone, without parking; return whether it came.

        That is left off as soon as anything else is to be done.
        """
        sockets = self._links[batch.node].sockets
        if sockets is None:
            return False
        task = batch.waiters[0]
        assert isinstance(task, trio.lowlevel.Task)
        here.is_settled = False
        here.settled_with = None
        here.custom_sleep_data = batch
        batch.waiters[0] = here
        sockets.wait_in_place(task, here, now)
        if here.is_settled:
            return True
        batch = here.custom_sleep_data
        batch.waiters[batch.waiters.index(here)] = task
        task.custom_sleep_data = batch
        return False

    def wake(self) -> None:
        """Have the task run in the next tick."""
        task = self._task
        if task is not None:
            self._task = None
            trio.lowlevel.reschedule(task)

    def wake_at(self, time: float) -> None:
        """Look for expired messages at *time* at the latest, in trio seconds."""
        if time < self.timer_at:
            self.timer_at = time
            self._timer.deadline = time

    @contextmanager
    def no_lingering(self) -> Iterator[None]:
        """Send what lingers, and let nothing linger inside the block."""
        self._flush_count += 1
        if self._linger:
            for queues in self.topics.values():
                for sender in queues.senders:
                    if sender.pending:
                        self._ready[sender] = queues
            self.wake()
        try:
            yield
        finally:
            self._flush_count -= 1

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Send until cancelled; start with ``await nursery.start(loop.run)``."""
        self._leader.listen(self._on_leader)
        try:
            async with trio.open_nursery() as self._nursery:
                self._nursery.start_soon(self._run_timer)
                task_status.started()
                while True:
                    self._task = trio.lowlevel.current_task()
                    await trio.lowlevel.wait_task_rescheduled(self._on_cancelled)
                    self._pass()
        finally:
            self._nursery = None
            self._leader.unlisten(self._on_leader)

    def close(self, reason: str) -> None:
        """Give up all messages."""
        for queues in self.topics.values():
            for sender in queues.senders:
                sender.close(reason)

    # --- sending ------------------------------------------------------------------------------

    def _on_cancelled(self, _: object) -> trio.lowlevel.Abort:
        self._task = None
        return trio.lowlevel.Abort.SUCCEEDED

    def _on_leader(self) -> None:
        """Send to the new leader at once what waited for it."""
        for queues in self.topics.values():
            for sender in queues.senders:
                if not sender.is_idle:
                    sender.hurry()
                    self._ready[sender] = queues
        # Not in the next tick: after an election every tick counts.
        self._pass()

    def _pass(self) -> None:
        """Send what may be sent now."""
        self.is_new_tick = True
        address = self._leader.leader
        if address is None or not self._ready:
            return  # without a leader `_on_leader` comes back to it
        link = self._links[address]
        now = trio.current_time()
        ready, self._ready = self._ready, {}
        for sender, queues in ready.items():
            self._send_queue(sender, queues, link, now)
        link.flush()

    def _send_queue(self, sender: QueueSender, queues: TopicQueues, link: Link, now: float) -> None:
        if not sender.is_ready(now):
            if sender.is_waiting_to_resend:
                self.wake_at(sender.resend_at)
            return
        while (batch := sender.next_unsent()) is not None:
            self._send_batch(sender, queues, batch, link, now)
        while sender.may_seal(in_flight_max=self._in_flight_max, eager_size=EAGER_SIZE):
            if self._linger and self._is_lingering(sender, now):
                break
            if sender is queues.sticky and len(sender.pending) == 1:
                if (
                    sender.pending[0].size < EAGER_SIZE
                    and queues.sealed_count() >= ANYWHERE_BATCHES_MAX
                ):
                    break
                batch = sender.seal()
                queues.rotate()
            else:
                batch = sender.seal()
            self._send_batch(sender, queues, batch, link, now)

    def _is_lingering(self, sender: QueueSender, now: float) -> bool:
        """Whether the batch to leave next shall wait for more; has it looked at again if so."""
        batch = sender.pending[0]
        if (
            self._flush_count
            or len(sender.pending) > 1
            or batch.size >= EAGER_SIZE
            or batch.count >= self._batch_count_max
        ):
            return False
        leaves_at = batch.deadlines[0] - self._send_timeout + self._linger
        if now >= leaves_at:
            return False
        self.wake_at(leaves_at)
        return True

    def _send_batch(
        self, sender: QueueSender, queues: TopicQueues, batch: Batch, link: Link, now: float
    ) -> None:
        attempt = sender.mark_sent(batch, link.address)
        stats = self.stats
        stats.batches += 1
        stats.bytes += batch.size
        if attempt == 1:
            stats.sent += batch.count
        else:
            stats.retried += 1
        link.submit_made(
            partial(queues.frames[sender.queue_id].frame, batch),
            partial(self._on_answer, sender, queues, batch, attempt, link),
            now=now,
        )

    # --- answers ------------------------------------------------------------------------------

    def _on_answer(
        self,
        sender: QueueSender,
        queues: TopicQueues,
        batch: Batch,
        attempt: int,
        link: Link,
        answer: Answer,
    ) -> None:
        """Settle a batch, or have it sent again."""
        node = link.address
        batch.answered_at = link.received_at
        if type(answer) is Ack and answer.code == _SUCCESS:
            queue_offset = answer.queue_offset
            is_new = sender.acknowledge(
                batch,
                node=node,
                queue_offset=queue_offset,
                position=answer.position,
                durability=answer.durability,
            )
            if is_new and queue_offset < 0:
                self.stats.duplicates_answered += 1
            sticky = queues.sticky
            if self._ready or sender.sealed or sender.pending or sticky.sealed or sticky.pending:
                self._look_again(sender, queues)
            return
        fail = partial(self._fail, sender, queues, batch, attempt)
        if isinstance(answer, Ack):
            fail(answer.code, node, failure_text(Command(answer.code)))
        elif isinstance(answer, Command):
            if answer.code in STORED_CODES:
                try:
                    header = SendRecordsResponse.decode(answer.ext_fields)
                except BrokerError as error:
                    fail(ResponseCode.OUTCOME_UNKNOWN, node, str(error))
                    return
                is_all = answer.code == ResponseCode.SUCCESS
                is_new = sender.acknowledge(
                    batch,
                    node=node,
                    queue_offset=header.queue_offset,
                    position=header.position,
                    durability=header.durability or "",
                    shortfall="" if is_all else failure_text(answer),
                )
                if is_new and header.queue_offset < 0:
                    self.stats.duplicates_answered += 1
                self._look_again(sender, queues)
            else:
                fail(answer.code, node, failure_text(answer))
            self._leader.hint(leader_hint(answer))
        else:
            never_sent = isinstance(answer, ConnectFailedError | NotConnectedError)
            code = ResponseCode.NOT_LEADER if never_sent else ResponseCode.OUTCOME_UNKNOWN
            fail(code, node, str(answer))

    def _fail(
        self,
        sender: QueueSender,
        queues: TopicQueues,
        batch: Batch,
        attempt: int,
        code: int,
        node: str,
        reason: str,
    ) -> None:
        failure = _FAILURES.get(code, Failure.UNCERTAIN)
        if code == ResponseCode.NOT_LEADER:
            self._leader.suspect(node, f"{node}: {reason}")
        elif code == ResponseCode.TOPIC_NOT_EXIST and self._recreate_topic is not None:
            failure = Failure.NOT_WRITTEN
            if self._nursery is not None and sender.topic not in self._recreated:
                self._recreated.add(sender.topic)
                self._nursery.start_soon(self._recreate, sender.topic)
        sender.fail(
            batch,
            attempt,
            failure,
            reason,
            now=trio.current_time(),
            make_error=_ERRORS.get(code, MessageRefusedError),
        )
        self._look_again(sender, queues)

    def _look_again(self, sender: QueueSender, queues: TopicQueues) -> None:
        """Let follow what an answer has made room for."""
        for other in (sender, queues.sticky):
            if other.sealed or other.pending:
                self._ready[other] = queues
        if self._ready:
            self.wake()

    async def _recreate(self, topic: str) -> None:
        """Create a topic that has vanished; its batches are sent again meanwhile."""
        assert self._recreate_topic is not None
        try:
            await self._recreate_topic(topic)
        except ClientError as error:
            self._leader.last_failure = str(error)  # the batches' own errors will say so
        finally:
            self._recreated.discard(topic)

    # --- time ---------------------------------------------------------------------------------

    async def _run_timer(self) -> None:
        while True:
            with trio.CancelScope(deadline=self.timer_at) as self._timer:
                await trio.sleep_forever()
            self.timer_at = float("inf")
            now = trio.current_time()
            reason = f"no leader to send to ({self._leader.last_failure})"
            for queues in self.topics.values():
                for sender in queues.senders:
                    if sender.is_idle:
                        continue
                    sender.expire(now, reason)
                    if not sender.is_idle:
                        self.wake_at(sender.expires_at)
                        self._ready[sender] = queues
            self._pass()
