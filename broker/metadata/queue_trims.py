"""Messages that a topic keeps no longer, taken off the beginning of its queues on every node alike.

    queue.trim  {topic, queues: [[queue id, offset], ...]}   nothing before is read again

The leader decides (`broker.delivery.topic_retention`), the log tells all others.  A queue never
gets back what it was trimmed of: a lower offset is left aside, one beyond the end means the end.
Where queues begin is kept with the queues themselves, as their floors
(`broker.store.consume_queues`); so this part has no piece of the snapshot.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from broker.metadata.state_machine import MetadataCommand

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

QUEUE_TRIM = "queue.trim"


def trim_queues(topic: str, offsets: Mapping[int, int]) -> MetadataCommand:
    """Return the command that lets the queues of *topic* begin at *offsets* by queue id."""
    queues = [[queue_id, offset] for queue_id, offset in sorted(offsets.items())]
    return MetadataCommand(QUEUE_TRIM, {"topic": topic, "queues": queues})


class QueueTrims:
    """Hands trims on to the queues."""

    name = "queue_trims"

    def __init__(self) -> None:
        self._trimmed: list[tuple[str, int, int]] = []

    @property
    def appliers(self) -> Mapping[str, Callable[[Mapping[str, Any]], bool]]:
        """What applies the command; the result means nothing."""
        return {QUEUE_TRIM: self._trim}

    @property
    def followers(self) -> Mapping[str, Callable[[Mapping[str, Any]], None]]:
        """See `StatePart`: there is nothing."""
        return {}

    def take_trimmed(self) -> list[tuple[str, int, int]]:
        """Return topic, queue id and new beginning of queues trimmed since the last call."""
        trimmed, self._trimmed = self._trimmed, []
        return trimmed

    def snapshot(self) -> None:
        """Return that there is no piece."""

    def restore(self, snapshot: object | None) -> None:
        """Forget what was not taken.

        Raises:
            ValueError: there is a piece.
        """
        if snapshot is not None:
            raise ValueError(f"{snapshot!r:.80} where nothing belongs")
        self._trimmed.clear()

    def _trim(self, args: Mapping[str, Any]) -> bool:
        topic = args["topic"]
        rows = [(topic, queue_id, offset) for queue_id, offset in args["queues"]]
        if type(topic) is not str or any(
            type(queue_id) is not int or type(offset) is not int or queue_id < 0 or offset < 0
            for _, queue_id, offset in rows
        ):
            raise ValueError(f"{args!r:.200} is no topic, queues and offsets")
        self._trimmed += rows
        return True
