"""Messages that our client sends to be delivered later, written as they wait.

It puts them where they wait by itself, in batches as all others, numbered, so that a retry is
stored once.  What it says of where they are to go is checked here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from broker.errors import HeaderError
from broker.message.batch import decode_sizes
from broker.message.codec import decode_record
from broker.message.delay import DELAY_LEVELS_MS, check_waiting

if TYPE_CHECKING:
    from broker.message.codec import Buffer
    from broker.protocol.send_headers import SendRecordsRequest


def check_delayed(header: SendRecordsRequest, body: Buffer, *, now_ms: int) -> None:
    """Raise unless the records of *body* can wait in the queue that *header* names.

    Raises:
        HeaderError: no messages wait in that queue.
        CorruptRecordError: a record is none.
        InvalidMessageError: a message does not say where it is to go.
    """
    if not 0 <= header.queue_id < len(DELAY_LEVELS_MS):
        raise HeaderError(f"{header.queue_id}: delay levels have queues 0 to 17", field="queueId")
    at = 0
    for number, size in enumerate(decode_sizes(header.sizes)):
        message = decode_record(body, at, record=number, check_crc=False)
        check_waiting(message.properties, queue_id=header.queue_id, now_ms=now_ms)
        at += size
