"""Bugs of retention: what is taken too early, and what is said of what is gone."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from broker.handlers import pull
from broker.protocol.response_code import ResponseCode
from broker.store.consume_queues import ConsumeQueues
from broker.store.reader import PullStatus
from broker.store.retention import TopicRetention
from broker.store.segment_times import SegmentTimes
from dledger.store.retention import Moment
from jepsen_like.mutants.grounds import KEEPING
from jepsen_like.mutants.mutant import Patch, mutant

if TYPE_CHECKING:
    from collections.abc import Sequence


@mutant(on=KEEPING)
def segments_go_by_their_oldest_message() -> Sequence[Patch]:
    """The age of a segment is that of its first message, so that its last ones go too early."""
    stock = SegmentTimes.newest_ms

    def newest_ms(self: Any, after_index: int, upto_index: int) -> int | None:
        return stock(self, after_index, min(after_index + 1, upto_index))

    return [(SegmentTimes, "newest_ms", newest_ms)]


@mutant(on=KEEPING)
def a_crowded_disk_is_a_full_one() -> Sequence[Patch]:
    """Above the first watermark the oldest segments go, however young."""
    stock = Moment.why

    def why(self: Any, **of: Any) -> Any:
        config = replace(self.config, disk_force_percent=self.config.disk_clean_percent)
        return stock(replace(self, config=config), **of)

    return [(Moment, "why", why)]


@mutant(on=KEEPING)
def topics_keep_half_as_long() -> Sequence[Patch]:
    """A queue is trimmed of messages half as old as its topic says."""
    stock = TopicRetention.plan

    def plan(self: Any, bounds: Any, now_ms: int) -> Any:
        return stock(self, replace(bounds, retention_ms=bounds.retention_ms // 2), now_ms)

    return [(TopicRetention, "plan", plan)]


@mutant(on=KEEPING)
def queues_are_trimmed_by_what_the_node_has() -> Sequence[Patch]:
    """A node leaves a trim aside that is no news to its own files."""
    stock = ConsumeQueues.trim

    def trim(self: Any, topic: str, queue_id: int, offset: int) -> None:
        queue = self.get(topic, queue_id)
        if queue is not None and offset > queue.min_offset:
            stock(self, topic, queue_id, offset)

    return [(ConsumeQueues, "trim", trim)]


@mutant(on=KEEPING)
def what_is_gone_was_never_there() -> Sequence[Patch]:
    """Who asks for what retention took hears that there is nothing yet."""
    codes = {**pull._CODES, PullStatus.OFFSET_TOO_SMALL: (ResponseCode.PULL_NOT_FOUND, "")}
    return [(pull, "_CODES", codes)]
