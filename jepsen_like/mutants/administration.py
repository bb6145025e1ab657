"""Bugs of topics that come and go, and of groups that are put elsewhere."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from broker.handlers.commands import Commands
from broker.handlers.group_gate import GroupGate
from broker.handlers.offsets import OffsetHandlers
from broker.handlers.registry import answer
from broker.handlers.reset_news import ResetNews
from broker.metadata.consumer_offsets import ConsumerOffsets
from broker.metadata.name_config import NAME_DELETE, NAME_PUT, NameConfig
from broker.metadata.topics import TOPIC_ALTER, TOPIC_PUT
from broker.store.consume_queues import ConsumeQueues
from jepsen_like.mutants.grounds import SETTINGS, SIDE_TOPICS
from jepsen_like.mutants.mutant import Patch, mutant

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence


@mutant(on=SIDE_TOPICS)
def commits_of_older_epochs_count() -> Sequence[Patch]:
    """What was committed by one who began before a reset moves the group on."""
    return [_commits_of_any_epoch(), (OffsetHandlers, "check_epoch", lambda *_: None)]


@mutant(on=SIDE_TOPICS)
def late_commits_count() -> Sequence[Patch]:
    """An older epoch is seen where a commit is taken, and not where it is applied."""
    return [_commits_of_any_epoch()]


def _commits_of_any_epoch() -> Patch:
    stock = ConsumerOffsets._commit

    def commit(self: Any, args: Mapping[str, Any]) -> bool:
        return stock(self, {name: value for name, value in args.items() if name != "epoch"})

    return ConsumerOffsets, "_commit", commit


@mutant(on=SIDE_TOPICS)
def stock_commits_are_of_any_epoch() -> Sequence[Patch]:
    """What RocketMQ's consumers commit before they have heard of a reset moves the group on."""
    return [(ResetNews, "epoch_of_commit", lambda *_: None)]


@mutant(on=SIDE_TOPICS)
def stock_commits_are_of_the_epoch_of_the_moment() -> Sequence[Patch]:
    """They belong to the epoch that their node knows, whether they have followed or not."""

    def epoch_of_commit(
        self: Any, session: Any, group: str, topic: str, queue_id: int, offset: int
    ) -> int | None:
        if self._stock_client(session, group) is None:
            return None
        epoch: int = self._offsets.epoch(group, topic)
        return epoch

    return [(ResetNews, "epoch_of_commit", epoch_of_commit)]


@mutant(on=SIDE_TOPICS)
def deleted_topics_keep_their_messages() -> Sequence[Patch]:
    """A topic created again by the name of a deleted one has its messages."""
    return [(ConsumeQueues, "delete_topic", lambda *_: None)]


@mutant(on=SIDE_TOPICS)
def topics_acknowledged_early() -> Sequence[Patch]:
    """A topic is said to be there, or to be other, before a majority knows."""
    return _acknowledged_early(TOPIC_PUT, TOPIC_ALTER)


@mutant(on=SETTINGS)
def settings_acknowledged_early() -> Sequence[Patch]:
    """A setting is said to be kept before a majority knows."""
    return _acknowledged_early(NAME_PUT, NAME_DELETE)


@mutant(on=SETTINGS)
def settings_are_no_part_of_the_state() -> Sequence[Patch]:
    """A node that starts from a state has none of the settings before it."""
    return [(NameConfig, "snapshot", lambda _: None)]


def _acknowledged_early(*kinds: str) -> Sequence[Patch]:
    stock = Commands.propose

    def propose(
        self: Any,
        session: Any,
        command: Any,
        wanted: Any,
        finish: Callable[[Any], Any],
        failed: Callable[[], None] = lambda: None,
    ) -> None:
        if wanted.kind in kinds:
            self._queue.put_command(wanted, lambda *_: None)
            answer(session, command, finish("changed"))
        else:
            stock(self, session, command, wanted, finish, failed)

    return [(Commands, "propose", propose)]


@mutant(on=SIDE_TOPICS)
def groups_made_where_they_are_used() -> Sequence[Patch]:
    """A node that is asked by a group it does not know makes it, for itself."""

    def ask_for(self: Any, session: Any, group: str) -> None:
        self._groups._create({"group": group})

    return [(GroupGate, "_ask_for", ask_for)]
