"""What retention takes, held against what it may take, and what is said of it.

    early-drop     a member drops a segment that is neither too old, nor too much, nor in the way of
                   a disk above its watermark
    early-trim     a queue is trimmed of a message younger than its topic keeps
    trims-differ   two members trim a queue to different offsets at the same entry
    hidden-drop    who asks for an offset that is gone is not told so, or not where to go on

Reckoned anew from what the log holds and the clocks of the simulation say; nothing is asked of the
product's own retention.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from broker.message.batch import MARK_MAGIC, MARK_SIZE
from broker.message.codec import decode_record
from broker.protocol.response_code import ResponseCode
from broker.store.log_view import CHANNEL_RECORDS
from dledger.config import parse_hours
from dledger.entry import EntryKind

if TYPE_CHECKING:
    from collections.abc import Callable

    from broker.node import Node
    from broker.open_files import OpenFiles
    from dledger.entry import Entry, LogPoint
    from dledger.store.disk_usage import DiskUsage
    from jepsen_like.history import History
    from jepsen_like.sim.mix import Mix
    from jepsen_like.sim.sim_clock import SimClock
    from jepsen_like.sim.sim_disk import SimMount

_MS_PER_HOUR = 3_600_000


class Drops:
    """Watches all members of one group."""

    def __init__(self, history: History, mix: Mix) -> None:
        self.mix = mix
        self._history = history
        self._clocks: list[SimClock] = []
        self._latest_ms = 0  # the latest time that any clock has shown
        # Entry, topic, queue, which command of the entry -> offset.
        self._floors: dict[tuple[int, str, int, int], int] = {}

    def add_clock(self, clock: SimClock) -> None:
        """Take note of a member's clock: messages are as old as a leader's clock says."""
        self._clocks.append(clock)

    def begin_life(
        self, name: str, node: Node, files: OpenFiles, mount: SimMount, clock: SimClock
    ) -> None:
        """Watch one process of *name*."""
        _Watch(self, name, node, files, mount, clock)

    def latest_ms(self) -> int:
        """Return the latest time that any member's clock has shown."""
        self._latest_ms = max(self._latest_ms, *(clock.wall_ms() for clock in self._clocks))
        return self._latest_ms

    def trimmed(
        self, name: str, index: int, topic: str, queue_id: int, nth: int, floor: int
    ) -> None:
        """Hear what *name* trimmed a queue to by the *nth* command for it in entry *index*."""
        first = self._floors.setdefault((index, topic, queue_id, nth), floor)
        if first != floor:
            self.tell(
                name,
                "trims-differ",
                f"queue {queue_id} at entry {index}: to {floor}, another member to {first}",
            )

    def tell(self, name: str, kind: str, what: str) -> None:
        """Note what is wrong."""
        self._history.note(kind, node=name, err=what)


