"""What a consumer was told when it was made."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from broker.client.rebalance import Rebalance, strategy_of
from broker.client.starts import Start, check_start
from broker.errors import InvalidMessageError
from broker.message.limits import check_group, check_topic
from broker.message.tags import parse_tag_expression

if TYPE_CHECKING:
    from collections.abc import Iterable


@dataclass(frozen=True, slots=True, kw_only=True)
class ConsumerOptions:
    """Where a consumer starts, what it wants, how far it reads ahead, and how it commits."""

    start: Start = "committed"
    tags: str | None = None  # "A || B"; None or "*" for all messages
    prefetch_bytes: int = 4 * 1024 * 1024  # bytes pulled ahead, all queues together
    prefetch_count: int = 100_000  # messages pulled ahead, all queues together
    auto_commit: bool = True  # coming back for the next message means that the last one is done
    commit_interval: float = 1.0  # seconds
    poll_wait: float = 15.0  # seconds a node may hold a pull until something arrives
    # Of members of a group only, which share its queues:
    ordered: bool = False  # one message of a queue at a time, and no other member reads the queue
    broadcasting: bool = False  # each member reads everything; nothing is committed
    rebalance: Rebalance = "averagely"
    offset_file: str | os.PathLike[str] | None = None  # of a broadcasting one: how far it has come
    retries_max: int | None = None  # times a message comes again; None: as the group has it

    def __post_init__(self) -> None:
        check_start(self.start)
        parse_tag_expression(self.tags)
        strategy_of(self.rebalance)
        for name in ("prefetch_bytes", "prefetch_count", "commit_interval", "poll_wait"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} = {getattr(self, name)}: must be above 0")
        if self.retries_max is not None and self.retries_max < 0:
            raise ValueError(f"retries_max = {self.retries_max}: must be at least 0")
        if self.ordered and self.broadcasting:
            raise ValueError(
                "ordered and broadcasting: what all read has no one to keep it in order"
            )
        if self.offset_file is not None:
            if not self.broadcasting:
                raise ValueError(
                    "offset_file is for broadcasting: the offsets of all others are their group's"
                )
            if not os.fspath(self.offset_file):
                raise ValueError("offset_file is empty: name a file")


@dataclass(frozen=True, slots=True, kw_only=True)
class MemberTimes:
    """What a member does from time to time, in seconds; the broker reckons with it."""

    # Less than a third of the broker's client_silent_max_ms.
    # Source: RocketMQ ``ClientConfig.heartbeatBrokerInterval``
    heartbeat: float = 30.0
    # Less than `lock`, which is asked for again as often.
    # Source: RocketMQ ``RebalanceService.waitInterval``
    balance: float = 20.0
    # How long a queue's lock is believed in; half of the broker's queue_lock_max_ms, or less.
    # Source: RocketMQ ``REBALANCE_LOCK_MAX_LIVE_TIME`` of the client
    lock: float = 30.0

    def __post_init__(self) -> None:
        for name in ("heartbeat", "balance", "lock"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} = {getattr(self, name)}: must be above 0 s")
        if self.balance >= self.lock:
            raise ValueError(
                f"balance = {self.balance}: must be below lock = {self.lock}, or locks run out "
                "before they are asked for again"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Subscription:
    """For which group a consumer reads what, and whether as a member."""

    group: str  # "": none
    topics: tuple[str, ...]  # the first is meant where none is named
    queues: tuple[int, ...] | None  # of the one topic, as it was told; None: not told
    options: ConsumerOptions

    @property
    def is_member(self) -> bool:
        """Whether it shares the group's queues with others, or is told what they are told."""
        return bool(self.group) and self.queues is None

    @property
    def is_shared(self) -> bool:
        """Whether each message is for one member of the group."""
        return self.is_member and not self.options.broadcasting

    @property
    def commits(self) -> bool:
        """Whether it commits how far it has come: for its group, or to a file of its own."""
        options = self.options
        return bool(self.group) and (not options.broadcasting or options.offset_file is not None)

    @property
    def follows_resets(self) -> bool:
        """Whether it goes on where its group is put."""
        return self.commits and not self.options.broadcasting

    @property
    def start(self) -> Start:
        """Where it begins; those who read everything for themselves have committed nothing."""
        if self.options.start == "committed" and not self.commits and self.is_member:
            return "last"
        return self.options.start


def subscribe(
    group: str,
    topic: str | Iterable[str],
    queues: Iterable[int] | None,
    options: ConsumerOptions,
) -> Subscription:
    """Return what a consumer is to read.

    Raises:
        InvalidMessageError, InvalidTopicError: no group or topic can have that name, or a consumer
            of that kind needs something else.
    """
    topics = (topic,) if isinstance(topic, str) else tuple(dict.fromkeys(topic))
    if not topics:
        raise InvalidMessageError(f"consumer of group {group!r}: name a topic to read")
    for name in topics:
        check_topic(name)
    if group:
        check_group(group)
    elif options.auto_commit or options.start == "committed":
        raise InvalidMessageError(
            "consumer group '': a consumer without one has nothing to commit to; name one, or "
            'give auto_commit=False and a start other than "committed"'
        )
    wanted = None if queues is None else tuple(queues)
    if wanted is not None and len(topics) > 1:
        raise InvalidMessageError(
            f"consumer of group {group!r}: queues are those of one topic, and {len(topics)} are "
            "named; open a consumer for each"
        )
    found = Subscription(group=group, topics=topics, queues=wanted, options=options)
    for name in ("ordered", "broadcasting"):
        if getattr(options, name) and not found.is_member:
            raise InvalidMessageError(
                f"{name} is for members of a group: name a group, and no queues"
            )
    return found
