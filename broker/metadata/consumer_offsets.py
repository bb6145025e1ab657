"""How far each consumer group has come in each queue.

    offset.commit  {group, topic, queues: [[queue id, offset], ...]}   never backwards
    offset.reset   {group, topic, queues: [[queue id, offset], ...]}   wherever it is told

A committed offset is that of the next message to consume.  A commit that arrives late must not take
back a later one, so a lower offset is left aside; an operator who wants to go back says reset.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from broker.metadata.state_machine import MetadataCommand

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

OFFSET_COMMIT = "offset.commit"
OFFSET_RESET = "offset.reset"


def commit_offsets(group: str, topic: str, offsets: Mapping[int, int]) -> MetadataCommand:
    """Return the command that commits *offsets* by queue id; negative ones are left out."""
    return MetadataCommand(OFFSET_COMMIT, _args(group, topic, offsets))


def reset_offsets(group: str, topic: str, offsets: Mapping[int, int]) -> MetadataCommand:
    """Return the command that puts a group at *offsets* by queue id, forwards or back."""
    return MetadataCommand(OFFSET_RESET, _args(group, topic, offsets))


class ConsumerOffsets:
    """The committed offsets of all groups, on this node."""

    name = "consumer_offsets"

    def __init__(self) -> None:
        self._offsets: dict[tuple[str, str], dict[int, int]] = {}

    def get(self, group: str, topic: str, queue_id: int) -> int | None:
        """Return the committed offset; None when the group never committed one."""
        queues = self._offsets.get((group, topic))
        return None if queues is None else queues.get(queue_id)

    def queues_of(self, group: str, topic: str) -> dict[int, int]:
        """Return the committed offsets of a group by queue id."""
        return dict(self._offsets.get((group, topic), {}))

    def groups(self) -> Iterator[tuple[str, str]]:
        """Yield each group and topic with a committed offset, sorted."""
        return iter(sorted(self._offsets))

    @property
    def appliers(self) -> Mapping[str, Callable[[Mapping[str, Any]], bool]]:
        """What applies each kind of command; the result is whether any offset changed."""
        return {OFFSET_COMMIT: self._commit, OFFSET_RESET: self._reset}

    def snapshot(self) -> list[Any]:
        """Return a row for each group and topic, sorted."""
        return [
            [group, topic, [list(item) for item in sorted(self._offsets[group, topic].items())]]
            for group, topic in self.groups()
        ]

    def restore(self, snapshot: list[Any] | None) -> None:
        """Become what `snapshot` was taken of; None: nothing committed.

        Raises:
            ValueError, TypeError: *snapshot* is none.
        """
        for group, topic, queues in snapshot or []:
            _check(group, topic, queues)
        self._offsets = {(group, topic): dict(queues) for group, topic, queues in snapshot or []}

    def _commit(self, args: Mapping[str, Any]) -> bool:
        _check(args["group"], args["topic"], args["queues"])
        queues = self._offsets.setdefault((args["group"], args["topic"]), {})
        changed = False
        for queue_id, offset in args["queues"]:
            if offset > queues.get(queue_id, -1):
                queues[queue_id] = offset
                changed = True
        return changed

    def _reset(self, args: Mapping[str, Any]) -> bool:
        _check(args["group"], args["topic"], args["queues"])
        queues = self._offsets.setdefault((args["group"], args["topic"]), {})
        changed = False
        for queue_id, offset in args["queues"]:
            changed = changed or queues.get(queue_id) != offset
            queues[queue_id] = offset
        return changed


def _args(group: str, topic: str, offsets: Mapping[int, int]) -> dict[str, Any]:
    queues = [[queue_id, offset] for queue_id, offset in sorted(offsets.items()) if offset >= 0]
    return {"group": group, "topic": topic, "queues": queues}


def _check(group: object, topic: object, queues: list[Any]) -> None:
    """Raise `ValueError` or `TypeError` unless these are names, and pairs of whole numbers."""
    if type(group) is not str or type(topic) is not str:
        raise ValueError(f"{group!r:.80} and {topic!r:.80} are no group and topic")
    for queue_id, offset in queues:
        if type(queue_id) is not int or type(offset) is not int:
            raise ValueError(f"{queue_id!r:.80} and {offset!r:.80} are no queue and offset")
