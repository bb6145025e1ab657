"""Sends that were read together, a row each, on their way to the append queue.

What is the same for every send to one queue by one producer is a *target*, made with the first of
them; so nothing is put together or looked up twice for those that follow.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from broker.store.producers import ProducerKey

TARGETS_MAX = 65_536  # about 400 bytes each


class Target:
    """One producer and queue, as sends name them."""

    __slots__ = ("key", "opened_as", "topic")

    def __init__(self, key: ProducerKey) -> None:
        self.key = key
        self.topic = key[1]
        # The configuration of the topic by which the queue was found to be open to sends.
        self.opened_as: object = None


class Targets:
    """The targets that were seen lately, by their bytes."""

    def __init__(self) -> None:
        self.by_bytes: dict[bytes, Target] = {}

    def make(self, packed: bytes, producer_id: int, topic: str, queue_id: int) -> Target:
        """Return a new target and remember it."""
        if len(self.by_bytes) >= TARGETS_MAX:
            self.by_bytes.clear()
        target = self.by_bytes[packed] = Target((producer_id, topic, queue_id))
        return target


class SendColumns(NamedTuple):
    """Sends whose records are sound, in their order."""

    opaques: list[int]  # of the requests
    targets: list[Target]
    sequences: list[int]  # the producer's number of the first record
    begins: list[int]  # where the records lie in what was received
    ends: list[int]
    sizes: list[tuple[int, ...]]  # bytes of each record
