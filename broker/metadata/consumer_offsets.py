"""How far each consumer group has come in each queue.

    offset.commit  {group, topic, queues: [[queue id, offset], ...], epoch?, at?}   never backwards
    offset.reset   {group, topic, queues: [[queue id, offset], ...], at?}   wherever it is told

A committed offset is that of the next message to consume.  A commit that arrives late must not take
back a later one, so a lower offset is left aside; an operator who wants to go back says reset.

A reset begins a new *epoch* of that group and topic.  A consumer that knows of epochs says in which
one it began, and what it commits counts only as long as no newer one has begun: a commit that was
on its way when the reset came cannot undo it.  Epochs are numbers that only grow, over all groups,
so one that was deleted and made again cannot have an epoch of its past.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from broker.metadata.state_machine import MetadataCommand
from broker.metadata.subscription_groups import GROUP_DELETE
from broker.metadata.topics import TOPIC_DELETE

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Iterator, Mapping

OFFSET_COMMIT = "offset.commit"
OFFSET_RESET = "offset.reset"


def commit_offsets(
    group: str,
    topic: str,
    offsets: Mapping[int, int],
    *,
    epoch: int | None = None,
    at_ms: int = 0,
) -> MetadataCommand:
    """Return the command that commits *offsets* by queue id; negative ones are left out.

    Args:
        group: who consumed.
        topic: what.
        offsets: of the next message to consume.
        epoch: in which its consumer began; None when it knows nothing of epochs.
        at_ms: when, for people who ask; 0: nobody knows.
    """
    args = _args(group, topic, offsets, at_ms)
    if epoch is not None:
        args["epoch"] = epoch
    return MetadataCommand(OFFSET_COMMIT, args)


def reset_offsets(
    group: str, topic: str, offsets: Mapping[int, int], *, at_ms: int = 0
) -> MetadataCommand:
    """Return the command that puts a group at *offsets* by queue id, forwards or back."""
    return MetadataCommand(OFFSET_RESET, _args(group, topic, offsets, at_ms))


class AppliedReset(NamedTuple):
    """A reset that this node has heard of, to be told to those who consume here."""

    group: str
    topic: str
    offsets: Mapping[int, int]  # where it led, by queue id


class _Progress:
    """What one group has committed in one topic."""

    __slots__ = ("committed_ms", "epoch", "queues")

    def __init__(
        self, queues: dict[int, int] | None = None, epoch: int = 0, committed_ms: int = 0
    ) -> None:
        self.queues = queues if queues is not None else {}
        self.epoch = epoch
        self.committed_ms = committed_ms  # the leader's clock at the last commit or reset


class ConsumerOffsets:
    """The committed offsets of all groups, on this node."""

    name = "consumer_offsets"

    def __init__(self, topics: Container[str] | None = None) -> None:
        """Begin with nothing committed.

        Args:
            topics: those that exist; what is committed in others is left aside. None: all do.
        """
        self._topics = topics
        self._progress: dict[tuple[str, str], _Progress] = {}
        self._topics_of: dict[str, set[str]] = {}
        self._epoch_last = 0
        self._resets: list[AppliedReset] = []

    def get(self, group: str, topic: str, queue_id: int) -> int | None:
        """Return the committed offset; None when the group never committed one."""
        progress = self._progress.get((group, topic))
        return None if progress is None else progress.queues.get(queue_id)

    def queues_of(self, group: str, topic: str) -> dict[int, int]:
        """Return the committed offsets of a group by queue id."""
        progress = self._progress.get((group, topic))
        return {} if progress is None else dict(progress.queues)

    def epoch(self, group: str, topic: str) -> int:
        """Return the epoch that the last reset began; 0 when there was none."""
        progress = self._progress.get((group, topic))
        return 0 if progress is None else progress.epoch

    def committed_ms(self, group: str, topic: str) -> int:
        """Return when a group last committed, in milliseconds since 1970; 0: nobody knows."""
        progress = self._progress.get((group, topic))
        return 0 if progress is None else progress.committed_ms

    def groups(self) -> Iterator[tuple[str, str]]:
        """Yield each group and topic with a committed offset, sorted."""
        return iter(sorted(self._progress))

    def take_reset(self) -> list[AppliedReset]:
        """Return the resets that were applied since the last call."""
        resets, self._resets = self._resets, []
        return resets

    def names(self) -> set[str]:
        """Return the groups that have committed anything."""
        return set(self._topics_of)

    def has_group(self, group: str) -> bool:
        """Return whether *group* has committed anything."""
        return group in self._topics_of

    def topics_of(self, group: str) -> list[str]:
        """Return the topics in which *group* has committed anything, sorted."""
        return sorted(self._topics_of.get(group, ()))

    @property
    def appliers(self) -> Mapping[str, Callable[[Mapping[str, Any]], Any]]:
        """What applies each kind of command.

        The result of a commit is whether any offset changed, that of a reset its epoch, or 0 when
        there is no such topic, followed by where it led: pairs of queue id and offset.  What was
        done is told as it was then, however late it is asked again and whatever came since.
        """
        return {OFFSET_COMMIT: self._commit, OFFSET_RESET: self._reset}

    @property
    def followers(self) -> Mapping[str, Callable[[Mapping[str, Any]], None]]:
        """What goes with a topic, and with a group."""
        return {TOPIC_DELETE: self._forget_topic, GROUP_DELETE: self._forget_group}

    def snapshot(self) -> list[Any]:
        """Return the last epoch, if there was one, and a row for each group and topic, sorted."""
        rows: list[list[Any]] = []
        for (group, topic), progress in sorted(self._progress.items()):
            row: list[Any] = [
                group,
                topic,
                [list(item) for item in sorted(progress.queues.items())],
            ]
            if progress.epoch or progress.committed_ms:
                row += [progress.epoch, progress.committed_ms]
            rows.append(row)
        return [self._epoch_last, rows] if self._epoch_last else rows

    def restore(self, snapshot: list[Any] | None) -> None:
        """Become what `snapshot` was taken of; None: nothing committed.

        Raises:
            ValueError, TypeError: *snapshot* is none.
        """
        rows: list[Any] = snapshot or []
        epoch_last = 0
        if rows and type(rows[0]) is int:
            epoch_last, rows = rows
        progress: dict[tuple[str, str], _Progress] = {}
        for group, topic, queues, *more in rows:
            _check(group, topic, queues)
            if more and list(map(type, more)) != [int, int]:
                raise ValueError(f"{more!r:.80} are no epoch and time")
            progress[group, topic] = _Progress(dict(queues), *more)
        # Whoever reads here was told of none of them; where each led, the offsets say.
        self._resets += [
            AppliedReset(*key, dict(found.queues))
            for key, found in progress.items()
            if found.epoch > self.epoch(*key)
        ]
        self._epoch_last = epoch_last
        self._progress = progress
        self._topics_of = {}
        for group, topic in progress:
            self._topics_of.setdefault(group, set()).add(topic)

    def _commit(self, args: Mapping[str, Any]) -> bool:
        group, topic, at_ms = args["group"], args["topic"], args.get("at", 0)
        _check(group, topic, args["queues"])
        _check_number(at_ms)
        epoch = args.get("epoch", self._epoch_last)
        _check_number(epoch)
        if not self._exists(topic):
            return False
        progress = self._progress.get((group, topic))
        if progress is None:
            progress = self._begin(group, topic)
        if epoch < progress.epoch:
            return False
        progress.committed_ms = max(progress.committed_ms, at_ms)
        queues = progress.queues
        changed = False
        for queue_id, offset in args["queues"]:
            if offset > queues.get(queue_id, -1):
                queues[queue_id] = offset
                changed = True
        return changed

    def _reset(self, args: Mapping[str, Any]) -> list[Any]:
        group, topic, at_ms = args["group"], args["topic"], args.get("at", 0)
        _check(group, topic, args["queues"])
        _check_number(at_ms)
        if not self._exists(topic):
            return [0, []]
        progress = self._progress.get((group, topic))
        if progress is None:
            progress = self._begin(group, topic)
        self._epoch_last += 1
        progress.epoch = self._epoch_last
        progress.committed_ms = max(progress.committed_ms, at_ms)
        progress.queues.update(args["queues"])
        self._resets.append(AppliedReset(group, topic, dict(args["queues"])))
        return [progress.epoch, args["queues"]]

    def _exists(self, topic: str) -> bool:
        # A commit may have been on its way when its topic was deleted.
        return self._topics is None or topic in self._topics

    def _begin(self, group: str, topic: str) -> _Progress:
        progress = self._progress[group, topic] = _Progress()
        self._topics_of.setdefault(group, set()).add(topic)
        return progress

    def _forget_topic(self, args: Mapping[str, Any]) -> None:
        for group, topic in [key for key in self._progress if key[1] == args["topic"]]:
            self._forget(group, topic)

    def _forget_group(self, args: Mapping[str, Any]) -> None:
        for topic in self.topics_of(args["group"]):
            self._forget(args["group"], topic)

    def _forget(self, group: str, topic: str) -> None:
        del self._progress[group, topic]
        topics = self._topics_of[group]
        topics.discard(topic)
        if not topics:
            del self._topics_of[group]


def _args(group: str, topic: str, offsets: Mapping[int, int], at_ms: int) -> dict[str, Any]:
    queues = [[queue_id, offset] for queue_id, offset in sorted(offsets.items()) if offset >= 0]
    args: dict[str, Any] = {"group": group, "topic": topic, "queues": queues}
    if at_ms:
        args["at"] = at_ms
    return args


def _check(group: object, topic: object, queues: list[Any]) -> None:
    """Raise `ValueError` or `TypeError` unless these are names, and pairs of whole numbers."""
    if type(group) is not str or type(topic) is not str:
        raise ValueError(f"{group!r:.80} and {topic!r:.80} are no group and topic")
    for queue_id, offset in queues:
        if type(queue_id) is not int or type(offset) is not int:
            raise ValueError(f"{queue_id!r:.80} and {offset!r:.80} are no queue and offset")


def _check_number(value: object) -> None:
    if type(value) is not int:
        raise ValueError(f"{value!r:.80} is no whole number")
