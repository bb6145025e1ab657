"""Send requests encoded beforehand: what is left to do for each is to write two numbers into it.

The frames of a ring have one size, so they form a table, and the opaques and sequence numbers of
any number of them are written as two columns.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from broker.message.batch import encode_sizes
from broker.message.codec import encode_record
from broker.protocol.request_code import RECORD_FORMAT_COMMIT_LOG, RequestCode
from dledger.remoting.command import FLAG_GROUPED, Command
from dledger.remoting.frame import encode_frame

if TYPE_CHECKING:
    import random

_OPAQUE_MARK = 0x7FFF_FFFF  # written with all its four bytes, and so has a place
_SEQUENCE_MARK = 0x7FFF_FFFF_FFFF_FFFF
_RING_SIZE_MAX = 8 * 1024 * 1024  # bytes; about what a processor keeps near


class FrameRing:
    """Sends to the queues of one topic in turn, without end."""

    def __init__(
        self,
        *,
        topic: str,
        queue_count: int,
        body_size: int,
        batch_count: int,
        producer_id: int,
        chance: random.Random,
        frame_count_min: int,
        frame_count_max: int = 4096,
    ) -> None:
        """Encode the frames.

        Args:
            topic: where they go.
            queue_count: of the topic.
            body_size: of each message, in bytes.
            batch_count: messages in each frame.
            producer_id: duplicates of this producer are recognised, as of any real one.
            chance: bodies are random, so that nothing compresses or repeats.
            frame_count_min: most that `take` is ever asked for.
            frame_count_max: what is enough when that is less; frames are big.
        """
        self._queue_count = queue_count
        self._batch_count = batch_count
        one = self._encode(topic, 0, body_size, batch_count, producer_id, chance)
        count = max(frame_count_min, min(frame_count_max, _RING_SIZE_MAX // len(one)))
        self.frame_count = -(-count // queue_count) * queue_count
        frames = [
            self._encode(topic, n % queue_count, body_size, batch_count, producer_id, chance)
            for n in range(self.frame_count)
        ]
        assert len(set(map(len, frames))) == 1, "frames differ in size"
        self._table = np.frombuffer(b"".join(frames), np.uint8).reshape(len(frames), -1).copy()
        opaque_at = one.index(b"\xce" + _OPAQUE_MARK.to_bytes(4, "big")) + 1
        sequence_at = one.index(b"\xcf" + _SEQUENCE_MARK.to_bytes(8, "big")) + 1
        self._opaques = self._table[:, opaque_at : opaque_at + 4]
        self._sequences = self._table[:, sequence_at : sequence_at + 8]
        self.next_opaque = 0  # counts frames

    def take(self, count: int) -> list[memoryview]:
        """Return the next *count* frames as bytes to be sent before the next call."""
        assert count <= self.frame_count
        first = self.next_opaque
        self.next_opaque += count
        begin = first % self.frame_count
        end = begin + count
        if end <= self.frame_count:
            return [self._number(begin, end, first)]
        part = self.frame_count - begin
        return [
            self._number(begin, self.frame_count, first),
            self._number(0, end - self.frame_count, first + part),
        ]

    def _number(self, begin: int, end: int, first: int) -> memoryview:
        count = end - begin
        opaques = np.arange(first, first + count)
        sequences = opaques // self._queue_count * self._batch_count
        self._opaques[begin:end] = opaques.astype(">u4").view(np.uint8).reshape(count, 4)
        self._sequences[begin:end] = sequences.astype(">u8").view(np.uint8).reshape(count, 8)
        return self._table[begin:end].data.cast("B")

    @staticmethod
    def _encode(
        topic: str,
        queue_id: int,
        body_size: int,
        batch_count: int,
        producer_id: int,
        chance: random.Random,
    ) -> bytes:
        records = [
            encode_record(
                topic=topic.encode(),
                queue_id=queue_id,
                body=chance.randbytes(body_size),
                born_timestamp_ms=1_700_000_000_000,
            )
            for _ in range(batch_count)
        ]
        command = Command(
            RequestCode.SEND_BATCH_MESSAGE.value,
            FLAG_GROUPED,
            _OPAQUE_MARK,
            ext_fields={
                "producerGroup": "bench",
                "topic": topic,
                "queueId": queue_id,
                "recordFormat": RECORD_FORMAT_COMMIT_LOG,
                "sizes": encode_sizes([len(record) for record in records]),
                "producerId": producer_id,
                "sequence": _SEQUENCE_MARK,
            },
            body=b"".join(records),
        )
        return b"".join(encode_frame(command))
