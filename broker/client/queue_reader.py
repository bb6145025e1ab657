"""One queue as a consumer reads it: one pull under way, and what earlier ones brought.

Any node serves a pull from what it has committed, so reading goes on while the group elects; the
leader is preferred, as it has the newest.  A node that is behind never takes the reader back, and a
record is handed out only when it follows the one before.
"""

from __future__ import annotations

import logging
from collections import deque
from typing import TYPE_CHECKING

import trio

from broker.client.errors import CorruptAnswerError
from broker.client.handout import ConsumerStats
from broker.client.records import MessageRun, decode_run
from broker.client.requests import RETRYABLE, error_of, failure_text
from broker.errors import BrokerError, CorruptRecordError
from broker.message.properties import RETRY_TOPIC
from broker.protocol.headers import (
    PULL_FLAG_SUBSCRIPTION,
    PULL_FLAG_SUSPEND,
    PullMessageRequest,
    PullMessageResponse,
)
from broker.protocol.request_code import RequestCode
from broker.protocol.response_code import ResponseCode
from dledger.remoting.command import Command
from dledger.remoting.errors import RemotingError

if TYPE_CHECKING:
    from collections.abc import Callable

    from broker.client.requests import Requests
    from broker.client.resets import ResetFollower

RETRY_DELAY_MIN = 0.005  # seconds
RETRY_DELAY_MAX = 0.200
PULL_COUNT_MAX = 4096  # messages asked for at once; the size limit is the one that counts
ANSWER_GRACE = 1.0  # seconds a held pull may be late
CORRUPT_TRIES_MAX = 3  # pulls in a row whose records fail their checks, each of another node

_LOG = logging.getLogger("broker.client")


