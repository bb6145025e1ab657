"""``dledger log stat``: how much a log holds, of what, and from when."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from broker.cli.log_content import CHANNEL_COMMANDS, CHANNEL_RECORDS, read_commands, read_records
from broker.cli.output import Table, format_bytes, plural
from broker.cli.values import format_duration, format_time
from broker.message.batch import ProducerMark
from dledger.entry import EntryKind

if TYPE_CHECKING:
    from collections.abc import Iterator

    from broker.cli.log_check import StoredEntry, StoredLog
    from broker.message.model import StoredMessage

_NAMES = {"messages": "messages", "commands": "commands", "others": "something else"}


@dataclass(slots=True)
class TopicStat:
    """What one topic has in the log."""

    message_count: int = 0
    record_bytes: int = 0
    body_bytes: int = 0
    queue_ids: set[int] = field(default_factory=set)
    oldest_ms: int = -1  # store time of the first message; -1: none
    newest_ms: int = -1

    def add(self, message: StoredMessage) -> None:
        """Count one message."""
        self.message_count += 1
        self.record_bytes += message.size
        self.body_bytes += len(message.body)
        self.queue_ids.add(message.queue_id)
        stored = message.store_timestamp_ms
        self.oldest_ms = stored if self.oldest_ms < 0 else min(self.oldest_ms, stored)
        self.newest_ms = max(self.newest_ms, stored)


@dataclass(slots=True)
class LogStat:
    """What one log holds."""

    entry_counts: Counter[str] = field(default_factory=Counter)  # by what they are
    entry_size_max: int = 0
    commands: Counter[str] = field(default_factory=Counter)  # by kind
    terms: set[int] = field(default_factory=set)
    topics: dict[str, TopicStat] = field(default_factory=dict)

    def add(self, entry: StoredEntry) -> None:
        """Count one entry and what it holds.

        Raises:
            CorruptRecordError: its body is not what its kind says.
        """
        header = entry.header
        self.terms.add(header.term)
        self.entry_size_max = max(self.entry_size_max, header.size)
        if header.kind == EntryKind.NOOP:
            self.entry_counts["no_ops"] += 1
        elif header.channel == CHANNEL_RECORDS:
            self.entry_counts["messages"] += 1
            for item in read_records(entry):
                if not isinstance(item, ProducerMark):
                    self.topics.setdefault(item.topic, TopicStat()).add(item)
        elif header.channel == CHANNEL_COMMANDS:
            self.entry_counts["commands"] += 1
            self.commands.update(kind for kind, _ in read_commands(entry))
        else:
            self.entry_counts["others"] += 1


def describe_log(stored: StoredLog) -> dict[str, Any]:
    """Read the whole log and return what it holds, fit for JSON."""
    stat = LogStat()
    for entry in stored.walk():
        stat.add(entry)
    entry_count = sum(stat.entry_counts.values())
    log_bytes = stored.end.position - stored.base.position
    segments = stored.segment_sizes()
    topics = [
        {
            "topic": name,
            "queues": len(topic.queue_ids),
            "messages": topic.message_count,
            "record_bytes": topic.record_bytes,
            "body_bytes": topic.body_bytes,
            "oldest_ms": topic.oldest_ms,
            "newest_ms": topic.newest_ms,
        }
        for name, topic in sorted(stat.topics.items())
    ]
    return {
        "folder": str(stored.folder),
        "segments": len(segments),
        "segment_size": stored.segment_size,
        "segment_bytes": sum(segments.values()),
        "begin_index": stored.base.index + 1,
        "end_index": stored.end.index,
        "begin_position": stored.base.position,
        "end_position": stored.end.position,
        "log_bytes": log_bytes,
        "terms": sorted(stat.terms),
        "entries": entry_count,
        "entries_by_kind": dict(stat.entry_counts),
        "entry_bytes_mean": log_bytes // entry_count if entry_count else 0,
        "entry_bytes_max": stat.entry_size_max,
        "commands": dict(sorted(stat.commands.items())),
        "messages": sum(topic.message_count for topic in stat.topics.values()),
        "oldest_ms": min((topic.oldest_ms for topic in stat.topics.values()), default=-1),
        "newest_ms": max((topic.newest_ms for topic in stat.topics.values()), default=-1),
        "topics": topics,
    }


def format_stat(found: dict[str, Any]) -> Iterator[Table | str]:
    """Yield the lines and tables that tell a person what `describe_log` found."""
    yield (
        f"{found['folder']}: {plural(found['segments'], 'segment')} of "
        f"{format_bytes(found['segment_size'])}, {format_bytes(found['log_bytes'])} of log in them"
    )
    if not found["entries"]:
        yield f"  no entry; the next one is {found['end_index'] + 1}"
        return
    kinds = ", ".join(
        f"{count:,} with {_NAMES[name]}" if name in _NAMES else plural(count, "no-op")
        for name, count in found["entries_by_kind"].items()
    )
    first, last = found["terms"][0], found["terms"][-1]
    yield (
        f"  entries {found['begin_index']:,} to {found['end_index']:,} ({kinds}), "
        f"{format_bytes(found['entry_bytes_mean'])} on average, "
        f"{format_bytes(found['entry_bytes_max'])} at most, "
        + (f"term {first}" if first == last else f"terms {first} to {last}")
    )
    if found["messages"]:
        span = (found["newest_ms"] - found["oldest_ms"]) / 1000
        yield (
            f"  {plural(found['messages'], 'message')}, stored from "
            f"{format_time(found['oldest_ms'])} to {format_time(found['newest_ms'])} "
            f"({format_duration(span)})"
        )
    if found["commands"]:
        yield "  commands: " + ", ".join(f"{kind} {n:,}" for kind, n in found["commands"].items())
    if found["topics"]:
        numbers = ("queues", "messages", "records", "bodies")
        table = Table("topic", *numbers, "oldest", "newest", right=numbers)
        for topic in found["topics"]:
            table.add_row(
                topic["topic"],
                f"{topic['queues']:,}",
                f"{topic['messages']:,}",
                format_bytes(topic["record_bytes"]),
                format_bytes(topic["body_bytes"]),
                format_time(topic["oldest_ms"]),
                format_time(topic["newest_ms"]),
            )
        yield table
