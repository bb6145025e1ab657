"""After all has healed: a fresh client reads everything, and every replica's log is laid open."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from broker.client.compression import unpack
from broker.errors import CorruptRecordError
from broker.message.batch import MARK_MAGIC, MARK_SIZE
from broker.message.codec import FLAG_COMPRESSED, decode_record
from broker.store.log_view import CHANNEL_RECORDS
from dledger.entry import EntryKind
from dledger.errors import LedgerError
from jepsen_like.workloads.appends import TOPIC, value_of
from jepsen_like.workloads.membership import WORK_TOPICS

if TYPE_CHECKING:
    import random
    from collections.abc import Iterator

    from broker.client.connect import Client
    from broker.message.model import StoredMessage
    from broker.store.consume_queues import ConsumeQueues
    from dledger.store.ledger_store import LedgerStore
    from jepsen_like.history import History
    from jepsen_like.workloads.load import Clients

RETENTION_SECONDS = 10.0  # until all members have dropped what one of them has

Values = dict[int, list[list[object]]]  # queue -> [offset, value] in log order


async def drain(clients: Clients, history: History, chance: random.Random) -> None:
    """Read every queue from its first offset to its end, and note it as one drain a queue."""
    async with clients.client("drain", chance) as client:
        for queue in range(clients.load.queue_count):
            end = await client.admin.max_offset(TOPIC, queue)
            found: list[tuple[int, str]] = []
            first = end
            if end:
                consumer = client.consumer("drain", TOPIC, queues=[queue], start="first")
                async with consumer:
                    first = consumer.position(queue)
                    while consumer.position(queue) < end:
                        message = await anext(consumer)
                        found.append((message.queue_offset, value_of(message.body)))
                if found and first < (begin := found[0][0]):
                    first = await _first_kept(client, queue, first, begin)
            history.add(history.new_process(), "ok", "drain", k=queue, v=found, o=first)
            await trio.lowlevel.checkpoint()


async def _first_kept(client: Client, queue: int, first: int, begin: int) -> int:
    """Return where the queue begins, as the group says, when a reader was sent on to *begin*.

    Retention may have dropped what lay between while it was read, on one member earlier than on
    another.  When in the end they say that it is still there, it was passed over.
    """
    with trio.move_on_after(RETENTION_SECONDS):
        while first < begin:
            first = max(first, await client.admin.min_offset(TOPIC, queue))
            await trio.sleep(0.1)
    return min(first, begin)


def dump(node: str, store: LedgerStore, history: History) -> None:
    """Note what the log of *node* holds, one dump a queue."""
    values: Values = {}
    try:
        store.verify(store.base.index + 1, store.end_index)
        for entry in store.entries(store.base.index + 1, store.end_index):
            if entry.channel == CHANNEL_RECORDS and entry.kind != EntryKind.NOOP:
                _read_records(entry.body, values)
    except (LedgerError, CorruptRecordError) as error:
        history.note("unreadable", node=node, err=f"{type(error).__name__}: {error}")
    for queue, found in sorted(values.items()):
        history.add(
            history.new_process(), "ok", "dump", k=queue, v=found, o=store.base.index,
            node=node,
        )  # fmt: skip


def dump_copies(node: str, store: LedgerStore, history: History, epoch_ms: int) -> None:
    """Note where messages of W7 lie in the log of *node*, one line for each topic and queue.

    Each is told with its offset, value, how often it was sent back, and when it was stored, in
    milliseconds after *epoch_ms*, where the history's clock begins.
    """
    found: dict[tuple[str, int], list[list[object]]] = {}
    try:
        for entry in store.entries(store.base.index + 1, store.end_index):
            if entry.channel != CHANNEL_RECORDS or entry.kind == EntryKind.NOOP:
                continue
            for message in _messages(entry.body):
                if message.topic in WORK_TOPICS:
                    found.setdefault((message.topic, message.queue_id), []).append(
                        [
                            message.queue_offset,
                            value_of(message.body),
                            message.reconsume_times,
                            message.store_timestamp_ms - epoch_ms,
                        ]
                    )
    except (LedgerError, CorruptRecordError):
        return  # told already, where the log was laid open
    for (topic, queue), copies in sorted(found.items()):
        history.add(history.new_process(), "ok", "copies", k=queue, v=[topic, copies], node=node)


def begins_of(queues: ConsumeQueues) -> list[list[int]]:
    """Return where each queue of the topic begins on one node."""
    return [
        [queue_id, queue.min_offset]
        for topic, queue_id, _ in queues.snapshot()
        if topic == TOPIC and (queue := queues.get(topic, queue_id)) is not None
    ]


def _messages(body: memoryview) -> Iterator[StoredMessage]:
    at = 0
    while at < len(body):
        if int.from_bytes(body[at + 4 : at + 8], "big") == MARK_MAGIC:
            at += MARK_SIZE
            continue
        message = decode_record(body, at)
        at += message.size
        yield message


def _read_records(body: memoryview, values: Values) -> None:
    for message in _messages(body):
        if message.topic != TOPIC:
            continue
        content = bytes(message.body)
        if message.system_flag & FLAG_COMPRESSED:
            what = f"the record at {message.position}"
            content = unpack(content, message.system_flag, what=what)
        values.setdefault(message.queue_id, []).append([message.queue_offset, value_of(content)])
