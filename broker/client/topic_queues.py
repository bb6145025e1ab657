"""The queues of one topic, as one producer sees them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from broker.client.send_frames import SendFrames
from broker.message.codec import MAGIC_V1, MAGIC_V2
from broker.message.limits import TOPIC_SIZE_MAX

if TYPE_CHECKING:
    from collections.abc import Callable

    from broker.client.queue_sender import QueueSender
    from broker.client.routes import Route
    from broker.client.send_loop import SendLoop


class TopicQueues:
    """One sender for each queue, and the one whose turn it is for messages that may go anywhere."""

    __slots__ = (
        "encoded_name",
        "frames",
        "loop",
        "magic",
        "make_sender",
        "producer_name",
        "queue_count",
        "senders",
        "sticky",
        "tail",
        "tail_stamp",
        "topic",
        "turn",
    )

    def __init__(
        self,
        route: Route,
        loop: SendLoop,
        *,
        producer_name: str,
        first: int,
        make_sender: Callable[[TopicQueues, int], QueueSender],
    ) -> None:
        """Take the queues of *route*; messages that may go anywhere first go to queue *first*."""
        self.topic = route.topic
        self.loop = loop  # sends them
        name = route.topic.encode()
        if len(name) <= TOPIC_SIZE_MAX:
            self.magic = MAGIC_V1
            self.encoded_name = bytes((len(name),)) + name
        else:
            self.magic = MAGIC_V2
            self.encoded_name = len(name).to_bytes(2, "big") + name
        # What follows the body in a record without key, tag and properties, up to the last digits
        # of its unique id; kept by the producer.
        self.tail = b""
        self.tail_stamp = -1
        self.make_sender = make_sender
        self.senders: list[QueueSender] = []
        self.producer_name = producer_name
        self.frames: list[SendFrames] = []  # of each sender
        self.queue_count = 0  # that may be written to; senders may be more, after a topic shrank
        self.update(route)
        self.turn = first % self.queue_count
        self.sticky = self.senders[self.turn]

    def update(self, route: Route) -> None:
        """Take over another number of queues; messages with a key may change their queue."""
        assert route.is_writable
        self.queue_count = route.write_queue_count
        while len(self.senders) < self.queue_count:
            queue_id = len(self.senders)
            self.senders.append(self.make_sender(self, queue_id))
            self.frames.append(SendFrames(self.producer_name, self.topic, queue_id))

    def rotate(self) -> None:
        """Choose the next queue for messages that may go anywhere: the next idle one, if any."""
        if self.sticky.pending:
            # It may have been held back as the one for any message; answers to other queues look
            # at that one only, so nothing else would come back to it.
            self.loop.add(self.sticky, self)
        count = self.queue_count
        turn = self.turn + 1  # nearly always: the one behind it is idle
        if turn >= count:
            turn = 0
        sender = self.senders[turn]
        if not sender.sealed and not sender.pending:
            self.turn, self.sticky = turn, sender
            return
        for step in range(1, count + 1):
            turn = (self.turn + step) % count
            sender = self.senders[turn]
            if not sender.sealed and not sender.pending:
                break
        else:
            turn = (self.turn + 1) % count
        self.turn = turn
        self.sticky = self.senders[turn]

    def sealed_count(self) -> int:
        """Return how many batches of all queues are sealed and not settled."""
        return sum([len(sender.sealed) for sender in self.senders])