class QueueReader:
    """Pulls one queue ahead of the consumer."""

    def __init__(
        self,
        *,
        group: str,
        topic: str,
        queue_id: int,
        requests: Requests,
        pull_size_max: int,
        poll_wait: float,
        on_arrival: Callable[[QueueReader, int], None],
        has_room: Callable[[], bool],
        chance: Callable[[], float],
        pull_count_max: int = PULL_COUNT_MAX,
        tags: frozenset[str] | None = None,
        stats: ConsumerStats | None = None,
        resets: ResetFollower | None = None,
        is_retry: bool = False,
    ) -> None:
        """Start nowhere; `seek` before `run`.

        Args:
            group: the consumer group.
            topic: what to read.
            queue_id: likewise.
            requests: the way to the nodes.
            pull_size_max: bytes of records one pull may bring.
            poll_wait: seconds a node may hold a pull until something arrives.
            on_arrival: called with the number of messages that were added to `batches`: 0 when some
                were passed over, or on an error.
            has_room: whether the consumer wants more to be pulled ahead.
            chance: returns a number from 0 to below 1, for the jitter of delays.
            pull_count_max: messages one pull may bring.
            tags: only messages with one of them; None for all.
            stats: what is counted where.
            resets: hears when the group was put elsewhere; None: that does not matter.
            is_retry: whether messages come again here, which were sent to another topic first: they
                are handed out as that one's.
        """
        self.topic = topic
        self.queue_id = queue_id
        # Messages, the bytes they came in, and the offset behind them and what was passed over.
        self.batches: deque[tuple[MessageRun, int, int]] = deque()
        self.next_offset = -1  # of the next message to pull
        self.error: Exception | None = None
        self.is_paused = False
        self._warned_at = -1  # an offset beyond the queue's end that was warned of
        self._group = group
        self._requests = requests
        self._pull_size_max = pull_size_max
        self._poll_wait = poll_wait
        self._on_arrival = on_arrival
        self._has_room = has_room
        self._chance = chance
        self._pull_count_max = min(pull_count_max, PULL_COUNT_MAX)
        self._stats = stats or ConsumerStats()
        self._resets = resets
        self._is_retry = is_retry
        self._tags = None if tags is None else frozenset(tag.encode() for tag in tags)
        self._subscription = None if tags is None else " || ".join(sorted(tags))
        self._room = trio.Event()
        self._pull_scope = trio.CancelScope()
        self._epoch = 0  # counts seeks: an answer to an earlier pull is thrown away
        self._turn = 0  # which node comes next when the leader will not do

    def seek(self, queue_offset: int) -> None:
        """Go on at *queue_offset*; what was pulled ahead is forgotten."""
        assert queue_offset >= 0
        self.batches.clear()
        self.next_offset = queue_offset
        self._epoch += 1
        self._pull_scope.cancel()

    def make_room(self) -> None:
        """Take note that the consumer wants more."""
        self._room.set()

    def on_leader(self) -> None:
        """Pull from the new leader: the old one may hold the pull for long and never answer."""
        self._pull_scope.cancel()

    async def run(self) -> None:
        """Pull until cancelled, or until something is wrong that will not pass (`error`)."""
        delay = RETRY_DELAY_MIN
        corrupt_count = 0
        while True:
            while self.is_paused or not self._has_room():
                self._room = trio.Event()
                await self._room.wait()
            node = self._choose_node()
            try:
                is_done = await self._pull(node)
            except CorruptRecordError as error:
                corrupt_count += 1
                _LOG.warning("%s sent a record that fails its checks: %s", node, error)
                if corrupt_count >= CORRUPT_TRIES_MAX:
                    self._stop(
                        CorruptAnswerError(
                            f"topic {self.topic} queue {self.queue_id} offset {self.next_offset}: "
                            f"{corrupt_count} answers failed their checks, the last from {node}: "
                            f"{error}; compare the nodes' logs (dledger log verify)"
                        )
                    )
                    return
                is_done = False
            except BrokerError as error:
                self._stop(error)
                return
            if is_done:
                delay = RETRY_DELAY_MIN
                corrupt_count = 0
                continue
            self._turn += 1
            with trio.CancelScope() as self._pull_scope:
                await trio.sleep(delay * (0.5 + 0.5 * self._chance()))
            delay = min(delay * 2, RETRY_DELAY_MAX)

    def _choose_node(self) -> str:
        """Return the leader, or after it failed us each of the others in turn."""
        finder = self._requests.leader
        nodes = finder.nodes
        if self._turn == 0:
            return nodes[0]
        return nodes[self._turn % len(nodes)]

    async def _pull(self, node: str) -> bool:
        """Ask *node* once; return False when another one should be asked, after a pause.

        Raises:
            CorruptRecordError: the records fail their checks.
            BrokerError: the topic is gone, or may not be read.
        """
        header = PullMessageRequest(
            consumer_group=self._group,
            topic=self.topic,
            queue_id=self.queue_id,
            queue_offset=self.next_offset,
            max_msg_nums=self._pull_count_max,
            sys_flag=PULL_FLAG_SUSPEND | (PULL_FLAG_SUBSCRIPTION if self._tags else 0),
            subscription=self._subscription,
            expression_type="TAG" if self._tags else None,
            suspend_timeout_millis=int(self._poll_wait * 1000),
            max_msg_bytes=self._pull_size_max,
            offset_epoch=None if self._resets is None else self._resets.epoch,
        )
        request = Command(RequestCode.PULL_MESSAGE.value, ext_fields=header.encode())
        epoch = self._epoch
        finder = self._requests.leader
        answer: Command | None = None
        with trio.CancelScope() as self._pull_scope:
            try:
                answer = await self._requests.links[node].request(
                    request, timeout_seconds=self._poll_wait + ANSWER_GRACE, is_slow=True
                )
            except RemotingError as error:
                finder.suspect(node, str(error))
                return False
        if answer is None or epoch != self._epoch:
            self._turn = 0  # another leader, or another place to read from
            return True
        if answer.code == ResponseCode.SUCCESS:
            self._take(answer)
        elif answer.code == ResponseCode.PULL_OFFSET_MOVED:
            return self._move(node, answer)
        elif answer.code in (ResponseCode.PULL_NOT_FOUND, ResponseCode.PULL_RETRY_IMMEDIATELY):
            if self._tags is not None:
                self._pass_over(answer)
        elif answer.code == ResponseCode.OFFSETS_RESET and self._resets is not None:
            self._resets.notice()
            return False
        else:
            if answer.code in RETRYABLE or (
                answer.code == ResponseCode.TOPIC_NOT_EXIST and node != finder.leader
            ):
                finder.last_failure = f"{node}: {failure_text(answer)}"
                return False
            raise error_of(
                answer, f"pull of topic {self.topic} queue {self.queue_id} for {self._group}", node
            )
        if self._turn and finder.leader is not None:
            self._turn = 0  # a follower helped out; there is a leader again
        return True

    def _take(self, answer: Command) -> None:
        body = answer.body
        assert not isinstance(body, list), "received bodies are one buffer"
        run = decode_run(
            body,
            topic=self.topic,
            queue_id=self.queue_id,
            first_offset=self.next_offset,
            tags=self._tags,
        )
        if count := len(run):
            self.next_offset = run.last_offset + 1
            if self._is_retry:
                # Source: RocketMQ ``DefaultMQPushConsumerImpl.resetRetryAndNamespace``
                messages = run.take_all()
                for message in messages:
                    message.topic = message.properties.get(RETRY_TOPIC, self.topic)
                run = MessageRun.of(messages)
            if self._tags is not None:
                header = PullMessageResponse.decode(answer.ext_fields)
                self.next_offset = max(self.next_offset, header.next_begin_offset)
            self._stats.messages += count
            self._stats.bytes += len(body)
            self._stats.pulls += 1
            self.batches.append((run, len(body), self.next_offset))
            self._on_arrival(self, count)
        elif self._tags is not None:
            self._pass_over(answer)

    def _pass_over(self, answer: Command) -> None:
        """Go on behind messages that the filter does not want; never back."""
        header = PullMessageResponse.decode(answer.ext_fields)
        if header.next_begin_offset > self.next_offset:
            self.next_offset = header.next_begin_offset
            self._on_arrival(self, 0)

    def _move(self, node: str, answer: Command) -> bool:
        """Follow the queue's lower end; never go back to the end of a node that is behind."""
        header = PullMessageResponse.decode(answer.ext_fields)
        if header.next_begin_offset > self.next_offset:
            _LOG.warning(
                "topic %s queue %d: retention has removed offsets %d to %d before %s read them",
                self.topic,
                self.queue_id,
                self.next_offset,
                header.next_begin_offset - 1,
                self._group,
            )
            self._stats.removed += header.next_begin_offset - self.next_offset
            self.next_offset = header.next_begin_offset
            return True
        if header.next_begin_offset == self.next_offset:
            return True
        if node == self._requests.leader.leader and self._warned_at != self.next_offset:
            # Once: a node that has just become the leader may say so as well, and be right soon.
            self._warned_at = self.next_offset
            _LOG.warning(
                "topic %s queue %d ends at offset %d, and %s wants to go on at %d: nothing comes "
                "before the queue has grown so far; seek to be elsewhere",
                self.topic,
                self.queue_id,
                header.max_offset,
                self._group,
                self.next_offset,
            )
        self._requests.leader.last_failure = (
            f"{node} has topic {self.topic} queue {self.queue_id} up to {header.max_offset} only"
        )
        return False

    def _stop(self, error: Exception) -> None:
        self.error = error
        self._on_arrival(self, 0)
