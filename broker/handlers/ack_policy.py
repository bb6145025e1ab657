"""How well a message has to be kept before its send is answered.

Said by the send, else by the topic, else by the broker, each for itself: who has a copy (acks), and
whether on disk (flush).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from broker.errors import HeaderError
from broker.message.properties import ACKS, FLUSH, WAIT
from dledger.durability import Copies, Durability

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from broker.metadata.topics import TopicConfig, Topics
    from broker.protocol.send_headers import SendMessageRequest

# How sends and topics say it.
COPIES = {"leader": Copies.LEADER, "majority": Copies.MAJORITY, "all": Copies.ALL}
SYNCED = {"sync": True, "async": False}
# Source: RocketMQ ``BrokerRole``; the third is ours.
COPIES_OF_ROLE = {
    "ASYNC_MASTER": Copies.LEADER,
    "SYNC_MASTER": Copies.MAJORITY,
    "ALL": Copies.ALL,
}
NO_WAIT = Durability(Copies.LEADER, synced=False)


class AckPolicy:
    """What sends, topics and this broker want."""

    def __init__(self, *, topics: Topics, default: Durability) -> None:
        """Make a policy.

        Args:
            topics: what exists.
            default: what this broker wants where nobody says otherwise.
        """
        self._topics = topics
        self._default = default

    @property
    def default(self) -> Durability:
        """Return the level where neither send nor topic says anything."""
        return self._default

    def level_of(self, topic: str, acks: str, flush: str) -> Durability:
        """Return the level for a send that says *acks* and *flush*; "" where it says nothing.

        Raises:
            HeaderError: there is no such level.
        """
        return self.level_in(self._topics.get(topic), acks, flush)

    def level_in(self, config: TopicConfig | None, acks: str, flush: str) -> Durability:
        """As `level_of`, where it is known how the topic is configured, or that there is none."""
        if config is not None:
            acks = acks or config.acks
            flush = flush or config.flush
        if not acks and not flush:
            return self._default
        copies, synced = self._default
        if acks:
            found = COPIES.get(acks)
            if found is None:
                raise HeaderError(f"{acks[:40]!r}: use {', '.join(COPIES)}", field="acks")
            copies = found
        if flush:
            if flush not in SYNCED:
                raise HeaderError(f"{flush[:40]!r}: use {', '.join(SYNCED)}", field="flush")
            synced = SYNCED[flush]
        return Durability(copies, synced)

    def level_of_plain(
        self, header: SendMessageRequest, properties: Sequence[Mapping[str, str]]
    ) -> Durability:
        """Return the level for a send as RocketMQ's clients make it.

        Where the header says nothing, the messages' properties may: `WAIT` false asks for no more
        than a copy in the leader's memory. In a batch all of them have to say the same.

        Raises:
            HeaderError: there is no such level.

        Source: RocketMQ ``Message.setWaitStoreMsgOK``.
        """
        acks, flush = header.acks or "", header.flush or ""
        if not acks and not flush:
            if all(found.get(WAIT, "").lower() == "false" for found in properties):
                return NO_WAIT
            acks = _what_all_say(properties, ACKS)
            flush = _what_all_say(properties, FLUSH)
        return self.level_of(header.topic, acks, flush)


def _what_all_say(properties: Sequence[Mapping[str, str]], name: str) -> str:
    values = {found.get(name, "") for found in properties}
    return values.pop() if len(values) == 1 else ""
