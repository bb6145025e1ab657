"""Send requests encoded beforehand: what is left to do for each is to write two numbers into it.

The frames of a ring have one size, so they form a table, and the opaques and sequence numbers of
any number of them are written as two columns.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

import numpy as np

from broker.message.batch import encode_sizes
from broker.message.codec import encode_record
from broker.protocol.request_code import RECORD_FORMAT_COMMIT_LOG, RequestCode
from dledger.remoting.command import FLAG_GROUPED, Command
from dledger.remoting.frame import encode_frame

if TYPE_CHECKING:
    import random
    from collections.abc import Sequence

_OPAQUE_MARK = 0x7FFF_FFFF  # written with all its four bytes, and so has a place
_QUEUE_MARK = 0x7FFF_FFFE  # likewise, where queues have numbers of different lengths
_SHORT_QUEUES = 128  # queues whose numbers msgpack writes with one byte
_SEQUENCE_MARK = 0x7FFF_FFFF_FFFF_FFFF
_RING_SIZE_MAX = 8 * 1024 * 1024  # bytes; about what a processor keeps near


class FrameRing:
    """Sends to the queues of one topic in turn, or of several, without end."""

    def __init__(
        self,
        *,
        topic: str | Sequence[str],
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
            topic: where they go; several have names of one length, and take turns.
            queue_count: of each topic.
            body_size: of each message, in bytes.
            batch_count: messages in each frame.
            producer_id: duplicates of this producer are recognised, as of any real one.
            chance: bodies are random, so that nothing compresses or repeats.
            frame_count_min: most that `take` is ever asked for.
            frame_count_max: what is enough when that is less; frames are big.
        """
        topics = [topic] if isinstance(topic, str) else list(topic)
        encoder = _Encoder(
            has_long_queues=queue_count > _SHORT_QUEUES,
            body_size=body_size,
            batch_count=batch_count,
            producer_id=producer_id,
            chance=chance,
        )
        targets = [(name, queue_id) for queue_id in range(queue_count) for name in topics]
        self._target_count = len(targets)
        self._batch_count = batch_count
        one = encoder.frame(*targets[0])
        count = max(frame_count_min, min(frame_count_max, _RING_SIZE_MAX // len(one)))
        self.frame_count = -(-count // len(targets)) * len(targets)
        frames = [encoder.frame(*targets[n % len(targets)]) for n in range(self.frame_count)]
        assert len(set(map(len, frames))) == 1, "frames differ in size"
        self._table = np.frombuffer(b"".join(frames), np.uint8).reshape(len(frames), -1).copy()
        self._opaque_at = opaque_at = one.index(b"\xce" + _OPAQUE_MARK.to_bytes(4, "big")) + 1
        self._sequence_at = sequence_at = one.index(b"\xcf" + _SEQUENCE_MARK.to_bytes(8, "big")) + 1
        self._opaques = self._table[:, opaque_at : opaque_at + 4]
        self._sequences = self._table[:, sequence_at : sequence_at + 8]
        self._bytes = self._table.data.cast("B")
        self.next_opaque = 0  # counts frames

    @property
    def frame_size(self) -> int:
        """Bytes of each frame."""
        return int(self._table.shape[1])

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
        if count == 1:  # as where one follows another: without arrays
            at = begin * self.frame_size
            struct.pack_into(">I", self._bytes, at + self._opaque_at, first & 0xFFFFFFFF)
            sequence = first // self._target_count * self._batch_count
            struct.pack_into(">Q", self._bytes, at + self._sequence_at, sequence)
            return self._bytes[at : at + self.frame_size]
        opaques = np.arange(first, first + count)
        sequences = opaques // self._target_count * self._batch_count
        self._opaques[begin:end] = opaques.astype(">u4").view(np.uint8).reshape(count, 4)
        self._sequences[begin:end] = sequences.astype(">u8").view(np.uint8).reshape(count, 8)
        return self._table[begin:end].data.cast("B")


class _Encoder:
    """Encodes one frame after another."""

    def __init__(
        self,
        *,
        has_long_queues: bool,
        body_size: int,
        batch_count: int,
        producer_id: int,
        chance: random.Random,
    ) -> None:
        self._has_long_queues = has_long_queues
        self._body_size = body_size
        self._batch_count = batch_count
        self._producer_id = producer_id
        self._chance = chance

    def frame(self, topic: str, queue_id: int) -> bytes:
        """Return a frame, its opaque and sequence number as marks, to be found and written over."""
        records = [
            encode_record(
                topic=topic.encode(),
                queue_id=queue_id,
                body=self._chance.randbytes(self._body_size),
                born_timestamp_ms=1_700_000_000_000,
            )
            for _ in range(self._batch_count)
        ]
        command = Command(
            RequestCode.SEND_BATCH_MESSAGE.value,
            FLAG_GROUPED,
            _OPAQUE_MARK,
            ext_fields={
                "producerGroup": "bench",
                "topic": topic,
                "queueId": _QUEUE_MARK if self._has_long_queues else queue_id,
                "recordFormat": RECORD_FORMAT_COMMIT_LOG,
                "sizes": encode_sizes([len(record) for record in records]),
                "producerId": self._producer_id,
                "sequence": _SEQUENCE_MARK,
            },
            body=b"".join(records),
        )
        frame = b"".join(encode_frame(command))
        if self._has_long_queues:
            mark = b"\xce" + _QUEUE_MARK.to_bytes(4, "big")
            frame = frame.replace(mark, b"\xce" + queue_id.to_bytes(4, "big"), 1)
        return frame