class _Watch:
    """Watches one process of one member."""

    def __init__(
        self,
        drops: Drops,
        name: str,
        node: Node,
        files: OpenFiles,
        mount: SimMount,
        clock: SimClock,
    ) -> None:
        self._drops = drops
        self._name = name
        self._store = files.store
        self._derived = files.derived
        self._mount = mount
        self._clock = clock
        self._usage: DiskUsage | None = None  # as the product measured it last
        self._trims: dict[tuple[int, str, int], int] = {}
        _around(self._store, "measure_disk", self._measure)
        _around(self._store, "begin_drop", self._begin_drop)
        _around(self._derived.queues, "trim", self._trim)
        _around(node.pulls, "_response", self._response)

    def _measure(self, stock: Callable[..., Any]) -> Any:  # noqa: ANN401
        self._usage = stock()
        return self._usage

    # -- segments -------------------------------------------------------------------------------

    def _begin_drop(self, stock: Callable[..., Any], position: int) -> Any:  # noqa: ANN401
        if self._mount.is_dead:
            return stock(position)
        before, end = self._store.base, self._store.end_position
        segments = self._segments(before, position)
        ticket = stock(position)
        dropped = self._store.base.position
        for begin, newest_ms in segments:
            if begin < dropped and not self._may_go(begin, newest_ms, before, end):
                self._drops.tell(
                    self._name,
                    "early-drop",
                    f"segment {begin:020d}, messages up to {newest_ms} at {self._clock.wall_ms()}, "
                    f"{end - begin} bytes from there, {self._usage}",
                )
                break
        return ticket

    def _segments(self, base: LogPoint, position: int) -> list[tuple[int, int | None]]:
        """Return the begin of each segment before *position*, and when its newest was stored.

        The newest is the last one.  One before it may have a later time, from a leader whose clock
        was ahead; it is older all the same (seed 80074 of 10 s).
        """
        store, size = self._store, self._drops.mix.store.segment_size
        found: dict[int, int | None] = {}
        for begin in range(base.position - base.position % size, position, size):
            found[begin] = None
        for entry in store.entries(base.index + 1, store.end_index):
            if entry.position >= position:
                break
            times = _times_of(entry)
            begin = entry.position - entry.position % size
            if times:
                found[begin] = times[-1]
        return list(found.items())

    def _may_go(self, begin: int, newest_ms: int | None, base: LogPoint, end: int) -> bool:
        config, usage = self._drops.mix.store, self._usage
        assert usage is not None, "nothing is dropped before the disk is measured"
        if config.log_size_max and end - max(begin, base.position) > config.log_size_max:
            return True
        if usage.excess(config.disk_force_percent) > max(begin - base.position, 0):
            return True
        is_time = self._clock.local_hour() in parse_hours(config.delete_when)
        if not config.file_reserved_hours or not (
            is_time or usage.percent > config.disk_clean_percent
        ):
            return False
        kept_from = self._clock.wall_ms() - config.file_reserved_hours * _MS_PER_HOUR
        return newest_ms is None or newest_ms < kept_from

    # -- queues ---------------------------------------------------------------------------------

    def _trim(self, stock: Callable[..., Any], topic: str, queue_id: int, offset: int) -> None:
        queue = self._derived.queues.get(topic, queue_id)
        newest = -1
        if queue is not None and queue.min_offset < min(offset, queue.max_offset):
            position = queue.position_at(min(offset, queue.max_offset) - 1)
            newest = decode_time(self._store.bytes_at(position + 56, 8))
        stock(topic, queue_id, offset)
        if queue is None:
            return
        floors = {(name, number): at for name, number, at in self._derived.queues.floors()}
        floor = floors.get((topic, queue_id), 0)
        key = self._derived.dispatched_index + 1, topic, queue_id
        nth = self._trims[key] = self._trims.get(key, -1) + 1  # one entry may have several commands
        self._drops.trimmed(self._name, *key, nth, floor)
        keeps = self._drops.mix.topic_retention_ms
        now = self._drops.latest_ms()
        if newest >= now - keeps or not keeps:
            self._drops.tell(
                self._name,
                "early-trim",
                f"queue {queue_id} to {offset}: a message stored at {newest}, it is {now} at most",
            )

    # -- answers --------------------------------------------------------------------------------

    def _response(self, stock: Callable[..., Any], command: Any, header: Any, *more: Any) -> Any:  # noqa: ANN401
        answer = stock(command, header, *more)
        queue = self._derived.queues.get(header.topic, header.queue_id)
        if queue is None or header.queue_offset >= queue.min_offset:
            return answer
        told = answer.ext_fields.get("nextBeginOffset")
        if answer.code != ResponseCode.PULL_OFFSET_MOVED or int(told) != queue.min_offset:
            self._drops.tell(
                self._name,
                "hidden-drop",
                f"queue {header.queue_id}: asked for {header.queue_offset}, which is gone, answered"
                f" {answer.code} and {told}, the first kept is {queue.min_offset}",
            )
        return answer


def decode_time(view: memoryview) -> int:
    """Return the store time in eight bytes of a record."""
    return int.from_bytes(view, "big", signed=True)


def _times_of(entry: Entry) -> list[int]:
    """Return when the records of an entry were stored, each read by itself."""
    if entry.channel != CHANNEL_RECORDS or entry.kind == EntryKind.NOOP:
        return []
    times, at = [], 0
    while at < len(entry.body):
        if int.from_bytes(entry.body[at + 4 : at + 8], "big") == MARK_MAGIC:
            at += MARK_SIZE
            continue
        message = decode_record(entry.body, at, check_crc=False)
        times.append(message.store_timestamp_ms)
        at += message.size
    return times


def _around(owner: object, name: str, instead: Callable[..., Any]) -> None:
    """Have *instead* called for a method of one object, with the method before its arguments."""
    stock = getattr(owner, name)

    def called(*args: Any, **options: Any) -> Any:  # noqa: ANN401
        return instead(stock, *args, **options)

    setattr(owner, name, called)
