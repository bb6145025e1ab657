"""The frame of one batch, made from what is the same in all frames of a queue.

A header encoded anew for every send takes longer than the record: nine values, of which the opaque,
the sizes and the sequence number change.  What lies between these is encoded once.  The bytes are
those that `dledger.remoting.frame.encode_frame` makes.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final

import msgspec

from broker.protocol.request_code import RECORD_FORMAT_COMMIT_LOG, RequestCode
from dledger.remoting.command import FLAG_GROUPED, VERSION, Command, LanguageCode, SerializeType
from dledger.remoting.frame import FRAME_SIZE_MAX, PREFIX_SIZE, encode_frame

if TYPE_CHECKING:
    from broker.client.batch import Batch
    from dledger.remoting.command import Buffer

_encode = msgspec.msgpack.Encoder().encode
_PREFIX: Final = struct.Struct(">II")
_MARK: Final = SerializeType.MSGPACK.value << 24
_CODE: Final = RequestCode.SEND_BATCH_MESSAGE.value
_ARRAY_OF_7: Final = b"\x97"
_MAP_OF_7: Final = b"\x87"
_BIN_OF_4: Final = b"\xc4\x04"
# A record by itself is copied up to here: that costs less than another entry in a vector.
_JOIN_SIZE_MAX: Final = 8 * 1024
_HEAD: Final = b"".join((_ARRAY_OF_7, _encode(_CODE), _encode(FLAG_GROUPED)))


class SendFrames:
    """Makes the frames of the batches that go to one queue."""

    __slots__ = ("_behind", "_group", "_in_front", "_producer_id", "_queue_id", "_topic")

    def __init__(self, group: str, topic: str, queue_id: int) -> None:
        """Make those of the producer *group* for a queue of *topic*."""
        self._group = group
        self._topic = topic
        self._queue_id = queue_id
        # Between the opaque and the sizes, and between these and the sequence number.
        self._in_front = b"".join(
            (
                _encode(LanguageCode.PYTHON.value),
                _encode(VERSION),
                _encode(None),
                _MAP_OF_7,
                *map(_encode, ("producerGroup", group, "topic", topic, "queueId", queue_id)),
                *map(_encode, ("recordFormat", RECORD_FORMAT_COMMIT_LOG, "sizes")),
            )
        )
        self._producer_id = -1
        self._behind = b""

    def frame(self, batch: Batch, opaque: int) -> list[Buffer]:
        """Return the buffers of the frame of *batch*, which has its numbers.

        Raises:
            LocalProtocolError: as `encode_frame`.
        """
        records = batch.records
        size = batch.size
        producer_id = batch.producer_id
        if batch.acks or batch.flush:
            return encode_frame(self._command(batch, opaque))
        if producer_id != self._producer_id:
            self._producer_id = producer_id
            self._behind = b"".join(map(_encode, ("producerId", producer_id, "sequence")))
        header = b"".join(
            (
                _HEAD,
                _encode(opaque),
                self._in_front,
                _BIN_OF_4 + size.to_bytes(4, "big")
                if len(records) == 1
                else _encode(batch.encoded_sizes()),
                self._behind,
                _encode(batch.first_sequence if producer_id else 0),
            )
        )
        length = 4 + len(header) + size
        if length + 4 > FRAME_SIZE_MAX:
            return encode_frame(self._command(batch, opaque))  # which says so
        prefix = _PREFIX.pack(length, _MARK | len(header))
        if size < _JOIN_SIZE_MAX or len(records) > 1:
            return [b"".join((prefix, header, *records))]
        return [prefix + header, records[0]]

    def _command(self, batch: Batch, opaque: int) -> Command:
        """Return the request of which `frame` returns the bytes."""
        fields: dict[str, object] = {
            "producerGroup": self._group,
            "topic": self._topic,
            "queueId": self._queue_id,
            "recordFormat": RECORD_FORMAT_COMMIT_LOG,
            "sizes": batch.encoded_sizes(),
            "producerId": batch.producer_id,
            "sequence": batch.first_sequence if batch.producer_id else 0,
        }
        if batch.acks or batch.flush:
            fields |= {"acks": batch.acks, "flush": batch.flush}
        records = batch.records
        return Command(
            _CODE,
            FLAG_GROUPED,
            opaque,
            ext_fields=fields,
            body=records[0] if len(records) == 1 else b"".join(records),
        )


assert _PREFIX.size == PREFIX_SIZE
